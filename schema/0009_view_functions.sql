-- What a session reads: the state of a mailbox in one row, its changes, numbers of single messages.
--
-- Every function is one statement, hence one snapshot: counters and bitmaps always belong together.
-- A record is [int4 block_no][int2 flag_no, -1 = live][int4 1024][128 bytes], in no particular order. With a viewer
-- (an account that is not the owner) flag 0 is the viewer's own \Seen, unseen_count is counted for it, and rights are its.

CREATE FUNCTION mailbox_state(p_account_id bigint, p_mailbox_id bigint, p_viewer_id bigint DEFAULT NULL)
RETURNS TABLE (uid_next bigint, highest_modseq bigint, message_count int, unseen_count int, state bytea,
               uidvalidity bigint, deleted_count int, total_size bigint, expunge_floor bigint, rights int)
LANGUAGE plpgsql STABLE ROWS 1
SET search_path = sora, public SET plan_cache_mode = force_generic_plan
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY
  SELECT t.uid_next, t.highest_modseq, t.message_count,
    CASE WHEN p_viewer_id IS NULL THEN t.unseen_count
         ELSE viewer_unseen(p_account_id, p_mailbox_id, p_viewer_id)::int END,
    (SELECT string_agg(r, ''::bytea) FROM (
       SELECT int4send(s.block_no) || '\xffff'::bytea || bit_send(s.live) AS r FROM message_sequences s
       WHERE s.account_id = p_account_id AND s.mailbox_id = p_mailbox_id AND s.n > 0
       UNION ALL
       SELECT int4send(f.block_no) || int2send(f.flag_no) || bit_send(f.bits) FROM message_flags f
       WHERE f.account_id = p_account_id AND f.mailbox_id = p_mailbox_id AND (p_viewer_id IS NULL OR f.flag_no <> 0)
       UNION ALL
       SELECT int4send(v.block_no) || '\x0000'::bytea || bit_send(v.bits) FROM message_viewer_seen v
       WHERE v.account_id = p_account_id AND v.mailbox_id = p_mailbox_id AND v.viewer_id = p_viewer_id) q),
    m.uidvalidity, t.deleted_count, t.total_size, t.expunge_floor,
    CASE WHEN p_viewer_id IS NULL AND NOT EXISTS (   -- who shares nothing pays for no call
           SELECT 1 FROM mailbox_acl c WHERE c.account_id = p_account_id AND c.mailbox_id = p_mailbox_id) THEN 2047
         ELSE mailbox_rights(p_account_id, p_mailbox_id, coalesce(p_viewer_id, p_account_id)) END
  FROM mailbox_stats t JOIN mailboxes m USING (account_id, mailbox_id)
  WHERE t.account_id = p_account_id AND t.mailbox_id = p_mailbox_id AND m.deleted_at IS NULL;
END $$;

-- The blocks that changed after p_since, whole; state NULL if none did.
CREATE FUNCTION mailbox_delta(p_account_id bigint, p_mailbox_id bigint, p_since bigint, p_viewer_id bigint DEFAULT NULL)
RETURNS TABLE (uid_next bigint, highest_modseq bigint, message_count int, unseen_count int, state bytea,
               uidvalidity bigint, deleted_count int, total_size bigint, expunge_floor bigint, rights int)
LANGUAGE plpgsql STABLE ROWS 1
SET search_path = sora, public SET plan_cache_mode = force_generic_plan
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY
  SELECT t.uid_next, t.highest_modseq, t.message_count,
    CASE WHEN p_viewer_id IS NULL THEN t.unseen_count
         ELSE viewer_unseen(p_account_id, p_mailbox_id, p_viewer_id)::int END,
    CASE WHEN t.highest_modseq > p_since THEN (
      -- LATERAL … OFFSET 0 here and below: a generic plan would else read the whole mailbox and filter (the columns
      -- account and mailbox depend on each other, so the planner expects one row)
      WITH b AS MATERIALIZED (
        SELECT s.block_no FROM message_sequences s
        WHERE s.account_id = p_account_id AND s.mailbox_id = p_mailbox_id AND s.max_modseq > p_since
        UNION
        SELECT j.block_no FROM message_flag_changes j
        WHERE j.account_id = p_account_id AND j.mailbox_id = p_mailbox_id AND j.modseq > p_since)
      SELECT string_agg(r, ''::bytea) FROM (
        SELECT int4send(b.block_no) || '\xffff'::bytea || bit_send(l.live) AS r FROM b CROSS JOIN LATERAL (
          SELECT i.live FROM message_sequences i
          WHERE i.account_id = p_account_id AND i.mailbox_id = p_mailbox_id AND i.block_no = b.block_no OFFSET 0) l
        UNION ALL
        SELECT int4send(b.block_no) || int2send(l.flag_no) || bit_send(l.bits) FROM b CROSS JOIN LATERAL (
          SELECT i.flag_no, i.bits FROM message_flags i
          WHERE i.account_id = p_account_id AND i.mailbox_id = p_mailbox_id AND i.block_no = b.block_no
            AND (p_viewer_id IS NULL OR i.flag_no <> 0) OFFSET 0) l
        UNION ALL
        SELECT int4send(b.block_no) || '\x0000'::bytea || bit_send(l.bits) FROM b CROSS JOIN LATERAL (
          SELECT i.bits FROM message_viewer_seen i
          WHERE i.account_id = p_account_id AND i.mailbox_id = p_mailbox_id AND i.viewer_id = p_viewer_id
            AND i.block_no = b.block_no OFFSET 0) l) q) END,
    m.uidvalidity, t.deleted_count, t.total_size, t.expunge_floor,
    CASE WHEN p_viewer_id IS NULL AND NOT EXISTS (   -- who shares nothing pays for no call
           SELECT 1 FROM mailbox_acl c WHERE c.account_id = p_account_id AND c.mailbox_id = p_mailbox_id) THEN 2047
         ELSE mailbox_rights(p_account_id, p_mailbox_id, coalesce(p_viewer_id, p_account_id)) END
  FROM mailbox_stats t JOIN mailboxes m USING (account_id, mailbox_id)
  WHERE t.account_id = p_account_id AND t.mailbox_id = p_mailbox_id AND m.deleted_at IS NULL;
END $$;

-- All that SELECT needs, by name: the mailbox, its picture, and what is \Recent (see claim_recent). The caller may hold a
-- picture: of p_known_id, as it was at p_since. If that is this mailbox, state is the delta to it; else it is `whole`. No
-- row: no such mailbox; one that cannot be selected has no picture. \Recent is the owner's: a viewer claims nothing.
CREATE FUNCTION open_mailbox(p_account_id bigint, p_name text, p_known_id bigint, p_since bigint, p_claim boolean,
  p_viewer_id bigint DEFAULT NULL)
RETURNS TABLE (mailbox_id bigint, noselect boolean, recent_uid bigint, whole boolean,
               uid_next bigint, highest_modseq bigint, message_count int, unseen_count int, state bytea,
               uidvalidity bigint, deleted_count int, total_size bigint, expunge_floor bigint, rights int)
LANGUAGE plpgsql ROWS 1 SET search_path = sora, public SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
BEGIN
  SELECT m.mailbox_id, m.noselect INTO mailbox_id, noselect FROM mailboxes m
  WHERE m.account_id = p_account_id AND m.name = p_name AND m.deleted_at IS NULL;
  IF NOT FOUND THEN
    RETURN;
  END IF;
  whole := open_mailbox.mailbox_id IS DISTINCT FROM p_known_id;
  IF noselect THEN
    NULL;
  ELSIF whole THEN
    SELECT * INTO uid_next, highest_modseq, message_count, unseen_count, state, uidvalidity, deleted_count, total_size,
      expunge_floor, rights FROM mailbox_state(p_account_id, open_mailbox.mailbox_id, p_viewer_id);
  ELSE
    SELECT * INTO uid_next, highest_modseq, message_count, unseen_count, state, uidvalidity, deleted_count, total_size,
      expunge_floor, rights FROM mailbox_delta(p_account_id, p_known_id, p_since, p_viewer_id);
  END IF;
  IF uid_next IS NOT NULL THEN
    SELECT c.recent_after INTO recent_uid FROM claim_recent(p_account_id, open_mailbox.mailbox_id,
      p_claim AND rights & 2 = 2 AND p_viewer_id IS NULL) c;
  END IF;
  RETURN NEXT;
END $$;

-- UIDs with their modseq, of messages that changed or came after p_since (CHANGEDSINCE). Exact until the journal is
-- compacted; after that a message may report a later modseq than its own, which loses nothing.
CREATE FUNCTION changed_since(p_account_id bigint, p_mailbox_id bigint, p_since bigint)
RETURNS TABLE (uid bigint, modseq bigint) LANGUAGE plpgsql STABLE
SET search_path = sora, public SET plan_cache_mode = force_generic_plan
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY
  SELECT q.uid, max(q.modseq) FROM (
    SELECT (j.block_no::bigint << 10) + g AS uid, j.modseq FROM message_flag_changes j
    CROSS JOIN LATERAL (
      SELECT i.live FROM message_sequences i
      WHERE i.account_id = p_account_id AND i.mailbox_id = p_mailbox_id AND i.block_no = j.block_no OFFSET 0) s,
    generate_series(0, 1023) g
    WHERE j.account_id = p_account_id AND j.mailbox_id = p_mailbox_id AND j.modseq > p_since
      AND get_bit(j.bits & s.live, g) = 1
    UNION ALL
    SELECT m.uid, m.created_modseq FROM message_sequences s
    CROSS JOIN LATERAL (
      SELECT i.uid, i.created_modseq FROM messages i
      WHERE i.account_id = p_account_id AND i.mailbox_id = p_mailbox_id
        AND i.uid BETWEEN s.block_no::bigint << 10 AND (s.block_no::bigint << 10) + 1023
        AND i.created_modseq > p_since AND i.expunged_at IS NULL OFFSET 0) m
    WHERE s.account_id = p_account_id AND s.mailbox_id = p_mailbox_id AND s.max_modseq > p_since
  ) q GROUP BY 1;
END $$;

-- From what sora._native.modseqs makes the modseq of every message at every version: creations after p_since as
-- [uint4 uid][int8 modseq] by uid, of expunged messages too, because a session may not know yet that they are; and the
-- journal after p_since as [int8 modseq][int4 block_no][int4 1024][128 bytes] by modseq. NULL where there is nothing.
CREATE FUNCTION modseqs(p_account_id bigint, p_mailbox_id bigint, p_since bigint DEFAULT 0)
RETURNS TABLE (highest_modseq bigint, created bytea, changes bytea) LANGUAGE plpgsql STABLE ROWS 1
SET search_path = sora, public SET plan_cache_mode = force_generic_plan
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off AS $$
#variable_conflict use_column
BEGIN
  SELECT t.highest_modseq INTO highest_modseq FROM mailbox_stats t JOIN mailboxes m USING (account_id, mailbox_id)
  WHERE t.account_id = p_account_id AND t.mailbox_id = p_mailbox_id AND m.deleted_at IS NULL;
  IF NOT FOUND THEN
    RETURN;
  END IF;
  -- In the order of the index: a sort inside string_agg would cost a third more.
  IF p_since = 0 THEN
    SELECT string_agg(substr(int8send(q.uid), 5) || int8send(q.created_modseq), ''::bytea) INTO created FROM (
      SELECT m.uid, m.created_modseq FROM messages m
      WHERE m.account_id = p_account_id AND m.mailbox_id = p_mailbox_id ORDER BY m.uid) q;
  ELSE
    SELECT string_agg(substr(int8send(q.uid), 5) || int8send(q.created_modseq), ''::bytea) INTO created FROM (
      SELECT m.uid, m.created_modseq FROM message_sequences s
      CROSS JOIN LATERAL (
        SELECT i.uid, i.created_modseq FROM messages i
        WHERE i.account_id = p_account_id AND i.mailbox_id = p_mailbox_id
          AND i.uid BETWEEN s.block_no::bigint << 10 AND (s.block_no::bigint << 10) + 1023
          AND i.created_modseq > p_since OFFSET 0) m
      WHERE s.account_id = p_account_id AND s.mailbox_id = p_mailbox_id AND s.max_modseq > p_since ORDER BY m.uid) q;
  END IF;
  SELECT string_agg(int8send(q.modseq) || int4send(q.block_no) || bit_send(q.bits), ''::bytea) INTO changes FROM (
    SELECT j.modseq, j.block_no, j.bits FROM message_flag_changes j
    WHERE j.account_id = p_account_id AND j.mailbox_id = p_mailbox_id AND j.modseq > p_since
    ORDER BY j.modseq, j.block_no) q;
  RETURN NEXT;
END $$;

-- Immutable columns of the live messages for SEARCH and SORT without a row each:
-- [uint4 uid][int8 content_id][int8 internal_date][int8 sent_at][int8 saved_at][int8 size] by uid; dates in seconds,
-- sent_at = -2^63 where the message has none.
CREATE FUNCTION message_columns(p_account_id bigint, p_mailbox_id bigint, p_first bigint DEFAULT 1,
  p_last bigint DEFAULT 4294967295)
RETURNS bytea LANGUAGE plpgsql STABLE
SET search_path = sora, public SET plan_cache_mode = force_generic_plan
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off AS $$
BEGIN
  RETURN (
    SELECT string_agg(substr(int8send(m.uid), 5) || int8send(m.content_id)
             || int8send(floor(extract(epoch FROM m.internal_date))::bigint)
             || int8send(coalesce(floor(extract(epoch FROM c.sent_at))::bigint, -9223372036854775808))
             || int8send(floor(extract(epoch FROM m.saved_at))::bigint) || int8send(m.size), ''::bytea ORDER BY m.uid)
    FROM messages m CROSS JOIN LATERAL (
      SELECT i.sent_at FROM message_contents i
      WHERE i.account_id = p_account_id AND i.content_id = m.content_id OFFSET 0) c
    WHERE m.account_id = p_account_id AND m.mailbox_id = p_mailbox_id AND m.uid BETWEEN p_first AND p_last
      AND m.expunged_at IS NULL);
END $$;

-- VANISHED (RFC 7162 §3.2.5): UIDs expunged after p_since, by uid. complete = false: the log does not reach back so far
-- (expunge_floor), and the caller must compare with what the client knows.
CREATE FUNCTION expunged_since(p_account_id bigint, p_mailbox_id bigint, p_since bigint)
RETURNS TABLE (complete boolean, uids bigint[]) LANGUAGE plpgsql STABLE ROWS 1
SET search_path = sora, public SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY
  SELECT p_since >= t.expunge_floor, coalesce((
    SELECT array_agg(u ORDER BY u) FROM message_expunges e, unnest(e.uids) u
    WHERE e.account_id = p_account_id AND e.mailbox_id = p_mailbox_id AND e.modseq > p_since), '{}')
  FROM mailbox_stats t WHERE t.account_id = p_account_id AND t.mailbox_id = p_mailbox_id;
END $$;

-- 0: no such message.
CREATE FUNCTION seq_of_uid(p_account_id bigint, p_mailbox_id bigint, p_uid bigint) RETURNS bigint
LANGUAGE plpgsql STABLE SET search_path = sora, public SET plan_cache_mode = force_generic_plan AS $$
BEGIN
  RETURN (
    SELECT CASE WHEN b.live IS NULL OR get_bit(b.live, (p_uid & 1023)::int) = 0 THEN 0
      ELSE coalesce((
        SELECT sum(s.n) FROM message_sequences s
        WHERE s.account_id = p_account_id AND s.mailbox_id = p_mailbox_id AND s.block_no < (p_uid >> 10)::int), 0)::bigint
        + bit_count(b.live & range_mask(0, (p_uid & 1023)::int)) END
    FROM (SELECT 1) one LEFT JOIN message_sequences b
      ON b.account_id = p_account_id AND b.mailbox_id = p_mailbox_id AND b.block_no = (p_uid >> 10)::int);
END $$;

-- The caches for human eyes.
CREATE VIEW message_sequence_numbers AS
  SELECT s.account_id, s.mailbox_id, (s.block_no::bigint << 10) + g AS uid,
         (s.base + bit_count(s.live & range_mask(0, g)))::bigint AS seqnum,
         (SELECT array_agg(f.flag_no ORDER BY f.flag_no) FROM message_flags f
          WHERE f.account_id = s.account_id AND f.mailbox_id = s.mailbox_id AND f.block_no = s.block_no
            AND get_bit(f.bits, g) = 1) AS flags
  FROM (
    SELECT q.*, coalesce(sum(n) OVER (PARTITION BY account_id, mailbox_id ORDER BY block_no
                                      ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS base
    FROM message_sequences q
  ) s, generate_series(0, 1023) g
  WHERE get_bit(s.live, g) = 1;
