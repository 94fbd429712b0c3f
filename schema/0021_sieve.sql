-- Filters: the Sieve scripts of an account, and which of them runs.

-- Names are UTF-8 in NFC; the worker checks them before they come here. `version` names the content: equal scripts have
-- equal versions, in whichever account, so whoever has checked one has checked all of them.
CREATE TABLE sieve_scripts (
  account_id bigint NOT NULL REFERENCES accounts ON DELETE CASCADE,
  name text COLLATE "C" NOT NULL CHECK (name <> '' AND octet_length(name) <= 512),
  content bytea NOT NULL,
  size int NOT NULL GENERATED ALWAYS AS (octet_length(content)) STORED,
  version bytea NOT NULL CHECK (octet_length(version) = 32),
  active boolean NOT NULL DEFAULT false,
  updated_at timestamptz NOT NULL DEFAULT clock(),
  PRIMARY KEY (account_id, name)
);
CREATE UNIQUE INDEX sieve_scripts_active ON sieve_scripts (account_id) WHERE active;

-- What a delivery must know, where it looks anyway: whether a script runs, and a number that is another one after every
-- change of any script of the account (scripts include each other), so that what was read can be kept until then.
ALTER TABLE accounts ADD COLUMN script_active boolean NOT NULL DEFAULT false,
  ADD COLUMN script_version bigint NOT NULL DEFAULT 0;

-- No writer may forget to raise it, and nobody need wait for those who remember the account: they are told.
CREATE FUNCTION sieve_scripts_changed() RETURNS trigger LANGUAGE plpgsql
SET search_path = sora, public SET plan_cache_mode = force_generic_plan AS $$
DECLARE v_account_id bigint := coalesce(NEW.account_id, OLD.account_id);
BEGIN
  UPDATE accounts a SET script_version = a.script_version + 1,
    script_active = EXISTS (SELECT 1 FROM sieve_scripts s WHERE s.account_id = v_account_id AND s.active)
  WHERE a.account_id = v_account_id;
  PERFORM pg_notify('sora_scripts', to_hex(v_account_id));
  RETURN NULL;
END $$;
CREATE TRIGGER sieve_scripts_changed AFTER INSERT OR UPDATE OR DELETE ON sieve_scripts
  FOR EACH ROW EXECUTE FUNCTION sieve_scripts_changed();

-- ── What filters remember ───────────────────────────────────────────────────────────────────────────────────────────
-- Entries are hashes, of which the account is no part (sora/store/effects.py). Past expires_at a row says nothing: the
-- janitor removes it.

-- Ids that `duplicate` (RFC 7352) tracks, and the deliveries to which they were new.
CREATE TABLE sieve_duplicates (
  account_id bigint NOT NULL,
  entry bytea NOT NULL,
  expires_at timestamptz NOT NULL,
  PRIMARY KEY (account_id, entry)
);
CREATE INDEX sieve_duplicates_age ON sieve_duplicates (expires_at);

-- Who was told that the owner is away, and needs no second reply (RFC 5230 §4.2).
CREATE TABLE vacation_replies (
  account_id bigint NOT NULL,
  entry bytea NOT NULL,
  expires_at timestamptz NOT NULL,
  PRIMARY KEY (account_id, entry)
);
CREATE INDEX vacation_replies_age ON vacation_replies (expires_at);

-- ── Effects of a delivery ───────────────────────────────────────────────────────────────────────────────────────────

-- What filters do besides storing letters, for any number of deliveries, in the transaction that stores their letters and
-- behind deliver(). Effects i have the account and the key p_key[i]; the other arrays say in `_of` whose they are (from 1).
--
-- Effects happen once: a row of recent_deliveries with mailbox 0 is their witness, as long as those of the letters. A reply
-- is only queued if nobody was told the same meanwhile: p_mail_reply names the place (from 1) of its memory, or is NULL.
-- p_content_id: of a held letter; it becomes a candidate for removal at once, which the queue keeps it from.
--
-- One row for each effects, in order: whether they happened now, how many mails were queued, how many replies were not.
CREATE FUNCTION apply_effects(
  p_account_id bigint[], p_key bytea[],
  p_duplicate_of int[], p_duplicate bytea[], p_duplicate_s bigint[],
  p_reply_of int[], p_reply bytea[], p_reply_s bigint[],
  p_mail_of int[], p_mail_reply int[],
  p_kind text[], p_sender text[], p_recipient text[], p_content_id bigint[], p_body bytea[], p_body_hash bytea[],
  p_header bytea[], p_size bigint[], p_smtputf8 boolean[], p_params jsonb[])
RETURNS TABLE (ord int, applied boolean, queued int, answered int) LANGUAGE plpgsql
SET search_path = sora, public SET plan_cache_mode = force_generic_plan SET lock_timeout = '10s'
SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
  v_gone text;
  v_new int[];           -- of the effects
  v_granted int[] := '{}';  -- of the replies
BEGIN
  SELECT string_agg(q.a::text, ' ') INTO v_gone FROM (SELECT DISTINCT a FROM unnest(p_account_id) a) q
  WHERE NOT EXISTS (SELECT 1 FROM accounts x WHERE x.account_id = q.a AND x.deleted_at IS NULL)
    OR EXISTS (SELECT 1 FROM shreddings x WHERE x.account_id = q.a);
  IF v_gone IS NOT NULL THEN
    PERFORM fail('P0002', 'No such account', v_gone);
  END IF;
  -- Rows are written in the order of their keys, so that two of these wait for each other in one direction only.
  WITH given AS MATERIALIZED (
    SELECT DISTINCT ON (i.account, i.key) i.account, i.key, i.ord::int AS n
    FROM unnest(p_account_id, p_key) WITH ORDINALITY i (account, key, ord) ORDER BY i.account, i.key, i.ord
  ), claimed AS (
    INSERT INTO recent_deliveries AS d (account_id, key, mailbox_id, uid)
    SELECT g.account, g.key, 0, 0 FROM given g ORDER BY g.account, g.key
    ON CONFLICT (account_id, key, mailbox_id) DO UPDATE SET delivered_at = EXCLUDED.delivered_at
    WHERE d.delivered_at <= clock() - interval '24 h'
    RETURNING account_id, key
  )
  SELECT coalesce(array_agg(g.n), '{}') INTO v_new
  FROM given g JOIN claimed c ON c.account_id = g.account AND c.key = g.key;
  IF cardinality(p_reply) > 0 THEN
    WITH given AS MATERIALIZED (
      SELECT DISTINCT ON (p_account_id[i.of], i.entry) p_account_id[i.of] AS account, i.entry, i.seconds, i.ord::int AS n
      FROM unnest(p_reply_of, p_reply, p_reply_s) WITH ORDINALITY i (of, entry, seconds, ord)
      WHERE i.of = ANY (v_new) ORDER BY p_account_id[i.of], i.entry, i.ord
    ), reserved AS (
      INSERT INTO vacation_replies AS r (account_id, entry, expires_at)
      SELECT g.account, g.entry, clock() + make_interval(secs => g.seconds) FROM given g ORDER BY g.account, g.entry
      ON CONFLICT (account_id, entry) DO UPDATE SET expires_at = EXCLUDED.expires_at WHERE r.expires_at <= clock()
      RETURNING account_id, entry
    )
    SELECT coalesce(array_agg(g.n), '{}') INTO v_granted
    FROM given g JOIN reserved r ON r.account_id = g.account AND r.entry = g.entry;
  END IF;
  IF cardinality(p_duplicate) > 0 THEN
    INSERT INTO sieve_duplicates (account_id, entry, expires_at)
    SELECT p_account_id[i.of], i.entry, clock() + make_interval(secs => max(i.seconds))
    FROM unnest(p_duplicate_of, p_duplicate, p_duplicate_s) i (of, entry, seconds)
    WHERE i.of = ANY (v_new) GROUP BY 1, 2 ORDER BY 1, 2
    ON CONFLICT (account_id, entry) DO UPDATE SET expires_at = EXCLUDED.expires_at;
  END IF;
  IF cardinality(p_mail_of) > 0 THEN
    INSERT INTO outbound_queue
      (account_id, kind, sender, recipient, content_id, body, body_hash, header, size, smtputf8, params)
    SELECT p_account_id[i.of], i.kind, i.sender, i.recipient, i.content, p_body[i.ord], i.hash, i.header, i.size, i.utf8,
      i.params
    FROM unnest(p_mail_of, p_mail_reply, p_kind, p_sender, p_recipient, p_content_id, p_body_hash, p_header, p_size,
      p_smtputf8, p_params) WITH ORDINALITY
      i (of, reply, kind, sender, recipient, content, hash, header, size, utf8, params, ord)
    WHERE i.of = ANY (v_new) AND (i.reply IS NULL OR i.reply = ANY (v_granted)) ORDER BY i.ord;
    INSERT INTO purge_candidates AS p (account_id, content_id)
    SELECT DISTINCT p_account_id[i.of], i.content FROM unnest(p_mail_of, p_content_id) i (of, content)
    WHERE i.content IS NOT NULL ORDER BY 1, 2
    -- not DO NOTHING: begin_purges() may be about to remove the row
    ON CONFLICT (account_id, content_id) DO UPDATE SET noted_at = p.noted_at;
  END IF;
  RETURN QUERY
  SELECT e.ord, e.ord = ANY (v_new),
    (SELECT count(*)::int FROM unnest(p_mail_of, p_mail_reply) m (of, reply)
     WHERE m.of = e.ord AND e.ord = ANY (v_new) AND (m.reply IS NULL OR m.reply = ANY (v_granted))),
    (SELECT count(*)::int FROM unnest(p_reply_of) WITH ORDINALITY r (of, ord)
     WHERE r.of = e.ord AND e.ord = ANY (v_new) AND NOT r.ord = ANY (v_granted))
  FROM generate_series(1, cardinality(p_account_id)) e (ord) ORDER BY 1;
END $$;
