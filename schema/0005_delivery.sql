-- What a delivery leaves behind besides messages: witnesses, uploads to do, text to index.

-- Retry dedupe (LMTP) and witness of a commit whose answer was lost, kept 24 h. The key is a hash of the bytes as
-- received, MAIL FROM and RCPT; per mailbox, because one delivery may be filed into several.
CREATE TABLE recent_deliveries (
  account_id bigint NOT NULL,
  key bytea NOT NULL,
  mailbox_id bigint NOT NULL,
  uid bigint NOT NULL,
  delivered_at timestamptz NOT NULL DEFAULT clock(),
  PRIMARY KEY (account_id, key, mailbox_id)
);
CREATE INDEX recent_deliveries_age ON recent_deliveries (delivered_at);

-- APPEND: a witness only. Two APPENDs of the same bytes are two messages.
CREATE TABLE append_witnesses (
  account_id bigint NOT NULL,
  append_id uuid NOT NULL,
  mailbox_id bigint NOT NULL,
  uid bigint NOT NULL,
  appended_at timestamptz NOT NULL DEFAULT clock(),
  PRIMARY KEY (account_id, append_id)
);
CREATE INDEX append_witnesses_age ON append_witnesses (appended_at);

-- One row for each node that holds a staged copy.
CREATE TABLE pending_uploads (
  account_id bigint NOT NULL,
  content_hash bytea NOT NULL,
  instance_id text COLLATE "C" NOT NULL,
  content_id bigint NOT NULL,
  size bigint NOT NULL,
  attempts int NOT NULL DEFAULT 0,
  created_at timestamptz NOT NULL DEFAULT clock(),
  next_try timestamptz NOT NULL DEFAULT clock(),   -- also the end of the present claim
  last_error text,
  PRIMARY KEY (account_id, content_hash, instance_id)
) WITH (autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX pending_uploads_due ON pending_uploads (instance_id, next_try);
CREATE INDEX pending_uploads_content ON pending_uploads (account_id, content_id);

-- Folded text (i;unicode-casemap, done by the worker). A message stands in one of these three: the queue is written by the
-- delivery and searched by brute force, the index is filled in batches by the indexer alone, so that nobody else pays for
-- the GIN, and past the retention of the index the janitor moves the headers to the archive, which is searched by brute
-- force again. body_truncated: the text is not whole (cap, retention, or bodies are not indexed at all), so a miss must be
-- decided on the message itself.
CREATE TABLE search_queue (
  account_id bigint NOT NULL,
  content_id bigint NOT NULL,
  headers text NOT NULL DEFAULT '',
  body text,
  body_truncated boolean NOT NULL DEFAULT false,
  PRIMARY KEY (account_id, content_id)
);
CREATE TABLE search_index (
  account_id bigint NOT NULL,
  content_id bigint NOT NULL,
  headers text NOT NULL DEFAULT '',
  body text,
  body_truncated boolean NOT NULL DEFAULT false,
  indexed_at timestamptz NOT NULL DEFAULT clock(),
  PRIMARY KEY (account_id, content_id)
);
-- The indexer flushes the pending list after each round; the limit is there for no other than an indexer that is cut short
-- again and again. A flush from within an INSERT has little memory and costs twice as much.
CREATE INDEX search_index_headers ON search_index USING gin (account_id, headers gin_trgm_ops)
  WITH (fastupdate = on, gin_pending_list_limit = 131072);
CREATE INDEX search_index_age ON search_index (indexed_at);
CREATE TABLE search_archive (
  account_id bigint NOT NULL,
  content_id bigint NOT NULL,
  headers text NOT NULL DEFAULT '',
  body text,
  body_truncated boolean NOT NULL DEFAULT false,
  PRIMARY KEY (account_id, content_id)
);
CREATE VIEW search_texts AS
  SELECT account_id, content_id, headers, body, body_truncated FROM search_index
  UNION ALL SELECT account_id, content_id, headers, body, body_truncated FROM search_queue
  UNION ALL SELECT account_id, content_id, headers, body, body_truncated FROM search_archive;
