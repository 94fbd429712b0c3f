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

-- Ids that `duplicate` (RFC 7352) tracks.
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
