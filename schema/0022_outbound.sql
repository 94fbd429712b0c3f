-- Mail that leaves: what scripts send and what cannot be delivered, until the smarthost has taken it.

-- One row for each recipient. What is sent is `header`, then the octets of the content (without the Return-Path field on
-- top: that belongs to this delivery) or of the body, which is sealed as bodies are and opened by body_hash.
-- There is no state: a row is due at next_try, and whoever claims it moves that to the end of the claim.
CREATE TABLE outbound_queue (
  queue_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  account_id bigint NOT NULL,                    -- whose script, or whose mail could not be delivered
  kind text COLLATE "C" NOT NULL CHECK (kind IN ('redirect', 'vacation', 'notify', 'reject', 'dsn')),
  sender text COLLATE "C" NOT NULL,              -- reverse-path; empty: null
  recipient text COLLATE "C" NOT NULL CHECK (recipient <> ''),
  content_id bigint,
  body bytea,
  body_hash bytea,
  header bytea NOT NULL DEFAULT '',
  size bigint NOT NULL CHECK (size >= 0),        -- octets of content or body, before they were sealed
  smtputf8 boolean NOT NULL DEFAULT false,
  params jsonb NOT NULL DEFAULT '{}',            -- of RFC 3461 and RFC 2852, see sora/store/outbound.py
  created_at timestamptz NOT NULL DEFAULT clock(),
  counted boolean NOT NULL DEFAULT false,        -- in outbound_usage
  attempts int NOT NULL DEFAULT 0,               -- that failed
  next_try timestamptz NOT NULL DEFAULT clock(), -- also the end of the present claim
  claimed_by text COLLATE "C",
  last_error text NOT NULL DEFAULT '',
  CHECK ((content_id IS NULL) <> (body IS NULL) AND (body IS NULL) = (body_hash IS NULL))
) WITH (autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX outbound_queue_due ON outbound_queue (next_try);
-- who needs a body, and what goes with an account
CREATE INDEX outbound_queue_content ON outbound_queue (account_id, content_id);

-- What an account has sent in the hour that began at `hour`.
CREATE TABLE outbound_usage (
  account_id bigint PRIMARY KEY,
  hour timestamptz NOT NULL,
  sent int NOT NULL
) WITH (fillfactor = 50);

-- What was queued for an account that is shredded at this moment must not stay: see 0016_encryption.sql.
CREATE TRIGGER refuse_shredded AFTER INSERT ON outbound_queue REFERENCING NEW TABLE AS new_rows
  FOR EACH STATEMENT EXECUTE FUNCTION refuse_shredded();

-- A content may have been kept for this mail alone.
CREATE FUNCTION outbound_deleted() RETURNS trigger LANGUAGE plpgsql
SET search_path = sora, public SET plan_cache_mode = force_generic_plan AS $$
BEGIN
  INSERT INTO purge_candidates AS p (account_id, content_id)
  SELECT DISTINCT o.account_id, o.content_id FROM old_rows o WHERE o.content_id IS NOT NULL ORDER BY 1, 2
  -- not DO NOTHING: begin_purges() may be about to remove the row, having seen the mail that goes here
  ON CONFLICT (account_id, content_id) DO UPDATE SET noted_at = p.noted_at;
  RETURN NULL;
END $$;
CREATE TRIGGER outbound_deleted AFTER DELETE ON outbound_queue REFERENCING OLD TABLE AS old_rows
  FOR EACH STATEMENT EXECUTE FUNCTION outbound_deleted();

-- Claims mail that is due, until p_lease has passed. A claim is no attempt: only what failed counts as one. Nobody waits
-- for the disk: a claim that a power cut undoes is made again.
--
-- p_hourly: what an account may send in an hour by its scripts, 0: any number. Mail over that waits for the next hour;
-- mail counts once, however often it is tried.
--
-- p_before: instead, what was queued before then, due or not, to be given up. Only the first in the queue are looked at:
-- they are the oldest.
CREATE FUNCTION claim_outbound(p_claim text, p_limit int, p_lease interval, p_hourly int,
  p_before timestamptz DEFAULT NULL)
RETURNS TABLE (queue_id bigint, account_id bigint, kind text, sender text, recipient text, content_id bigint, body bytea,
  body_hash bytea, header bytea, size bigint, smtputf8 boolean, params jsonb, created_at timestamptz, attempts int,
  last_error text, content_hash bytea, now_at timestamptz)
LANGUAGE plpgsql SET search_path = sora, public SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
  v_due bigint[];
  v_over bigint[];
BEGIN
  PERFORM set_config('synchronous_commit', 'off', true);
  IF p_before IS NULL THEN
    v_due := ARRAY(
      SELECT q.queue_id FROM outbound_queue q WHERE q.next_try <= clock()
      ORDER BY q.next_try LIMIT p_limit FOR UPDATE SKIP LOCKED);
  ELSE
    v_due := ARRAY(
      SELECT q.queue_id FROM outbound_queue q
      WHERE q.queue_id = ANY (ARRAY(SELECT o.queue_id FROM outbound_queue o ORDER BY o.queue_id LIMIT p_limit))
        AND q.created_at < p_before AND (q.claimed_by IS NULL OR q.next_try <= clock())
      FOR UPDATE SKIP LOCKED);
  END IF;
  IF p_before IS NULL AND p_hourly > 0 AND v_due <> '{}' THEN
    v_over := outbound_over_limit(v_due, p_hourly);
    -- somewhere in the first minutes of the hour: not everybody's mail at once
    -- and with them what else is due of those accounts, so that the mail of others need not wait until all that was seen
    UPDATE outbound_queue q SET next_try = date_trunc('hour', clock()) + interval '1 hour' + random() * interval '5 min',
      claimed_by = NULL, last_error = 'the account has sent as much as it may in this hour'
    WHERE q.queue_id = ANY (v_over || ARRAY(
      SELECT w.queue_id FROM outbound_queue w
      WHERE v_over <> '{}' AND w.next_try <= clock() AND NOT w.counted AND w.kind <> 'dsn'
        AND w.queue_id <> ALL (v_due)
        AND w.account_id IN (SELECT o.account_id FROM outbound_queue o WHERE o.queue_id = ANY (v_over))
      LIMIT 10000 FOR UPDATE SKIP LOCKED));
  END IF;
  RETURN QUERY
  WITH claimed AS (
    UPDATE outbound_queue q SET next_try = clock() + p_lease, claimed_by = p_claim, counted = q.counted OR p_hourly > 0
    WHERE q.queue_id = ANY (v_due) AND q.queue_id <> ALL (coalesce(v_over, '{}'))
    RETURNING q.*
  )
  SELECT c.queue_id, c.account_id, c.kind, c.sender, c.recipient, c.content_id, c.body, c.body_hash, c.header, c.size,
    c.smtputf8, c.params, c.created_at, c.attempts, c.last_error, m.content_hash, clock()
  FROM claimed c LEFT JOIN message_contents m ON m.account_id = c.account_id AND m.content_id = c.content_id
  ORDER BY c.queue_id;
END $$;

-- Counts mail to be sent, and tells which of it is over what its account may send in this hour. Reports about mail that
-- could not be delivered are nobody's wish, and do not count.
CREATE FUNCTION outbound_over_limit(p_queue_id bigint[], p_hourly int) RETURNS bigint[] LANGUAGE plpgsql
SET search_path = sora, public SET plan_cache_mode = force_generic_plan AS $$
DECLARE
  v_hour timestamptz := date_trunc('hour', clock());
  v_over bigint[];
BEGIN
  -- the lock of the account's row, in the order of accounts
  INSERT INTO outbound_usage AS u (account_id, hour, sent)
  SELECT DISTINCT q.account_id, v_hour, 0 FROM outbound_queue q
  WHERE q.queue_id = ANY (p_queue_id) AND NOT q.counted AND q.kind <> 'dsn' ORDER BY 1
  ON CONFLICT (account_id) DO UPDATE
  SET sent = CASE WHEN u.hour = v_hour THEN u.sent ELSE 0 END, hour = v_hour;
  WITH ranked AS MATERIALIZED (
    SELECT q.queue_id, q.account_id, row_number() OVER (PARTITION BY q.account_id ORDER BY q.created_at, q.queue_id) AS n
    FROM outbound_queue q WHERE q.queue_id = ANY (p_queue_id) AND NOT q.counted AND q.kind <> 'dsn'
  ), counted AS (
    UPDATE outbound_usage u SET sent = least(u.sent + r.n, greatest(u.sent, p_hourly))::int
    FROM (SELECT account_id, count(*) AS n FROM ranked GROUP BY 1) r WHERE u.account_id = r.account_id
  )
  SELECT array_agg(r.queue_id) INTO v_over FROM ranked r JOIN outbound_usage u USING (account_id)
  WHERE u.sent + r.n > p_hourly;
  RETURN coalesce(v_over, '{}');
END $$;
