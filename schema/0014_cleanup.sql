-- The janitor's work, in bounded batches. Nothing of an account under legal hold is touched.
--
-- A body goes in three steps, none of which holds a lock over the network: begin_purge() locks the content row, looks for
-- references once more and marks it; then the caller deletes the object; then finish_purge() deletes the row. A process
-- that dies in between leaves a marked row, which select_purgeable() gives out again.

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

-- Puts or releases a hold, deleted accounts included. What is being removed at this moment is waited for, so that after the
-- commit nothing more goes. Returns false if nothing changed but the reason.
CREATE FUNCTION set_legal_hold(p_account_id bigint, p_held boolean, p_reason text, p_actor text) RETURNS boolean
LANGUAGE plpgsql SET search_path = sora, public SET lock_timeout = '30s' AS $$
DECLARE
  a accounts;
BEGIN
  SELECT * INTO a FROM accounts WHERE account_id = p_account_id FOR UPDATE;
  IF NOT FOUND THEN
    PERFORM fail('P0002', 'No such account', p_account_id::text);
  END IF;
  UPDATE accounts SET legal_hold = p_held, hold_reason = CASE WHEN p_held THEN p_reason ELSE '' END,
    held_at = CASE WHEN p_held THEN coalesce(held_at, clock()) END
  WHERE account_id = p_account_id;
  INSERT INTO legal_hold_log (account_id, address, held, reason, actor)
  VALUES (p_account_id, a.address, p_held, p_reason, p_actor);
  RETURN a.legal_hold <> p_held;
END $$;

-- ── Expunged messages ───────────────────────────────────────────────────────────────────────────────────────────────

-- Removes the rows of messages expunged before p_before and the log of it, oldest first, about p_limit of them, and raises
-- the floor below which VANISHED can no longer be answered from the log. Returns the number of messages removed.
CREATE FUNCTION trim_expunges(p_account_id bigint, p_mailbox_id bigint, p_before timestamptz, p_limit int DEFAULT 10000)
RETURNS bigint LANGUAGE plpgsql
SET search_path = sora, public SET plan_cache_mode = force_generic_plan SET lock_timeout = '2s'
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off AS $$
DECLARE
  v_upto bigint;
  v_removed bigint;
BEGIN
  IF account_held(p_account_id) THEN
    RETURN 0;
  END IF;
  PERFORM lock_mailboxes(ARRAY[p_mailbox_id]);
  SELECT max(q.modseq) INTO v_upto FROM (
    SELECT e.modseq, sum(cardinality(e.uids)) OVER (ORDER BY e.modseq) - cardinality(e.uids) AS before
    FROM message_expunges e
    WHERE e.account_id = p_account_id AND e.mailbox_id = p_mailbox_id AND e.expunged_at < p_before
  ) q WHERE q.before < p_limit;
  IF v_upto IS NULL THEN
    RETURN 0;
  END IF;
  WITH gone AS (
    DELETE FROM message_expunges e
    WHERE e.account_id = p_account_id AND e.mailbox_id = p_mailbox_id AND e.modseq <= v_upto AND e.expunged_at < p_before
    RETURNING e.uids
  ), wanted AS MATERIALIZED (SELECT unnest(uids) AS uid FROM gone)
  DELETE FROM messages m USING wanted t CROSS JOIN LATERAL (
    SELECT i.ctid FROM messages i
    WHERE i.account_id = p_account_id AND i.mailbox_id = p_mailbox_id AND i.uid = t.uid
      AND i.expunged_at IS NOT NULL OFFSET 0) x
  WHERE m.ctid = x.ctid AND m.account_id + 0 = p_account_id AND m.mailbox_id + 0 = p_mailbox_id AND m.uid + 0 = t.uid;
  GET DIAGNOSTICS v_removed = ROW_COUNT;
  UPDATE mailbox_stats SET expunge_floor = greatest(expunge_floor, v_upto)
  WHERE account_id = p_account_id AND mailbox_id = p_mailbox_id;
  RETURN v_removed;
END $$;

-- Mailboxes that have something to trim, oldest first.
CREATE FUNCTION select_expunged(p_grace interval, p_limit int DEFAULT 100)
RETURNS TABLE (account_id bigint, mailbox_id bigint, oldest_at timestamptz) LANGUAGE sql STABLE
SET search_path = sora, public AS $$
  SELECT e.account_id, e.mailbox_id, min(e.expunged_at) FROM (
    SELECT x.account_id, x.mailbox_id, x.expunged_at FROM message_expunges x JOIN accounts a USING (account_id)
    WHERE x.expunged_at < clock() - p_grace AND NOT a.legal_hold ORDER BY x.expunged_at LIMIT p_limit * 10) e
  GROUP BY 1, 2 ORDER BY 3 LIMIT p_limit
$$;

-- Mailboxes whose journal has grown past p_rows a block on average.
CREATE FUNCTION select_long_journals(p_rows int DEFAULT 64, p_limit int DEFAULT 100)
RETURNS TABLE (account_id bigint, mailbox_id bigint, row_count bigint) LANGUAGE sql STABLE
SET search_path = sora, public AS $$
  SELECT j.account_id, j.mailbox_id, count(*) FROM message_flag_changes j
  GROUP BY 1, 2 HAVING count(*) > p_rows * count(DISTINCT j.block_no) ORDER BY 3 DESC LIMIT p_limit
$$;

-- Contents that may have lost their last message, and those whose purge was begun and not finished.
CREATE FUNCTION select_purgeable(p_limit int DEFAULT 1000)
RETURNS TABLE (account_id bigint, content_id bigint, begun boolean) LANGUAGE sql STABLE
SET search_path = sora, public AS $$
  (SELECT c.account_id, c.content_id, true FROM message_contents c
   WHERE c.purging_at IS NOT NULL ORDER BY c.purging_at LIMIT p_limit)
  UNION ALL
  (SELECT p.account_id, p.content_id, false FROM purge_candidates p JOIN accounts a USING (account_id)
   WHERE NOT a.legal_hold ORDER BY p.noted_at LIMIT p_limit)
$$;

-- The parts of the object key if the content is unreferenced and now marked (or was marked before); no row otherwise.
CREATE FUNCTION begin_purge(p_account_id bigint, p_content_id bigint)
RETURNS TABLE (account_id bigint, content_id bigint, content_hash bytea, size bigint, uploaded boolean) LANGUAGE plpgsql
SET search_path = sora, public SET plan_cache_mode = force_generic_plan SET lock_timeout = '2s' AS $$
#variable_conflict use_column
DECLARE
  c message_contents;
BEGIN
  SELECT * INTO c FROM message_contents m WHERE m.account_id = p_account_id AND m.content_id = p_content_id FOR UPDATE;
  IF NOT FOUND THEN
    DELETE FROM purge_candidates p WHERE p.account_id = p_account_id AND p.content_id = p_content_id;
    RETURN;
  END IF;
  IF c.purging_at IS NULL THEN
    IF account_held(p_account_id) THEN
      RETURN;
    END IF;
    -- statements of their own, after the row lock: they see what the last delivery or upload committed
    IF EXISTS (SELECT 1 FROM messages m WHERE m.account_id = p_account_id AND m.content_id = p_content_id) THEN
      DELETE FROM purge_candidates p WHERE p.account_id = p_account_id AND p.content_id = p_content_id;
      RETURN;   -- used again; its last row will make it a candidate once more
    END IF;
    IF EXISTS (SELECT 1 FROM pending_uploads u WHERE u.account_id = p_account_id AND u.content_id = p_content_id) THEN
      UPDATE purge_candidates p SET noted_at = clock() WHERE p.account_id = p_account_id AND p.content_id = p_content_id;
      RETURN;   -- a PUT may be under way: its DELETE must come after it
    END IF;
    UPDATE message_contents m SET purging_at = clock() WHERE m.account_id = p_account_id AND m.content_id = p_content_id;
  END IF;
  RETURN QUERY SELECT c.account_id, c.content_id, c.content_hash, c.size, c.uploaded_at IS NOT NULL;
END $$;

CREATE FUNCTION finish_purge(p_account_id bigint, p_content_id bigint) RETURNS boolean LANGUAGE plpgsql
SET search_path = sora, public SET plan_cache_mode = force_generic_plan AS $$
BEGIN
  DELETE FROM message_contents WHERE account_id = p_account_id AND content_id = p_content_id AND purging_at IS NOT NULL;
  IF NOT FOUND THEN
    RETURN false;
  END IF;
  DELETE FROM search_queue WHERE account_id = p_account_id AND content_id = p_content_id;
  DELETE FROM search_index WHERE account_id = p_account_id AND content_id = p_content_id;
  DELETE FROM purge_candidates WHERE account_id = p_account_id AND content_id = p_content_id;
  RETURN true;
END $$;

-- Empties mailboxes deleted more than p_grace ago, p_limit messages a call, and removes those that are empty. Returns the
-- number of messages and mailboxes removed: call again until both are 0.
CREATE FUNCTION purge_mailboxes(p_grace interval, p_limit int DEFAULT 10000)
RETURNS TABLE (messages bigint, mailboxes bigint) LANGUAGE plpgsql
SET search_path = sora, public SET plan_cache_mode = force_generic_plan SET lock_timeout = '2s'
SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
  r record;
  v_rows bigint;
BEGIN
  messages := 0;
  mailboxes := 0;
  FOR r IN
    SELECT m.account_id, m.mailbox_id FROM sora.mailboxes m JOIN accounts a USING (account_id)
    WHERE m.deleted_at < clock() - p_grace AND NOT a.legal_hold
    ORDER BY m.mailbox_id LIMIT 100
  LOOP
    PERFORM lock_mailboxes(ARRAY[r.mailbox_id]);
    DELETE FROM sora.messages d USING (
      SELECT i.ctid, i.uid FROM sora.messages i
      WHERE i.account_id = r.account_id AND i.mailbox_id = r.mailbox_id ORDER BY i.uid LIMIT p_limit - messages) x
    WHERE d.ctid = x.ctid AND d.account_id + 0 = r.account_id AND d.mailbox_id + 0 = r.mailbox_id AND d.uid + 0 = x.uid;
    GET DIAGNOSTICS v_rows = ROW_COUNT;
    messages := messages + v_rows;
    IF messages >= p_limit THEN
      EXIT;
    END IF;
    DELETE FROM message_sequences x WHERE x.account_id = r.account_id AND x.mailbox_id = r.mailbox_id;
    DELETE FROM message_flags x WHERE x.account_id = r.account_id AND x.mailbox_id = r.mailbox_id;
    DELETE FROM message_viewer_seen x WHERE x.account_id = r.account_id AND x.mailbox_id = r.mailbox_id;
    DELETE FROM message_flag_changes x WHERE x.account_id = r.account_id AND x.mailbox_id = r.mailbox_id;
    DELETE FROM message_expunges x WHERE x.account_id = r.account_id AND x.mailbox_id = r.mailbox_id;
    DELETE FROM sora.mailboxes x WHERE x.account_id = r.account_id AND x.mailbox_id = r.mailbox_id;
    mailboxes := mailboxes + 1;
  END LOOP;
  RETURN NEXT;
END $$;

-- Accounts deleted more than p_grace ago: their mailboxes become deleted (purge_mailboxes() empties them), and once
-- mailboxes, contents and uploads are gone, the account itself with its keys. Returns the accounts removed.
CREATE FUNCTION purge_accounts(p_grace interval, p_limit int DEFAULT 100) RETURNS bigint LANGUAGE plpgsql
SET search_path = sora, public SET plan_cache_mode = force_generic_plan SET lock_timeout = '2s' AS $$
DECLARE
  a bigint;
  v_removed bigint := 0;
BEGIN
  FOR a IN
    SELECT account_id FROM accounts WHERE deleted_at < clock() - p_grace AND NOT legal_hold ORDER BY account_id LIMIT p_limit
  LOOP
    PERFORM lock_accounts(ARRAY[a]);
    UPDATE mailboxes m SET deleted_at = x.deleted_at FROM accounts x
    WHERE m.account_id = a AND x.account_id = a AND m.deleted_at IS NULL;
    CONTINUE WHEN EXISTS (SELECT 1 FROM mailboxes WHERE account_id = a)
      OR EXISTS (SELECT 1 FROM message_contents WHERE account_id = a)
      OR EXISTS (SELECT 1 FROM pending_uploads WHERE account_id = a);
    DELETE FROM account_keys WHERE account_id = a;
    DELETE FROM account_changes WHERE account_id = a;
    DELETE FROM recent_deliveries WHERE account_id = a;
    DELETE FROM append_witnesses WHERE account_id = a;
    DELETE FROM purge_candidates WHERE account_id = a;
    DELETE FROM accounts WHERE account_id = a;
    v_removed := v_removed + 1;
  END LOOP;
  RETURN v_removed;
END $$;

-- Witnesses past 24 h, old account changes, nodes that have been silent for a month and their leases.
CREATE FUNCTION trim_witnesses(p_limit int DEFAULT 10000) RETURNS bigint LANGUAGE plpgsql
SET search_path = sora, public SET plan_cache_mode = force_generic_plan AS $$
DECLARE
  v_total bigint := 0;
  v_rows bigint;
BEGIN
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
  DELETE FROM leases WHERE expires_at < clock() - interval '1 d';
  RETURN v_total;
END $$;
