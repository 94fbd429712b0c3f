-- STORE, EXPUNGE, COPY, MOVE. Each takes the mailbox locks first and reads in later statements: READ COMMITTED then shows
-- everything that was committed before the lock was had.
--
-- UID sets come as two arrays of inclusive range bounds. hash and merge join are off where a generic plan would else turn
-- a lookup of some blocks into a scan of a million rows; the triggers inherit that and are written for it.

-- The live messages of a UID set as one bitmap a block.
CREATE FUNCTION uid_masks(p_account_id bigint, p_mailbox_id bigint, p_lo bigint[], p_hi bigint[])
RETURNS TABLE (block_no int, mask bit(1024), max_modseq bigint) LANGUAGE plpgsql STABLE ROWS 10
SET search_path = sora, public SET plan_cache_mode = force_generic_plan
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY
  SELECT q.b, q.m & s.live, s.max_modseq
  FROM (
    SELECT x.b, bit_or(x.m) AS m FROM (
      SELECT (r.l >> 10)::int AS b, range_mask((r.l & 1023)::int, (r.h & 1023)::int) AS m
      FROM unnest(p_lo, p_hi) r (l, h) WHERE r.l >> 10 = r.h >> 10 AND r.l <= r.h
      UNION ALL
      -- a range over several blocks: the blocks that exist, not those that could
      SELECT t.block_no, range_mask(greatest(r.l - (t.block_no::bigint << 10), 0)::int,
                                    least(r.h - (t.block_no::bigint << 10), 1023)::int)
      FROM unnest(p_lo, p_hi) r (l, h) CROSS JOIN LATERAL (
        SELECT i.block_no FROM message_sequences i
        WHERE i.account_id = p_account_id AND i.mailbox_id = p_mailbox_id
          AND i.block_no BETWEEN (r.l >> 10)::int AND (least(r.h, 4294967295) >> 10)::int AND i.n > 0 OFFSET 0) t
      WHERE r.l >> 10 < r.h >> 10
    ) x GROUP BY 1 OFFSET 0
  ) q
  CROSS JOIN LATERAL (
    SELECT i.live, i.max_modseq FROM message_sequences i
    WHERE i.account_id = p_account_id AND i.mailbox_id = p_mailbox_id AND i.block_no = q.b OFFSET 0) s
  WHERE bit_count(q.m & s.live) > 0;
END $$;

-- Flags of the live messages of a UID set. p_replace: every flag not in p_set is cleared. p_unchanged_since: messages with
-- a later modseq are left alone and reported in `failed`. With a viewer flag 0 means the viewer's own \Seen.
--
-- One row a block that holds a message of the set (none: no row). `applied` = the messages that now have the wanted flags,
-- `changed` = those of them that had not before. `modseq` is the mailbox's after the call and the same in every row.
--
-- The counters are kept here and not by the triggers on message_flags (sora.flags_counted): what is known already need not
-- be found out again from transition tables, which takes as long as everything else together.
CREATE FUNCTION store_flags(p_account_id bigint, p_mailbox_id bigint, p_lo bigint[], p_hi bigint[],
  p_set int2[], p_clear int2[],
  p_replace boolean DEFAULT false, p_unchanged_since bigint DEFAULT NULL, p_viewer_id bigint DEFAULT NULL)
RETURNS TABLE (modseq bigint, block_no int, applied bit(1024), changed bit(1024), failed bit(1024)) LANGUAGE plpgsql
SET search_path = sora, public SET plan_cache_mode = force_generic_plan SET lock_timeout = '10s'
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off SET sora.flags_counted = 'on' AS $$
#variable_conflict use_column
DECLARE
  v_modseq bigint;
  v_block int := (p_lo[1] >> 10)::int;
  v_flag int2;
  v_mask bit(1024);
  v_bits bit(1024);
  v_flip bit(1024);
  v_changed bit(1024) := 0::bit(1024);
  v_seen int := 0;
  v_deleted int := 0;
  z CONSTANT bit(1024) := 0::bit(1024);
BEGIN
  PERFORM lock_mailbox(p_mailbox_id);
  SELECT t.highest_modseq + 1 INTO v_modseq
  FROM mailbox_stats t JOIN mailboxes m USING (account_id, mailbox_id) JOIN accounts a USING (account_id)
  WHERE t.account_id = p_account_id AND t.mailbox_id = p_mailbox_id AND m.deleted_at IS NULL AND NOT m.noselect
    AND a.deleted_at IS NULL;
  IF NOT FOUND THEN
    PERFORM fail('P0002', 'No such mailbox', p_account_id || '/' || p_mailbox_id);
  END IF;
  -- Flags of one range inside a block are what clients set and clear all day. The statement below answers it too, but to
  -- set up its plan takes twice as long as all of this.
  IF cardinality(p_lo) = 1 AND p_lo[1] >> 10 = p_hi[1] >> 10
    AND NOT p_replace AND p_unchanged_since IS NULL AND p_viewer_id IS NULL THEN
    SELECT s.live & range_mask((p_lo[1] & 1023)::int, (p_hi[1] & 1023)::int) INTO v_mask FROM message_sequences s
    WHERE s.account_id = p_account_id AND s.mailbox_id = p_mailbox_id AND s.block_no = v_block;
    IF v_mask IS NULL OR v_mask = z THEN
      RETURN;
    END IF;
    FOREACH v_flag IN ARRAY p_set || p_clear LOOP
      SELECT f.bits INTO v_bits FROM message_flags f
      WHERE f.account_id = p_account_id AND f.mailbox_id = p_mailbox_id AND f.block_no = v_block AND f.flag_no = v_flag;
      v_flip := v_mask & CASE WHEN v_flag = ANY (p_set) THEN ~coalesce(v_bits, z) ELSE coalesce(v_bits, z) END;
      CONTINUE WHEN v_flip = z;
      IF v_bits IS NULL THEN
        INSERT INTO message_flags (account_id, mailbox_id, block_no, flag_no, bits)
        VALUES (p_account_id, p_mailbox_id, v_block, v_flag, v_flip);
      ELSE
        UPDATE message_flags f SET bits = v_bits # v_flip
        WHERE f.account_id = p_account_id AND f.mailbox_id = p_mailbox_id AND f.block_no = v_block AND f.flag_no = v_flag;
      END IF;
      v_changed := v_changed | v_flip;
      IF v_flag = 0 THEN
        v_seen := CASE WHEN v_flag = ANY (p_set) THEN bit_count(v_flip) ELSE -bit_count(v_flip) END;
      ELSIF v_flag = 3 THEN
        v_deleted := CASE WHEN v_flag = ANY (p_set) THEN bit_count(v_flip) ELSE -bit_count(v_flip) END;
      END IF;
    END LOOP;
    IF v_changed = z THEN
      v_modseq := v_modseq - 1;
    ELSE
      INSERT INTO message_flag_changes (account_id, mailbox_id, modseq, block_no, bits)
      VALUES (p_account_id, p_mailbox_id, v_modseq, v_block, v_changed);
      UPDATE mailbox_stats t SET
        highest_modseq = v_modseq, unseen_count = t.unseen_count - v_seen, deleted_count = t.deleted_count + v_deleted
      WHERE t.account_id = p_account_id AND t.mailbox_id = p_mailbox_id;
    END IF;
    modseq := v_modseq;
    block_no := v_block;
    applied := v_mask;
    changed := v_changed;
    failed := z;
    RETURN NEXT;
    RETURN;
  END IF;
  RETURN QUERY
  WITH found AS MATERIALIZED (
    SELECT * FROM uid_masks(p_account_id, p_mailbox_id, p_lo, p_hi)
  ), masks AS MATERIALIZED (
    SELECT k.block_no AS b, k.mask AS m, CASE WHEN p_unchanged_since IS NULL THEN z ELSE k.mask & (
        coalesce((
          SELECT bit_or(j.bits) FROM message_flag_changes j
          WHERE j.account_id = p_account_id AND j.mailbox_id = p_mailbox_id AND j.modseq > p_unchanged_since
            AND j.block_no = k.block_no), z)
        | CASE WHEN k.max_modseq > p_unchanged_since THEN coalesce((
            SELECT bit_or(set_bit(z, (i.uid & 1023)::int, 1)) FROM messages i
            WHERE i.account_id = p_account_id AND i.mailbox_id = p_mailbox_id
              AND i.uid BETWEEN k.block_no::bigint << 10 AND (k.block_no::bigint << 10) + 1023
              AND i.created_modseq > p_unchanged_since), z) ELSE z END) END AS bad
    FROM found k
  ), wanted AS MATERIALIZED (   -- one row a block and flag that is to be set or cleared
    SELECT masks.b, f.f, f.v, masks.m & ~masks.bad AS m FROM masks CROSS JOIN LATERAL (
      SELECT f, true AS v FROM unnest(p_set) f
      UNION ALL
      SELECT f, false FROM unnest(p_clear) f WHERE NOT p_replace
      UNION ALL
      SELECT i.flag_no, false FROM message_flags i
      WHERE p_replace AND i.account_id = p_account_id AND i.mailbox_id = p_mailbox_id AND i.block_no = masks.b
        AND NOT i.flag_no = ANY (p_set) AND (p_viewer_id IS NULL OR i.flag_no <> 0)
      UNION ALL
      SELECT 0::int2, false WHERE p_replace AND p_viewer_id IS NOT NULL AND NOT 0::int2 = ANY (p_set)) f
  ), planes AS MATERIALIZED (
    SELECT o.b, o.f, coalesce(x.bits, z) AS bits, o.v, p_viewer_id IS NOT NULL AND o.f = 0 AS own,
           CASE WHEN o.v THEN o.m & ~coalesce(x.bits, z) ELSE o.m & coalesce(x.bits, z) END AS flip
    FROM wanted o LEFT JOIN LATERAL (
      SELECT i.bits FROM message_flags i
      WHERE i.account_id = p_account_id AND i.mailbox_id = p_mailbox_id AND i.block_no = o.b AND i.flag_no = o.f
        AND NOT (p_viewer_id IS NOT NULL AND o.f = 0)
      UNION ALL
      SELECT i.bits FROM message_viewer_seen i
      WHERE i.account_id = p_account_id AND i.mailbox_id = p_mailbox_id AND i.viewer_id = p_viewer_id AND i.block_no = o.b
        AND o.f = 0
      OFFSET 0) x ON true
  ), written AS (
    INSERT INTO message_flags AS f (account_id, mailbox_id, block_no, flag_no, bits)
    SELECT p_account_id, p_mailbox_id, c.b, c.f, CASE WHEN c.v THEN c.bits | c.flip ELSE c.bits & ~c.flip END
    FROM planes c WHERE bit_count(c.flip) > 0 AND NOT c.own
    ON CONFLICT (account_id, mailbox_id, block_no, flag_no) DO UPDATE SET bits = EXCLUDED.bits
  ), written_own AS (
    INSERT INTO message_viewer_seen AS f (account_id, mailbox_id, viewer_id, block_no, bits)
    SELECT p_account_id, p_mailbox_id, p_viewer_id, c.b, CASE WHEN c.v THEN c.bits | c.flip ELSE c.bits & ~c.flip END
    FROM planes c WHERE bit_count(c.flip) > 0 AND c.own
    ON CONFLICT (account_id, mailbox_id, viewer_id, block_no) DO UPDATE SET bits = EXCLUDED.bits
  ), journal AS (
    INSERT INTO message_flag_changes (account_id, mailbox_id, modseq, block_no, bits)
    SELECT p_account_id, p_mailbox_id, v_modseq, c.b, bit_or(c.flip) FROM planes c WHERE bit_count(c.flip) > 0 GROUP BY c.b
    RETURNING block_no, bits
  ), stats AS (
    UPDATE mailbox_stats t SET
      highest_modseq = v_modseq, unseen_count = t.unseen_count - d.seen, deleted_count = t.deleted_count + d.deleted
    FROM (
      SELECT coalesce(sum(CASE WHEN c.v THEN bit_count(c.flip) ELSE -bit_count(c.flip) END) FILTER (WHERE c.f = 0), 0) AS seen,
             coalesce(sum(CASE WHEN c.v THEN bit_count(c.flip) ELSE -bit_count(c.flip) END) FILTER (WHERE c.f = 3), 0) AS deleted
      FROM planes c WHERE NOT c.own
    ) d
    WHERE t.account_id = p_account_id AND t.mailbox_id = p_mailbox_id AND EXISTS (SELECT 1 FROM journal)
  )
  -- UNION ALL and GROUP BY, not a join: without hash and merge join that would be O(blocks²)
  SELECT CASE WHEN EXISTS (SELECT 1 FROM journal) THEN v_modseq ELSE v_modseq - 1 END,
         q.b, bit_or(q.m & ~q.bad), bit_or(q.flip), bit_or(q.bad)
  FROM (
    SELECT k.b, k.m, z AS flip, k.bad FROM masks k
    UNION ALL
    SELECT j.block_no, z, j.bits, z FROM journal j
  ) q GROUP BY q.b;
END $$;

-- Expunges the messages of a UID set (bounds NULL: all), by default only those with \Deleted. Always one row: the
-- mailbox's modseq after the call, and the UIDs that went, ascending. With a lease name the lease must still be held.
CREATE FUNCTION expunge(p_account_id bigint, p_mailbox_id bigint, p_lo bigint[], p_hi bigint[],
  p_only_deleted boolean DEFAULT true, p_lease_name text DEFAULT NULL, p_lease_token bigint DEFAULT NULL)
RETURNS TABLE (modseq bigint, uids bigint[]) LANGUAGE plpgsql ROWS 1
SET search_path = sora, public SET plan_cache_mode = force_generic_plan SET lock_timeout = '10s'
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
  v_modseq bigint;
  v_deleted int;
BEGIN
  IF p_lease_name IS NOT NULL THEN
    PERFORM require_lease(p_lease_name, p_lease_token);
  END IF;
  PERFORM lock_mailboxes(ARRAY[p_mailbox_id]);
  PERFORM require_mailbox(p_account_id, p_mailbox_id);
  SELECT t.highest_modseq + 1, t.deleted_count INTO v_modseq, v_deleted FROM mailbox_stats t
  WHERE t.account_id = p_account_id AND t.mailbox_id = p_mailbox_id;
  IF p_only_deleted AND v_deleted = 0 THEN
    RETURN QUERY SELECT v_modseq - 1, '{}'::bigint[];
    RETURN;
  END IF;
  WITH masks AS MATERIALIZED (
    SELECT k.block_no, CASE WHEN p_only_deleted THEN k.mask & coalesce((
        SELECT f.bits FROM message_flags f
        WHERE f.account_id = p_account_id AND f.mailbox_id = p_mailbox_id AND f.block_no = k.block_no AND f.flag_no = 3),
        0::bit(1024)) ELSE k.mask END AS mask
    FROM uid_masks(p_account_id, p_mailbox_id, coalesce(p_lo, ARRAY[1::bigint]), coalesce(p_hi, ARRAY[4294967295])) k
  ), wanted AS MATERIALIZED (
    SELECT (b.block_no::bigint << 10) + g AS uid FROM masks b, generate_series(0, 1023) g
    WHERE bit_count(b.mask) > 0 AND get_bit(b.mask, g) = 1
  )
  UPDATE messages m SET expunged_at = clock(), expunged_modseq = v_modseq
  FROM wanted t CROSS JOIN LATERAL (
    SELECT i.ctid FROM messages i
    WHERE i.account_id = p_account_id AND i.mailbox_id = p_mailbox_id AND i.uid = t.uid AND i.expunged_at IS NULL OFFSET 0) x
  -- The key again, because a ctid is not unique over partitions; "+ 0", because the planner would else prefer a scan of
  -- the whole mailbox by the primary key, expecting one row (here and below).
  WHERE m.ctid = x.ctid AND m.account_id + 0 = p_account_id AND m.mailbox_id + 0 = p_mailbox_id AND m.uid + 0 = t.uid;
  RETURN QUERY
  SELECT CASE WHEN e.uids IS NULL THEN v_modseq - 1 ELSE v_modseq END, coalesce(e.uids, '{}')
  FROM (SELECT 1) one LEFT JOIN message_expunges e
    ON e.account_id = p_account_id AND e.mailbox_id = p_mailbox_id AND e.modseq = v_modseq;
END $$;

-- The live messages of a UID set with what a copy takes along: system flags and keywords, and of the \Seen flags only
-- that of the acting user (p_viewer_id NULL: the owner's).
CREATE FUNCTION picked_messages(p_account_id bigint, p_mailbox_id bigint, p_lo bigint[], p_hi bigint[], p_viewer_id bigint)
RETURNS TABLE (uid bigint, place bigint, row_id tid, content_id bigint, internal_date timestamptz, size bigint,
               flags int2[], seen boolean)
LANGUAGE plpgsql STABLE
SET search_path = sora, public SET plan_cache_mode = force_generic_plan
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY
  WITH masks AS MATERIALIZED (
    SELECT k.block_no, k.mask, (
        SELECT v.bits FROM message_viewer_seen v
        WHERE v.account_id = p_account_id AND v.mailbox_id = p_mailbox_id AND v.viewer_id = p_viewer_id
          AND v.block_no = k.block_no) AS own
    FROM uid_masks(p_account_id, p_mailbox_id, p_lo, p_hi) k
  ), wanted AS MATERIALIZED (
    SELECT (b.block_no::bigint << 10) + g AS uid, row_number() OVER (ORDER BY b.block_no, g) AS place, (
        SELECT array_agg(f.flag_no) FROM message_flags f
        WHERE f.account_id = p_account_id AND f.mailbox_id = p_mailbox_id AND f.block_no = b.block_no
          AND get_bit(f.bits, g) = 1) AS flags, coalesce(get_bit(b.own, g) = 1, false) AS own_seen
    FROM masks b, generate_series(0, 1023) g WHERE get_bit(b.mask, g) = 1
  )
  SELECT t.uid, t.place, m.ctid, m.content_id, m.internal_date, m.size, array_remove(t.flags, 0::int2),
         CASE WHEN p_viewer_id IS NULL THEN coalesce(0::int2 = ANY (t.flags), false) ELSE t.own_seen END
  FROM wanted t CROSS JOIN LATERAL (
    SELECT i.ctid, i.content_id, i.internal_date, i.size FROM messages i
    WHERE i.account_id = p_account_id AND i.mailbox_id = p_mailbox_id AND i.uid = t.uid AND i.expunged_at IS NULL OFFSET 0) m;
END $$;

-- The flags that a new message gets from somebody with these rights in its mailbox (RFC 4314 §4): \Seen takes s, \Deleted t,
-- all others w. NULL: none.
CREATE FUNCTION allowed_flags(p_flags int2[], p_seen boolean, p_rights int) RETURNS int2[] LANGUAGE sql IMMUTABLE AS $$
  SELECT nullif(CASE WHEN p_rights & 264 = 264 THEN p_flags ELSE ARRAY(
      SELECT f FROM unnest(p_flags) f WHERE p_rights & CASE f WHEN 3 THEN 256 ELSE 8 END <> 0) END
    || CASE WHEN p_seen AND p_rights & 4 = 4 THEN '{0}'::int2[] ELSE '{}'::int2[] END, '{}')
$$;

-- COPY and MOVE inside one account. source = target is allowed, for both.
CREATE FUNCTION transfer_inside(p_account_id bigint, p_mailbox_id bigint, p_to_mailbox_id bigint, p_lo bigint[], p_hi bigint[],
  p_viewer_id bigint, p_move boolean, p_rights int DEFAULT 2047)
RETURNS TABLE (uidvalidity bigint, source_uids bigint[], target_uids bigint[], source_modseq bigint, target_modseq bigint)
LANGUAGE plpgsql ROWS 1
SET search_path = sora, public SET plan_cache_mode = force_generic_plan
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
  v_limited boolean := false;
  v_modseq bigint;
  v_to_modseq bigint;
  v_base bigint;
BEGIN
  IF NOT p_move THEN
    v_limited := lock_quotas(ARRAY[p_account_id]) <> '{}';
  END IF;
  PERFORM lock_mailboxes(ARRAY[p_mailbox_id, p_to_mailbox_id]);
  PERFORM require_mailbox(p_account_id, p_mailbox_id);
  PERFORM require_mailbox(p_account_id, p_to_mailbox_id);
  IF v_limited THEN
    PERFORM require_room(p_account_id, ARRAY(
      SELECT k.size FROM picked_messages(p_account_id, p_mailbox_id, p_lo, p_hi, p_viewer_id) k));
  END IF;
  SELECT s.highest_modseq + 1 INTO v_modseq FROM mailbox_stats s
  WHERE s.account_id = p_account_id AND s.mailbox_id = p_mailbox_id;
  SELECT s.highest_modseq + 1, s.uid_next - 1 INTO v_to_modseq, v_base FROM mailbox_stats s
  WHERE s.account_id = p_account_id AND s.mailbox_id = p_to_mailbox_id;
  WITH picked AS MATERIALIZED (
    SELECT k.*, v_base + k.place AS new_uid FROM picked_messages(p_account_id, p_mailbox_id, p_lo, p_hi, p_viewer_id) k
  ), inserted AS (
    INSERT INTO messages (account_id, mailbox_id, uid, content_id, created_modseq, internal_date, size, initial_flags)
    SELECT p_account_id, p_to_mailbox_id, k.new_uid, k.content_id, v_to_modseq, k.internal_date, k.size,
           allowed_flags(k.flags, k.seen AND p_viewer_id IS NULL, p_rights)
    FROM picked k
  ), expunged AS (
    UPDATE messages m SET expunged_at = clock(), expunged_modseq = v_modseq FROM picked k
    WHERE p_move AND m.ctid = k.row_id
      AND m.account_id + 0 = p_account_id AND m.mailbox_id + 0 = p_mailbox_id AND m.uid + 0 = k.uid
  )
  SELECT coalesce(array_agg(k.uid ORDER BY k.place), '{}'), coalesce(array_agg(k.new_uid ORDER BY k.place), '{}')
  INTO source_uids, target_uids FROM picked k;
  IF p_viewer_id IS NOT NULL AND p_rights & 4 = 4 THEN
    PERFORM copy_viewer_seen(p_account_id, p_mailbox_id, p_account_id, p_to_mailbox_id, source_uids, target_uids,
      p_viewer_id, p_viewer_id);
  END IF;
  RETURN QUERY
  SELECT b.uidvalidity, source_uids, target_uids, f.highest_modseq, t.highest_modseq
  FROM mailboxes b JOIN mailbox_stats t USING (account_id, mailbox_id), mailbox_stats f
  WHERE b.account_id = p_account_id AND b.mailbox_id = p_to_mailbox_id
    AND f.account_id = p_account_id AND f.mailbox_id = p_mailbox_id;
END $$;

-- Fails with SR001 unless all of these sizes fit. Under lock_quotas().
CREATE FUNCTION require_room(p_account_id bigint, p_size bigint[]) RETURNS void LANGUAGE plpgsql STABLE
SET search_path = sora, public SET plan_cache_mode = force_generic_plan AS $$
BEGIN
  IF EXISTS (
    SELECT 1 FROM quota_check(array_fill(p_account_id, ARRAY[cardinality(p_size)]), p_size) q WHERE q.over_quota) THEN
    PERFORM fail('SR001', 'Over quota', p_account_id::text);
  END IF;
END $$;

-- \Seen of the acting user on its copies, where that user is not the owner of the target.
CREATE FUNCTION copy_viewer_seen(p_account_id bigint, p_mailbox_id bigint, p_to_account_id bigint, p_to_mailbox_id bigint,
  p_source_uids bigint[], p_target_uids bigint[], p_viewer_id bigint, p_to_viewer_id bigint)
RETURNS void LANGUAGE plpgsql SET search_path = sora, public SET plan_cache_mode = force_generic_plan AS $$
BEGIN
  INSERT INTO message_viewer_seen AS f (account_id, mailbox_id, viewer_id, block_no, bits)
  SELECT p_to_account_id, p_to_mailbox_id, p_to_viewer_id, (u.new_uid >> 10)::int,
         bit_or(set_bit(0::bit(1024), (u.new_uid & 1023)::int, 1))
  FROM unnest(p_source_uids, p_target_uids) u (uid, new_uid) CROSS JOIN LATERAL (
    SELECT v.bits FROM message_viewer_seen v
    WHERE v.account_id = p_account_id AND v.mailbox_id = p_mailbox_id AND v.viewer_id = p_viewer_id
      AND v.block_no = (u.uid >> 10)::int
    UNION ALL
    SELECT o.bits FROM message_flags o
    WHERE p_viewer_id IS NULL AND o.account_id = p_account_id AND o.mailbox_id = p_mailbox_id AND o.flag_no = 0
      AND o.block_no = (u.uid >> 10)::int OFFSET 0) s
  WHERE get_bit(s.bits, (u.uid & 1023)::int) = 1
  GROUP BY 4 ORDER BY 4
  ON CONFLICT (account_id, mailbox_id, viewer_id, block_no) DO UPDATE SET bits = f.bits | EXCLUDED.bits;
END $$;

-- COPY and MOVE into another account: contents are per account, so the worker stages the bodies for the target account
-- first and names its instance; with keyed hashes it also gives the new hash of each content. Keywords are mapped by name
-- and made where missing; those that no longer fit into the target account are dropped.
CREATE FUNCTION transfer_across(p_account_id bigint, p_mailbox_id bigint, p_to_account_id bigint, p_to_mailbox_id bigint,
  p_lo bigint[], p_hi bigint[], p_viewer_id bigint, p_to_viewer_id bigint, p_move boolean, p_instance_id text,
  p_content_id bigint[], p_new_hash bytea[], p_rights int DEFAULT 2047)
RETURNS TABLE (uidvalidity bigint, source_uids bigint[], target_uids bigint[], source_modseq bigint, target_modseq bigint)
LANGUAGE plpgsql ROWS 1 SET search_path = sora, public SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
  v_limited boolean;
  v_modseq bigint;
  v_to_modseq bigint;
  v_base bigint;
  v_from int2[];
  v_to int2[];
BEGIN
  IF p_instance_id IS NULL THEN
    RAISE EXCEPTION 'a copy into another account needs the instance that staged the bodies' USING ERRCODE = '22023';
  END IF;
  PERFORM lock_accounts(ARRAY[p_to_account_id]);   -- keywords
  v_limited := lock_quotas(ARRAY[p_to_account_id]) <> '{}';
  PERFORM lock_mailboxes(ARRAY[p_mailbox_id, p_to_mailbox_id]);
  PERFORM require_mailbox(p_account_id, p_mailbox_id);
  PERFORM require_mailbox(p_to_account_id, p_to_mailbox_id);
  IF v_limited THEN
    PERFORM require_room(p_to_account_id, ARRAY(
      SELECT k.size FROM picked_messages(p_account_id, p_mailbox_id, p_lo, p_hi, p_viewer_id) k));
  END IF;
  SELECT s.highest_modseq + 1 INTO v_modseq FROM mailbox_stats s
  WHERE s.account_id = p_account_id AND s.mailbox_id = p_mailbox_id;
  SELECT s.highest_modseq + 1, s.uid_next - 1 INTO v_to_modseq, v_base FROM mailbox_stats s
  WHERE s.account_id = p_to_account_id AND s.mailbox_id = p_to_mailbox_id;
  SELECT array_agg(m.from_no), array_agg(m.to_no) INTO v_from, v_to FROM map_keywords(p_account_id, p_to_account_id, ARRAY(
    SELECT DISTINCT f FROM picked_messages(p_account_id, p_mailbox_id, p_lo, p_hi, p_viewer_id) k, unnest(k.flags) f
    WHERE f >= 16)) m;
  WITH picked AS MATERIALIZED (
    SELECT k.*, v_base + k.place AS new_uid FROM picked_messages(p_account_id, p_mailbox_id, p_lo, p_hi, p_viewer_id) k
  ), sources AS MATERIALIZED (
    SELECT c.*, coalesce(h.hash, c.content_hash) AS new_hash, nextval('content_ids') AS new_id
    FROM (SELECT DISTINCT content_id FROM picked) d
    JOIN message_contents c ON c.account_id = p_account_id AND c.content_id = d.content_id
    LEFT JOIN unnest(p_content_id, p_new_hash) h (content_id, hash) ON h.content_id = c.content_id
    ORDER BY new_hash
  ), contents AS (
    INSERT INTO message_contents (account_id, content_id, content_hash, size, sent_at, message_id, in_reply_to, reference_ids,
      thread_id, subject, base_subject, sender, recipients, cc, bcc, reply_to, display_from, display_to, preview,
      envelope, body_structure, header)
    SELECT p_to_account_id, s.new_id, s.new_hash, s.size, s.sent_at, s.message_id, s.in_reply_to, s.reference_ids,
      find_thread(p_to_account_id, s.new_id, s.in_reply_to, s.reference_ids),
      s.subject, s.base_subject, s.sender, s.recipients, s.cc, s.bcc, s.reply_to, s.display_from, s.display_to, s.preview,
      s.envelope, s.body_structure, s.header
    FROM sources s
    ON CONFLICT (account_id, content_hash) WHERE purging_at IS NULL DO UPDATE SET size = EXCLUDED.size
    RETURNING content_id, content_hash, size
  ), uploads AS (
    INSERT INTO pending_uploads (account_id, content_hash, instance_id, content_id, size)
    SELECT p_to_account_id, c.content_hash, p_instance_id, c.content_id, c.size FROM contents c
    ON CONFLICT (account_id, content_hash, instance_id) DO UPDATE SET
      attempts = 0, next_try = clock(), content_id = EXCLUDED.content_id
  ), texts AS (
    INSERT INTO search_queue (account_id, content_id, headers, body, body_truncated)
    SELECT p_to_account_id, s.new_id, t.headers, t.body, t.body_truncated
    FROM sources s JOIN contents c ON c.content_id = s.new_id CROSS JOIN LATERAL (
      SELECT q.headers, q.body, q.body_truncated FROM search_queue q
      WHERE q.account_id = p_account_id AND q.content_id = s.content_id
      UNION ALL
      SELECT i.headers, i.body, i.body_truncated FROM search_index i
      WHERE i.account_id = p_account_id AND i.content_id = s.content_id
      LIMIT 1) t
  ), copies AS MATERIALIZED (
    SELECT k.uid, k.place, k.row_id, k.new_uid, c.content_id, k.internal_date, k.size, k.seen, ARRAY(
             SELECT f FROM unnest(k.flags) f WHERE f < 16
             UNION ALL
             SELECT m.t FROM unnest(v_from, v_to) m (f, t) WHERE m.f = ANY (k.flags)) AS flags
    FROM picked k JOIN sources s ON s.content_id = k.content_id JOIN contents c ON c.content_hash = s.new_hash
  ), inserted AS (
    INSERT INTO messages (account_id, mailbox_id, uid, content_id, created_modseq, internal_date, size, initial_flags)
    SELECT p_to_account_id, p_to_mailbox_id, k.new_uid, k.content_id, v_to_modseq, k.internal_date, k.size,
           allowed_flags(k.flags, k.seen AND p_to_viewer_id IS NULL, p_rights)
    FROM copies k
  ), expunged AS (
    UPDATE messages m SET expunged_at = clock(), expunged_modseq = v_modseq FROM copies k
    WHERE p_move AND m.ctid = k.row_id
      AND m.account_id + 0 = p_account_id AND m.mailbox_id + 0 = p_mailbox_id AND m.uid + 0 = k.uid
  )
  SELECT coalesce(array_agg(k.uid ORDER BY k.place), '{}'), coalesce(array_agg(k.new_uid ORDER BY k.place), '{}')
  INTO source_uids, target_uids FROM copies k;
  IF p_to_viewer_id IS NOT NULL AND p_rights & 4 = 4 THEN
    PERFORM copy_viewer_seen(p_account_id, p_mailbox_id, p_to_account_id, p_to_mailbox_id, source_uids, target_uids,
      p_viewer_id, p_to_viewer_id);
  END IF;
  RETURN QUERY
  SELECT b.uidvalidity, source_uids, target_uids, f.highest_modseq, t.highest_modseq
  FROM mailboxes b JOIN mailbox_stats t USING (account_id, mailbox_id), mailbox_stats f
  WHERE b.account_id = p_to_account_id AND b.mailbox_id = p_to_mailbox_id
    AND f.account_id = p_account_id AND f.mailbox_id = p_mailbox_id;
END $$;

-- Pairs of numbers for keywords that have the same name in both accounts; makes the missing ones while there is room.
CREATE FUNCTION map_keywords(p_account_id bigint, p_to_account_id bigint, p_flags int2[])
RETURNS TABLE (from_no int2, to_no int2) LANGUAGE plpgsql
SET search_path = sora, public SET plan_cache_mode = force_generic_plan AS $$
BEGIN
  PERFORM register_keywords(p_to_account_id, ARRAY(
    SELECT k.name FROM account_keywords k WHERE k.account_id = p_account_id AND k.flag_no = ANY (p_flags)
      AND NOT EXISTS (SELECT 1 FROM account_keywords t WHERE t.account_id = p_to_account_id AND fold(t.name) = fold(k.name))
    ORDER BY k.flag_no
    LIMIT 1000 - (SELECT count(*) FROM account_keywords t WHERE t.account_id = p_to_account_id)));
  RETURN QUERY
  SELECT k.flag_no, t.flag_no FROM account_keywords k
  JOIN account_keywords t ON t.account_id = p_to_account_id AND fold(t.name) = fold(k.name)
  WHERE k.account_id = p_account_id AND k.flag_no = ANY (p_flags);
END $$;

-- Always one row; source_uids and target_uids are pairwise and ascending (COPYUID), empty when nothing matched. The actor
-- is the account that does it (NULL: the owner of each side), with these rights in the target. The instance, contents and
-- hashes are for copies into another account.
CREATE FUNCTION copy_messages(p_account_id bigint, p_mailbox_id bigint, p_to_account_id bigint, p_to_mailbox_id bigint,
  p_lo bigint[], p_hi bigint[], p_actor_id bigint DEFAULT NULL, p_instance_id text DEFAULT NULL,
  p_content_id bigint[] DEFAULT NULL, p_new_hash bytea[] DEFAULT NULL, p_rights int DEFAULT 2047)
RETURNS TABLE (uidvalidity bigint, source_uids bigint[], target_uids bigint[], source_modseq bigint, target_modseq bigint)
LANGUAGE plpgsql ROWS 1
SET search_path = sora, public SET plan_cache_mode = force_generic_plan SET lock_timeout = '10s' AS $$
BEGIN
  IF p_account_id = p_to_account_id THEN
    RETURN QUERY SELECT * FROM transfer_inside(p_account_id, p_mailbox_id, p_to_mailbox_id, p_lo, p_hi,
      nullif(p_actor_id, p_account_id), false, p_rights);
  ELSE
    RETURN QUERY SELECT * FROM transfer_across(p_account_id, p_mailbox_id, p_to_account_id, p_to_mailbox_id, p_lo, p_hi,
      nullif(p_actor_id, p_account_id), nullif(p_actor_id, p_to_account_id), false, p_instance_id, p_content_id, p_new_hash,
      p_rights);
  END IF;
END $$;

CREATE FUNCTION move_messages(p_account_id bigint, p_mailbox_id bigint, p_to_account_id bigint, p_to_mailbox_id bigint,
  p_lo bigint[], p_hi bigint[], p_actor_id bigint DEFAULT NULL, p_instance_id text DEFAULT NULL,
  p_content_id bigint[] DEFAULT NULL, p_new_hash bytea[] DEFAULT NULL, p_rights int DEFAULT 2047)
RETURNS TABLE (uidvalidity bigint, source_uids bigint[], target_uids bigint[], source_modseq bigint, target_modseq bigint)
LANGUAGE plpgsql ROWS 1
SET search_path = sora, public SET plan_cache_mode = force_generic_plan SET lock_timeout = '10s' AS $$
BEGIN
  IF p_account_id = p_to_account_id THEN
    RETURN QUERY SELECT * FROM transfer_inside(p_account_id, p_mailbox_id, p_to_mailbox_id, p_lo, p_hi,
      nullif(p_actor_id, p_account_id), true, p_rights);
  ELSE
    RETURN QUERY SELECT * FROM transfer_across(p_account_id, p_mailbox_id, p_to_account_id, p_to_mailbox_id, p_lo, p_hi,
      nullif(p_actor_id, p_account_id), nullif(p_actor_id, p_to_account_id), true, p_instance_id, p_content_id, p_new_hash,
      p_rights);
  END IF;
END $$;

-- RENAME of INBOX: everything in slices, so that no array holds a million UIDs.
CREATE FUNCTION move_all(p_account_id bigint, p_mailbox_id bigint, p_to_mailbox_id bigint, p_slice int DEFAULT 20)
RETURNS void LANGUAGE plpgsql SET search_path = sora, public SET plan_cache_mode = force_generic_plan AS $$
DECLARE
  r record;
BEGIN
  PERFORM lock_mailboxes(ARRAY[p_mailbox_id, p_to_mailbox_id]);   -- both at once, in order, before the first slice
  FOR r IN
    SELECT min(block_no)::bigint << 10 AS first, (max(block_no)::bigint << 10) + 1023 AS last
    FROM (SELECT block_no, (row_number() OVER (ORDER BY block_no) - 1) / p_slice AS slice FROM message_sequences
          WHERE account_id = p_account_id AND mailbox_id = p_mailbox_id AND n > 0) q
    GROUP BY slice ORDER BY slice
  LOOP
    PERFORM transfer_inside(p_account_id, p_mailbox_id, p_to_mailbox_id, ARRAY[r.first], ARRAY[r.last], NULL, true);
  END LOOP;
END $$;
