"""The rules of security that hold everywhere, and the tests that hold them; every test that is named here exists."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UNIT = "tests/unit"
LIVE = "tests/security/test_live.py"
SMUGGLING = "tests/security/test_smuggling.py"
FORWARDED = "tests/security/test_forwarded.py"

RULES: dict[str, list[str]] = {
    "STARTTLS and STLS: plaintext behind the command is thrown away, both ways, on every protocol": [
        f"{UNIT}/net/test_connection.py::test_plaintext_behind_starttls_is_discarded",
        f"{UNIT}/_native/test_imapscan.py::test_clear_forgets_what_was_pipelined",
        "tests/integration/test_imap_clients.py::test_what_comes_in_plaintext_behind_starttls_is_thrown_away",
        f"{UNIT}/protocols/test_pop3_login.py::test_nothing_behind_stls_is_carried_into_tls",
        f"{UNIT}/protocols/test_pop3_login.py::test_a_name_that_came_in_plaintext_is_forgotten_with_stls",
        f"{UNIT}/protocols/test_lmtp.py::test_a_transaction_may_be_open",
        f"{LIVE}::test_nothing_crosses_from_plaintext_into_tls",
    ],
    "LMTP: end of data is CRLF.CRLF only": [
        f"{SMUGGLING}::test_no_other_sequence_ends_the_data",
        f"{SMUGGLING}::test_the_one_that_ends_it_ends_it_wherever_it_is_cut",
        "tests/transcripts/lmtp/smuggling.txt",
    ],
    "APPEND with NUL outside BINARY is refused": [
        "tests/transcripts/imap/append.txt",
        "tests/transcripts/imap/binary.txt",
    ],
    "LMTP beyond loopback without trusted_networks is a configuration error": [
        f"{UNIT}/test_config.py::test_refusals_are_one_line_that_names_the_key",
        f"{UNIT}/test_config.py::test_lmtp_may_listen_beyond_loopback_for_trusted_peers",
    ],
    "proxy_protocol: an untrusted peer or a missing header closes the connection": [
        f"{UNIT}/net/test_proxied.py::test_an_untrusted_peer_is_not_heard",
        f"{UNIT}/net/test_proxied.py::test_anything_else_closes",
        f"{UNIT}/net/test_proxied.py::test_silence_closes",
        f"{UNIT}/test_config.py::test_a_proxy_header_needs_who_may_send_it_and_who_reads_it",
    ],
    "Forwarded facts, TLS among them, are believed from trusted peers only": [
        f"{UNIT}/protocols/test_lmtp.py::test_a_trusted_client_behind_a_proxy_may",
        f"{UNIT}/net/test_proxied.py::test_an_untrusted_peer_is_not_heard",
        f"{FORWARDED}::test_only_tls_that_was_forwarded_counts_as_tls",
        "tests/transcripts/lmtp/xclient_untrusted.txt",
    ],
    "exempt_networks are for the address that is forwarded": [
        f"{UNIT}/services/test_limits.py::test_exempt_addresses_are_not_counted",
        f"{FORWARDED}::test_an_exempt_address_that_was_forwarded_is_not_counted",
        f"{FORWARDED}::test_another_address_that_was_forwarded_is_counted_by_itself",
        f"{FORWARDED}::test_a_proxy_is_not_exempt_because_its_clients_are",
        f"{FORWARDED}::test_an_exempt_proxy_does_not_exempt_its_clients",
        f"{UNIT}/protocols/test_lmtp.py::test_the_forwarded_address_is_counted",
    ],
    "The demo refuses listeners that are not loopback": [
        f"{UNIT}/server/test_demofiles.py::test_a_wrong_setting_is_refused_and_nothing_is_written",
    ],
    "Verified credentials are looked at again within 60 s, and a changed one ends at once": [
        f"{UNIT}/services/test_auth.py::test_revalidation_is_one_cheap_query_a_minute",
        f"{UNIT}/services/test_auth.py::test_a_changed_or_disabled_credential_ends_at_revalidation",
        f"{UNIT}/services/test_auth.py::test_a_login_with_the_new_password_ends_the_old_one_at_once",
        f"{UNIT}/test_config.py::test_a_verified_login_is_not_believed_for_longer_than_a_minute",
    ],
    "Logs: no secrets, and no lines of others": [
        f"{LIVE}::test_secrets_are_never_in_the_log",
        f"{LIVE}::test_nobody_writes_log_lines_of_their_own",
        f"{UNIT}/test_log.py::test_values_begin_no_line_and_steer_no_terminal",
    ],
    "Metric labels come from our tables": [f"{LIVE}::test_labels_are_our_words"],
    "State on disk is the owner's alone": [f"{LIVE}::test_what_lies_on_disk_is_the_owners"],
    "Names of mailboxes are no paths": [f"{LIVE}::test_names_of_mailboxes_are_no_paths"],
}


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_has_tests_that_exist(rule: str) -> None:
    assert RULES[rule]
    for test in RULES[rule]:
        path, _, name = test.partition("::")
        assert (ROOT / path).is_file(), test
        if name:
            tree = ast.walk(ast.parse((ROOT / path).read_text()))
            assert name in {node.name for node in tree if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}, (
                test
            )
