-- The mailbox tree. Every change runs under the account's structure lock and leaves a row in account_changes.

-- Fails unless the mailbox exists, can be selected, and its account is not deleted. Under the mailbox lock this is final:
-- delete_mailbox() takes the same lock.
CREATE FUNCTION require_mailbox(p_account_id bigint, p_mailbox_id bigint) RETURNS void LANGUAGE plpgsql STABLE
SET search_path = sora, public SET plan_cache_mode = force_generic_plan AS $$
BEGIN
  PERFORM 1 FROM mailboxes m JOIN accounts a USING (account_id)
  WHERE m.account_id = p_account_id AND m.mailbox_id = p_mailbox_id AND m.deleted_at IS NULL AND NOT m.noselect
    AND a.deleted_at IS NULL;
  IF NOT FOUND THEN
    PERFORM fail('P0002', 'No such mailbox', p_account_id || '/' || p_mailbox_id);
  END IF;
END $$;

-- The mailbox and those above it that are missing, as the RFC wishes (9051 §6.3.4); a \Noselect one becomes selectable.
CREATE FUNCTION create_mailbox(p_account_id bigint, p_name text, p_special_use text DEFAULT NULL)
RETURNS TABLE (mailbox_id bigint, name text, uidvalidity bigint) LANGUAGE plpgsql
SET search_path = sora, public SET plan_cache_mode = force_generic_plan SET lock_timeout = '10s' AS $$
#variable_conflict use_column
DECLARE
  v_name text := mailbox_name(p_name);
  v_part text;
  v_id bigint;
  v_limit bigint;
BEGIN
  PERFORM lock_accounts(ARRAY[p_account_id]);
  SELECT l.mailboxes INTO v_limit FROM account_limits l JOIN accounts a USING (account_id)
  WHERE l.account_id = p_account_id AND a.deleted_at IS NULL;
  IF NOT FOUND THEN
    PERFORM fail('P0002', 'No such account', p_account_id::text);
  END IF;
  IF EXISTS (
    SELECT 1 FROM mailboxes m
    WHERE m.account_id = p_account_id AND m.name = v_name AND m.deleted_at IS NULL AND NOT m.noselect) THEN
    RAISE EXCEPTION 'Mailbox exists' USING ERRCODE = '23505', DETAIL = v_name;
  END IF;
  FOR v_part IN
    SELECT array_to_string(p[1:i], '/')
    FROM string_to_array(v_name, '/') p, LATERAL generate_series(1, cardinality(p)) i
    ORDER BY i
  LOOP
    UPDATE mailboxes m SET noselect = false, special_use = coalesce(p_special_use, m.special_use)
    WHERE m.account_id = p_account_id AND m.name = v_part AND m.deleted_at IS NULL AND m.noselect AND v_part = v_name
    RETURNING m.mailbox_id INTO v_id;
    IF v_id IS NULL THEN
      INSERT INTO mailboxes (account_id, name, special_use)
      VALUES (p_account_id, v_part, CASE WHEN v_part = v_name THEN p_special_use END)
      ON CONFLICT (account_id, name) WHERE deleted_at IS NULL DO NOTHING
      RETURNING mailboxes.mailbox_id INTO v_id;
      IF v_id IS NOT NULL THEN
        PERFORM inherit_acl(p_account_id, v_id, v_part);
      END IF;
    END IF;
    IF v_id IS NOT NULL THEN
      PERFORM note_account_change(p_account_id, 'create', v_id, v_part);
    END IF;
    v_id := NULL;
  END LOOP;
  IF v_limit < (SELECT mailboxes FROM account_usage(p_account_id)) THEN
    PERFORM fail('SR001', 'Too many mailboxes', v_limit::text);
  END IF;
  RETURN QUERY SELECT m.mailbox_id, m.name, m.uidvalidity FROM mailboxes m
    WHERE m.account_id = p_account_id AND m.name = v_name AND m.deleted_at IS NULL;
END $$;

-- With its children. Of INBOX only the messages go, to a new mailbox; INBOX and its children stay (RFC 9051 §6.3.6).
-- Subscriptions are names and stay as they are.
CREATE FUNCTION rename_mailbox(p_account_id bigint, p_old_name text, p_new_name text)
RETURNS TABLE (mailbox_id bigint, name text, uidvalidity bigint) LANGUAGE plpgsql
SET search_path = sora, public SET plan_cache_mode = force_generic_plan SET lock_timeout = '10s' AS $$
#variable_conflict use_column
DECLARE
  v_old text := mailbox_name(p_old_name);
  v_new text := mailbox_name(p_new_name);
  v_id bigint;
  v_target bigint;
  r record;
BEGIN
  PERFORM lock_accounts(ARRAY[p_account_id]);
  SELECT m.mailbox_id INTO v_id FROM mailboxes m
  WHERE m.account_id = p_account_id AND m.name = v_old AND m.deleted_at IS NULL;
  IF v_id IS NULL THEN
    PERFORM fail('P0002', 'No such mailbox', v_old);
  END IF;
  IF v_new = 'INBOX' OR EXISTS (
    SELECT 1 FROM mailboxes m WHERE m.account_id = p_account_id AND m.name = v_new AND m.deleted_at IS NULL) THEN
    RAISE EXCEPTION 'Mailbox exists' USING ERRCODE = '23505', DETAIL = v_new;
  END IF;
  IF v_old = 'INBOX' THEN
    SELECT c.mailbox_id INTO v_target FROM create_mailbox(p_account_id, v_new) c;
    PERFORM move_all(p_account_id, v_id, v_target);
    INSERT INTO metadata (account_id, mailbox_id, viewer_id, entry, value)   -- INBOX keeps its own (RFC 5464 §4.1)
    SELECT d.account_id, v_target, d.viewer_id, d.entry, d.value FROM metadata d
    WHERE d.account_id = p_account_id AND d.mailbox_id = v_id;
  ELSE
    IF starts_with(v_new, v_old || '/') THEN
      PERFORM fail('SR005', 'A mailbox cannot become its own child', v_new);
    END IF;
    IF position('/' IN v_new) > 0 AND NOT EXISTS (
      SELECT 1 FROM mailboxes m WHERE m.account_id = p_account_id AND m.deleted_at IS NULL
      AND m.name = left(v_new, length(v_new) - length(split_part(v_new, '/', -1)) - 1)) THEN
      PERFORM create_mailbox(p_account_id, left(v_new, length(v_new) - length(split_part(v_new, '/', -1)) - 1));
    END IF;
    -- parents first, so that a watcher never hears of a child whose parent it does not know
    FOR r IN
      SELECT m.mailbox_id, m.name AS old_name, mailbox_name(v_new || substr(m.name, length(v_old) + 1)) AS new_name
      FROM mailboxes m WHERE m.account_id = p_account_id AND m.deleted_at IS NULL AND NOT m.shadow
      AND (m.name = v_old OR (m.name >= v_old || '/' AND m.name < v_old || '0')) ORDER BY m.name
    LOOP
      UPDATE mailboxes m SET name = r.new_name WHERE m.account_id = p_account_id AND m.mailbox_id = r.mailbox_id;
      PERFORM note_account_change(p_account_id, 'rename', r.mailbox_id, r.new_name, r.old_name);
    END LOOP;
    v_target := v_id;
  END IF;
  RETURN QUERY SELECT m.mailbox_id, m.name, m.uidvalidity FROM mailboxes m
    WHERE m.account_id = p_account_id AND m.mailbox_id = v_target;
END $$;

-- O(1): the row is marked and purged later. A mailbox with children leaves a \Noselect one of its name behind, a new row,
-- so that the messages can be purged or restored like any others; a \Noselect one with children cannot be deleted.
CREATE FUNCTION delete_mailbox(p_account_id bigint, p_name text) RETURNS bigint LANGUAGE plpgsql
SET search_path = sora, public SET plan_cache_mode = force_generic_plan SET lock_timeout = '10s' AS $$
DECLARE
  v_name text := mailbox_name(p_name);
  v_id bigint;
  v_noselect boolean;
  v_children boolean;
  v_left bigint;
BEGIN
  PERFORM lock_accounts(ARRAY[p_account_id]);
  SELECT m.mailbox_id, m.noselect INTO v_id, v_noselect FROM mailboxes m
  WHERE m.account_id = p_account_id AND m.name = v_name AND m.deleted_at IS NULL;
  IF v_id IS NULL THEN
    PERFORM fail('P0002', 'No such mailbox', v_name);
  END IF;
  v_children := EXISTS (SELECT 1 FROM mailboxes m WHERE m.account_id = p_account_id AND m.deleted_at IS NULL AND NOT m.shadow
                        AND m.name >= v_name || '/' AND m.name < v_name || '0');
  IF v_name = 'INBOX' OR (v_noselect AND v_children) THEN
    PERFORM fail('SR005',
      CASE WHEN v_name = 'INBOX' THEN 'INBOX cannot be deleted' ELSE 'Mailbox has children' END, v_name);
  END IF;
  PERFORM lock_mailboxes(ARRAY[v_id]);   -- a delivery that holds it finishes first, later ones find the mark
  UPDATE mailboxes m SET deleted_at = clock() WHERE m.account_id = p_account_id AND m.mailbox_id = v_id;
  IF v_children THEN
    INSERT INTO mailboxes (account_id, name, noselect) VALUES (p_account_id, v_name, true) RETURNING mailbox_id INTO v_left;
    INSERT INTO mailbox_acl (account_id, mailbox_id, grantee_id, negative, rights, domain_id)
    SELECT c.account_id, v_left, c.grantee_id, c.negative, c.rights, c.domain_id FROM mailbox_acl c
    WHERE c.account_id = p_account_id AND c.mailbox_id = v_id;
  END IF;
  PERFORM note_account_change(p_account_id, 'delete', v_id, v_name);
  RETURN v_id;
END $$;

CREATE FUNCTION subscribe(p_account_id bigint, p_name text) RETURNS void LANGUAGE plpgsql
SET search_path = sora, public SET plan_cache_mode = force_generic_plan SET lock_timeout = '10s' AS $$
BEGIN
  PERFORM lock_accounts(ARRAY[p_account_id]);
  INSERT INTO subscriptions (account_id, name) VALUES (p_account_id, mailbox_name(p_name)) ON CONFLICT DO NOTHING;
  IF FOUND THEN
    PERFORM note_account_change(p_account_id, 'subscribe', NULL, mailbox_name(p_name));
  END IF;
END $$;

-- False: it was not subscribed.
CREATE FUNCTION unsubscribe(p_account_id bigint, p_name text) RETURNS boolean LANGUAGE plpgsql
SET search_path = sora, public SET plan_cache_mode = force_generic_plan SET lock_timeout = '10s' AS $$
BEGIN
  PERFORM lock_accounts(ARRAY[p_account_id]);
  DELETE FROM subscriptions WHERE account_id = p_account_id AND name = mailbox_name(p_name);
  IF FOUND THEN
    PERFORM note_account_change(p_account_id, 'unsubscribe', NULL, mailbox_name(p_name));
    RETURN true;
  END IF;
  RETURN false;
END $$;

-- Everything LIST, LSUB, LIST-STATUS and POP3 ask, by name. mailbox_id NULL: a subscription without a mailbox.
CREATE FUNCTION list_mailboxes(p_account_id bigint)
RETURNS TABLE (mailbox_id bigint, name text, uidvalidity bigint, special_use text, noselect boolean, subscribed boolean,
               has_children boolean, uid_next bigint, highest_modseq bigint, message_count int, unseen_count int,
               deleted_count int, total_size bigint, created_at timestamptz, rights int)
LANGUAGE plpgsql STABLE ROWS 20 SET search_path = sora, public SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY
  SELECT b.mailbox_id, b.known_name, b.uidvalidity, b.special_use, coalesce(b.noselect, true), b.subscribed,
         EXISTS (SELECT 1 FROM mailboxes c WHERE c.account_id = p_account_id AND c.deleted_at IS NULL
                 AND c.name >= b.known_name || '/' AND c.name < b.known_name || '0'),
         t.uid_next, t.highest_modseq, t.message_count, t.unseen_count, t.deleted_count, t.total_size, b.created_at,
         CASE WHEN b.mailbox_id = ANY (ARRAY(SELECT a.mailbox_id FROM mailbox_acl a WHERE a.account_id = p_account_id))
              THEN mailbox_rights(p_account_id, b.mailbox_id, p_account_id) ELSE 2047 END
  FROM (
    SELECT m.*, coalesce(m.name, s.name) AS known_name, s.name IS NOT NULL AS subscribed
    FROM (SELECT * FROM mailboxes x WHERE x.account_id = p_account_id AND x.deleted_at IS NULL AND NOT x.shadow) m
    FULL JOIN (SELECT y.name FROM subscriptions y WHERE y.account_id = p_account_id) s ON s.name = m.name
  ) b
  LEFT JOIN mailbox_stats t ON t.account_id = b.account_id AND t.mailbox_id = b.mailbox_id
  ORDER BY b.known_name;
END $$;

-- Unseen messages for one who is not the owner (amends STATUS UNSEEN of a shared mailbox).
CREATE FUNCTION viewer_unseen(p_account_id bigint, p_mailbox_id bigint, p_viewer_id bigint) RETURNS bigint
LANGUAGE plpgsql STABLE SET search_path = sora, public SET plan_cache_mode = force_generic_plan AS $$
BEGIN
  RETURN (
    SELECT t.message_count - coalesce((
      SELECT sum(bit_count(v.bits & s.live)) FROM message_viewer_seen v
      JOIN message_sequences s USING (account_id, mailbox_id, block_no)
      WHERE v.account_id = p_account_id AND v.mailbox_id = p_mailbox_id AND v.viewer_id = p_viewer_id), 0)::bigint
    FROM mailbox_stats t WHERE t.account_id = p_account_id AND t.mailbox_id = p_mailbox_id);
END $$;

-- Messages with recent_after < uid <= recent_upto are \Recent for the caller, and for nobody after it if p_move (SELECT).
-- EXAMINE reads only.
CREATE FUNCTION claim_recent(p_account_id bigint, p_mailbox_id bigint, p_move boolean DEFAULT true)
RETURNS TABLE (recent_after bigint, recent_upto bigint) LANGUAGE plpgsql
SET search_path = sora, public SET plan_cache_mode = force_generic_plan SET lock_timeout = '10s' AS $$
DECLARE v_top bigint;
BEGIN
  SELECT uid_next - 1 INTO v_top FROM mailbox_stats WHERE account_id = p_account_id AND mailbox_id = p_mailbox_id;
  IF v_top IS NULL THEN
    PERFORM fail('P0002', 'No such mailbox');
  END IF;
  SELECT recent_uid INTO recent_after FROM mailbox_recent WHERE account_id = p_account_id AND mailbox_id = p_mailbox_id;
  recent_after := coalesce(recent_after, 0);
  IF p_move AND recent_after < v_top THEN   -- a SELECT that finds nothing new writes nothing
    PERFORM set_config('synchronous_commit', 'off', true);   -- what a power cut undoes is \Recent once more
    INSERT INTO mailbox_recent AS r (account_id, mailbox_id) VALUES (p_account_id, p_mailbox_id) ON CONFLICT DO NOTHING;
    SELECT recent_uid INTO recent_after FROM mailbox_recent
    WHERE account_id = p_account_id AND mailbox_id = p_mailbox_id FOR UPDATE;
    UPDATE mailbox_recent SET recent_uid = greatest(recent_uid, v_top)
    WHERE account_id = p_account_id AND mailbox_id = p_mailbox_id AND recent_uid < v_top;
  END IF;
  recent_upto := greatest(v_top, recent_after);
  RETURN NEXT;
END $$;

-- Safety net of the change feed: which of these have moved on. A deleted mailbox answers with NULL.
CREATE FUNCTION poll_mailboxes(p_account_id bigint[], p_mailbox_id bigint[], p_modseq bigint[])
RETURNS TABLE (account_id bigint, mailbox_id bigint, highest_modseq bigint) LANGUAGE plpgsql STABLE
SET search_path = sora, public SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY
  SELECT i.a, i.m, t.highest_modseq FROM unnest(p_account_id, p_mailbox_id, p_modseq) i (a, m, known)
  LEFT JOIN LATERAL (
    SELECT s.highest_modseq FROM mailbox_stats s JOIN mailboxes b USING (account_id, mailbox_id)
    WHERE s.account_id = i.a AND s.mailbox_id = i.m AND b.deleted_at IS NULL OFFSET 0) t ON true
  WHERE t.highest_modseq IS DISTINCT FROM i.known;
END $$;

-- The same for the trees of accounts: names, subscriptions, rights, annotations. A purged account has nothing to tell.
CREATE FUNCTION poll_trees(p_account_id bigint[], p_seq bigint[])
RETURNS TABLE (account_id bigint, change_seq bigint) LANGUAGE plpgsql STABLE
SET search_path = sora, public SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY
  SELECT a.account_id, a.change_seq FROM unnest(p_account_id, p_seq) i (a, known)
  CROSS JOIN LATERAL (SELECT x.account_id, x.change_seq FROM accounts x WHERE x.account_id = i.a OFFSET 0) a
  WHERE a.change_seq > i.known;
END $$;

-- What happened to an account's tree, in order. A gap behind p_seq: somebody has been away for longer than it is kept.
CREATE FUNCTION poll_accounts(p_account_id bigint[], p_seq bigint[])
RETURNS TABLE (account_id bigint, seq bigint, kind text, mailbox_id bigint, name text, old_name text) LANGUAGE plpgsql STABLE
SET search_path = sora, public SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY
  SELECT c.account_id, c.seq, c.kind, c.mailbox_id, c.name, c.old_name FROM unnest(p_account_id, p_seq) i (a, known)
  CROSS JOIN LATERAL (SELECT * FROM account_changes x WHERE x.account_id = i.a AND x.seq > i.known OFFSET 0) c
  ORDER BY 1, 2;
END $$;
