-- Running nodes, what is connected to them, and leases.

-- `incarnation` is raised whenever the node starts, so that what an earlier life of it held is void at once.
CREATE TABLE instances (
  instance_id text COLLATE "C" PRIMARY KEY,
  incarnation bigint NOT NULL DEFAULT 1,
  host text NOT NULL DEFAULT '',
  version text NOT NULL DEFAULT '',
  started_at timestamptz NOT NULL DEFAULT clock(),
  heartbeat_at timestamptz NOT NULL DEFAULT clock(),
  CHECK (instance_id <> '')
) WITH (fillfactor = 50);

-- For `connections list` and `kick`. Worthless after a crash of the server, hence unlogged.
CREATE UNLOGGED TABLE connections (
  connection_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  instance_id text COLLATE "C" NOT NULL,
  slot int NOT NULL,
  account_id bigint NOT NULL,
  protocol text NOT NULL,
  peer text NOT NULL,
  tls boolean NOT NULL DEFAULT false,
  connected_at timestamptz NOT NULL DEFAULT clock(),
  kicked_at timestamptz
);
CREATE INDEX connections_account ON connections (account_id);
CREATE INDEX connections_instance ON connections (instance_id, slot);

-- Exclusive right to something for a while, across nodes: a POP3 maildrop ('pop3/<account_id>'), the leader of a job.
-- The token only grows: who writes under a lease gives it, and a holder that was taken for dead is refused.
CREATE SEQUENCE lease_tokens;
CREATE TABLE leases (
  name text COLLATE "C" PRIMARY KEY,
  instance_id text COLLATE "C" NOT NULL,
  incarnation bigint NOT NULL,
  token bigint NOT NULL,
  acquired_at timestamptz NOT NULL,
  expires_at timestamptz NOT NULL
) WITH (fillfactor = 70);

CREATE FUNCTION register_instance(p_instance_id text, p_host text DEFAULT '', p_version text DEFAULT '')
RETURNS bigint LANGUAGE plpgsql SET search_path = sora, public SET plan_cache_mode = force_generic_plan AS $$
DECLARE v bigint;
BEGIN
  INSERT INTO instances AS i (instance_id, host, version) VALUES (p_instance_id, p_host, p_version)
  ON CONFLICT (instance_id) DO UPDATE SET incarnation = i.incarnation + 1, host = EXCLUDED.host,
    version = EXCLUDED.version, started_at = clock(), heartbeat_at = clock()
  RETURNING incarnation INTO v;
  DELETE FROM connections WHERE instance_id = p_instance_id;
  RETURN v;
END $$;

-- False: another process has started under this name.
CREATE FUNCTION heartbeat(p_instance_id text, p_incarnation bigint) RETURNS boolean LANGUAGE plpgsql
SET search_path = sora, public SET plan_cache_mode = force_generic_plan AS $$
BEGIN
  UPDATE instances SET heartbeat_at = clock() WHERE instance_id = p_instance_id AND incarnation = p_incarnation;
  RETURN FOUND;
END $$;

-- A token, or NULL if somebody alive holds it. A lease is void when it expired, when its node was started anew, or when
-- that node has not been heard of for p_dead_after.
CREATE FUNCTION acquire_lease(p_name text, p_instance_id text, p_ttl interval, p_dead_after interval DEFAULT '60 s')
RETURNS bigint LANGUAGE plpgsql
SET search_path = sora, public SET plan_cache_mode = force_generic_plan SET lock_timeout = '10s' AS $$
DECLARE v bigint;
BEGIN
  INSERT INTO leases AS l (name, instance_id, incarnation, token, acquired_at, expires_at)
  SELECT p_name, i.instance_id, i.incarnation, nextval('lease_tokens'), clock(), clock() + p_ttl
  FROM instances i WHERE i.instance_id = p_instance_id
  ON CONFLICT (name) DO UPDATE SET instance_id = EXCLUDED.instance_id, incarnation = EXCLUDED.incarnation,
    token = EXCLUDED.token, acquired_at = EXCLUDED.acquired_at, expires_at = EXCLUDED.expires_at
  WHERE l.expires_at <= clock() OR NOT EXISTS (
    SELECT 1 FROM instances i WHERE i.instance_id = l.instance_id AND i.incarnation = l.incarnation
    AND i.heartbeat_at > clock() - p_dead_after)
  RETURNING l.token INTO v;
  RETURN v;
END $$;

CREATE FUNCTION renew_lease(p_name text, p_token bigint, p_ttl interval) RETURNS boolean LANGUAGE plpgsql
SET search_path = sora, public SET plan_cache_mode = force_generic_plan AS $$
BEGIN
  UPDATE leases SET expires_at = clock() + p_ttl WHERE name = p_name AND token = p_token AND expires_at > clock();
  RETURN FOUND;
END $$;

CREATE FUNCTION release_lease(p_name text, p_token bigint) RETURNS boolean LANGUAGE plpgsql
SET search_path = sora, public SET plan_cache_mode = force_generic_plan AS $$
BEGIN
  DELETE FROM leases WHERE name = p_name AND token = p_token;
  RETURN FOUND;
END $$;

-- Called inside the transaction that writes under the lease; the row lock keeps a successor out until it commits.
CREATE FUNCTION require_lease(p_name text, p_token bigint) RETURNS void LANGUAGE plpgsql
SET search_path = sora, public SET plan_cache_mode = force_generic_plan AS $$
BEGIN
  PERFORM 1 FROM leases WHERE name = p_name AND token = p_token AND expires_at > clock() FOR UPDATE;
  IF NOT FOUND THEN
    PERFORM fail('SR002', 'Lease not held', p_name);
  END IF;
END $$;
