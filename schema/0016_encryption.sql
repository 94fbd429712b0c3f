-- Encryption at rest: which master keys there are, the data key of each account, and the end of such a key.
--
-- The keys themselves are never here: a data key stands in account_keys wrapped by a master key, and the master keys are
-- in a file of the nodes (sora/store/keyring.py). Codes of fail(): SR005 not allowed, SR006 the account can have no key.

-- Master keys that were ever used, so that a keyring with other octets under a known id is refused.
CREATE TABLE master_keys (
  key_id text COLLATE "C" PRIMARY KEY,
  fingerprint bytea NOT NULL,
  first_used timestamptz NOT NULL DEFAULT clock()
);

-- Notes master keys; returns the ids that are known with another fingerprint.
CREATE FUNCTION register_master_keys(p_key_id text[], p_fingerprint bytea[]) RETURNS text[] LANGUAGE plpgsql
SET search_path = sora, public AS $$
BEGIN
  INSERT INTO master_keys (key_id, fingerprint) SELECT * FROM unnest(p_key_id, p_fingerprint)
  ON CONFLICT (key_id) DO NOTHING;
  RETURN ARRAY(
    SELECT m.key_id FROM unnest(p_key_id, p_fingerprint) g (key_id, fingerprint) JOIN master_keys m USING (key_id)
    WHERE m.fingerprint <> g.fingerprint ORDER BY 1);
END $$;

-- The data key of an account, wrapped. Made when it is first needed, and the same for ever: a rotation only wraps it anew.
-- No row: nothing of the account is encrypted, or never will be readable again (see shreddings).
CREATE TABLE account_keys (
  account_id bigint PRIMARY KEY REFERENCES accounts ON DELETE RESTRICT,
  key_id text COLLATE "C" NOT NULL REFERENCES master_keys ON DELETE RESTRICT,
  wrapped bytea NOT NULL,
  fingerprint bytea NOT NULL,                -- of the data key; tells nothing of it
  created_at timestamptz NOT NULL DEFAULT clock(),
  stored_at timestamptz                      -- since when this very wrapping is in the object store; NULL: not yet
);
CREATE INDEX account_keys_master ON account_keys (key_id, account_id);
CREATE INDEX account_keys_unstored ON account_keys (account_id) WHERE stored_at IS NULL;

-- Accounts whose wrapped keys must go from the object store, every version of them. A row stays for a while after they
-- were removed the first time: a PUT whose sender died may still arrive.
CREATE TABLE dropped_keys (
  account_id bigint PRIMARY KEY,
  dropped_at timestamptz NOT NULL DEFAULT clock()
);

-- However a key goes, its objects go too.
CREATE FUNCTION account_key_deleted() RETURNS trigger LANGUAGE plpgsql
SET search_path = sora, public AS $$
BEGIN
  INSERT INTO dropped_keys (account_id) VALUES (OLD.account_id)
  ON CONFLICT (account_id) DO UPDATE SET dropped_at = EXCLUDED.dropped_at;
  RETURN NULL;
END $$;
CREATE TRIGGER account_key_deleted AFTER DELETE ON account_keys
  FOR EACH ROW EXECUTE FUNCTION account_key_deleted();

-- Accounts whose key was destroyed on purpose. A row is never removed: it keeps the account from getting a new key, and it
-- is the receipt. What is not finished is taken up again by the command or by a janitor.
CREATE TABLE shreddings (
  account_id bigint PRIMARY KEY,
  address text NOT NULL,
  key_id text NOT NULL,                      -- of the master key that had wrapped it last
  fingerprint bytea NOT NULL,                -- of the data key
  key_made_at timestamptz NOT NULL,
  plain_bodies bigint NOT NULL,              -- stored before the account had a key: deleted, but not made unreadable
  requested_at timestamptz NOT NULL DEFAULT clock(),
  key_objects bigint NOT NULL DEFAULT 0,     -- what was removed so far: wrapped keys in the object store, all versions
  messages bigint NOT NULL DEFAULT 0,
  contents bigint NOT NULL DEFAULT 0,        -- blanked, and queued for the deletion of their objects
  texts bigint NOT NULL DEFAULT 0,           -- of the search
  copies bigint NOT NULL DEFAULT 0,          -- uploads that waited, with the copies in the database
  files bigint NOT NULL DEFAULT 0,           -- staged and cached, on the nodes that are done
  finished_at timestamptz
);
CREATE INDEX shreddings_unfinished ON shreddings (requested_at) WHERE finished_at IS NULL;

-- Nodes that have removed their files of a shredded account.
CREATE TABLE shredded_nodes (
  account_id bigint NOT NULL REFERENCES shreddings ON DELETE CASCADE,
  instance_id text COLLATE "C" NOT NULL,
  done_at timestamptz NOT NULL DEFAULT clock(),
  PRIMARY KEY (account_id, instance_id)
);

-- The key of an account: this one if it had none, else the one that it has. Two workers that make a key at the same time
-- get the same answer.
CREATE FUNCTION create_account_key(p_account_id bigint, p_key_id text, p_master_fingerprint bytea, p_wrapped bytea,
  p_fingerprint bytea)
RETURNS TABLE (key_id text, wrapped bytea, fingerprint bytea) LANGUAGE plpgsql
SET search_path = sora, public SET lock_timeout = '10s' AS $$
#variable_conflict use_column
BEGIN
  IF register_master_keys(ARRAY[p_key_id], ARRAY[p_master_fingerprint]) <> '{}' THEN
    PERFORM fail('SR006', 'The master key is known with other octets', p_key_id);
  END IF;
  PERFORM lock_accounts(ARRAY[p_account_id]);   -- against begin_shredding(): it would not see a row that is not committed
  IF EXISTS (SELECT 1 FROM shreddings s WHERE s.account_id = p_account_id) THEN
    PERFORM fail('SR006', 'The account was shredded', p_account_id::text);
  END IF;
  IF NOT EXISTS (SELECT 1 FROM accounts a WHERE a.account_id = p_account_id) THEN
    PERFORM fail('P0002', 'No such account', p_account_id::text);
  END IF;
  INSERT INTO account_keys (account_id, key_id, wrapped, fingerprint)
  VALUES (p_account_id, p_key_id, p_wrapped, p_fingerprint) ON CONFLICT (account_id) DO NOTHING;
  RETURN QUERY SELECT k.key_id, k.wrapped, k.fingerprint FROM account_keys k WHERE k.account_id = p_account_id;
END $$;

-- Puts new wrappings in place of old ones; what has changed meanwhile stays. Returns how many were replaced.
CREATE FUNCTION rewrap_account_keys(p_account_id bigint[], p_old bytea[], p_new bytea[], p_key_id text) RETURNS bigint
LANGUAGE plpgsql SET search_path = sora, public SET lock_timeout = '35s' AS $$
DECLARE v bigint;
BEGIN
  UPDATE account_keys k SET key_id = p_key_id, wrapped = g.new, stored_at = NULL
  FROM unnest(p_account_id, p_old, p_new) g (account_id, old, new)
  WHERE k.account_id = g.account_id AND k.wrapped = g.old;
  GET DIAGNOSTICS v = ROW_COUNT;
  RETURN v;
END $$;

-- The point of no return: afterwards nobody can read what was encrypted for the account, and nothing new can be. Disables
-- the account, and tells every process at once. A second call changes nothing.
CREATE FUNCTION begin_shredding(p_account_id bigint) RETURNS void LANGUAGE plpgsql
SET search_path = sora, public SET lock_timeout = '35s' AS $$
BEGIN
  PERFORM lock_accounts(ARRAY[p_account_id]);
  IF EXISTS (SELECT 1 FROM shreddings WHERE account_id = p_account_id) THEN
    RETURN;
  END IF;
  IF account_held(p_account_id) THEN
    PERFORM fail('SR005', 'The account is under legal hold', p_account_id::text);
  END IF;
  INSERT INTO shreddings (account_id, address, key_id, fingerprint, key_made_at, plain_bodies)
  SELECT a.account_id, a.address, k.key_id, k.fingerprint, k.created_at, (
    SELECT count(*) FROM message_contents c WHERE c.account_id = p_account_id AND c.created_at < k.created_at)
  FROM accounts a JOIN account_keys k USING (account_id) WHERE a.account_id = p_account_id;
  IF NOT FOUND THEN
    PERFORM fail('P0002', 'The account has no key', p_account_id::text);
  END IF;
  DELETE FROM account_keys WHERE account_id = p_account_id;
  UPDATE accounts SET disabled = true WHERE account_id = p_account_id;
  PERFORM pg_notify('sora_keys', to_hex(p_account_id));
END $$;

-- Removes about p_limit rows of each kind that a shredded account still has. Call it until it returns 0.
--
-- Messages are expunged first, so that a session that is still there learns of it. Contents lose what they say at once;
-- their rows stay until the cleaner has deleted the objects: they are the queue of that.
CREATE FUNCTION shred_rows(p_account_id bigint, p_limit int DEFAULT 2000) RETURNS bigint LANGUAGE plpgsql
SET search_path = sora, public SET plan_cache_mode = force_generic_plan SET lock_timeout = '10s'
SET enable_seqscan = off AS $$
DECLARE
  v_copies bigint;
  v_messages bigint;
  v_texts bigint := 0;
  v_contents bigint;
  v_rows bigint;
BEGIN
  IF NOT EXISTS (SELECT 1 FROM shreddings WHERE account_id = p_account_id) THEN
    PERFORM fail('SR005', 'The account was not shredded', p_account_id::text);
  END IF;
  v_messages := shred_messages(p_account_id, p_limit);
  WITH picked AS (
    SELECT account_id, content_hash, instance_id FROM pending_uploads WHERE account_id = p_account_id
    ORDER BY account_id, content_hash LIMIT p_limit FOR UPDATE)
  DELETE FROM pending_uploads u USING picked p
  WHERE u.account_id = p.account_id AND u.content_hash = p.content_hash AND u.instance_id = p.instance_id;
  GET DIAGNOSTICS v_copies = ROW_COUNT;
  DELETE FROM body_copies b WHERE b.account_id = p_account_id AND b.content_id IN (
    SELECT i.content_id FROM body_copies i WHERE i.account_id = p_account_id LIMIT p_limit);
  GET DIAGNOSTICS v_rows = ROW_COUNT;
  v_copies := v_copies + v_rows;
  -- In the direction in which texts travel: what moves meanwhile is met at its next place.
  DELETE FROM search_queue q WHERE q.account_id = p_account_id AND q.content_id IN (
    SELECT i.content_id FROM search_queue i WHERE i.account_id = p_account_id LIMIT p_limit);
  GET DIAGNOSTICS v_rows = ROW_COUNT;
  v_texts := v_texts + v_rows;
  DELETE FROM search_index q WHERE q.account_id = p_account_id AND q.content_id IN (
    SELECT i.content_id FROM search_index i WHERE i.account_id = p_account_id LIMIT p_limit);
  GET DIAGNOSTICS v_rows = ROW_COUNT;
  v_texts := v_texts + v_rows;
  DELETE FROM search_archive q WHERE q.account_id = p_account_id AND q.content_id IN (
    SELECT i.content_id FROM search_archive i WHERE i.account_id = p_account_id LIMIT p_limit);
  GET DIAGNOSTICS v_rows = ROW_COUNT;
  v_texts := v_texts + v_rows;
  UPDATE message_contents c SET purging_at = coalesce(c.purging_at, clock()), sent_at = NULL, message_id = NULL,
    in_reply_to = NULL, reference_ids = NULL, subject = NULL, base_subject = NULL, sender = NULL, recipients = NULL,
    cc = NULL, bcc = NULL, reply_to = NULL, display_from = NULL, display_to = NULL, preview = NULL, envelope = '',
    body_structure = '', header = NULL
  WHERE c.account_id = p_account_id AND c.content_id IN (
    SELECT i.content_id FROM message_contents i
    WHERE i.account_id = p_account_id AND (i.purging_at IS NULL OR i.envelope <> '') LIMIT p_limit);
  GET DIAGNOSTICS v_contents = ROW_COUNT;
  DELETE FROM recent_deliveries d WHERE d.account_id = p_account_id;
  DELETE FROM sieve_scripts f WHERE f.account_id = p_account_id;
  DELETE FROM sieve_duplicates f WHERE f.account_id = p_account_id;
  DELETE FROM vacation_replies f WHERE f.account_id = p_account_id;
  DELETE FROM outbound_queue o WHERE o.account_id = p_account_id;
  DELETE FROM outbound_usage o WHERE o.account_id = p_account_id;
  DELETE FROM imports i WHERE i.account_id = p_account_id;   -- names of its folders
  UPDATE shreddings SET messages = messages + v_messages, copies = copies + v_copies, texts = texts + v_texts,
    contents = contents + v_contents WHERE account_id = p_account_id;
  RETURN v_messages + v_copies + v_texts + v_contents;
END $$;

-- A batch of each mailbox, the deleted ones included.
CREATE FUNCTION shred_messages(p_account_id bigint, p_limit int) RETURNS bigint LANGUAGE plpgsql
SET search_path = sora, public SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
DECLARE
  m record;
  v_first bigint;
  v_last bigint;
  v_rows bigint;
  v_total bigint := 0;
BEGIN
  FOR m IN
    SELECT b.mailbox_id, b.deleted_at IS NULL AND NOT b.noselect AND a.deleted_at IS NULL AS open
    FROM mailboxes b JOIN accounts a USING (account_id) WHERE b.account_id = p_account_id ORDER BY b.mailbox_id
  LOOP
    PERFORM lock_mailboxes(ARRAY[m.mailbox_id]);
    IF m.open THEN
      SELECT min(q.uid), max(q.uid) INTO v_first, v_last FROM (
        SELECT i.uid FROM messages i WHERE i.account_id = p_account_id AND i.mailbox_id = m.mailbox_id
          AND i.expunged_at IS NULL ORDER BY i.uid LIMIT p_limit) q;
      IF v_first IS NOT NULL THEN
        PERFORM expunge(p_account_id, m.mailbox_id, ARRAY[v_first], ARRAY[v_last], false);
      END IF;
      v_total := v_total + trim_expunges(p_account_id, m.mailbox_id, clock() + interval '1 s', p_limit);
    ELSE
      DELETE FROM messages d USING (
        SELECT i.ctid, i.uid FROM messages i
        WHERE i.account_id = p_account_id AND i.mailbox_id = m.mailbox_id ORDER BY i.uid LIMIT p_limit) x
      WHERE d.ctid = x.ctid AND d.account_id + 0 = p_account_id AND d.mailbox_id + 0 = m.mailbox_id AND d.uid + 0 = x.uid;
      GET DIAGNOSTICS v_rows = ROW_COUNT;
      v_total := v_total + v_rows;
    END IF;
  END LOOP;
  RETURN v_total;
END $$;

-- A delivery that sealed its body before the key was gone must not be committed after it.
CREATE FUNCTION refuse_shredded() RETURNS trigger LANGUAGE plpgsql
SET search_path = sora, public SET plan_cache_mode = force_generic_plan AS $$
BEGIN
  IF EXISTS (SELECT 1 FROM shreddings) AND EXISTS (SELECT 1 FROM new_rows n JOIN shreddings s USING (account_id)) THEN
    PERFORM fail('SR006', 'The account was shredded');
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER refuse_shredded AFTER INSERT ON message_contents REFERENCING NEW TABLE AS new_rows
  FOR EACH STATEMENT EXECUTE FUNCTION refuse_shredded();

-- Nor may such an account come back: nothing could be stored for it.
CREATE FUNCTION keep_shredded_disabled() RETURNS trigger LANGUAGE plpgsql
SET search_path = sora, public AS $$
BEGIN
  IF EXISTS (SELECT 1 FROM shreddings WHERE account_id = NEW.account_id) THEN
    PERFORM fail('SR005', 'The account was shredded', NEW.account_id::text);
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER keep_shredded_disabled BEFORE UPDATE OF disabled ON accounts FOR EACH ROW
  WHEN (OLD.disabled AND NOT NEW.disabled) EXECUTE FUNCTION keep_shredded_disabled();
