-- Messages, and the caches that triggers keep exact: sequence numbers, flag planes, counters, expunge log.
--
-- A block is 1,024 consecutive UIDs (uid >> 10), bit 0 = its first UID. What a session needs to know of a mailbox is one
-- bitmap of live UIDs and one per flag for each block: a mailbox of 1 M messages is 977 rows of 0.2 KB, and a sequence
-- number is a sum of counts and one popcount. Rules that hold after every statement (check_mailbox() verifies them):
--
--   I1  the k-th live bit is the message with sequence number k
--   I2  n = popcount(live); the counters of mailbox_stats are what the planes and rows say
--   I3  uid_next > every uid; highest_modseq >= every modseq; a block's max_modseq >= those of its inserts and expunges
--   I4  flag bits exist only where a row exists      I5  every expunged row stands in message_expunges
--
-- The triggers are statement-level with transition tables: their cost is the blocks touched, never the mailbox.

CREATE SEQUENCE content_ids;

-- Immutable and wide; shared by all copies of a message inside an account. The object key is
-- <account>/<2 hex>/<hash>-<content_id>.eml: a row that is being purged (purging_at) leaves the unique index, so the same
-- bytes delivered meanwhile get a new row and a new key, and the late DELETE of the old object hits nobody.
CREATE TABLE message_contents (
  account_id bigint NOT NULL,
  content_id bigint NOT NULL DEFAULT nextval('content_ids'),
  content_hash bytea NOT NULL,
  size bigint NOT NULL CHECK (size >= 0),
  sent_at timestamptz,                       -- the Date header
  message_id text,
  in_reply_to text,
  reference_ids text,                        -- References, separated by spaces
  thread_id bigint NOT NULL,                 -- content_id of the first message of the thread
  subject text,                              -- from here on decoded text for display, sorting and search
  base_subject text,
  sender text,
  recipients text,
  cc text,
  bcc text,
  reply_to text,
  display_from text,                         -- SORT=DISPLAY (RFC 5957)
  display_to text,
  preview text,
  envelope bytea NOT NULL,                   -- IMAP text, ready to send
  body_structure bytea NOT NULL,
  header bytea,                              -- octets up to and with the blank line; NULL: too long, read the body
  uploaded_at timestamptz,
  purging_at timestamptz,
  created_at timestamptz NOT NULL DEFAULT clock(),
  PRIMARY KEY (account_id, content_id)
);
ALTER TABLE message_contents ALTER content_hash SET STORAGE PLAIN;
DO $$
BEGIN
  ALTER TABLE message_contents ALTER header SET COMPRESSION lz4;
EXCEPTION WHEN feature_not_supported THEN   -- a server that was built without it compresses in its own way
END $$;
CREATE UNIQUE INDEX message_contents_hash ON message_contents (account_id, content_hash) WHERE purging_at IS NULL;
-- threads; cut, because an index row holds less than 2.7 KB and a header may be longer
CREATE INDEX message_contents_message_id ON message_contents (account_id, left(message_id, 200))
  WHERE message_id IS NOT NULL;
-- SEARCH THREADID (RFC 8474) and whoever shows a conversation
CREATE INDEX message_contents_thread ON message_contents (account_id, thread_id);
CREATE INDEX message_contents_purging ON message_contents (purging_at) WHERE purging_at IS NOT NULL;

-- Narrow, and immutable except for the expunge mark. No index on anything that changes: an expunge is a HOT update.
CREATE TABLE messages (
  account_id bigint NOT NULL,
  mailbox_id bigint NOT NULL,
  uid bigint NOT NULL CHECK (uid BETWEEN 1 AND 4294967295),
  content_id bigint NOT NULL,
  created_modseq bigint NOT NULL,
  expunged_modseq bigint,
  internal_date timestamptz NOT NULL,
  saved_at timestamptz NOT NULL DEFAULT clock(),   -- SAVEDATE (RFC 8514): of this copy
  expunged_at timestamptz,
  size bigint NOT NULL,
  initial_flags int2[],                      -- flag numbers at insertion; the present ones are in message_flags
  PRIMARY KEY (account_id, mailbox_id, uid),
  CHECK ((expunged_at IS NULL) = (expunged_modseq IS NULL))
) WITH (fillfactor = 85);
CREATE INDEX messages_content ON messages (account_id, content_id);
-- account and mailbox depend on each other; without this the planner expects one row where there are a million
CREATE STATISTICS messages_account_mailbox (dependencies, ndistinct) ON account_id, mailbox_id FROM messages;

-- Cache: seq(uid) = sum of n of the earlier blocks + popcount of live up to uid.
CREATE TABLE message_sequences (
  account_id bigint NOT NULL,
  mailbox_id bigint NOT NULL,
  block_no int NOT NULL,
  n int NOT NULL,
  max_modseq bigint NOT NULL,
  live bit(1024) NOT NULL,
  PRIMARY KEY (account_id, mailbox_id, block_no)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 1000);
ALTER TABLE message_sequences ALTER live SET STORAGE PLAIN;

-- The truth about flags: one plane a block and flag. No row = all zero, so an unread delivery writes nothing here.
CREATE TABLE message_flags (
  account_id bigint NOT NULL,
  mailbox_id bigint NOT NULL,
  block_no int NOT NULL,
  flag_no int2 NOT NULL,
  bits bit(1024) NOT NULL,
  PRIMARY KEY (account_id, mailbox_id, block_no, flag_no)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 1000);
ALTER TABLE message_flags ALTER bits SET STORAGE PLAIN;

-- \Seen of the others in a shared mailbox; the owner's is flag 0 above. Same journal, same modseq.
CREATE TABLE message_viewer_seen (
  account_id bigint NOT NULL,
  mailbox_id bigint NOT NULL,
  viewer_id bigint NOT NULL,
  block_no int NOT NULL,
  bits bit(1024) NOT NULL,
  PRIMARY KEY (account_id, mailbox_id, viewer_id, block_no)
) WITH (fillfactor = 70);
ALTER TABLE message_viewer_seen ALTER bits SET STORAGE PLAIN;

-- Journal: modseq of a message = the greatest of created_modseq and the journal rows that hold its bit.
CREATE TABLE message_flag_changes (
  account_id bigint NOT NULL,
  mailbox_id bigint NOT NULL,
  modseq bigint NOT NULL,
  block_no int NOT NULL,
  bits bit(1024) NOT NULL,
  PRIMARY KEY (account_id, mailbox_id, modseq, block_no)
);
ALTER TABLE message_flag_changes ALTER bits SET STORAGE PLAIN;

-- One row a statement and mailbox that expunged: VANISHED (RFC 7162) and the cleaner's queue.
CREATE TABLE message_expunges (
  account_id bigint NOT NULL,
  mailbox_id bigint NOT NULL,
  modseq bigint NOT NULL,
  expunged_at timestamptz NOT NULL,
  uids bigint[] NOT NULL,
  PRIMARY KEY (account_id, mailbox_id, modseq)
);
CREATE INDEX message_expunges_age ON message_expunges (expunged_at);

-- Contents that lost a message row and may have lost the last one; the cleaner looks at these only.
CREATE TABLE purge_candidates (
  account_id bigint NOT NULL,
  content_id bigint NOT NULL,
  noted_at timestamptz NOT NULL DEFAULT clock(),
  PRIMARY KEY (account_id, content_id)
);
CREATE INDEX purge_candidates_age ON purge_candidates (noted_at);

-- Planner settings of the functions, here and in the files that follow. Their statements are planned once a session
-- (force_generic_plan): left to itself PostgreSQL plans most of them anew at every call, which costs two to four times
-- what running them does, and a plan that differs between the fifth call and the sixth is seen by no test. A generic plan
-- must be right at every size, though it may be made while a table is small, and the planner does not know that account
-- and mailbox depend on each other: so no sequential scans, and hash and merge joins only where both sides are small. What
-- is left is a lookup by key for each row that changed.

-- ── Triggers on messages ────────────────────────────────────────────────────────────────────────────────────────────

CREATE FUNCTION messages_inserted() RETURNS trigger LANGUAGE plpgsql
SET search_path = sora, public SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off AS $$
DECLARE
  z CONSTANT bit(1024) := 0::bit(1024);
  v_updated int;
BEGIN
  PERFORM lock_mailboxes(ARRAY(SELECT DISTINCT mailbox_id FROM new_rows));
  -- Flags first: their bits are not live yet, so flags_changed() below counts nothing. Do not reorder.
  IF EXISTS (SELECT 1 FROM new_rows WHERE initial_flags IS NOT NULL) THEN
    INSERT INTO message_flags AS f (account_id, mailbox_id, block_no, flag_no, bits)
    SELECT account_id, mailbox_id, (uid >> 10)::int, flag_no, bit_or(set_bit(z, (uid & 1023)::int, 1))
    FROM new_rows, unnest(initial_flags) flag_no
    GROUP BY 1, 2, 3, 4
    ORDER BY 1, 2, 3, 4
    ON CONFLICT (account_id, mailbox_id, block_no, flag_no) DO UPDATE SET bits = f.bits | EXCLUDED.bits;
  END IF;
  INSERT INTO message_sequences AS s (account_id, mailbox_id, block_no, n, max_modseq, live)
  SELECT account_id, mailbox_id, (uid >> 10)::int, count(*), max(created_modseq),
         bit_or(set_bit(z, (uid & 1023)::int, 1))
  FROM new_rows WHERE expunged_at IS NULL
  GROUP BY 1, 2, 3
  ORDER BY 1, 2, 3
  ON CONFLICT (account_id, mailbox_id, block_no) DO UPDATE SET
    n = s.n + EXCLUDED.n, max_modseq = greatest(s.max_modseq, EXCLUDED.max_modseq), live = s.live | EXCLUDED.live;
  UPDATE mailbox_stats t SET
    uid_next = greatest(t.uid_next, d.top + 1),
    highest_modseq = greatest(t.highest_modseq, d.modseq),
    message_count = t.message_count + d.live,
    unseen_count = t.unseen_count + d.unseen,
    deleted_count = t.deleted_count + d.deleted,
    total_size = t.total_size + d.size
  FROM (
    SELECT account_id, mailbox_id, max(uid) AS top, max(created_modseq) AS modseq,
           count(*) FILTER (WHERE expunged_at IS NULL) AS live,
           count(*) FILTER (WHERE expunged_at IS NULL AND NOT coalesce(0 = ANY (initial_flags), false)) AS unseen,
           count(*) FILTER (WHERE expunged_at IS NULL AND 3 = ANY (initial_flags)) AS deleted,
           coalesce(sum(size) FILTER (WHERE expunged_at IS NULL), 0) AS size
    FROM new_rows GROUP BY 1, 2
  ) d
  WHERE t.account_id = d.account_id AND t.mailbox_id = d.mailbox_id;
  GET DIAGNOSTICS v_updated = ROW_COUNT;
  -- instead of a foreign key, which would cost 9 µs and a row lock a message
  IF v_updated <> (SELECT count(DISTINCT (account_id, mailbox_id)) FROM new_rows) THEN
    RAISE EXCEPTION 'messages: no such mailbox' USING ERRCODE = '23503';
  END IF;
  RETURN NULL;
END $$;

-- Expunge: clears live bits, subtracts from the counters, writes the log.
CREATE FUNCTION messages_updated() RETURNS trigger LANGUAGE plpgsql
SET search_path = sora, public SET plan_cache_mode = force_generic_plan
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off AS $$
DECLARE
  z CONSTANT bit(1024) := 0::bit(1024);
BEGIN
  IF NOT EXISTS (SELECT 1 FROM new_rows WHERE expunged_at IS NOT NULL) THEN
    RETURN NULL;
  END IF;
  PERFORM lock_mailboxes(ARRAY(SELECT DISTINCT mailbox_id FROM new_rows));
  -- GROUP BY, not new JOIN old: transition tables have no statistics, and a nested loop over both is O(n²).
  WITH gone AS MATERIALIZED (
    SELECT account_id, mailbox_id, uid, max(modseq) AS modseq, max(at) AS at, max(size) AS size
    FROM (
      SELECT account_id, mailbox_id, uid, expunged_modseq AS modseq, expunged_at AS at, size, 1 AS side
      FROM new_rows WHERE expunged_at IS NOT NULL
      UNION ALL
      SELECT account_id, mailbox_id, uid, NULL, NULL, NULL, 2 FROM old_rows WHERE expunged_at IS NOT NULL
    ) q
    GROUP BY 1, 2, 3 HAVING max(side) = 1
  ), blocks AS MATERIALIZED (
    SELECT account_id, mailbox_id, (uid >> 10)::int AS block_no, max(modseq) AS modseq, sum(size) AS size,
           bit_or(set_bit(z, (uid & 1023)::int, 1)) AS mask
    FROM gone GROUP BY 1, 2, 3
  ), counted AS MATERIALIZED (
    SELECT b.*, bit_count(b.mask) AS live,
           bit_count(b.mask & ~coalesce((
             SELECT f.bits FROM message_flags f WHERE f.account_id = b.account_id AND f.mailbox_id = b.mailbox_id
             AND f.block_no = b.block_no AND f.flag_no = 0), z)) AS unseen,
           bit_count(b.mask & coalesce((
             SELECT f.bits FROM message_flags f WHERE f.account_id = b.account_id AND f.mailbox_id = b.mailbox_id
             AND f.block_no = b.block_no AND f.flag_no = 3), z)) AS deleted
    FROM blocks b
  ), sequences AS (
    UPDATE message_sequences s SET
      live = s.live & ~b.mask, n = bit_count(s.live & ~b.mask)::int, max_modseq = greatest(s.max_modseq, b.modseq)
    FROM blocks b
    WHERE s.account_id = b.account_id AND s.mailbox_id = b.mailbox_id AND s.block_no = b.block_no
  ), stats AS (
    UPDATE mailbox_stats t SET
      highest_modseq = greatest(t.highest_modseq, g.modseq), message_count = t.message_count - g.live,
      unseen_count = t.unseen_count - g.unseen, deleted_count = t.deleted_count - g.deleted,
      total_size = t.total_size - g.size
    FROM (
      SELECT account_id, mailbox_id, max(modseq) AS modseq, sum(live) AS live, sum(unseen) AS unseen,
             sum(deleted) AS deleted, sum(size) AS size
      FROM counted GROUP BY 1, 2
    ) g
    WHERE t.account_id = g.account_id AND t.mailbox_id = g.mailbox_id
  )
  INSERT INTO message_expunges (account_id, mailbox_id, modseq, expunged_at, uids)
  SELECT account_id, mailbox_id, modseq, max(at), array_agg(uid ORDER BY uid) FROM gone GROUP BY 1, 2, 3;
  RETURN NULL;
END $$;

-- Physical removal (the cleaner). Live rows go this way only with their whole mailbox: it raises no modseq.
CREATE FUNCTION messages_deleted() RETURNS trigger LANGUAGE plpgsql
SET search_path = sora, public SET plan_cache_mode = force_generic_plan
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off AS $$
DECLARE
  z CONSTANT bit(1024) := 0::bit(1024);
BEGIN
  PERFORM lock_mailboxes(ARRAY(SELECT DISTINCT mailbox_id FROM old_rows));
  IF EXISTS (SELECT 1 FROM old_rows WHERE expunged_at IS NULL) THEN
    WITH blocks AS MATERIALIZED (
      SELECT account_id, mailbox_id, (uid >> 10)::int AS block_no, sum(size) AS size,
             bit_or(set_bit(z, (uid & 1023)::int, 1)) AS mask
      FROM old_rows WHERE expunged_at IS NULL GROUP BY 1, 2, 3
    ), counted AS MATERIALIZED (
      SELECT b.*, bit_count(b.mask) AS live,
             bit_count(b.mask & ~coalesce((
               SELECT f.bits FROM message_flags f WHERE f.account_id = b.account_id AND f.mailbox_id = b.mailbox_id
               AND f.block_no = b.block_no AND f.flag_no = 0), z)) AS unseen,
             bit_count(b.mask & coalesce((
               SELECT f.bits FROM message_flags f WHERE f.account_id = b.account_id AND f.mailbox_id = b.mailbox_id
               AND f.block_no = b.block_no AND f.flag_no = 3), z)) AS deleted
      FROM blocks b
    ), sequences AS (
      UPDATE message_sequences s SET live = s.live & ~b.mask, n = bit_count(s.live & ~b.mask)::int
      FROM blocks b
      WHERE s.account_id = b.account_id AND s.mailbox_id = b.mailbox_id AND s.block_no = b.block_no
    )
    UPDATE mailbox_stats t SET
      message_count = t.message_count - g.live, unseen_count = t.unseen_count - g.unseen,
      deleted_count = t.deleted_count - g.deleted, total_size = t.total_size - g.size
    FROM (
      SELECT account_id, mailbox_id, sum(live) AS live, sum(unseen) AS unseen, sum(deleted) AS deleted, sum(size) AS size
      FROM counted GROUP BY 1, 2
    ) g
    WHERE t.account_id = g.account_id AND t.mailbox_id = g.mailbox_id;
  END IF;
  -- After the live bits, so that flags_changed() does not count these a second time. Do not reorder.
  UPDATE message_flags f SET bits = f.bits & ~d.mask
  FROM (
    SELECT account_id, mailbox_id, (uid >> 10)::int AS block_no, bit_or(set_bit(z, (uid & 1023)::int, 1)) AS mask
    FROM old_rows GROUP BY 1, 2, 3
  ) d
  WHERE f.account_id = d.account_id AND f.mailbox_id = d.mailbox_id AND f.block_no = d.block_no
    AND bit_count(f.bits & d.mask) > 0;
  UPDATE message_viewer_seen f SET bits = f.bits & ~d.mask
  FROM (
    SELECT account_id, mailbox_id, (uid >> 10)::int AS block_no, bit_or(set_bit(z, (uid & 1023)::int, 1)) AS mask
    FROM old_rows GROUP BY 1, 2, 3
  ) d
  WHERE f.account_id = d.account_id AND f.mailbox_id = d.mailbox_id AND f.block_no = d.block_no
    AND bit_count(f.bits & d.mask) > 0;
  INSERT INTO purge_candidates AS p (account_id, content_id)
  SELECT DISTINCT account_id, content_id FROM old_rows ORDER BY 1, 2
  -- not DO NOTHING: begin_purges() may be about to remove the row, having seen the messages that go here
  ON CONFLICT (account_id, content_id) DO UPDATE SET noted_at = p.noted_at;
  RETURN NULL;
END $$;

CREATE FUNCTION messages_immutable() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'messages: rows are immutable and an expunge is final (MOVE and restore insert a new uid)'
    USING ERRCODE = '23514';
END $$;

CREATE TRIGGER messages_immutable BEFORE UPDATE ON messages FOR EACH ROW
  WHEN (OLD.account_id <> NEW.account_id OR OLD.mailbox_id <> NEW.mailbox_id OR OLD.uid <> NEW.uid
        OR OLD.size <> NEW.size OR OLD.content_id <> NEW.content_id OR OLD.created_modseq <> NEW.created_modseq
        OR (OLD.expunged_at IS NOT NULL AND NEW.expunged_at IS NULL))
  EXECUTE FUNCTION messages_immutable();
CREATE TRIGGER messages_inserted AFTER INSERT ON messages REFERENCING NEW TABLE AS new_rows
  FOR EACH STATEMENT EXECUTE FUNCTION messages_inserted();
CREATE TRIGGER messages_updated AFTER UPDATE ON messages REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
  FOR EACH STATEMENT EXECUTE FUNCTION messages_updated();
CREATE TRIGGER messages_deleted AFTER DELETE ON messages REFERENCING OLD TABLE AS old_rows
  FOR EACH STATEMENT EXECUTE FUNCTION messages_deleted();

-- ── Trigger on message_flags: unseen and deleted counters ───────────────────────────────────────────────────────────
-- INSERT … ON CONFLICT DO UPDATE fires both triggers, each with the rows it really wrote. A function that has
-- sora.flags_counted on (a setting of the function itself, so it ends with it) keeps the counters by itself.

CREATE FUNCTION flags_changed() RETURNS trigger LANGUAGE plpgsql
SET search_path = sora, public SET plan_cache_mode = force_generic_plan
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off AS $$
BEGIN
  IF TG_OP = 'INSERT' THEN
    UPDATE mailbox_stats t SET unseen_count = t.unseen_count - d.seen, deleted_count = t.deleted_count + d.deleted
    FROM (
      SELECT n.account_id, n.mailbox_id,
             coalesce(sum(bit_count(s.live & n.bits)) FILTER (WHERE n.flag_no = 0), 0) AS seen,
             coalesce(sum(bit_count(s.live & n.bits)) FILTER (WHERE n.flag_no = 3), 0) AS deleted
      FROM new_rows n JOIN message_sequences s USING (account_id, mailbox_id, block_no)
      WHERE n.flag_no IN (0, 3) GROUP BY 1, 2
    ) d
    WHERE t.account_id = d.account_id AND t.mailbox_id = d.mailbox_id AND (d.seen <> 0 OR d.deleted <> 0);
  ELSE
    UPDATE mailbox_stats t SET unseen_count = t.unseen_count - d.seen, deleted_count = t.deleted_count + d.deleted
    FROM (
      SELECT n.account_id, n.mailbox_id,
             coalesce(sum(n.sign * bit_count(s.live & n.bits)) FILTER (WHERE n.flag_no = 0), 0) AS seen,
             coalesce(sum(n.sign * bit_count(s.live & n.bits)) FILTER (WHERE n.flag_no = 3), 0) AS deleted
      FROM (SELECT 1 AS sign, * FROM new_rows UNION ALL SELECT -1, * FROM old_rows) n
      JOIN message_sequences s USING (account_id, mailbox_id, block_no)
      WHERE n.flag_no IN (0, 3) GROUP BY 1, 2
    ) d
    WHERE t.account_id = d.account_id AND t.mailbox_id = d.mailbox_id AND (d.seen <> 0 OR d.deleted <> 0);
  END IF;
  RETURN NULL;
END $$;

CREATE TRIGGER flags_inserted AFTER INSERT ON message_flags REFERENCING NEW TABLE AS new_rows
  FOR EACH STATEMENT WHEN (current_setting('sora.flags_counted', true) IS DISTINCT FROM 'on')
  EXECUTE FUNCTION flags_changed();
CREATE TRIGGER flags_updated AFTER UPDATE ON message_flags REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
  FOR EACH STATEMENT WHEN (current_setting('sora.flags_counted', true) IS DISTINCT FROM 'on')
  EXECUTE FUNCTION flags_changed();
