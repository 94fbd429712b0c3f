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
