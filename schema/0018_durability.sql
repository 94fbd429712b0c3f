-- The second copy of a body (uploader.durability = "database"), uploads of a node that died, and how nodes find each other.

-- The stored octets of bodies that are not in the object store yet: written by the transaction that makes the message, gone
-- with the one that marks the upload. By content, not by node: whoever uploads the body, the copy has served.
--
-- part: what is small is one row; a large body comes in several, so that nobody holds all of it more often than once.
-- EXTERNAL: mail is sealed, or does not live long enough here to be worth compressing. A row lives for seconds, so what is
-- dead is many times what is live: vacuum by number, not by share, and without sparing the disk.
CREATE TABLE body_copies (
  account_id bigint NOT NULL,
  content_id bigint NOT NULL,
  part int NOT NULL,
  body bytea NOT NULL,
  PRIMARY KEY (account_id, content_id, part)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_cost_limit = 2000,
  autovacuum_analyze_scale_factor = 1, autovacuum_analyze_threshold = 10000,
  toast.autovacuum_vacuum_scale_factor = 0, toast.autovacuum_vacuum_threshold = 20000,
  toast.autovacuum_vacuum_cost_limit = 2000);
ALTER TABLE body_copies ALTER COLUMN body SET STORAGE EXTERNAL;

-- ── Nodes that are gone ─────────────────────────────────────────────────────────────────────────────────────────────
-- A node is dead when it was silent for long and its incarnation was raised by somebody else: if it is not dead after all,
-- its next heartbeat is refused, and it registers anew before it goes on. What it holds is void from here on (leases).

-- Declares a node dead. False: it has been heard of within p_silent, or nobody knows it.
CREATE FUNCTION fence_instance(p_instance_id text, p_silent interval) RETURNS boolean LANGUAGE plpgsql
SET search_path = sora, public SET lock_timeout = '10s' AS $$
BEGIN
  UPDATE instances SET incarnation = incarnation + 1, fenced_at = clock()
  WHERE instance_id = p_instance_id AND heartbeat_at < clock() - p_silent AND fenced_at IS NULL;
  RETURN EXISTS (SELECT 1 FROM instances WHERE instance_id = p_instance_id AND fenced_at IS NOT NULL);
END $$;

-- Nodes that have been silent for p_silent and have uploads to do which somebody else can do.
CREATE FUNCTION adoptable_instances(p_silent interval) RETURNS TABLE (instance_id text) LANGUAGE sql STABLE
SET search_path = sora, public AS $$
  SELECT i.instance_id FROM instances i
  WHERE i.heartbeat_at < clock() - p_silent AND EXISTS (
    SELECT 1 FROM pending_uploads u JOIN message_contents c USING (account_id, content_id)
    WHERE u.instance_id = i.instance_id AND c.purging_at IS NULL
      AND (c.uploaded_at IS NOT NULL
        OR EXISTS (SELECT 1 FROM body_copies b WHERE b.account_id = u.account_id AND b.content_id = u.content_id)))
$$;

-- Makes uploads of a fenced node the affair of another one: those that need not be sent any more, and those of which the
-- database has a copy. A row whose only copy is on the dead node's disk stays for it: nobody else could ever do it.
-- Returns how many; call it until that is 0.
CREATE FUNCTION adopt_uploads(p_from text, p_to text, p_limit int DEFAULT 1000) RETURNS bigint LANGUAGE plpgsql
SET search_path = sora, public SET lock_timeout = '10s' AS $$
DECLARE v bigint;
BEGIN
  -- the row of the node stays locked: it cannot come back in the middle
  PERFORM 1 FROM instances WHERE instance_id = p_from AND fenced_at IS NOT NULL FOR UPDATE;
  IF NOT FOUND OR p_from = p_to THEN
    PERFORM fail('SR002', 'The node is not dead', p_from);
  END IF;
  WITH picked AS MATERIALIZED (
    -- content rows first, in the order of deliver(): nobody makes a pending row of them meanwhile
    SELECT c.account_id, c.content_id, c.content_hash
    FROM pending_uploads u JOIN message_contents c USING (account_id, content_id)
    WHERE u.instance_id = p_from AND c.purging_at IS NULL
      AND (c.uploaded_at IS NOT NULL
        OR EXISTS (SELECT 1 FROM body_copies b WHERE b.account_id = u.account_id AND b.content_id = u.content_id))
    ORDER BY c.account_id, c.content_hash LIMIT p_limit FOR UPDATE OF c SKIP LOCKED
  ), gone AS (
    DELETE FROM pending_uploads u USING picked p
    WHERE u.account_id = p.account_id AND u.content_hash = p.content_hash AND u.instance_id = p_from
      AND u.content_id = p.content_id
    RETURNING u.*
  ), taken AS (
    INSERT INTO pending_uploads AS u (account_id, content_hash, instance_id, content_id, size, created_at)
    SELECT g.account_id, g.content_hash, p_to, g.content_id, g.size, g.created_at FROM gone g
    ON CONFLICT (account_id, content_hash, instance_id) DO UPDATE SET
      attempts = 0, next_try = clock(), created_at = least(u.created_at, EXCLUDED.created_at)
    RETURNING 1
  )
  SELECT count(*) INTO v FROM taken;
  RETURN v;
END $$;

-- One upload of a fenced node, whose body the caller has staged on p_to. False: it does not wait any more.
CREATE FUNCTION adopt_upload(p_account_id bigint, p_content_hash bytea, p_from text, p_to text) RETURNS boolean
LANGUAGE plpgsql SET search_path = sora, public SET lock_timeout = '10s' AS $$
DECLARE u pending_uploads;
BEGIN
  PERFORM 1 FROM instances WHERE instance_id = p_from AND fenced_at IS NULL;
  IF FOUND OR p_from = p_to THEN
    PERFORM fail('SR002', 'The node is not dead', p_from);
  END IF;
  PERFORM 1 FROM message_contents c
  WHERE c.account_id = p_account_id AND c.content_hash = p_content_hash AND c.purging_at IS NULL FOR UPDATE;
  DELETE FROM pending_uploads d
  WHERE d.account_id = p_account_id AND d.content_hash = p_content_hash AND d.instance_id = p_from RETURNING * INTO u;
  IF u.account_id IS NULL THEN
    RETURN false;
  END IF;
  INSERT INTO pending_uploads (account_id, content_hash, instance_id, content_id, size, created_at)
  VALUES (u.account_id, u.content_hash, p_to, u.content_id, u.size, u.created_at)
  ON CONFLICT (account_id, content_hash, instance_id) DO UPDATE SET attempts = 0, next_try = clock();
  RETURN true;
END $$;

-- Uploads that nobody can do: their node is silent (or was never registered), and neither the object store nor the database
-- nor a node that lives has the body. They wait for the node's disk, for ever.
CREATE FUNCTION stranded_uploads(p_silent interval DEFAULT '60 s')
RETURNS TABLE (instance_id text, host text, heartbeat_at timestamptz, uploads bigint, bytes bigint, oldest_at timestamptz)
LANGUAGE sql STABLE SET search_path = sora, public AS $$
  WITH RECURSIVE named AS (   -- the distinct names, by one look at the index for each
    (SELECT u.instance_id FROM pending_uploads u ORDER BY u.instance_id LIMIT 1)
    UNION ALL
    SELECT (SELECT u.instance_id FROM pending_uploads u WHERE u.instance_id > n.instance_id ORDER BY u.instance_id LIMIT 1)
    FROM named n WHERE n.instance_id IS NOT NULL
  ), silent AS (
    SELECT n.instance_id, coalesce(i.host, '') AS host, i.heartbeat_at
    FROM named n LEFT JOIN instances i USING (instance_id)
    WHERE n.instance_id IS NOT NULL AND (i.instance_id IS NULL OR i.heartbeat_at < clock() - p_silent)
  )
  SELECT s.instance_id, s.host, s.heartbeat_at, count(*), sum(u.size)::bigint, min(u.created_at)
  FROM silent s JOIN pending_uploads u USING (instance_id)
  JOIN message_contents c USING (account_id, content_id)
  WHERE c.uploaded_at IS NULL
    AND (s.heartbeat_at IS NOT NULL OR u.created_at < clock() - p_silent)   -- it may be about to register
    AND NOT EXISTS (SELECT 1 FROM body_copies b WHERE b.account_id = u.account_id AND b.content_id = u.content_id)
    AND NOT EXISTS (
      SELECT 1 FROM pending_uploads o JOIN instances i ON i.instance_id = o.instance_id
      WHERE o.account_id = u.account_id AND o.content_id = u.content_id AND i.heartbeat_at >= clock() - p_silent)
  GROUP BY 1, 2, 3 ORDER BY 1
$$;

-- ── Nodes that read each other's staging ────────────────────────────────────────────────────────────────────────────

-- What they prove to each other that they belong together with. One row, made by whoever asks first, by the server itself:
-- a parameter could stand in its log.
CREATE TABLE peer_secrets (
  only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one),
  secret bytea NOT NULL,
  created_at timestamptz NOT NULL DEFAULT clock()
);

CREATE FUNCTION peer_secret() RETURNS bytea LANGUAGE plpgsql SET search_path = sora, public AS $$
DECLARE v bytea;
BEGIN
  SELECT secret INTO v FROM peer_secrets;
  IF v IS NULL THEN
    -- 244 random bits from the generator of the server, which needs no extension
    INSERT INTO peer_secrets (secret) VALUES (sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())))
    ON CONFLICT DO NOTHING;
    SELECT secret INTO v FROM peer_secrets;
  END IF;
  RETURN v;
END $$;

-- Other nodes that have a body staged and can be asked for it, those heard of last first.
CREATE FUNCTION body_holders(p_account_id bigint, p_content_id bigint, p_instance_id text)
RETURNS TABLE (instance_id text, peer_address text) LANGUAGE sql STABLE SET search_path = sora, public AS $$
  SELECT i.instance_id, i.peer_address FROM pending_uploads u JOIN instances i USING (instance_id)
  WHERE u.account_id = p_account_id AND u.content_id = p_content_id AND u.instance_id <> p_instance_id
    AND i.peer_address <> '' ORDER BY i.heartbeat_at DESC
$$;
