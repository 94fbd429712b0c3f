-- The uploader's side of pending_uploads. The rows and the staged files are the truth; the doorbell is only a hint.
--
-- Nobody waits for the disk here (synchronous_commit): a claim or a mark that a power cut undoes is made again, and the
-- commit of a delivery that saw it takes it along.

-- Claims the oldest uploads of a node that are due, until p_lease has passed. A claim is no attempt: only what failed counts
-- as one. uploaded: the object is there already, only the staged file has to go.
CREATE FUNCTION claim_uploads(p_instance_id text, p_limit int DEFAULT 64, p_lease interval DEFAULT '5 min')
RETURNS TABLE (account_id bigint, content_id bigint, content_hash bytea, size bigint, attempts int, created_at timestamptz,
               uploaded boolean)
LANGUAGE plpgsql SET search_path = sora, public SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
BEGIN
  PERFORM set_config('synchronous_commit', 'off', true);
  RETURN QUERY
  WITH due AS MATERIALIZED (
    SELECT u.account_id, u.content_hash FROM pending_uploads u
    WHERE u.instance_id = p_instance_id AND u.next_try <= clock()
    ORDER BY u.next_try LIMIT p_limit FOR UPDATE SKIP LOCKED
  ), claimed AS (
    UPDATE pending_uploads u SET next_try = clock() + p_lease FROM due d
    WHERE u.account_id = d.account_id AND u.content_hash = d.content_hash AND u.instance_id = p_instance_id
    RETURNING u.*
  )
  SELECT c.account_id, c.content_id, c.content_hash, c.size, c.attempts, c.created_at, m.uploaded_at IS NOT NULL
  FROM claimed c LEFT JOIN message_contents m ON m.account_id = c.account_id AND m.content_id = c.content_id
  ORDER BY c.created_at;
END $$;

-- The object is in the store under the key of p_content_id. True: no copy of it is waited for any more on this node, the
-- staged file may go. False: a delivery meanwhile made a new content row of the same bytes, which has a key of its own.
-- Or the content row is gone: who comes so late has left an object without a row, and no row without an object.
CREATE FUNCTION upload_done(p_account_id bigint, p_content_id bigint, p_content_hash bytea, p_instance_id text)
RETURNS boolean
LANGUAGE plpgsql SET search_path = sora, public SET plan_cache_mode = force_generic_plan SET lock_timeout = '10s' AS $$
DECLARE
  v_there boolean;
BEGIN
  PERFORM set_config('synchronous_commit', 'off', true);
  -- the content row first: the lock order of deliver() and begin_purge()
  UPDATE message_contents SET uploaded_at = coalesce(uploaded_at, clock())
  WHERE account_id = p_account_id AND content_id = p_content_id AND purging_at IS NULL;
  -- Without that lock nobody knows whom a staged file belongs to: the same bytes may be about to come as another content.
  v_there := FOUND;
  DELETE FROM body_copies WHERE account_id = p_account_id AND content_id = p_content_id;
  DELETE FROM pending_uploads
  WHERE account_id = p_account_id AND content_hash = p_content_hash AND instance_id = p_instance_id
    AND content_id = p_content_id;
  RETURN v_there AND NOT EXISTS (
    SELECT 1 FROM pending_uploads
    WHERE account_id = p_account_id AND content_hash = p_content_hash AND instance_id = p_instance_id);
END $$;

-- Counts the failure. Back-off: p_base doubled with each, at most p_max, for ever.
CREATE FUNCTION upload_failed(p_account_id bigint, p_content_hash bytea, p_instance_id text, p_error text,
  p_base interval DEFAULT '2 s', p_max interval DEFAULT '10 min') RETURNS timestamptz
LANGUAGE plpgsql SET search_path = sora, public SET plan_cache_mode = force_generic_plan SET lock_timeout = '10s' AS $$
DECLARE v timestamptz;
BEGIN
  UPDATE pending_uploads SET attempts = attempts + 1, last_error = left(p_error, 500),
    next_try = clock() + least(p_base * (2 ^ least(attempts, 30)), p_max)
  WHERE account_id = p_account_id AND content_hash = p_content_hash AND instance_id = p_instance_id
  RETURNING next_try INTO v;
  RETURN v;
END $$;

CREATE FUNCTION upload_status()
RETURNS TABLE (instance_id text, pending bigint, failing bigint, bytes bigint, oldest_at timestamptz)
LANGUAGE sql STABLE SET search_path = sora, public AS $$
  SELECT u.instance_id, count(*), count(*) FILTER (WHERE u.attempts > 0), sum(u.size)::bigint, min(u.created_at)
  FROM pending_uploads u GROUP BY 1 ORDER BY 1
$$;
