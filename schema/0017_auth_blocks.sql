-- Who may not log in for a while, after too many wrong passwords: what every node must know of the others.
--
-- A node that begins a block has it in its own memory already; the row tells the others. They read what is above the
-- `seq` that they know, when they are notified and every few seconds. So `seq` must become visible in its own order: all
-- who write take the lock of the table first (a sequence alone would let a later number commit before an earlier one).

CREATE SEQUENCE auth_block_seq;
CREATE TABLE auth_blocks (
  scope text COLLATE "C" NOT NULL CHECK (scope IN ('address', 'account')),
  site text COLLATE "C" NOT NULL CHECK (site <> ''),    -- an IPv4 address, or the /64 of an IPv6 address
  login text COLLATE "C" NOT NULL,                      -- in canonical form; empty for a whole address
  blocked_at timestamptz NOT NULL DEFAULT clock(),
  expires_at timestamptz NOT NULL,
  lifted boolean NOT NULL DEFAULT false,                -- by an administrator; stays until it expires, for all to read
  seq bigint NOT NULL DEFAULT nextval('auth_block_seq'),
  PRIMARY KEY (scope, site, login)
);
CREATE UNIQUE INDEX auth_blocks_seq ON auth_blocks (seq);

-- Rows that are over go with the next block, and above p_most those that end first.
CREATE FUNCTION begin_auth_blocks(p_scopes text[], p_sites text[], p_logins text[], p_lasts interval[],
                                  p_most int DEFAULT 10000)
RETURNS void LANGUAGE plpgsql SET search_path = sora, public SET plan_cache_mode = force_generic_plan AS $$
BEGIN
  PERFORM set_config('synchronous_commit', 'off', true);
  LOCK TABLE auth_blocks IN SHARE ROW EXCLUSIVE MODE;
  DELETE FROM auth_blocks WHERE expires_at <= clock();
  INSERT INTO auth_blocks AS b (scope, site, login, expires_at)
    SELECT scope, site, login, clock() + max(lasts)
    FROM unnest(p_scopes, p_sites, p_logins, p_lasts) n (scope, site, login, lasts) GROUP BY scope, site, login
  ON CONFLICT (scope, site, login) DO UPDATE SET blocked_at = clock(), expires_at = EXCLUDED.expires_at, lifted = false,
    seq = nextval('auth_block_seq');
  DELETE FROM auth_blocks WHERE seq IN (SELECT seq FROM auth_blocks ORDER BY expires_at DESC, seq DESC OFFSET p_most);
  PERFORM pg_notify('sora_auth', '');
END $$;

-- Ends the blocks of a site, or those of an account under any of its names; gives what was blocked.
CREATE FUNCTION lift_auth_blocks(p_site text, p_login text) RETURNS SETOF auth_blocks
LANGUAGE plpgsql SET search_path = sora, public SET plan_cache_mode = force_generic_plan AS $$
BEGIN
  LOCK TABLE auth_blocks IN SHARE ROW EXCLUSIVE MODE;
  RETURN QUERY
  WITH who AS (
    SELECT account_id FROM accounts WHERE address = p_login AND deleted_at IS NULL
    UNION SELECT account_id FROM aliases WHERE address = p_login
  ), names AS (
    SELECT p_login AS name
    UNION SELECT address FROM accounts JOIN who USING (account_id)
    UNION SELECT address FROM aliases JOIN who USING (account_id)
  )
  UPDATE auth_blocks b SET lifted = true, seq = nextval('auth_block_seq')
  WHERE NOT b.lifted AND b.expires_at > clock()
    AND (b.site = p_site OR (b.scope = 'account' AND b.login IN (SELECT name FROM names)))
  RETURNING b.*;
  IF FOUND THEN
    PERFORM pg_notify('sora_auth', '');
  END IF;
END $$;
