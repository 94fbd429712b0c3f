-- Verifying and rebuilding the caches from the rows.

-- What the counters should be.
CREATE FUNCTION true_stats(p_account_id bigint, p_mailbox_id bigint)
RETURNS TABLE (top_uid bigint, top_modseq bigint, live int, unseen int, deleted int, size bigint) LANGUAGE sql STABLE
SET search_path = sora, public AS $$
  SELECT coalesce(max(m.uid), 0),
    greatest(max(m.created_modseq), max(m.expunged_modseq), (
      SELECT max(j.modseq) FROM message_flag_changes j WHERE j.account_id = p_account_id AND j.mailbox_id = p_mailbox_id)),
    count(*) FILTER (WHERE m.live)::int, count(*) FILTER (WHERE m.live AND NOT m.seen)::int,
    count(*) FILTER (WHERE m.live AND m.deleted)::int, coalesce(sum(m.size) FILTER (WHERE m.live), 0)::bigint
  FROM (
    SELECT r.*, r.expunged_at IS NULL AS live, coalesce(get_bit(s.bits, (r.uid & 1023)::int) = 1, false) AS seen,
           coalesce(get_bit(d.bits, (r.uid & 1023)::int) = 1, false) AS deleted
    FROM messages r
    LEFT JOIN message_flags s ON s.account_id = p_account_id AND s.mailbox_id = p_mailbox_id
      AND s.block_no = (r.uid >> 10)::int AND s.flag_no = 0
    LEFT JOIN message_flags d ON d.account_id = p_account_id AND d.mailbox_id = p_mailbox_id
      AND d.block_no = (r.uid >> 10)::int AND d.flag_no = 3
    WHERE r.account_id = p_account_id AND r.mailbox_id = p_mailbox_id
  ) m
$$;

-- Flag planes, expunge log, sequences and counters anew, from the rows of messages. Raises highest_modseq and every block's
-- max_modseq, so that each session reads all blocks again: without it they would keep the wrong picture.
CREATE FUNCTION rebuild_mailbox(p_account_id bigint, p_mailbox_id bigint) RETURNS bigint LANGUAGE plpgsql
SET search_path = sora, public SET plan_cache_mode = force_generic_plan SET sora.flags_counted = 'on' AS $$
DECLARE
  z CONSTANT bit(1024) := 0::bit(1024);
  v_modseq bigint;
  v_logged boolean;
BEGIN
  PERFORM lock_mailboxes(ARRAY[p_mailbox_id]);
  INSERT INTO mailbox_stats (account_id, mailbox_id)
  SELECT account_id, mailbox_id FROM mailboxes WHERE account_id = p_account_id AND mailbox_id = p_mailbox_id
  ON CONFLICT DO NOTHING;
  -- Bits where there is no row. Nothing is counted meanwhile (sora.flags_counted): the counters come last.
  WITH rows AS MATERIALIZED (
    SELECT (uid >> 10)::int AS block_no, bit_or(set_bit(z, (uid & 1023)::int, 1)) AS bits
    FROM messages WHERE account_id = p_account_id AND mailbox_id = p_mailbox_id GROUP BY 1
  ), flags AS (
    UPDATE message_flags f SET bits = f.bits & coalesce((SELECT r.bits FROM rows r WHERE r.block_no = f.block_no), z)
    WHERE f.account_id = p_account_id AND f.mailbox_id = p_mailbox_id
      AND bit_count(f.bits & ~coalesce((SELECT r.bits FROM rows r WHERE r.block_no = f.block_no), z)) > 0
  )
  UPDATE message_viewer_seen f SET bits = f.bits & coalesce((SELECT r.bits FROM rows r WHERE r.block_no = f.block_no), z)
  WHERE f.account_id = p_account_id AND f.mailbox_id = p_mailbox_id
    AND bit_count(f.bits & ~coalesce((SELECT r.bits FROM rows r WHERE r.block_no = f.block_no), z)) > 0;
  -- What the log has lost of the expunged rows that are still there. At its end: what was trimmed is counted from the front.
  INSERT INTO message_expunges AS e (account_id, mailbox_id, modseq, expunged_at, uids)
  SELECT m.account_id, m.mailbox_id, m.expunged_modseq, max(m.expunged_at), array_agg(m.uid ORDER BY m.uid)
  FROM (
    SELECT uid, expunged_modseq FROM messages
    WHERE account_id = p_account_id AND mailbox_id = p_mailbox_id AND expunged_at IS NOT NULL
    EXCEPT
    SELECT u.uid, k.modseq FROM message_expunges k CROSS JOIN LATERAL unnest(k.uids) u (uid)
    WHERE k.account_id = p_account_id AND k.mailbox_id = p_mailbox_id
  ) x JOIN messages m ON m.account_id = p_account_id AND m.mailbox_id = p_mailbox_id AND m.uid = x.uid
  GROUP BY 1, 2, 3
  ON CONFLICT (account_id, mailbox_id, modseq) DO UPDATE SET uids = e.uids || EXCLUDED.uids;
  v_logged := FOUND;
  UPDATE mailbox_stats t SET
    uid_next = greatest(t.uid_next, d.top_uid + 1), highest_modseq = greatest(t.highest_modseq, d.top_modseq) + 1,
    message_count = d.live, unseen_count = d.unseen, deleted_count = d.deleted, total_size = d.size
  FROM true_stats(p_account_id, p_mailbox_id) d WHERE t.account_id = p_account_id AND t.mailbox_id = p_mailbox_id
  RETURNING t.highest_modseq INTO v_modseq;
  IF v_modseq IS NULL THEN
    PERFORM fail('P0002', 'No such mailbox', p_account_id || '/' || p_mailbox_id);
  END IF;
  IF v_logged THEN   -- who was told nothing of them asks from a modseq above theirs: he is answered from the rows
    UPDATE mailbox_stats SET expunge_floor = v_modseq WHERE account_id = p_account_id AND mailbox_id = p_mailbox_id;
  END IF;
  -- a block that should be empty stays as a row of zeros: a session must learn that its messages are gone
  UPDATE message_sequences SET n = 0, live = 0::bit(1024), max_modseq = v_modseq
  WHERE account_id = p_account_id AND mailbox_id = p_mailbox_id;
  INSERT INTO message_sequences AS s (account_id, mailbox_id, block_no, n, max_modseq, live)
  SELECT p_account_id, p_mailbox_id, (uid >> 10)::int, count(*), v_modseq,
         bit_or(set_bit(0::bit(1024), (uid & 1023)::int, 1))
  FROM messages WHERE account_id = p_account_id AND mailbox_id = p_mailbox_id AND expunged_at IS NULL GROUP BY 3
  ON CONFLICT (account_id, mailbox_id, block_no) DO UPDATE SET n = EXCLUDED.n, live = EXCLUDED.live;
  RETURN v_modseq;
END $$;

-- One row for each thing that is wrong; none is the only good answer.
CREATE FUNCTION check_mailbox(p_account_id bigint, p_mailbox_id bigint) RETURNS TABLE (what text, detail text)
LANGUAGE sql STABLE SET search_path = sora, public AS $$
  WITH truth AS (
    SELECT uid, row_number() OVER (ORDER BY uid) AS seqnum FROM messages
    WHERE account_id = p_account_id AND mailbox_id = p_mailbox_id AND expunged_at IS NULL
  ), cached AS (
    SELECT uid, seqnum FROM message_sequence_numbers WHERE account_id = p_account_id AND mailbox_id = p_mailbox_id
  ), rows AS MATERIALIZED (   -- UIDs that have a row, live or expunged, by block
    SELECT (uid >> 10)::int AS block_no, bit_or(set_bit(0::bit(1024), (uid & 1023)::int, 1)) AS bits,
           max(greatest(created_modseq, expunged_modseq)) AS modseq
    FROM messages WHERE account_id = p_account_id AND mailbox_id = p_mailbox_id GROUP BY 1
  )
  SELECT 'sequence', x::text FROM ((TABLE truth EXCEPT TABLE cached) UNION ALL (TABLE cached EXCEPT TABLE truth)) x
  UNION ALL
  SELECT 'count of a block', block_no::text FROM message_sequences
  WHERE account_id = p_account_id AND mailbox_id = p_mailbox_id AND n <> bit_count(live)
  UNION ALL
  SELECT 'modseq of a block', s.block_no::text FROM message_sequences s JOIN rows r USING (block_no)
  WHERE s.account_id = p_account_id AND s.mailbox_id = p_mailbox_id AND r.modseq > s.max_modseq
  UNION ALL
  SELECT 'flag without a message', f.block_no || '/' || f.flag_no FROM message_flags f LEFT JOIN rows r USING (block_no)
  WHERE f.account_id = p_account_id AND f.mailbox_id = p_mailbox_id
    AND bit_count(f.bits & ~coalesce(r.bits, 0::bit(1024))) > 0
  UNION ALL
  SELECT 'viewer flag without a message', f.block_no || '/' || f.viewer_id
  FROM message_viewer_seen f LEFT JOIN rows r USING (block_no)
  WHERE f.account_id = p_account_id AND f.mailbox_id = p_mailbox_id
    AND bit_count(f.bits & ~coalesce(r.bits, 0::bit(1024))) > 0
  UNION ALL
  -- sets, not a look into the array for each row: one statement may have expunged a million
  SELECT 'expunge not logged', x.uid::text FROM (
    SELECT m.uid, m.expunged_modseq FROM messages m
    WHERE m.account_id = p_account_id AND m.mailbox_id = p_mailbox_id AND m.expunged_at IS NOT NULL
    EXCEPT
    SELECT u.uid, e.modseq FROM message_expunges e CROSS JOIN LATERAL unnest(e.uids) u (uid)
    WHERE e.account_id = p_account_id AND e.mailbox_id = p_mailbox_id) x
  UNION ALL
  SELECT 'message without content', m.uid::text FROM messages m
  WHERE m.account_id = p_account_id AND m.mailbox_id = p_mailbox_id AND NOT EXISTS (
    SELECT 1 FROM message_contents c WHERE c.account_id = p_account_id AND c.content_id = m.content_id)
  UNION ALL
  SELECT 'statistics', s::text || ' ' || d::text FROM mailbox_stats s, true_stats(p_account_id, p_mailbox_id) d
  WHERE s.account_id = p_account_id AND s.mailbox_id = p_mailbox_id
    AND (s.uid_next <= d.top_uid OR s.highest_modseq < d.top_modseq OR s.message_count <> d.live OR s.unseen_count <> d.unseen
         OR s.deleted_count <> d.deleted OR s.total_size <> d.size)
  UNION ALL
  SELECT 'no statistics', '' WHERE EXISTS (
    SELECT 1 FROM mailboxes WHERE account_id = p_account_id AND mailbox_id = p_mailbox_id)
    AND NOT EXISTS (SELECT 1 FROM mailbox_stats WHERE account_id = p_account_id AND mailbox_id = p_mailbox_id)
$$;
