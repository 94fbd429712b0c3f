"""Every metric of Sora, one declaration each.

`prometheus_client` decides at import whether it collects over several processes, so the supervisor sets
PROMETHEUS_MULTIPROC_DIR before this module is imported. Label values come from Sora's own tables, never from a peer.
Gauges say how processes are combined.
"""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

# Connections
connections = Gauge("sora_connections_open", "Open connections.", ["protocol"], multiprocess_mode="livesum")
connections_total = Counter("sora_connections_total", "Connections accepted.", ["protocol"])
commands = Counter("sora_commands_total", "Commands by name and result.", ["protocol", "command", "result"])
command_seconds = Histogram(
    "sora_command_seconds",
    "Time of the server's own work for a command.",
    ["protocol", "command"],
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
proxy_headers_refused = Counter(
    "sora_proxy_headers_refused_total", "Connections closed for want of a PROXY header.", ["protocol"]
)
tls_handshake_failures = Counter("sora_tls_handshake_failures_total", "TLS handshakes that failed.", ["protocol"])

# Login
login_blocks = Counter("sora_auth_blocks_total", "Blocks after too many failed logins, by what is blocked.", ["scope"])
logins = Counter("sora_auth_logins_total", "Login attempts by result.", ["protocol", "result"])
password_hashes = Counter("sora_auth_password_hashes_total", "Password hashes computed.")

# Delivery
deliveries = Counter("sora_delivery_messages_total", "Messages by path and result.", ["path", "result"])
delivery_batch = Histogram(
    "sora_delivery_batch_messages", "Messages committed by one call.", buckets=(1, 2, 4, 8, 16, 32, 64)
)
delivery_duplicates = Counter("sora_delivery_duplicates_total", "Deliveries suppressed as a retry.")
delivery_ambiguous = Counter("sora_delivery_ambiguous_total", "Commits whose answer was lost.", ["resolution"])
delivery_effects = Counter(
    "sora_delivery_effects_total", "Deliveries of which more than letters came, and repetitions of it.", ["result"]
)
delivery_answered = Counter(
    "sora_delivery_replies_dropped_total", "Vacation replies to somebody who got one at the same moment."
)
delivery_seconds = Histogram("sora_delivery_seconds", "From end of data to commit.")

# Filters
sieve_runs = Counter("sora_sieve_runs_total", "Runs of scripts, by what they ran for and result.", ["kind", "result"])
sieve_run_seconds = Histogram(
    "sora_sieve_run_seconds",
    "Work of one run, without what it waited for.",
    buckets=(0.0001, 0.00025, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 2),
)
sieve_errors = Counter("sora_sieve_errors_total", "Scripts that failed, and mailboxes that they did not find.")
sieve_actions = Counter("sora_sieve_actions_total", "Actions of scripts that were carried out.", ["action"])
imap_events = Counter(
    "sora_imap_events_total", "Changes of mailboxes with a script, by what became of them.", ["result"]
)

# Bodies
bodies = Counter("sora_bodies_reads_total", "Bodies read, by source.", ["source"])
bodies_corrupt = Counter("sora_bodies_corrupt_total", "Bodies whose hash did not match.", ["source"])
cache_bytes = Gauge("sora_cache_size_bytes", "Octets in the local cache.", multiprocess_mode="mostrecent")
cache_requests = Counter("sora_cache_requests_total", "Bodies that the local cache was asked for.", ["result"])
cache_warmed = Counter("sora_cache_warmed_total", "Bodies brought into the local cache at a login.")
cache_evictions = Counter("sora_cache_evictions_total", "Bodies removed to make room.")
staging_quarantined = Gauge(
    "sora_staging_quarantined_files", "Staged bodies that wait for a person.", multiprocess_mode="mostrecent"
)
peer_answers = Counter("sora_peer_answers_total", "Requests of other nodes for staged bodies, by result.", ["result"])
peer_requests = Counter("sora_peer_requests_total", "Staged bodies asked for from other nodes, by result.", ["result"])
staging_bytes = Gauge("sora_staging_size_bytes", "Octets staged.", multiprocess_mode="mostrecent")

# Encryption
encryption_key_errors = Counter("sora_encryption_key_errors_total", "Data keys that could not be had.")

# Uploads
uploads = Counter("sora_uploads_total", "Uploads by result.", ["result"])
uploads_pending = Gauge("sora_uploads_pending", "Bodies not uploaded yet.", multiprocess_mode="mostrecent")
uploads_oldest_seconds = Gauge(
    "sora_uploads_oldest_seconds", "Age of the oldest body not uploaded.", multiprocess_mode="mostrecent"
)
uploads_adopted = Counter("sora_uploads_adopted_total", "Uploads taken over from dead nodes.")
uploads_from_copy = Counter("sora_uploads_from_copy_total", "Uploads of the copy in the database.")
uploads_stranded = Gauge(
    "sora_uploads_stranded",
    "Bodies whose only copy is on a node that is silent.",
    ["instance"],
    multiprocess_mode="mostrecent",
)
object_store_seconds = Histogram("sora_object_store_seconds", "Requests to the object store.", ["operation"])
object_store_errors = Counter("sora_object_store_errors_total", "Failed requests.", ["operation"])

# Mail that leaves
outbound_mails = Counter("sora_outbound_mails_total", "Attempts to send mail, by result.", ["kind", "result"])
outbound_seconds = Histogram("sora_outbound_seconds", "Time of an attempt.")
outbound_pending = Gauge("sora_outbound_pending", "Mail that waits in the queue.", multiprocess_mode="mostrecent")
outbound_failing = Gauge(
    "sora_outbound_failing", "Those of it that failed at least once.", multiprocess_mode="mostrecent"
)
outbound_oldest_seconds = Gauge(
    "sora_outbound_oldest_seconds", "Age of the oldest mail in the queue.", multiprocess_mode="mostrecent"
)
outbound_smarthost_down = Gauge(
    "sora_outbound_smarthost_down", "1 while the smarthost cannot be reached.", multiprocess_mode="mostrecent"
)

# Changes and views
changes_published = Counter("sora_changes_published_total", "Mailbox changes told to other workers.")
changes_received = Counter("sora_changes_received_total", "Mailbox changes heard from other workers.")
view_reloads = Counter("sora_view_reloads_total", "Mailbox views loaded whole, by reason.", ["reason"])

# Database
database_errors = Counter("sora_database_errors_total", "Statements that failed, by kind.", ["kind"])

# Janitor
cleanup_errors = Counter("sora_cleanup_errors_total", "Cleanup phases that failed.", ["phase"])
cleanup_finished = Gauge(
    "sora_cleanup_finished_timestamp_seconds",
    "When the cleanup last had nothing left to do.",
    multiprocess_mode="mostrecent",
)
orphaned_objects = Gauge("sora_orphaned_objects", "Objects without a row.", multiprocess_mode="mostrecent")
orphaned_bytes = Gauge("sora_orphaned_objects_size_bytes", "Their octets.", multiprocess_mode="mostrecent")
journal_recovery_point = Gauge(
    "sora_journal_recovery_point_timestamp_seconds",
    "What was committed before is in the account journal; 0: nothing is.",
    multiprocess_mode="mostrecent",
)
journal_segments = Counter("sora_journal_segments_total", "Segments of the account journal written.")
journal_bytes = Counter("sora_journal_written_bytes_total", "Octets of the account journal written.")
journal_errors = Counter("sora_journal_errors_total", "Accounts that could not be written to the journal.")
journal_refusals = Counter(
    "sora_journal_refusals_total", "Changes refused because the journal has not reserved UIDs or modseqs for them."
)
journal_skipped = Gauge(
    "sora_journal_skipped_accounts", "Accounts that the last pass left out.", multiprocess_mode="mostrecent"
)
janitor_rows = Counter("sora_janitor_rows_total", "Rows handled, by phase.", ["phase"])
