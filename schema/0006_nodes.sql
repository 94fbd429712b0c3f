-- Running nodes, what is connected to them, and leases.

-- `incarnation` is raised whenever the node starts, so that what an earlier life of it held is void at once, and when it is
-- declared dead (fenced_at), so that it notices if it was not.
--
-- seat: where the node's name is kept, as this machine and this file on it. While a node lives, nobody else may start under
-- its name from another seat: that is a copy of its disk, with other files than the rows say.
CREATE TABLE instances (
  instance_id text COLLATE "C" PRIMARY KEY,
  incarnation bigint NOT NULL DEFAULT 1,
  host text NOT NULL DEFAULT '',
  version text NOT NULL DEFAULT '',
  seat text NOT NULL DEFAULT '',
  peer_address text NOT NULL DEFAULT '',   -- where other nodes may ask for what it has staged
  started_at timestamptz NOT NULL DEFAULT clock(),
  heartbeat_at timestamptz NOT NULL DEFAULT clock(),
  stopped_at timestamptz,                  -- it said that it stops
  fenced_at timestamptz,                   -- it was declared dead
  smarthost_down_at timestamptz,           -- since when it cannot reach the smarthost, and why
  smarthost_error text NOT NULL DEFAULT '',
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

-- NULL: a process at another seat lives under this name.
CREATE FUNCTION register_instance(p_instance_id text, p_host text DEFAULT '', p_version text DEFAULT '',
  p_seat text DEFAULT '', p_peer_address text DEFAULT '', p_dead_after interval DEFAULT '60 s')
RETURNS bigint LANGUAGE plpgsql SET search_path = sora, public SET plan_cache_mode = force_generic_plan AS $$
DECLARE v bigint;
BEGIN
  INSERT INTO instances AS i (instance_id, host, version, seat, peer_address)
  VALUES (p_instance_id, p_host, p_version, p_seat, p_peer_address)
  ON CONFLICT (instance_id) DO UPDATE SET incarnation = i.incarnation + 1, host = EXCLUDED.host,
    version = EXCLUDED.version, seat = EXCLUDED.seat, peer_address = EXCLUDED.peer_address, started_at = clock(),
    heartbeat_at = clock(), stopped_at = NULL, fenced_at = NULL, smarthost_down_at = NULL, smarthost_error = ''
  WHERE i.seat = EXCLUDED.seat OR i.heartbeat_at <= clock() - p_dead_after OR i.stopped_at IS NOT NULL
    OR i.fenced_at IS NOT NULL
  RETURNING incarnation INTO v;
  IF v IS NOT NULL THEN
    DELETE FROM connections WHERE instance_id = p_instance_id;
  END IF;
  RETURN v;
END $$;

-- False: another process has started under this name, or the node was declared dead.
-- p_version: NULL: an older release may run beside this one.
CREATE FUNCTION heartbeat(p_instance_id text, p_incarnation bigint, p_version text DEFAULT NULL) RETURNS boolean
LANGUAGE plpgsql
SET search_path = sora, public SET plan_cache_mode = force_generic_plan AS $$
BEGIN
  UPDATE instances SET heartbeat_at = clock(), stopped_at = NULL, version = coalesce(p_version, version)
  WHERE instance_id = p_instance_id AND incarnation = p_incarnation;
  RETURN FOUND;
END $$;

-- The node stops: another seat need not wait until it is sure of that.
CREATE FUNCTION leave_instance(p_instance_id text, p_incarnation bigint) RETURNS boolean LANGUAGE plpgsql
SET search_path = sora, public SET plan_cache_mode = force_generic_plan AS $$
BEGIN
  UPDATE instances SET stopped_at = clock() WHERE instance_id = p_instance_id AND incarnation = p_incarnation;
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
