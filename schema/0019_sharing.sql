-- Who else may do what in a mailbox (RFC 4314).
--
-- Rights are bits: l 1, r 2, s 4, w 8, i 16, p 32, k 64, x 128, t 256, e 512, a 1024 (sora/types.py). The owner needs no row
-- and has all of them; a row of its own limits it, but never takes l and a.

CREATE TABLE mailbox_acl (
  account_id bigint NOT NULL,
  mailbox_id bigint NOT NULL,
  grantee_id bigint NOT NULL,                -- an account; 0: anyone, -1: authenticated, both of the owner's domain only
  negative boolean NOT NULL DEFAULT false,   -- rights that are taken away, whoever gives them
  rights int NOT NULL CHECK (rights BETWEEN 0 AND 2047),
  domain_id bigint,                          -- of the owner, where the row is for everybody in it
  PRIMARY KEY (account_id, mailbox_id, grantee_id, negative),
  CHECK ((grantee_id <= 0) = (domain_id IS NOT NULL)),
  FOREIGN KEY (account_id, mailbox_id) REFERENCES mailboxes ON DELETE CASCADE
);
CREATE INDEX mailbox_acl_grantee ON mailbox_acl (grantee_id, account_id);
-- what is shared with everybody, of one domain: a LIST must not look at those of all others, nor at every account of it
CREATE INDEX mailbox_acl_domain ON mailbox_acl (domain_id) WHERE domain_id IS NOT NULL;

-- No foreign key, because anyone is no account.
CREATE FUNCTION grantee_deleted() RETURNS trigger LANGUAGE plpgsql SET search_path = sora, public AS $$
BEGIN
  DELETE FROM message_viewer_seen v USING mailbox_acl c
  WHERE c.grantee_id = OLD.account_id AND v.account_id = c.account_id AND v.mailbox_id = c.mailbox_id
    AND v.viewer_id = OLD.account_id;
  DELETE FROM mailbox_acl WHERE grantee_id = OLD.account_id;
  RETURN NULL;
END $$;
CREATE TRIGGER grantee_deleted AFTER DELETE ON accounts FOR EACH ROW EXECUTE FUNCTION grantee_deleted();

-- The rights of an account in a mailbox: all that are given to it or to everybody, less those that are taken away. What a
-- deleted account has shared is nobody's.
CREATE FUNCTION mailbox_rights(p_account_id bigint, p_mailbox_id bigint, p_actor_id bigint) RETURNS int
LANGUAGE plpgsql STABLE SET search_path = sora, public SET plan_cache_mode = force_generic_plan AS $$
DECLARE
  v_own int;
  v_given int;
  v_taken int;
  v_owner CONSTANT boolean := p_account_id = p_actor_id;
BEGIN
  SELECT bit_or(c.rights) FILTER (WHERE NOT c.negative AND c.grantee_id > 0), bit_or(c.rights) FILTER (WHERE NOT c.negative),
    bit_or(c.rights) FILTER (WHERE c.negative)
  INTO v_own, v_given, v_taken FROM mailbox_acl c
  WHERE c.account_id = p_account_id AND c.mailbox_id = p_mailbox_id AND (c.grantee_id = p_actor_id OR c.grantee_id <= 0
    AND (v_owner OR c.domain_id = (SELECT v.domain_id FROM accounts v WHERE v.account_id = p_actor_id)));
  IF v_owner THEN
    RETURN CASE WHEN v_own IS NULL THEN 2047 ELSE v_given END & ~coalesce(v_taken, 0) | 1025;
  END IF;
  IF NOT EXISTS (SELECT 1 FROM accounts o WHERE o.account_id = p_account_id AND o.deleted_at IS NULL) THEN
    RETURN 0;
  END IF;
  RETURN coalesce(v_given, 0) & ~coalesce(v_taken, 0);
END $$;

-- A new mailbox begins with the rights of the one above it.
CREATE FUNCTION inherit_acl(p_account_id bigint, p_mailbox_id bigint, p_name text) RETURNS void LANGUAGE plpgsql
SET search_path = sora, public SET plan_cache_mode = force_generic_plan AS $$
BEGIN
  IF position('/' IN p_name) > 0 THEN
    INSERT INTO mailbox_acl (account_id, mailbox_id, grantee_id, negative, rights, domain_id)
    SELECT c.account_id, p_mailbox_id, c.grantee_id, c.negative, c.rights, c.domain_id
    FROM mailboxes m JOIN mailbox_acl c USING (account_id, mailbox_id)
    WHERE m.account_id = p_account_id AND m.deleted_at IS NULL
      AND m.name = left(p_name, length(p_name) - length(split_part(p_name, '/', -1)) - 1);
  END IF;
END $$;

-- Sets, adds or removes rights of one grantee (p_mode: '=', '+' or '-'); rights 0 is no row, but for the owner itself. The
-- modseq of the mailbox is raised, so that all who have it selected look, and see what they may. False: nothing changed.
CREATE FUNCTION set_acl(p_account_id bigint, p_mailbox_id bigint, p_grantee_id bigint, p_negative boolean, p_rights int,
  p_mode text)
RETURNS TABLE (changed boolean, modseq bigint) LANGUAGE plpgsql ROWS 1
SET search_path = sora, public SET plan_cache_mode = force_generic_plan SET lock_timeout = '10s' AS $$
#variable_conflict use_column
DECLARE
  v_old int;
  v_new int;
  v_name text;
BEGIN
  PERFORM lock_accounts(ARRAY[p_account_id, nullif(p_grantee_id, least(p_grantee_id, 0))]);
  PERFORM lock_mailbox(p_mailbox_id);
  SELECT m.name INTO v_name FROM mailboxes m JOIN accounts a USING (account_id)
  WHERE m.account_id = p_account_id AND m.mailbox_id = p_mailbox_id AND m.deleted_at IS NULL AND a.deleted_at IS NULL
    AND NOT m.shadow;
  IF NOT FOUND THEN
    PERFORM fail('P0002', 'No such mailbox', p_account_id || '/' || p_mailbox_id);
  END IF;
  SELECT c.rights INTO v_old FROM mailbox_acl c
  WHERE c.account_id = p_account_id AND c.mailbox_id = p_mailbox_id AND c.grantee_id = p_grantee_id
    AND c.negative = p_negative;
  IF v_old IS NULL AND p_grantee_id = p_account_id AND NOT p_negative THEN
    v_old := 2047;
  END IF;
  v_new := CASE p_mode WHEN '+' THEN coalesce(v_old, 0) | p_rights WHEN '-' THEN coalesce(v_old, 0) & ~p_rights
           ELSE p_rights END;
  IF p_grantee_id = p_account_id AND NOT p_negative THEN
    v_new := v_new | 1025;
  END IF;
  changed := v_new <> coalesce(v_old, 0);
  IF changed THEN
    IF v_new = 0 OR (p_grantee_id = p_account_id AND NOT p_negative AND v_new = 2047) THEN
      DELETE FROM mailbox_acl c
      WHERE c.account_id = p_account_id AND c.mailbox_id = p_mailbox_id AND c.grantee_id = p_grantee_id
        AND c.negative = p_negative;
    ELSE
      INSERT INTO mailbox_acl AS c (account_id, mailbox_id, grantee_id, negative, rights, domain_id)
      VALUES (p_account_id, p_mailbox_id, p_grantee_id, p_negative, v_new, CASE WHEN p_grantee_id <= 0 THEN (
        SELECT a.domain_id FROM accounts a WHERE a.account_id = p_account_id) END)
      ON CONFLICT (account_id, mailbox_id, grantee_id, negative) DO UPDATE SET rights = EXCLUDED.rights;
    END IF;
    UPDATE mailbox_stats t SET highest_modseq = t.highest_modseq + 1
    WHERE t.account_id = p_account_id AND t.mailbox_id = p_mailbox_id;
    PERFORM note_account_change(p_account_id, 'acl', p_mailbox_id, v_name);
    IF p_grantee_id > 0 AND p_grantee_id <> p_account_id THEN
      PERFORM note_account_change(p_grantee_id, 'acl', p_mailbox_id, v_name);
    END IF;
  END IF;
  SELECT t.highest_modseq INTO modseq FROM mailbox_stats t
  WHERE t.account_id = p_account_id AND t.mailbox_id = p_mailbox_id;
  RETURN NEXT;
END $$;

-- What others share with an account: the mailboxes in which it has the right l, with their owners. The counters are the
-- viewer's; unseen_count is -1 where it was not asked for, because it is added up.
CREATE FUNCTION list_shared(p_viewer_id bigint, p_unseen boolean DEFAULT false)
RETURNS TABLE (account_id bigint, address text, rights int, mailbox_id bigint, name text, uidvalidity bigint,
               special_use text, noselect boolean, uid_next bigint, highest_modseq bigint, message_count int,
               unseen_count int, deleted_count int, total_size bigint)
LANGUAGE plpgsql STABLE ROWS 20 SET search_path = sora, public SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY
  SELECT m.account_id, o.address, f.rights, m.mailbox_id, m.name, m.uidvalidity, m.special_use, m.noselect,
    t.uid_next, t.highest_modseq, t.message_count,
    CASE WHEN p_unseen THEN viewer_unseen(m.account_id, m.mailbox_id, p_viewer_id)::int ELSE -1 END,
    t.deleted_count, t.total_size
  FROM (
    SELECT c.account_id, c.mailbox_id FROM mailbox_acl c WHERE c.grantee_id = p_viewer_id AND NOT c.negative
    UNION
    SELECT c.account_id, c.mailbox_id FROM mailbox_acl c
    WHERE c.domain_id = (SELECT v.domain_id FROM accounts v WHERE v.account_id = p_viewer_id) AND NOT c.negative
  ) g
  JOIN accounts o ON o.account_id = g.account_id AND o.deleted_at IS NULL AND o.account_id <> p_viewer_id
  JOIN mailboxes m ON m.account_id = g.account_id AND m.mailbox_id = g.mailbox_id AND m.deleted_at IS NULL
  JOIN mailbox_stats t ON t.account_id = g.account_id AND t.mailbox_id = g.mailbox_id
  CROSS JOIN LATERAL (SELECT mailbox_rights(m.account_id, m.mailbox_id, p_viewer_id) AS rights OFFSET 0) f
  WHERE f.rights & 1 = 1
  ORDER BY o.address, m.name;
END $$;

-- ── METADATA (RFC 5464) ─────────────────────────────────────────────────────────────────────────────────────────────
-- Annotations of mailboxes, and of the server (mailbox_id 0). viewer_id: whose private entry it is; 0: shared. Entries of the
-- server that are shared belong to account 0, and only administrators write them; private ones belong to their account.
-- Names are in lower case.
CREATE TABLE metadata (
  account_id bigint NOT NULL,
  mailbox_id bigint NOT NULL,
  viewer_id bigint NOT NULL,
  entry text COLLATE "C" NOT NULL CHECK (entry = fold(entry)),
  value bytea NOT NULL,
  PRIMARY KEY (account_id, mailbox_id, viewer_id, entry)
);
CREATE INDEX metadata_viewer ON metadata (viewer_id) WHERE viewer_id > 0;

-- They go with their mailbox, and with whose they are.
CREATE FUNCTION metadata_orphaned() RETURNS trigger LANGUAGE plpgsql SET search_path = sora, public AS $$
BEGIN
  IF TG_TABLE_NAME = 'mailboxes' THEN
    DELETE FROM metadata WHERE account_id = OLD.account_id AND mailbox_id = OLD.mailbox_id;
  ELSE
    DELETE FROM metadata WHERE viewer_id = OLD.account_id;
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER metadata_orphaned AFTER DELETE ON mailboxes FOR EACH ROW EXECUTE FUNCTION metadata_orphaned();
CREATE TRIGGER metadata_orphaned AFTER DELETE ON accounts FOR EACH ROW EXECUTE FUNCTION metadata_orphaned();

-- Sets entries (value NULL: removes them), all or none. False: nothing was done, because somebody would have more than
-- p_max entries here, or more than p_max_bytes in them. mailbox 0: the server.
CREATE FUNCTION set_metadata(p_account_id bigint, p_mailbox_id bigint, p_viewer_id bigint[], p_entry text[], p_value bytea[],
  p_max int, p_max_bytes bigint)
RETURNS boolean LANGUAGE plpgsql
SET search_path = sora, public SET plan_cache_mode = force_generic_plan SET lock_timeout = '10s' AS $$
DECLARE
  v_name text;
  v_viewer bigint;
BEGIN
  PERFORM lock_accounts(array_remove(ARRAY[p_account_id] || p_viewer_id, 0));   -- 0 is nobody: all would wait for one lock
  IF p_mailbox_id <> 0 THEN
    SELECT m.name INTO v_name FROM mailboxes m JOIN accounts a USING (account_id)
    WHERE m.account_id = p_account_id AND m.mailbox_id = p_mailbox_id AND m.deleted_at IS NULL AND a.deleted_at IS NULL;
    IF NOT FOUND THEN
      PERFORM fail('P0002', 'No such mailbox', p_account_id || '/' || p_mailbox_id);
    END IF;
  END IF;
  -- what there would be: the entries that are not named here, and those that get a value
  IF EXISTS (
    SELECT 1 FROM (
      SELECT o.viewer_id AS viewer, o.value FROM metadata o
      WHERE o.account_id = p_account_id AND o.mailbox_id = p_mailbox_id AND o.viewer_id = ANY (p_viewer_id)
        AND NOT EXISTS (SELECT 1 FROM unnest(p_viewer_id, p_entry) g (viewer, entry)
                        WHERE g.viewer = o.viewer_id AND g.entry = o.entry)
      UNION ALL
      SELECT n.viewer, n.value FROM unnest(p_viewer_id, p_value) n (viewer, value) WHERE n.value IS NOT NULL
    ) q GROUP BY q.viewer HAVING count(*) > p_max OR sum(octet_length(q.value)) > p_max_bytes)
    -- but whoever only takes away, or puts less in its place, may
    AND (SELECT coalesce(sum(octet_length(n.value) + 1), 0) FROM unnest(p_value) n (value)) > (
      SELECT coalesce(sum(octet_length(o.value) + 1), 0) FROM metadata o
      JOIN unnest(p_viewer_id, p_entry) g (viewer, entry) ON g.viewer = o.viewer_id AND g.entry = o.entry
      WHERE o.account_id = p_account_id AND o.mailbox_id = p_mailbox_id) THEN
    RETURN false;
  END IF;
  DELETE FROM metadata o USING unnest(p_viewer_id, p_entry, p_value) g (viewer, entry, value)
  WHERE o.account_id = p_account_id AND o.mailbox_id = p_mailbox_id AND o.viewer_id = g.viewer AND o.entry = g.entry
    AND g.value IS NULL;
  INSERT INTO metadata (account_id, mailbox_id, viewer_id, entry, value)
  SELECT p_account_id, p_mailbox_id, g.viewer, g.entry, g.value
  FROM unnest(p_viewer_id, p_entry, p_value) g (viewer, entry, value) WHERE g.value IS NOT NULL
  ON CONFLICT (account_id, mailbox_id, viewer_id, entry) DO UPDATE SET value = EXCLUDED.value;
  -- Who hears of it: of a shared entry the owner, of a private one whose it is. Shared entries of the server are nobody's.
  FOREACH v_viewer IN ARRAY ARRAY(SELECT DISTINCT coalesce(nullif(v, 0), p_account_id) FROM unnest(p_viewer_id) v) LOOP
    IF v_viewer > 0 THEN
      PERFORM note_account_change(v_viewer, 'metadata', nullif(p_mailbox_id, 0), coalesce(v_name, ''), (
        SELECT string_agg(g.entry, ' ' ORDER BY g.entry) FROM unnest(p_viewer_id, p_entry) g (viewer, entry)
        WHERE coalesce(nullif(g.viewer, 0), p_account_id) = v_viewer));
    END IF;
  END LOOP;
  RETURN true;
END $$;
