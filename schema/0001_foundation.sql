-- Extensions, the clock, every advisory lock, and bit helpers.
--
-- Each migration runs in one transaction with search_path = sora, public (see sora/store/migrate.py).

CREATE EXTENSION IF NOT EXISTS pg_trgm SCHEMA public;
CREATE EXTENSION IF NOT EXISTS btree_gin SCHEMA public;

-- The only clock of this schema. Production never sets sora.clock_offset; tests do (SET, or ALTER DATABASE … SET for
-- several processes), so that grace periods of days pass in no time.
CREATE FUNCTION clock() RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE AS $$
  SELECT now() + coalesce(nullif(current_setting('sora.clock_offset', true), ''), '0')::interval
$$;

-- ── Advisory locks ──────────────────────────────────────────────────────────────────────────────────────────────────
-- All are transaction locks in the two-int key space, which cannot collide with locks on one bigint. This is the whole
-- list of namespaces, and the numbers are also the order in which one transaction may take them:
--
--   21320  migration           (key 0)             sora/store/migrate.py only; of a session
--   21321  account structure   (account_id)        mailbox tree, subscriptions, keywords, account_changes
--   21322  quota of a domain   (domain_id)         only where the domain has a limit
--   21323  quota of an account (account_id)        only where the account has a limit
--   21324  rebuild             (key 0)             sora/store/rebuilding.py only; of a session, and before all the others
--   21325  shadow              (mailbox_id)        finding out what it should show; nobody who writes mail takes it
--   21327  mailbox             (mailbox_id)        everything that writes messages or flags of a mailbox
--
-- Inside one namespace keys are taken in ascending order. After the locks come rows, in this order: contents (by account
-- and hash), messages, blocks, statistics. Two transactions that keep to this cannot deadlock.
CREATE FUNCTION lock_key(id bigint) RETURNS int LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT (id & 2147483647)::int $$;

CREATE FUNCTION lock_all(namespace int, ids bigint[]) RETURNS void LANGUAGE plpgsql
SET search_path = sora, public SET plan_cache_mode = force_generic_plan AS $$
DECLARE k int;
BEGIN
  IF cardinality(ids) = 1 THEN
    PERFORM pg_advisory_xact_lock(namespace, lock_key(ids[1]));
    RETURN;
  END IF;
  FOR k IN SELECT DISTINCT lock_key(i) FROM unnest(ids) i WHERE i IS NOT NULL ORDER BY 1 LOOP
    PERFORM pg_advisory_xact_lock(namespace, k);
  END LOOP;
END $$;

CREATE FUNCTION lock_accounts(ids bigint[]) RETURNS void LANGUAGE sql AS $$ SELECT sora.lock_all(21321, ids) $$;
CREATE FUNCTION lock_domain_quotas(ids bigint[]) RETURNS void LANGUAGE sql AS $$ SELECT sora.lock_all(21322, ids) $$;
CREATE FUNCTION lock_account_quotas(ids bigint[]) RETURNS void LANGUAGE sql AS $$ SELECT sora.lock_all(21323, ids) $$;
-- of one: the planner puts it in place, which saves a call
CREATE FUNCTION lock_mailbox(id bigint) RETURNS void LANGUAGE sql AS $$ SELECT pg_advisory_xact_lock(21327, sora.lock_key(id)) $$;
-- of one, unless somebody holds it or waits for it: false then
CREATE FUNCTION try_lock_mailbox(id bigint) RETURNS boolean LANGUAGE sql AS $$ SELECT pg_try_advisory_xact_lock(21327, sora.lock_key(id)) $$;
CREATE FUNCTION lock_mailboxes(ids bigint[]) RETURNS void LANGUAGE sql AS $$ SELECT sora.lock_all(21327, ids) $$;

-- Our own error codes (class SR); the standard ones are P0002 (no such account or mailbox) and 23505 (name taken).
--   SR001 over quota · SR002 lease not held · SR003 invalid name · SR004 too many keywords · SR005 not allowed
CREATE FUNCTION fail(code text, message text, detail text DEFAULT '') RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION USING ERRCODE = code, MESSAGE = message, DETAIL = detail;
END $$;

-- Bits s..e of a block set; e < s gives none. Bit 0 is the leftmost.
CREATE FUNCTION range_mask(s int, e int) RETURNS bit(1024) LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT ((~(0::bit(1024))) >> s) & ((~(0::bit(1024))) << (1023 - e))
$$;
