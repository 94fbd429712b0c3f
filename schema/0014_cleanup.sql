-- The janitor's work, in bounded batches: each call is one transaction that holds the lock of one mailbox for milliseconds.
-- The caller sets the size and the pace. Nothing of an account under legal hold is touched.
--
-- Nobody waits for the disk where a power cut only undoes what is done again (synchronous_commit = off): rows that are no
-- longer visible to anybody. What sessions see, and the mark before an object is deleted, is on disk before the answer.

-- ── Legal hold ──────────────────────────────────────────────────────────────────────────────────────────────────────
-- Users go on as ever: they expunge, delete mailboxes, and their account may be deleted. But nothing that is gone for them
-- is removed: everything of a held account can be restored, however old it is.

ALTER TABLE accounts ADD COLUMN hold_reason text NOT NULL DEFAULT '', ADD COLUMN held_at timestamptz;

-- Who put and released holds, and why. Outlives the account, and nobody trims it.
CREATE TABLE legal_hold_log (
  entry_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  account_id bigint NOT NULL,
  address text NOT NULL,
  held boolean NOT NULL,
  reason text NOT NULL,
  actor text NOT NULL,
  changed_at timestamptz NOT NULL DEFAULT clock()
);

-- True if nothing of the account may be removed or made unreadable. Called in the transaction that would do so: false holds
-- until its end, because a hold waits for the lock taken here (and nothing else waits for it: it is the lock of foreign
-- keys). No account: false.
CREATE FUNCTION account_held(p_account_id bigint) RETURNS boolean LANGUAGE plpgsql
SET search_path = sora, public SET plan_cache_mode = force_generic_plan AS $$
DECLARE v boolean;
BEGIN
  SELECT a.legal_hold INTO v FROM accounts a WHERE a.account_id = p_account_id FOR KEY SHARE;
  RETURN coalesce(v, false);
END $$;

-- Puts or releases a hold, deleted accounts included, shredded ones not. What is being removed at this moment is waited for,
-- so that after the commit nothing more goes but the objects of bodies that begin_purges() has given out already: no message
-- refers to them, and no lock is held over the network. Returns false if nothing changed but the reason.
CREATE FUNCTION set_legal_hold(p_account_id bigint, p_held boolean, p_reason text, p_actor text) RETURNS boolean
LANGUAGE plpgsql SET search_path = sora, public SET lock_timeout = '30s' AS $$
DECLARE
  a accounts;
BEGIN
  SELECT * INTO a FROM accounts WHERE account_id = p_account_id FOR UPDATE;
  IF NOT FOUND THEN
    PERFORM fail('P0002', 'No such account', p_account_id::text);
  END IF;
  IF p_held AND EXISTS (SELECT 1 FROM shreddings s WHERE s.account_id = p_account_id) THEN
    PERFORM fail('SR005', 'The account was shredded', p_account_id::text);
  END IF;
  UPDATE accounts SET legal_hold = p_held, hold_reason = CASE WHEN p_held THEN p_reason ELSE '' END,
    held_at = CASE WHEN p_held THEN coalesce(held_at, clock()) END
  WHERE account_id = p_account_id;
  INSERT INTO legal_hold_log (account_id, address, held, reason, actor)
  VALUES (p_account_id, a.address, p_held, p_reason, p_actor);
  RETURN a.legal_hold <> p_held;
END $$;

-- ── Progress ────────────────────────────────────────────────────────────────────────────────────────────────────────

-- One row a phase. A round that is longer than a pass goes on at `place` (the phase knows what it means; '' = at the
-- beginning), whoever leads by then. detail: what the last complete round found.
CREATE TABLE cleanup_progress (
  phase text COLLATE "C" PRIMARY KEY,
  place text NOT NULL DEFAULT '',
  started_at timestamptz,                    -- of the round under way or the last one
  finished_at timestamptz,                   -- of the last complete round
  last_rows bigint NOT NULL DEFAULT 0,       -- of the last pass
  total_rows bigint NOT NULL DEFAULT 0,
  passed_at timestamptz,
  detail jsonb NOT NULL DEFAULT '{}'
) WITH (fillfactor = 50);

-- ── Retention ───────────────────────────────────────────────────────────────────────────────────────────────────────

-- A window of at most p_rows messages behind a place, in the order of the primary key: what of it is too old. A message
-- has the age of its INTERNALDATE, but a body cannot be older than its time in this account: an import of old mail begins
-- to age when it arrives, and moving a message makes it no younger.
CREATE FUNCTION scan_old_messages(p_account_id bigint, p_mailbox_id bigint, p_uid bigint, p_before timestamptz, p_rows int)
RETURNS TABLE (account_id bigint, mailbox_id bigint, last_uid bigint, uids bigint[]) LANGUAGE plpgsql STABLE
SET search_path = sora, public SET plan_cache_mode = force_generic_plan
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY
  WITH seen AS MATERIALIZED (
    SELECT m.account_id, m.mailbox_id, m.uid, m.content_id, m.internal_date, m.expunged_at FROM messages m
    WHERE (m.account_id, m.mailbox_id, m.uid) > (p_account_id, p_mailbox_id, p_uid)
    ORDER BY m.account_id, m.mailbox_id, m.uid LIMIT p_rows
  )
  SELECT s.account_id, s.mailbox_id, max(s.uid), array_agg(s.uid ORDER BY s.uid) FILTER (
    WHERE s.expunged_at IS NULL AND s.internal_date < p_before AND EXISTS (
      SELECT 1 FROM message_contents c
      WHERE c.account_id = s.account_id AND c.content_id = s.content_id AND c.created_at < p_before))
  FROM seen s GROUP BY 1, 2 ORDER BY 1, 2;
END $$;

-- Expunges messages as their owner would. How many, and the modseq by which sessions hear of it; no row: the account is
-- held, or the mailbox is deleted.
CREATE FUNCTION expunge_old(p_account_id bigint, p_mailbox_id bigint, p_uids bigint[])
RETURNS TABLE (expunged int, modseq bigint) LANGUAGE plpgsql ROWS 1
SET search_path = sora, public SET plan_cache_mode = force_generic_plan SET lock_timeout = '2s' AS $$
BEGIN
  IF account_held(p_account_id) THEN
    RETURN;
  END IF;
  PERFORM lock_mailboxes(ARRAY[p_mailbox_id]);
  IF NOT EXISTS (SELECT 1 FROM mailboxes m JOIN accounts a USING (account_id)
                 WHERE m.account_id = p_account_id AND m.mailbox_id = p_mailbox_id AND m.deleted_at IS NULL
                   AND NOT m.noselect AND NOT m.shadow AND a.deleted_at IS NULL) THEN
    RETURN;
  END IF;
  RETURN QUERY
  SELECT cardinality(e.uids), e.modseq FROM expunge(p_account_id, p_mailbox_id, p_uids, p_uids, false) e;
END $$;

-- ── Expunged messages ───────────────────────────────────────────────────────────────────────────────────────────────

-- An EXPUNGE of a million messages is one row of the log; it is worked off in batches: so many of its uids are gone.
ALTER TABLE message_expunges ADD COLUMN trimmed int NOT NULL DEFAULT 0;
DO $$
BEGIN
  ALTER TABLE message_expunges ALTER uids SET COMPRESSION lz4;   -- each batch reads the array anew
EXCEPTION WHEN feature_not_supported THEN   -- a server that was built without it compresses in its own way
END $$;

-- Removes the rows of messages expunged before p_before and the log of it, oldest first, p_limit of them, and raises the
-- floor below which VANISHED can no longer be answered from the log. Returns how many messages of the log are done.
CREATE FUNCTION trim_expunges(p_account_id bigint, p_mailbox_id bigint, p_before timestamptz, p_limit int DEFAULT 10000)
RETURNS bigint LANGUAGE plpgsql
SET search_path = sora, public SET plan_cache_mode = force_generic_plan SET lock_timeout = '2s'
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off AS $$
DECLARE
  v_upto bigint;
  v_uids bigint[];
BEGIN
  PERFORM set_config('synchronous_commit', 'off', true);
  IF account_held(p_account_id) THEN
    RETURN 0;
  END IF;
  PERFORM lock_mailboxes(ARRAY[p_mailbox_id]);
  WITH rows AS MATERIALIZED (
    SELECT e.modseq, e.trimmed, cardinality(e.uids) - e.trimmed AS n FROM message_expunges e
    WHERE e.account_id = p_account_id AND e.mailbox_id = p_mailbox_id AND e.expunged_at < p_before
    ORDER BY e.modseq LIMIT p_limit
  ), chosen AS MATERIALIZED (
    SELECT q.modseq, q.trimmed, q.n, least(q.n, p_limit - q.before)::int AS take FROM (
      SELECT r.*, sum(r.n) OVER (ORDER BY r.modseq) - r.n AS before FROM rows r) q
    WHERE q.before < p_limit
  ), gone AS (
    DELETE FROM message_expunges e USING chosen c
    WHERE e.account_id = p_account_id AND e.mailbox_id = p_mailbox_id AND e.modseq = c.modseq AND c.take = c.n
    RETURNING e.modseq, e.uids[c.trimmed + 1 :] AS uids
  ), part AS (
    UPDATE message_expunges e SET trimmed = c.trimmed + c.take FROM chosen c
    WHERE e.account_id = p_account_id AND e.mailbox_id = p_mailbox_id AND e.modseq = c.modseq AND c.take < c.n
    RETURNING e.modseq, e.uids[c.trimmed + 1 : c.trimmed + c.take] AS uids
  )
  SELECT max(x.modseq), array_agg(u.uid ORDER BY u.uid) INTO v_upto, v_uids
  FROM (SELECT * FROM gone UNION ALL SELECT * FROM part) x, unnest(x.uids) u (uid);
  IF v_upto IS NULL THEN
    RETURN 0;
  END IF;
  DELETE FROM messages m USING unnest(v_uids) t (uid) CROSS JOIN LATERAL (
    SELECT i.ctid FROM messages i
    WHERE i.account_id = p_account_id AND i.mailbox_id = p_mailbox_id AND i.uid = t.uid
      AND i.expunged_at IS NOT NULL OFFSET 0) x
  WHERE m.ctid = x.ctid AND m.account_id + 0 = p_account_id AND m.mailbox_id + 0 = p_mailbox_id AND m.uid + 0 = t.uid;
  UPDATE mailbox_stats SET expunge_floor = greatest(expunge_floor, v_upto)
  WHERE account_id = p_account_id AND mailbox_id = p_mailbox_id;
  PERFORM drop_empty_blocks(p_account_id, p_mailbox_id, v_uids);
  RETURN cardinality(v_uids);
END $$;

-- Flags and journal of blocks in which not even an expunged message is left. The block's own row stays, with the modseq of
-- its last expunge: whoever knows an older state is told by it that the block is empty. Call under the mailbox lock.
CREATE FUNCTION drop_empty_blocks(p_account_id bigint, p_mailbox_id bigint, p_uids bigint[]) RETURNS void LANGUAGE plpgsql
SET search_path = sora, public SET plan_cache_mode = force_generic_plan
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off AS $$
DECLARE
  v_empty int[] := ARRAY(
    SELECT b.block_no FROM (SELECT DISTINCT (uid >> 10)::int AS block_no FROM unnest(p_uids) u (uid)) b
    WHERE NOT EXISTS (
      SELECT 1 FROM messages m WHERE m.account_id = p_account_id AND m.mailbox_id = p_mailbox_id
      AND m.uid BETWEEN b.block_no::bigint << 10 AND (b.block_no::bigint << 10) + 1023));
BEGIN
  IF v_empty = '{}' THEN
    RETURN;
  END IF;
  DELETE FROM message_flags f
  WHERE f.account_id = p_account_id AND f.mailbox_id = p_mailbox_id AND f.block_no = ANY (v_empty);
  DELETE FROM message_viewer_seen f
  WHERE f.account_id = p_account_id AND f.mailbox_id = p_mailbox_id AND f.block_no = ANY (v_empty);
  DELETE FROM message_flag_changes f
  WHERE f.account_id = p_account_id AND f.mailbox_id = p_mailbox_id AND f.block_no = ANY (v_empty);
END $$;

-- Mailboxes that have something to trim, oldest first, but for some.
CREATE FUNCTION select_expunged(p_grace interval, p_limit int DEFAULT 100, p_without bigint[] DEFAULT '{}')
RETURNS TABLE (account_id bigint, mailbox_id bigint, oldest_at timestamptz) LANGUAGE sql STABLE
SET search_path = sora, public AS $$
  SELECT e.account_id, e.mailbox_id, min(e.expunged_at) FROM (
    SELECT x.account_id, x.mailbox_id, x.expunged_at FROM message_expunges x JOIN accounts a USING (account_id)
    WHERE x.expunged_at < clock() - p_grace AND NOT a.legal_hold AND x.mailbox_id <> ALL (p_without)
    ORDER BY x.expunged_at LIMIT p_limit * 10) e
  GROUP BY 1, 2 ORDER BY 3 LIMIT p_limit
$$;

-- ── Journals ────────────────────────────────────────────────────────────────────────────────────────────────────────

-- The next p_limit mailboxes behind a place, and how many of the oldest entries of their journals are too many: all but
-- p_keep a block, once there are twice as many.
CREATE FUNCTION scan_journals(p_account_id bigint, p_mailbox_id bigint, p_keep int, p_limit int)
RETURNS TABLE (account_id bigint, mailbox_id bigint, excess bigint) LANGUAGE sql STABLE
SET search_path = sora, public SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off AS $$
  SELECT t.account_id, t.mailbox_id, CASE WHEN j.n > 2 * p_keep * j.blocks THEN j.n - p_keep * j.blocks ELSE 0 END
  FROM (
    SELECT s.account_id, s.mailbox_id FROM mailbox_stats s
    WHERE (s.account_id, s.mailbox_id) > (p_account_id, p_mailbox_id) ORDER BY s.account_id, s.mailbox_id LIMIT p_limit
  ) t CROSS JOIN LATERAL (
    SELECT count(*) AS n, count(DISTINCT c.block_no) AS blocks FROM message_flag_changes c
    WHERE c.account_id = t.account_id AND c.mailbox_id = t.mailbox_id) j
  ORDER BY 1, 2
$$;

-- Merges the p_rows oldest entries of a journal into one a block. A message may then report a later modseq than its true
-- one, which is harmless: its flags are read once more. Returns the entries that went.
CREATE FUNCTION compact_journal(p_account_id bigint, p_mailbox_id bigint, p_rows int) RETURNS bigint LANGUAGE plpgsql
SET search_path = sora, public SET plan_cache_mode = force_generic_plan SET lock_timeout = '2s'
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off AS $$
DECLARE
  v_gone bigint;
BEGIN
  PERFORM set_config('synchronous_commit', 'off', true);
  PERFORM lock_mailboxes(ARRAY[p_mailbox_id]);
  WITH old AS MATERIALIZED (
    SELECT j.modseq, j.block_no, j.bits FROM message_flag_changes j
    WHERE j.account_id = p_account_id AND j.mailbox_id = p_mailbox_id ORDER BY j.modseq LIMIT p_rows
  ), merged AS MATERIALIZED (
    SELECT o.block_no, max(o.modseq) AS modseq, bit_or(o.bits) AS bits FROM old o GROUP BY 1 HAVING count(*) > 1
  ), kept AS (
    UPDATE message_flag_changes j SET bits = m.bits FROM merged m
    WHERE j.account_id = p_account_id AND j.mailbox_id = p_mailbox_id AND j.modseq = m.modseq AND j.block_no = m.block_no
  ), doomed AS MATERIALIZED (
    SELECT q.modseq, q.block_no FROM (
      SELECT o.modseq, o.block_no, max(o.modseq) OVER (PARTITION BY o.block_no) AS last FROM old o) q
    WHERE q.modseq < q.last
  ), gone AS (
    DELETE FROM message_flag_changes j USING doomed d
    WHERE j.account_id = p_account_id AND j.mailbox_id = p_mailbox_id AND j.modseq = d.modseq AND j.block_no = d.block_no
    RETURNING 1
  )
  SELECT count(*) INTO v_gone FROM gone;
  RETURN v_gone;
END $$;

-- ── Deleted mailboxes and accounts ──────────────────────────────────────────────────────────────────────────────────

CREATE FUNCTION select_deleted_mailboxes(p_grace interval, p_limit int DEFAULT 100, p_without bigint[] DEFAULT '{}')
RETURNS TABLE (account_id bigint, mailbox_id bigint) LANGUAGE sql STABLE SET search_path = sora, public AS $$
  SELECT m.account_id, m.mailbox_id FROM mailboxes m JOIN accounts a USING (account_id)
  WHERE m.deleted_at < clock() - p_grace AND NOT a.legal_hold AND m.mailbox_id <> ALL (p_without)
  ORDER BY m.deleted_at, m.mailbox_id LIMIT p_limit
$$;

-- Removes p_limit rows of a deleted mailbox: messages first, then what was kept about them, and the mailbox itself in the
-- call that finds nothing else. Returns the rows removed; 0: there is nothing (more) to remove.
CREATE FUNCTION purge_mailbox(p_account_id bigint, p_mailbox_id bigint, p_grace interval, p_limit int DEFAULT 10000)
RETURNS bigint LANGUAGE plpgsql
SET search_path = sora, public SET plan_cache_mode = force_generic_plan SET lock_timeout = '2s'
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off AS $$
DECLARE
  v_rows bigint;
  v_table text;
BEGIN
  PERFORM set_config('synchronous_commit', 'off', true);
  IF account_held(p_account_id) THEN
    RETURN 0;
  END IF;
  PERFORM lock_mailboxes(ARRAY[p_mailbox_id]);
  -- under its lock: it may have been restored meanwhile
  IF NOT EXISTS (SELECT 1 FROM mailboxes m WHERE m.account_id = p_account_id AND m.mailbox_id = p_mailbox_id
                 AND m.deleted_at < clock() - p_grace) THEN
    RETURN 0;
  END IF;
  DELETE FROM messages d USING (
    SELECT i.ctid, i.uid FROM messages i
    WHERE i.account_id = p_account_id AND i.mailbox_id = p_mailbox_id ORDER BY i.uid LIMIT p_limit) x
  WHERE d.ctid = x.ctid AND d.account_id + 0 = p_account_id AND d.mailbox_id + 0 = p_mailbox_id AND d.uid + 0 = x.uid;
  GET DIAGNOSTICS v_rows = ROW_COUNT;
  IF v_rows > 0 THEN
    -- should it be restored half purged: whoever knew it is told what is left, as there is no log of what went
    UPDATE mailbox_stats t SET highest_modseq = t.highest_modseq + 1, expunge_floor = t.highest_modseq + 1
    WHERE t.account_id = p_account_id AND t.mailbox_id = p_mailbox_id;
  END IF;
  FOREACH v_table IN ARRAY ARRAY['message_expunges', 'message_flag_changes', 'message_flags', 'message_viewer_seen',
                                 'message_sequences'] LOOP
    IF v_rows > 0 THEN
      RETURN v_rows;
    END IF;
    EXECUTE format('DELETE FROM %I WHERE ctid = ANY (ARRAY('
      'SELECT ctid FROM %1$I WHERE account_id = $1 AND mailbox_id = $2 LIMIT $3))', v_table)
    USING p_account_id, p_mailbox_id, p_limit;
    GET DIAGNOSTICS v_rows = ROW_COUNT;
  END LOOP;
  IF v_rows = 0 THEN
    DELETE FROM mailboxes m WHERE m.account_id = p_account_id AND m.mailbox_id = p_mailbox_id;
    GET DIAGNOSTICS v_rows = ROW_COUNT;
  END IF;
  RETURN v_rows;
END $$;

CREATE FUNCTION select_deleted_accounts(p_grace interval, p_limit int DEFAULT 100, p_without bigint[] DEFAULT '{}')
RETURNS TABLE (account_id bigint) LANGUAGE sql STABLE SET search_path = sora, public AS $$
  SELECT a.account_id FROM accounts a
  WHERE a.deleted_at < clock() - p_grace AND NOT a.legal_hold AND a.account_id <> ALL (p_without)
  ORDER BY a.deleted_at, a.account_id LIMIT p_limit
$$;

-- The mailboxes of an account that is past its grace become deleted as of the same day, so that purge_mailbox() takes them.
-- Once mailboxes, contents and uploads are gone, the account itself goes with its keys. Returns the rows changed; 0: wait.
CREATE FUNCTION purge_account(p_account_id bigint, p_grace interval, p_limit int DEFAULT 10000) RETURNS bigint
LANGUAGE plpgsql SET search_path = sora, public SET plan_cache_mode = force_generic_plan SET lock_timeout = '2s' AS $$
DECLARE
  v_rows bigint;
  v_table text;
BEGIN
  IF account_held(p_account_id) THEN
    RETURN 0;
  END IF;
  PERFORM lock_accounts(ARRAY[p_account_id]);
  -- a restore that is under way is waited for, and seen
  PERFORM 1 FROM accounts a WHERE a.account_id = p_account_id AND a.deleted_at < clock() - p_grace FOR UPDATE;
  IF NOT FOUND THEN
    RETURN 0;
  END IF;
  UPDATE mailboxes m SET deleted_at = a.deleted_at FROM accounts a
  WHERE a.account_id = p_account_id AND m.account_id = p_account_id AND m.deleted_at IS NULL;
  GET DIAGNOSTICS v_rows = ROW_COUNT;
  IF v_rows > 0 THEN
    RETURN v_rows;
  END IF;
  IF EXISTS (SELECT 1 FROM mailboxes WHERE account_id = p_account_id)
    OR EXISTS (SELECT 1 FROM message_contents WHERE account_id = p_account_id)
    OR EXISTS (SELECT 1 FROM pending_uploads WHERE account_id = p_account_id) THEN
    RETURN 0;
  END IF;
  FOREACH v_table IN ARRAY ARRAY['account_changes', 'recent_deliveries', 'append_witnesses', 'sieve_duplicates',
                                 'vacation_replies', 'outbound_queue', 'outbound_usage', 'purge_candidates',
                                 'import_messages'] LOOP
    EXECUTE format('DELETE FROM %I WHERE ctid = ANY (ARRAY('
      'SELECT ctid FROM %1$I WHERE account_id = $1 LIMIT $2))', v_table)
    USING p_account_id, p_limit;
    GET DIAGNOSTICS v_rows = ROW_COUNT;
    IF v_rows > 0 THEN
      RETURN v_rows;
    END IF;
  END LOOP;
  DELETE FROM account_keys WHERE account_id = p_account_id;
  DELETE FROM accounts WHERE account_id = p_account_id;
  RETURN 1;
END $$;

-- ── Bodies ──────────────────────────────────────────────────────────────────────────────────────────────────────────
-- A body goes in three steps, none of which holds a lock over the network: begin_purges() locks content rows, looks for
-- references once more and marks them; then the caller deletes the objects; then finish_purges() deletes the rows. A process
-- that dies in between leaves marked rows, which select_purgeable() gives out again. A marked row is out of the unique index
-- on the hash, so the same bytes delivered meanwhile get a new row and a new key: a late DELETE can hit nobody.

-- Who needs a body: everything that refers to contents without a row in `messages` is asked here, and nowhere else. NULL:
-- nobody. Call it with the content row locked, in a statement after that: it then sees what was committed last.
CREATE FUNCTION content_user(p_account_id bigint, p_content_id bigint) RETURNS text LANGUAGE plpgsql STABLE
SET search_path = sora, public SET plan_cache_mode = force_generic_plan AS $$
BEGIN
  RETURN CASE
    -- live, or expunged and within its grace: past it the row is gone
    WHEN EXISTS (SELECT 1 FROM messages m WHERE m.account_id = p_account_id AND m.content_id = p_content_id) THEN 'message'
    -- a PUT may be under way: its DELETE must come after it
    WHEN EXISTS (SELECT 1 FROM pending_uploads u WHERE u.account_id = p_account_id AND u.content_id = p_content_id)
      THEN 'upload'
    -- a letter that is sent on, whether it is in a mailbox or held for that alone
    WHEN EXISTS (SELECT 1 FROM outbound_queue o WHERE o.account_id = p_account_id AND o.content_id = p_content_id)
      THEN 'outbound'
    -- read out of the bucket, and not yet in its mailbox
    WHEN EXISTS (SELECT 1 FROM rebuild_contents r WHERE r.account_id = p_account_id AND r.content_id = p_content_id)
      THEN 'rebuild'
  END;
END $$;

-- Contents that may have lost their last user before p_before, and those whose purge was begun and not finished.
CREATE FUNCTION select_purgeable(p_limit int DEFAULT 1000, p_before timestamptz DEFAULT 'infinity')
RETURNS TABLE (account_id bigint, content_id bigint, begun boolean) LANGUAGE sql STABLE
SET search_path = sora, public AS $$
  (SELECT c.account_id, c.content_id, true FROM message_contents c JOIN accounts a USING (account_id)
   WHERE c.purging_at IS NOT NULL AND NOT a.legal_hold ORDER BY c.purging_at LIMIT p_limit)
  UNION ALL
  (SELECT p.account_id, p.content_id, false FROM purge_candidates p WHERE p.noted_at < p_before
   ORDER BY p.noted_at LIMIT p_limit)
$$;

-- The parts of the object keys of those contents that nobody uses, now marked (or marked before). A row that somebody has
-- locked is left for the next time. On disk when this returns: an object must not go while its mark could be undone.
CREATE FUNCTION begin_purges(p_account_id bigint[], p_content_id bigint[])
RETURNS TABLE (account_id bigint, content_id bigint, content_hash bytea, size bigint) LANGUAGE plpgsql
SET search_path = sora, public SET plan_cache_mode = force_generic_plan SET lock_timeout = '2s'
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
  v_held bigint[];
  v_account bigint[];
  v_content bigint[];
  v_noted_account bigint[];
  v_noted_content bigint[];
BEGIN
  SELECT array_agg(q.a) INTO v_held FROM (SELECT DISTINCT a FROM unnest(p_account_id) a ORDER BY a) q
  WHERE account_held(q.a);
  SELECT array_agg(q.account_id), array_agg(q.content_id) INTO v_account, v_content FROM (
    SELECT c.account_id, c.content_id FROM unnest(p_account_id, p_content_id) i (a, c)
    JOIN message_contents c ON c.account_id = i.a AND c.content_id = i.c
    WHERE NOT i.a = ANY (coalesce(v_held, '{}'))
    ORDER BY c.account_id, c.content_hash FOR UPDATE OF c SKIP LOCKED
  ) q;
  -- Who removes messages at this moment holds their candidates: such are left alone, and what is decided here about the
  -- others is decided by statements that begin after this one.
  SELECT array_agg(q.account_id), array_agg(q.content_id) INTO v_noted_account, v_noted_content FROM (
    SELECT p.account_id, p.content_id FROM unnest(p_account_id, p_content_id) i (a, c)
    JOIN purge_candidates p ON p.account_id = i.a AND p.content_id = i.c FOR UPDATE OF p SKIP LOCKED
  ) q;
  -- no such row: nothing to purge
  DELETE FROM purge_candidates p USING unnest(v_noted_account, v_noted_content) i (a, c)
  WHERE p.account_id = i.a AND p.content_id = i.c
    AND NOT EXISTS (SELECT 1 FROM message_contents m WHERE m.account_id = i.a AND m.content_id = i.c);
  -- used again: its last row will make it a candidate once more
  DELETE FROM purge_candidates p USING unnest(v_noted_account, v_noted_content) i (a, c)
  WHERE p.account_id = i.a AND p.content_id = i.c AND content_user(i.a, i.c) = 'message'
    AND NOT i.a = ANY (coalesce(v_held, '{}'));
  -- held, locked or about to be uploaded: behind those that wait
  UPDATE purge_candidates p SET noted_at = clock() FROM unnest(v_noted_account, v_noted_content) i (a, c)
  WHERE p.account_id = i.a AND p.content_id = i.c;
  RETURN QUERY
  UPDATE message_contents m SET purging_at = coalesce(m.purging_at, clock())
  FROM unnest(v_account, v_content) i (a, c)
  WHERE m.account_id = i.a AND m.content_id = i.c
    AND (m.purging_at IS NOT NULL OR content_user(i.a, i.c) IS NULL)
  RETURNING m.account_id, m.content_id, m.content_hash, m.size;
END $$;

-- The objects are gone: the rows go. Returns how many.
CREATE FUNCTION finish_purges(p_account_id bigint[], p_content_id bigint[]) RETURNS bigint LANGUAGE plpgsql
SET search_path = sora, public SET plan_cache_mode = force_generic_plan
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off AS $$
DECLARE
  v_account bigint[];
  v_content bigint[];
BEGIN
  PERFORM set_config('synchronous_commit', 'off', true);
  WITH gone AS (
    DELETE FROM message_contents m USING unnest(p_account_id, p_content_id) i (a, c)
    WHERE m.account_id = i.a AND m.content_id = i.c AND m.purging_at IS NOT NULL
    RETURNING m.account_id, m.content_id
  )
  SELECT array_agg(g.account_id), array_agg(g.content_id) INTO v_account, v_content FROM gone g;
  DELETE FROM search_queue s USING unnest(v_account, v_content) i (a, c) WHERE s.account_id = i.a AND s.content_id = i.c;
  DELETE FROM search_index s USING unnest(v_account, v_content) i (a, c) WHERE s.account_id = i.a AND s.content_id = i.c;
  DELETE FROM search_archive s USING unnest(v_account, v_content) i (a, c) WHERE s.account_id = i.a AND s.content_id = i.c;
  DELETE FROM purge_candidates s USING unnest(v_account, v_content) i (a, c) WHERE s.account_id = i.a AND s.content_id = i.c;
  RETURN coalesce(cardinality(v_account), 0);
END $$;

-- ── Objects without a row ───────────────────────────────────────────────────────────────────────────────────────────

-- What the bucket holds and the database does not know. Reported first; an object goes when it was still unknown at a look
-- long after the first one.
CREATE TABLE orphan_objects (
  key text COLLATE "C" PRIMARY KEY,
  size bigint NOT NULL,
  modified_at timestamptz NOT NULL,
  first_seen_at timestamptz NOT NULL DEFAULT clock(),
  last_seen_at timestamptz NOT NULL DEFAULT clock()
);

-- Which of these objects (by place, from 1) have no row. A row under another content id or hash is no row for this key.
CREATE FUNCTION unknown_objects(p_account_id bigint[], p_content_id bigint[], p_content_hash bytea[])
RETURNS TABLE (ord int, held boolean) LANGUAGE plpgsql
SET search_path = sora, public SET plan_cache_mode = force_generic_plan
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY
  SELECT i.ord::int, account_held(i.a) FROM unnest(p_account_id, p_content_id, p_content_hash) WITH ORDINALITY i (a, c, h, ord)
  WHERE NOT EXISTS (
    SELECT 1 FROM message_contents m WHERE m.account_id = i.a AND m.content_id = i.c AND m.content_hash = i.h)
  ORDER BY i.ord;
END $$;

-- Notes objects without a row. Returns those that were noted before p_grace ago already, and are as old themselves: these
-- may go.
CREATE FUNCTION note_orphans(p_key text[], p_size bigint[], p_modified_at timestamptz[], p_grace interval) RETURNS SETOF text
LANGUAGE plpgsql SET search_path = sora, public SET plan_cache_mode = force_generic_plan AS $$
BEGIN
  RETURN QUERY
  INSERT INTO orphan_objects AS o (key, size, modified_at)
  SELECT * FROM unnest(p_key, p_size, p_modified_at)
  ON CONFLICT (key) DO UPDATE SET size = EXCLUDED.size, modified_at = EXCLUDED.modified_at, last_seen_at = clock(),
    first_seen_at = CASE WHEN o.modified_at = EXCLUDED.modified_at THEN o.first_seen_at ELSE clock() END
  RETURNING CASE WHEN o.first_seen_at < clock() - p_grace AND o.modified_at < clock() - p_grace THEN o.key END;
END $$;

-- ── Witnesses and logs ──────────────────────────────────────────────────────────────────────────────────────────────

CREATE INDEX account_changes_age ON account_changes (changed_at);

-- Witnesses past 24 h, what filters need not remember any more, and dead leases.
CREATE FUNCTION trim_witnesses(p_limit int DEFAULT 10000) RETURNS bigint LANGUAGE plpgsql
SET search_path = sora, public SET plan_cache_mode = force_generic_plan AS $$
DECLARE
  v_total bigint := 0;
  v_rows bigint;
BEGIN
  PERFORM set_config('synchronous_commit', 'off', true);
  DELETE FROM recent_deliveries d USING (
    SELECT ctid FROM recent_deliveries WHERE delivered_at < clock() - interval '24 h' ORDER BY delivered_at LIMIT p_limit) x
  WHERE d.ctid = x.ctid;
  GET DIAGNOSTICS v_rows = ROW_COUNT;
  v_total := v_total + v_rows;
  DELETE FROM append_witnesses d USING (
    SELECT ctid FROM append_witnesses WHERE appended_at < clock() - interval '24 h' ORDER BY appended_at LIMIT p_limit) x
  WHERE d.ctid = x.ctid;
  GET DIAGNOSTICS v_rows = ROW_COUNT;
  v_total := v_total + v_rows;
  DELETE FROM sieve_duplicates d USING (
    SELECT ctid FROM sieve_duplicates WHERE expires_at <= clock() ORDER BY expires_at LIMIT p_limit) x
  WHERE d.ctid = x.ctid;
  GET DIAGNOSTICS v_rows = ROW_COUNT;
  v_total := v_total + v_rows;
  DELETE FROM vacation_replies d USING (
    SELECT ctid FROM vacation_replies WHERE expires_at <= clock() ORDER BY expires_at LIMIT p_limit) x
  WHERE d.ctid = x.ctid;
  GET DIAGNOSTICS v_rows = ROW_COUNT;
  v_total := v_total + v_rows;
  DELETE FROM leases WHERE expires_at < clock() - interval '1 d';
  RETURN v_total;
END $$;

-- What happened to accounts longer ago than p_age: sessions have heard of it. That of held accounts is kept, and the log of
-- legal holds.
CREATE FUNCTION trim_logs(p_age interval, p_limit int DEFAULT 10000) RETURNS bigint LANGUAGE plpgsql
SET search_path = sora, public SET plan_cache_mode = force_generic_plan AS $$
DECLARE
  v_rows bigint;
BEGIN
  PERFORM set_config('synchronous_commit', 'off', true);
  DELETE FROM account_changes d USING (
    SELECT c.ctid FROM account_changes c WHERE c.changed_at < clock() - p_age
      AND NOT EXISTS (SELECT 1 FROM accounts a WHERE a.account_id = c.account_id AND a.legal_hold)
    ORDER BY c.changed_at LIMIT p_limit) x
  WHERE d.ctid = x.ctid;
  GET DIAGNOSTICS v_rows = ROW_COUNT;
  RETURN v_rows;
END $$;
