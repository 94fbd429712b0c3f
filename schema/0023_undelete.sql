-- Getting back what was expunged or deleted, for as long as its rows are there: the grace period, and longer under a legal
-- hold. A restored message is a new one with a new UID, because an expunge is final; it shares the body of the old one.

-- UIDs of a mailbox, ascending, that are not to be seen any more: the expunged ones, and all of a deleted mailbox. Not among
-- them: those whose rows are gone, and p_since leaves out what went before it.
CREATE FUNCTION deleted_uids(p_account_id bigint, p_mailbox_id bigint, p_since timestamptz DEFAULT '-infinity') RETURNS bigint[]
LANGUAGE plpgsql STABLE SET search_path = sora, public SET plan_cache_mode = force_generic_plan AS $$
BEGIN
  RETURN ARRAY(
    SELECT u.uid FROM message_expunges e CROSS JOIN LATERAL unnest(e.uids[e.trimmed + 1 :]) u (uid)
    WHERE e.account_id = p_account_id AND e.mailbox_id = p_mailbox_id AND e.expunged_at >= p_since
    UNION
    SELECT m.uid FROM mailboxes b JOIN messages m USING (account_id, mailbox_id)
    WHERE b.account_id = p_account_id AND b.mailbox_id = p_mailbox_id AND b.deleted_at >= p_since AND m.expunged_at IS NULL
    ORDER BY 1);
END $$;

-- What can be restored of one mailbox, among the UIDs of a page, by UID. kept: the account still has it in a mailbox, so it was
-- moved or copied, and it is not restored unless that is asked for. That it has it is written out each time, as a function
-- for it would cost ten times what it finds; OFFSET 0, so that it is looked for by its body, also where there are no statistics.
CREATE FUNCTION list_deleted(p_account_id bigint, p_mailbox_id bigint, p_uids bigint[])
RETURNS TABLE (mailbox_id bigint, name text, uid bigint, size bigint, internal_date timestamptz, deleted_at timestamptz,
               sender text, subject text, kept boolean)
LANGUAGE plpgsql STABLE SET search_path = sora, public SET plan_cache_mode = force_generic_plan
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY
  SELECT b.mailbox_id, b.name, m.uid, m.size, m.internal_date, coalesce(m.expunged_at, b.deleted_at), t.sender, t.subject,
    EXISTS (
      SELECT 1 FROM (
        SELECT i.mailbox_id FROM messages i WHERE i.account_id = p_account_id AND i.content_id = m.content_id
          AND i.internal_date = m.internal_date AND i.expunged_at IS NULL OFFSET 0) x JOIN mailboxes y USING (mailbox_id)
      WHERE y.account_id = p_account_id AND y.deleted_at IS NULL AND NOT y.shadow)
  FROM mailboxes b CROSS JOIN unnest(p_uids) u (uid) CROSS JOIN LATERAL (
    SELECT * FROM messages i
    WHERE i.account_id = p_account_id AND i.mailbox_id = p_mailbox_id AND i.uid = u.uid OFFSET 0) m
  LEFT JOIN message_contents t ON t.account_id = p_account_id AND t.content_id = m.content_id
  WHERE b.account_id = p_account_id AND b.mailbox_id = p_mailbox_id AND coalesce(m.expunged_at, b.deleted_at) IS NOT NULL
  ORDER BY m.uid;
END $$;

-- Restores messages of a mailbox, deleted or not, into one that is there (the same, as a rule). They get new UIDs in the order
-- of the old ones, and their flags as they were, but for \Deleted. Left out are those that are not deleted, or purged; skipped
-- are those that the account has still or again, and all but one of what would be the same message twice; p_again: neither.
-- All of them or none: one transaction. One row always.
CREATE FUNCTION restore_messages(p_account_id bigint, p_mailbox_id bigint, p_to_mailbox_id bigint, p_uids bigint[],
  p_again boolean DEFAULT false)
RETURNS TABLE (source_uids bigint[], target_uids bigint[], skipped int, modseq bigint)
LANGUAGE plpgsql ROWS 1
SET search_path = sora, public SET plan_cache_mode = force_generic_plan SET lock_timeout = '10s'
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
  v_limited boolean := lock_quotas(ARRAY[p_account_id]) <> '{}';
  v_sizes bigint[];
  v_found int;
BEGIN
  -- under its lock nothing of the source is trimmed, and a message row keeps its body
  PERFORM lock_mailboxes(ARRAY[p_mailbox_id, p_to_mailbox_id]);
  PERFORM require_mailbox(p_account_id, p_to_mailbox_id);
  SELECT coalesce(array_agg(k.uid ORDER BY k.uid) FILTER (WHERE k.wanted), '{}'),
         coalesce(array_agg(k.size ORDER BY k.uid) FILTER (WHERE k.wanted), '{}'), count(*)
  INTO source_uids, v_sizes, v_found FROM (
    SELECT m.uid, m.size, p_again
      OR row_number() OVER (PARTITION BY m.content_id, m.internal_date ORDER BY m.uid DESC) = 1 AND NOT EXISTS (
        SELECT 1 FROM (
          SELECT i.mailbox_id FROM messages i WHERE i.account_id = p_account_id AND i.content_id = m.content_id
            AND i.internal_date = m.internal_date AND i.expunged_at IS NULL OFFSET 0) x JOIN mailboxes y USING (mailbox_id)
        WHERE y.account_id = p_account_id AND y.deleted_at IS NULL AND NOT y.shadow) AS wanted
    FROM mailboxes b CROSS JOIN unnest(p_uids) u (uid) CROSS JOIN LATERAL (
      SELECT i.uid, i.size, i.content_id, i.internal_date, i.expunged_at FROM messages i
      WHERE i.account_id = p_account_id AND i.mailbox_id = p_mailbox_id AND i.uid = u.uid OFFSET 0) m
    WHERE b.account_id = p_account_id AND b.mailbox_id = p_mailbox_id AND NOT b.shadow
      AND (m.expunged_at IS NOT NULL OR b.deleted_at IS NOT NULL)
  ) k;
  skipped := v_found - cardinality(source_uids);
  IF v_limited AND v_sizes <> '{}' THEN
    PERFORM require_room(p_account_id, v_sizes);
  END IF;
  SELECT ARRAY(SELECT s.uid_next + n - 1 FROM generate_series(1, cardinality(source_uids)) n ORDER BY n), s.highest_modseq + 1
  INTO target_uids, modseq FROM mailbox_stats s WHERE s.account_id = p_account_id AND s.mailbox_id = p_to_mailbox_id;
  IF target_uids <> '{}' THEN
    PERFORM put_back(p_account_id, p_mailbox_id, p_to_mailbox_id, source_uids, target_uids, modseq);
    PERFORM pg_notify('sora_' || p_account_id % 16,
      format('%s.%s.%s', to_hex(p_account_id), to_hex(p_to_mailbox_id), to_hex(modseq)));
  END IF;
  RETURN NEXT;
END $$;

-- Writes the rows of restore_messages(): each old UID again under a new one. Everybody's \Seen comes along.
CREATE FUNCTION put_back(p_account_id bigint, p_mailbox_id bigint, p_to_mailbox_id bigint, p_uids bigint[], p_new_uids bigint[],
  p_modseq bigint) RETURNS void LANGUAGE plpgsql
SET search_path = sora, public SET plan_cache_mode = force_generic_plan
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off AS $$
DECLARE
  v_viewer_id bigint;
BEGIN
  INSERT INTO messages (account_id, mailbox_id, uid, content_id, created_modseq, internal_date, size, initial_flags)
  SELECT p_account_id, p_to_mailbox_id, u.new_uid, m.content_id, p_modseq, m.internal_date, m.size, (
      SELECT array_agg(f.flag_no) FROM message_flags f
      WHERE f.account_id = p_account_id AND f.mailbox_id = p_mailbox_id AND f.block_no = (u.uid >> 10)::int
        AND f.flag_no <> 3 AND get_bit(f.bits, (u.uid & 1023)::int) = 1)
  FROM unnest(p_uids, p_new_uids) u (uid, new_uid) CROSS JOIN LATERAL (
    SELECT x.content_id, x.internal_date, x.size FROM messages x
    WHERE x.account_id = p_account_id AND x.mailbox_id = p_mailbox_id AND x.uid = u.uid OFFSET 0) m;
  FOR v_viewer_id IN
    SELECT DISTINCT v.viewer_id FROM message_viewer_seen v
    WHERE v.account_id = p_account_id AND v.mailbox_id = p_mailbox_id ORDER BY 1
  LOOP
    PERFORM copy_viewer_seen(p_account_id, p_mailbox_id, p_account_id, p_to_mailbox_id, p_uids, p_new_uids, v_viewer_id,
      v_viewer_id);
  END LOOP;
END $$;

-- Deleted mailboxes whose messages are still there, the last deleted first.
CREATE FUNCTION list_deleted_mailboxes(p_account_id bigint)
RETURNS TABLE (mailbox_id bigint, name text, uidvalidity bigint, special_use text, deleted_at timestamptz, message_count int,
               total_size bigint)
LANGUAGE plpgsql STABLE SET search_path = sora, public SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY
  SELECT b.mailbox_id, b.name, b.uidvalidity, b.special_use, b.deleted_at, t.message_count, t.total_size
  FROM mailboxes b JOIN mailbox_stats t USING (account_id, mailbox_id)
  WHERE b.account_id = p_account_id AND b.deleted_at IS NOT NULL AND NOT b.shadow ORDER BY b.deleted_at DESC, b.mailbox_id DESC;
END $$;

-- Makes a deleted mailbox what it was: its UIDVALIDITY, UIDs, flags, rights and annotations, under its old name or a new one.
-- A \Noselect mailbox of that name, which deletion may have left, makes room. Those above it that are missing are made. A special use that another mailbox has got meanwhile is not taken back. The quota must have room for it.
CREATE FUNCTION restore_mailbox(p_account_id bigint, p_mailbox_id bigint, p_name text DEFAULT NULL)
RETURNS TABLE (mailbox_id bigint, name text, uidvalidity bigint, message_count int) LANGUAGE plpgsql
SET search_path = sora, public SET plan_cache_mode = force_generic_plan SET lock_timeout = '10s' AS $$
#variable_conflict use_column
DECLARE
  b mailboxes;
  v_name text;
  v_parent text;
  v_limit bigint;
  v_limited boolean;
BEGIN
  PERFORM lock_accounts(ARRAY[p_account_id]);
  v_limited := lock_quotas(ARRAY[p_account_id]) <> '{}';
  PERFORM lock_mailboxes(ARRAY[p_mailbox_id]);
  SELECT * INTO b FROM mailboxes m WHERE m.account_id = p_account_id AND m.mailbox_id = p_mailbox_id AND m.deleted_at IS NOT NULL
    AND EXISTS (SELECT 1 FROM accounts a WHERE a.account_id = p_account_id AND a.deleted_at IS NULL);
  IF NOT FOUND THEN
    PERFORM fail('P0002', 'No such deleted mailbox', p_account_id || '/' || p_mailbox_id);
  END IF;
  v_name := mailbox_name(coalesce(p_name, b.name));
  IF EXISTS (SELECT 1 FROM mailboxes m WHERE m.account_id = p_account_id AND m.name = v_name AND m.deleted_at IS NULL
             AND NOT m.noselect) THEN
    RAISE EXCEPTION 'Mailbox exists' USING ERRCODE = '23505', DETAIL = v_name;
  END IF;
  IF v_limited THEN
    PERFORM require_room(p_account_id, ARRAY(
      SELECT m.size FROM messages m
      WHERE m.account_id = p_account_id AND m.mailbox_id = p_mailbox_id AND m.expunged_at IS NULL));
  END IF;
  v_parent := array_to_string(trim_array(string_to_array(v_name, '/'), 1), '/');
  IF v_parent <> '' AND NOT EXISTS (
    SELECT 1 FROM mailboxes m WHERE m.account_id = p_account_id AND m.name = v_parent AND m.deleted_at IS NULL) THEN
    PERFORM create_mailbox(p_account_id, v_parent);
  END IF;
  DELETE FROM mailboxes m WHERE m.account_id = p_account_id AND m.name = v_name AND m.deleted_at IS NULL AND m.noselect;
  UPDATE mailboxes m SET deleted_at = NULL, name = v_name, special_use = CASE WHEN NOT EXISTS (
      SELECT 1 FROM mailboxes o WHERE o.account_id = p_account_id AND o.special_use = b.special_use AND o.deleted_at IS NULL)
    THEN b.special_use END
  WHERE m.account_id = p_account_id AND m.mailbox_id = p_mailbox_id;
  SELECT l.mailboxes INTO v_limit FROM account_limits l WHERE l.account_id = p_account_id;
  IF v_limit < (SELECT u.mailboxes FROM account_usage(p_account_id) u) THEN
    PERFORM fail('SR001', 'Too many mailboxes', v_limit::text);
  END IF;
  PERFORM note_account_change(p_account_id, 'restore', p_mailbox_id, v_name);
  RETURN QUERY SELECT p_mailbox_id, v_name, b.uidvalidity, t.message_count FROM mailbox_stats t
    WHERE t.account_id = p_account_id AND t.mailbox_id = p_mailbox_id;
END $$;

-- ── To be seen by the user ──────────────────────────────────────────────────────────────────────────────────────────
-- A mailbox of deleted mail is a shadow: an ordinary mailbox, made and filled when somebody looks, that shows what went
-- from the mailboxes of a name, those that are deleted among them. So every command reads it as any other. Its owner has
-- the rights l and r in it. It counts in no quota, and LIST shows it below its own prefix only.

-- Which message of a shadow stands for which deleted one. Its UIDs are given once, in the order in which messages went. A UID
-- that the shadow has not come to yet, by its uid_next, is of a message that is still to be put into it.
CREATE TABLE deleted_messages (
  account_id bigint NOT NULL,
  shadow_id bigint NOT NULL,
  uid bigint NOT NULL,
  source_id bigint NOT NULL,
  source_uid bigint NOT NULL,
  deleted_at timestamptz NOT NULL,
  PRIMARY KEY (account_id, shadow_id, uid),
  FOREIGN KEY (account_id, shadow_id) REFERENCES mailboxes ON DELETE CASCADE
);
CREATE INDEX deleted_messages_age ON deleted_messages (deleted_at);

-- For which state of the account the messages of a shadow were found, and until when they are the right ones.
CREATE TABLE shadow_marks (
  account_id bigint NOT NULL,
  shadow_id bigint NOT NULL,
  mark bigint NOT NULL,
  oldest_at timestamptz NOT NULL,
  PRIMARY KEY (account_id, shadow_id),
  FOREIGN KEY (account_id, shadow_id) REFERENCES mailboxes ON DELETE CASCADE
);

-- A number that is another one when a message came, went or was purged in any mailbox, or a mailbox was made, renamed,
-- deleted or restored; flags make no difference.
CREATE FUNCTION deleted_mark(p_account_id bigint, p_grace interval) RETURNS bigint LANGUAGE sql STABLE
SET search_path = sora, public AS $$
  SELECT coalesce(bit_xor(hash_record_extended(
    ROW(b.mailbox_id, b.name, b.deleted_at, t.uid_next, t.message_count, t.total_size, t.expunge_floor), 0)), 0)
    # extract(epoch FROM p_grace)::bigint
  FROM mailboxes b JOIN mailbox_stats t USING (account_id, mailbox_id) WHERE b.account_id = p_account_id AND NOT b.shadow
$$;

-- The names of mailboxes from which something went within the grace period that the account has nowhere else. Of a name whose
-- shadow (called p_prefix and the name) is up to date, the shadow tells. p_selected: a shadow that is named in any case.
CREATE FUNCTION deleted_names(p_account_id bigint, p_prefix text, p_grace interval, p_selected bigint DEFAULT 0)
RETURNS TABLE (name text, current boolean) LANGUAGE plpgsql STABLE
SET search_path = sora, public SET plan_cache_mode = force_generic_plan
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
  v_mark bigint := deleted_mark(p_account_id, p_grace);
BEGIN
  RETURN QUERY
  SELECT n.name, bool_or(s.shown) IS NOT NULL FROM (
    SELECT substr(b.name, length(p_prefix) + 1) AS name, true AS selected FROM mailboxes b
    WHERE b.account_id = p_account_id AND b.mailbox_id = p_selected AND b.shadow AND starts_with(b.name, p_prefix)
    UNION
    SELECT b.name, false FROM mailboxes b WHERE b.account_id = p_account_id AND NOT b.shadow AND NOT b.noselect AND (
      EXISTS (SELECT 1 FROM message_expunges e WHERE e.account_id = p_account_id AND e.mailbox_id = b.mailbox_id
              AND e.expunged_at >= clock() - p_grace)
      OR b.deleted_at >= clock() - p_grace AND EXISTS (
        SELECT 1 FROM mailbox_stats t WHERE t.account_id = p_account_id AND t.mailbox_id = b.mailbox_id AND t.message_count > 0))
  ) n LEFT JOIN LATERAL (
    SELECT t.message_count > 0 AS shown FROM mailboxes b JOIN shadow_marks k ON k.account_id = p_account_id AND k.shadow_id = b.mailbox_id
    JOIN mailbox_stats t ON t.account_id = p_account_id AND t.mailbox_id = b.mailbox_id
    WHERE b.account_id = p_account_id AND b.name = p_prefix || n.name AND b.shadow AND b.deleted_at IS NULL
      AND k.mark = v_mark AND k.oldest_at >= clock() - p_grace AND NOT EXISTS (
        SELECT 1 FROM deleted_messages d
        WHERE d.account_id = p_account_id AND d.shadow_id = b.mailbox_id AND d.uid >= t.uid_next)
  ) s ON true
  WHERE n.selected OR coalesce(s.shown, EXISTS (
    SELECT 1 FROM mailboxes b CROSS JOIN LATERAL unnest(deleted_uids(p_account_id, b.mailbox_id, clock() - p_grace)) u (uid)
    CROSS JOIN LATERAL (
      SELECT i.content_id, i.internal_date FROM messages i
      WHERE i.account_id = p_account_id AND i.mailbox_id = b.mailbox_id AND i.uid = u.uid OFFSET 0) m
    WHERE b.account_id = p_account_id AND b.name = n.name AND NOT b.shadow AND NOT EXISTS (
      SELECT 1 FROM (
        SELECT i.mailbox_id FROM messages i WHERE i.account_id = p_account_id AND i.content_id = m.content_id
          AND i.internal_date = m.internal_date AND i.expunged_at IS NULL OFFSET 0) x JOIN mailboxes y USING (mailbox_id)
      WHERE y.account_id = p_account_id AND y.deleted_at IS NULL AND NOT y.shadow)))
  GROUP BY 1 ORDER BY 1;
END $$;

-- What a shadow should show of the mailboxes of a name: each message that the account has nowhere else, once; the p_limit that
-- went last.
CREATE FUNCTION shown_as_deleted(p_account_id bigint, p_name text, p_grace interval, p_limit int)
RETURNS TABLE (source_id bigint, source_uid bigint, deleted_at timestamptz) LANGUAGE plpgsql STABLE
SET search_path = sora, public SET plan_cache_mode = force_generic_plan
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY
  SELECT k.mailbox_id, k.uid, k.gone_at FROM (
    SELECT DISTINCT ON (m.content_id, m.internal_date) b.mailbox_id, m.uid, m.content_id, m.internal_date,
      coalesce(m.expunged_at, b.deleted_at) AS gone_at
    FROM mailboxes b CROSS JOIN LATERAL unnest(deleted_uids(p_account_id, b.mailbox_id, clock() - p_grace)) u (uid)
    CROSS JOIN LATERAL (
      SELECT i.uid, i.content_id, i.internal_date, i.expunged_at FROM messages i
      WHERE i.account_id = p_account_id AND i.mailbox_id = b.mailbox_id AND i.uid = u.uid OFFSET 0) m
    WHERE b.account_id = p_account_id AND b.name = p_name AND NOT b.shadow
    ORDER BY m.content_id, m.internal_date, gone_at, b.mailbox_id, m.uid
  ) k WHERE NOT EXISTS (
      SELECT 1 FROM (
        SELECT i.mailbox_id FROM messages i WHERE i.account_id = p_account_id AND i.content_id = k.content_id
          AND i.internal_date = k.internal_date AND i.expunged_at IS NULL OFFSET 0) x JOIN mailboxes y USING (mailbox_id)
      WHERE y.account_id = p_account_id AND y.deleted_at IS NULL AND NOT y.shadow)
  ORDER BY k.gone_at DESC, k.mailbox_id DESC, k.uid DESC LIMIT p_limit;
END $$;

-- Makes the shadow of a name (p_shadow: what it is called) if it is missing, and brings it up to date, by p_step messages at
-- most: `more` says that there are others, for calls without p_plan. No row: nothing went and there was no shadow, or a
-- mailbox of the account's own has the name.
--
-- What it should show is looked up only when the account has changed since. Mail that comes in waits for none of it, nor does
-- a mailbox that is made or renamed: there is a lock of this alone, and the shadow's own. The sources have none, as only their
-- bodies are needed, whose rows are locked against the cleaner.
CREATE FUNCTION refresh_deleted(p_account_id bigint, p_name text, p_shadow text, p_grace interval, p_plan boolean DEFAULT true,
  p_step int DEFAULT 1000, p_limit int DEFAULT 100000)
RETURNS TABLE (mailbox_id bigint, more boolean) LANGUAGE plpgsql ROWS 1
SET search_path = sora, public SET plan_cache_mode = force_generic_plan SET lock_timeout = '10s' AS $$
#variable_conflict use_column
DECLARE
  v_id bigint;
  v_mark bigint;
BEGIN
  IF NOT EXISTS (SELECT 1 FROM mailboxes m WHERE m.account_id = p_account_id AND m.name = p_shadow AND m.deleted_at IS NULL)
    AND EXISTS (SELECT 1 FROM accounts a WHERE a.account_id = p_account_id AND a.deleted_at IS NULL)
    AND EXISTS (SELECT 1 FROM shown_as_deleted(p_account_id, p_name, p_grace, 1)) THEN
    -- somebody else may have done so: he is waited for
    INSERT INTO mailboxes AS m (account_id, name, shadow) VALUES (p_account_id, p_shadow, true)
    ON CONFLICT (account_id, name) WHERE deleted_at IS NULL DO NOTHING RETURNING m.mailbox_id INTO v_id;
    INSERT INTO mailbox_acl (account_id, mailbox_id, grantee_id, rights)
    SELECT p_account_id, v_id, p_account_id, 1027 WHERE v_id IS NOT NULL;
  END IF;
  SELECT m.mailbox_id INTO v_id FROM mailboxes m JOIN accounts a USING (account_id)
  WHERE m.account_id = p_account_id AND m.name = p_shadow AND m.deleted_at IS NULL AND m.shadow AND a.deleted_at IS NULL;
  IF v_id IS NULL THEN
    RETURN;
  END IF;
  PERFORM lock_all(21325, ARRAY[v_id]);
  v_mark := deleted_mark(p_account_id, p_grace);   -- before anything is looked up
  IF p_plan AND NOT EXISTS (
    SELECT 1 FROM shadow_marks k WHERE k.account_id = p_account_id AND k.shadow_id = v_id AND k.mark = v_mark
      AND k.oldest_at >= clock() - p_grace) THEN
    PERFORM plan_shadow(p_account_id, v_id, p_name, p_grace, p_limit);
    INSERT INTO shadow_marks (account_id, shadow_id, mark, oldest_at)
    SELECT p_account_id, v_id, v_mark, coalesce(min(d.deleted_at), 'infinity') FROM deleted_messages d
    WHERE d.account_id = p_account_id AND d.shadow_id = v_id
    ON CONFLICT (account_id, shadow_id) DO UPDATE SET mark = EXCLUDED.mark, oldest_at = EXCLUDED.oldest_at;
  END IF;
  mailbox_id := v_id;
  more := fill_shadow(p_account_id, v_id, p_step);
  RETURN NEXT;
END $$;

-- Takes out of a shadow what it should show no longer, and gives UIDs to what it should show from now on. Called under a lock
-- that keeps two of them apart.
CREATE FUNCTION plan_shadow(p_account_id bigint, p_shadow_id bigint, p_name text, p_grace interval, p_limit int) RETURNS void
LANGUAGE plpgsql SET search_path = sora, public SET plan_cache_mode = force_generic_plan AS $$
DECLARE
  v_gone bigint[];
BEGIN
  -- UNION ALL and GROUP BY, not joins, whose plans would be made for ten rows
  WITH compared AS MATERIALIZED (
    SELECT q.source_id, q.source_uid, max(q.uid) AS uid, max(q.deleted_at) AS deleted_at, bool_or(q.wanted) AS wanted FROM (
      SELECT d.source_id, d.source_uid, d.uid, NULL::timestamptz AS deleted_at, false AS wanted FROM deleted_messages d
      WHERE d.account_id = p_account_id AND d.shadow_id = p_shadow_id
      UNION ALL
      SELECT w.source_id, w.source_uid, NULL, w.deleted_at, true
      FROM shown_as_deleted(p_account_id, p_name, p_grace, p_limit) w) q
    GROUP BY 1, 2
  ), given AS (
    INSERT INTO deleted_messages (account_id, shadow_id, uid, source_id, source_uid, deleted_at)
    SELECT p_account_id, p_shadow_id, (
        SELECT greatest(t.uid_next - 1, (
          SELECT max(d.uid) FROM deleted_messages d WHERE d.account_id = p_account_id AND d.shadow_id = p_shadow_id))
        FROM mailbox_stats t WHERE t.account_id = p_account_id AND t.mailbox_id = p_shadow_id)
      + row_number() OVER (ORDER BY c.deleted_at, c.source_id, c.source_uid), c.source_id, c.source_uid, c.deleted_at
    FROM compared c WHERE c.uid IS NULL
  )
  SELECT ARRAY(SELECT c.uid FROM compared c WHERE NOT c.wanted ORDER BY 1) INTO v_gone;
  IF v_gone <> '{}' THEN
    PERFORM lock_mailboxes(ARRAY[p_shadow_id]);
    PERFORM hide_deleted(p_account_id, p_shadow_id, v_gone);
    PERFORM pg_notify('sora_' || p_account_id % 16, format('%s.%s.%s', to_hex(p_account_id), to_hex(p_shadow_id), (
      SELECT to_hex(t.highest_modseq) FROM mailbox_stats t WHERE t.account_id = p_account_id AND t.mailbox_id = p_shadow_id)));
  END IF;
END $$;

-- Puts the next p_step messages that have got UIDs into a shadow. True: there are more of them. What was restored, trimmed or
-- taken out meanwhile is left out, and its UID is nobody's. The rows of the bodies are locked, as the cleaner decides about
-- them and by which lock it does: a body that is given out here is then one that is in use.
CREATE FUNCTION fill_shadow(p_account_id bigint, p_shadow_id bigint, p_step int) RETURNS boolean LANGUAGE plpgsql
SET search_path = sora, public SET plan_cache_mode = force_generic_plan
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off AS $$
DECLARE
  v_next bigint;
  v_modseq bigint;
  v_uid bigint[];
  v_source_id bigint[];
  v_source_uid bigint[];
  v_kept bigint[];
BEGIN
  SELECT t.uid_next INTO v_next FROM mailbox_stats t WHERE t.account_id = p_account_id AND t.mailbox_id = p_shadow_id;
  SELECT array_agg(d.uid ORDER BY d.uid), array_agg(d.source_id ORDER BY d.uid), array_agg(d.source_uid ORDER BY d.uid)
  INTO v_uid, v_source_id, v_source_uid FROM (
    SELECT x.* FROM deleted_messages x WHERE x.account_id = p_account_id AND x.shadow_id = p_shadow_id AND x.uid >= v_next
    ORDER BY x.uid LIMIT p_step) d;
  IF v_uid IS NULL THEN
    RETURN false;
  END IF;
  PERFORM lock_mailboxes(ARRAY[p_shadow_id]);
  SELECT t.highest_modseq + 1 INTO v_modseq FROM mailbox_stats t
  WHERE t.account_id = p_account_id AND t.mailbox_id = p_shadow_id;
  SELECT array_agg(q.uid ORDER BY q.uid), array_agg(q.source_id ORDER BY q.uid), array_agg(q.source_uid ORDER BY q.uid)
  INTO v_kept, v_source_id, v_source_uid FROM (
    SELECT i.uid, i.source_id, i.source_uid
    FROM unnest(v_uid, v_source_id, v_source_uid) i (uid, source_id, source_uid)
    CROSS JOIN LATERAL (
      SELECT x.content_id, x.internal_date FROM messages x
      WHERE x.account_id = p_account_id AND x.mailbox_id = i.source_id AND x.uid = i.source_uid OFFSET 0) m
    CROSS JOIN LATERAL (
      SELECT 1 FROM deleted_messages x
      WHERE x.account_id = p_account_id AND x.shadow_id = p_shadow_id AND x.uid = i.uid OFFSET 0) d
    CROSS JOIN LATERAL (   -- whether it is being purged is asked outside, or the index by hash would be read for it
      SELECT x.purging_at FROM message_contents x
      WHERE x.account_id = p_account_id AND x.content_id = m.content_id OFFSET 0 FOR KEY SHARE) c
    WHERE c.purging_at IS NULL AND NOT EXISTS (
        SELECT 1 FROM (
          SELECT i.mailbox_id FROM messages i WHERE i.account_id = p_account_id AND i.content_id = m.content_id
            AND i.internal_date = m.internal_date AND i.expunged_at IS NULL OFFSET 0) x JOIN mailboxes y USING (mailbox_id)
        WHERE y.account_id = p_account_id AND y.deleted_at IS NULL AND NOT y.shadow)) q;
  PERFORM put_back(p_account_id, s.source_id, p_shadow_id, s.uids, s.new_uids, v_modseq) FROM (
    SELECT i.source_id, array_agg(i.source_uid ORDER BY i.uid) AS uids, array_agg(i.uid ORDER BY i.uid) AS new_uids
    FROM unnest(v_kept, v_source_id, v_source_uid) i (uid, source_id, source_uid)
    GROUP BY 1 ORDER BY 1) s;
  DELETE FROM deleted_messages d
  WHERE d.account_id = p_account_id AND d.shadow_id = p_shadow_id AND d.uid BETWEEN v_uid[1] AND v_uid[cardinality(v_uid)]
    AND NOT EXISTS (
      SELECT 1 FROM messages x WHERE x.account_id = p_account_id AND x.mailbox_id = p_shadow_id AND x.uid = d.uid OFFSET 0);
  IF v_kept IS NOT NULL THEN
    PERFORM pg_notify('sora_' || p_account_id % 16,
      format('%s.%s.%s', to_hex(p_account_id), to_hex(p_shadow_id), to_hex(v_modseq)));
  END IF;
  RETURN EXISTS (
    SELECT 1 FROM deleted_messages d
    WHERE d.account_id = p_account_id AND d.shadow_id = p_shadow_id AND d.uid > v_uid[cardinality(v_uid)]);
END $$;

-- Messages of a shadow that it should show no longer: restored ones, and those past the grace period. Their rows go at once,
-- because they hold bodies. Called under its lock.
CREATE FUNCTION hide_deleted(p_account_id bigint, p_shadow_id bigint, p_uids bigint[]) RETURNS void LANGUAGE plpgsql
SET search_path = sora, public SET plan_cache_mode = force_generic_plan
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off AS $$
BEGIN
  PERFORM expunge(p_account_id, p_shadow_id, r.lows, r.highs, false) FROM (
    SELECT array_agg(i.low ORDER BY i.low) AS lows, array_agg(i.high ORDER BY i.low) AS highs FROM (
      SELECT min(q.uid) AS low, max(q.uid) AS high FROM (
        SELECT u.uid, u.uid - row_number() OVER (ORDER BY u.uid) AS run FROM unnest(p_uids) u (uid)) q
      GROUP BY q.run) i) r;
  DELETE FROM deleted_messages d USING unnest(p_uids) u (uid) CROSS JOIN LATERAL (
    SELECT i.ctid FROM deleted_messages i
    WHERE i.account_id = p_account_id AND i.shadow_id = p_shadow_id AND i.uid = u.uid OFFSET 0) x
  WHERE d.ctid = x.ctid;
  PERFORM trim_expunges(p_account_id, p_shadow_id, 'infinity', cardinality(p_uids));
END $$;

-- Shadows that show something past the grace period: nobody may look for a long time, and bodies must go.
CREATE FUNCTION select_outdated_shadows(p_grace interval, p_limit int DEFAULT 100, p_without bigint[] DEFAULT '{}')
RETURNS TABLE (account_id bigint, mailbox_id bigint) LANGUAGE sql STABLE SET search_path = sora, public AS $$
  SELECT d.account_id, d.shadow_id FROM (
    SELECT x.account_id, x.shadow_id, x.deleted_at FROM deleted_messages x JOIN accounts a USING (account_id)
    WHERE x.deleted_at < clock() - p_grace AND NOT a.legal_hold AND x.shadow_id <> ALL (p_without)
    ORDER BY x.deleted_at LIMIT p_limit * 10) d
  GROUP BY 1, 2 ORDER BY min(d.deleted_at) LIMIT p_limit
$$;

-- Takes up to p_limit of them out of a shadow. Returns how many.
CREATE FUNCTION trim_shadow(p_account_id bigint, p_shadow_id bigint, p_grace interval, p_limit int DEFAULT 10000)
RETURNS bigint LANGUAGE plpgsql
SET search_path = sora, public SET plan_cache_mode = force_generic_plan SET lock_timeout = '2s' AS $$
DECLARE
  v_uids bigint[];
BEGIN
  IF account_held(p_account_id) THEN
    RETURN 0;
  END IF;
  PERFORM lock_mailboxes(ARRAY[p_shadow_id]);
  v_uids := ARRAY(
    SELECT d.uid FROM deleted_messages d
    WHERE d.account_id = p_account_id AND d.shadow_id = p_shadow_id AND d.deleted_at < clock() - p_grace
    ORDER BY 1 LIMIT p_limit);
  IF v_uids <> '{}' THEN
    PERFORM hide_deleted(p_account_id, p_shadow_id, v_uids);
  END IF;
  RETURN cardinality(v_uids);
END $$;
