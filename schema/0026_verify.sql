-- `sora-admin verify`: how far a look at everything has come, and what it found.

-- A run belongs to a node, because it looks at the node's own disks too. One that was cut short goes on at `phase` and
-- `place` (the phase knows what that means) when the same thing is asked for again.
CREATE TABLE verify_runs (
  run_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  instance_id text COLLATE "C" NOT NULL,
  account_id bigint,                         -- NULL: everything
  deep boolean NOT NULL,
  repair boolean NOT NULL,
  phase text NOT NULL DEFAULT '',
  place text NOT NULL DEFAULT '',
  counts jsonb NOT NULL DEFAULT '{}',        -- what was looked at
  started_at timestamptz NOT NULL DEFAULT clock(),
  moved_at timestamptz NOT NULL DEFAULT clock(),
  finished_at timestamptz
) WITH (fillfactor = 50);
CREATE INDEX verify_runs_node ON verify_runs (instance_id, run_id);

-- What is wrong. A finding is written down before it is mended ("mending"), and again afterwards: what a run that was
-- killed had mended already is found right by the next one, and then was mended.
CREATE TABLE verify_findings (
  run_id bigint NOT NULL REFERENCES verify_runs ON DELETE CASCADE,
  kind text NOT NULL,
  subject text COLLATE "C" NOT NULL,         -- the object, file, mailbox or account
  account_id bigint,
  detail text NOT NULL,
  state text NOT NULL CHECK (state IN ('found', 'mending', 'mended', 'waits', 'lost')),
  found_at timestamptz NOT NULL DEFAULT clock(),
  PRIMARY KEY (run_id, kind, subject)
) WITH (fillfactor = 70);
CREATE INDEX verify_findings_state ON verify_findings (run_id, state);

-- ── What there is ───────────────────────────────────────────────────────────────────────────────────────────────────

-- What the database says of bodies, in the order of their names, NULLs where it knows none. For a node: pending says that
-- a body waits for its upload there, elsewhere that it does on another one that lives, stranded on silent ones alone. forgotten: nobody
-- uses it, and the cleaner has not been told. keyed: there is a key of its account.
CREATE FUNCTION body_facts(p_instance_id text, p_silent interval, p_account_id bigint[], p_content_hash bytea[])
RETURNS TABLE (account_id bigint, content_id bigint, content_hash bytea, size bigint, uploaded boolean, pending boolean,
               elsewhere boolean, stranded boolean, copied boolean, forgotten boolean, keyed boolean)
LANGUAGE plpgsql STABLE SET search_path = sora, public SET plan_cache_mode = force_generic_plan
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY
  SELECT c.account_id, c.content_id, c.content_hash, c.size, c.uploaded_at IS NOT NULL, coalesce(w.here, false),
    coalesce(w.alive, false), w.here IS NOT NULL AND NOT w.here AND NOT w.alive,
    EXISTS (SELECT 1 FROM body_copies b WHERE b.account_id = c.account_id AND b.content_id = c.content_id),
    content_user(c.account_id, c.content_id) IS NULL AND NOT EXISTS (
      SELECT 1 FROM purge_candidates p WHERE p.account_id = c.account_id AND p.content_id = c.content_id),
    EXISTS (SELECT 1 FROM account_keys k WHERE k.account_id = c.account_id)
  FROM unnest(p_account_id, p_content_hash) WITH ORDINALITY f (a, h, ord)
  LEFT JOIN message_contents c ON c.account_id = f.a AND c.content_hash = f.h AND c.purging_at IS NULL
  LEFT JOIN LATERAL (
    SELECT bool_or(u.instance_id = p_instance_id) AS here,
      bool_or(u.instance_id <> p_instance_id AND coalesce(i.heartbeat_at > clock() - p_silent, false)) AS alive
    FROM pending_uploads u LEFT JOIN instances i USING (instance_id)
    WHERE u.account_id = c.account_id AND u.content_hash = c.content_hash) w ON true
  ORDER BY f.ord;
END $$;

-- Mailboxes that messages name, behind a place and within a range of accounts; whether their accounts and they have rows.
-- One look at the index for each mailbox, never at each message.
CREATE FUNCTION named_mailboxes(p_account_id bigint, p_mailbox_id bigint, p_first bigint, p_last bigint, p_limit int)
RETURNS TABLE (account_id bigint, mailbox_id bigint, owned boolean, housed boolean) LANGUAGE plpgsql STABLE
SET search_path = sora, public SET plan_cache_mode = force_generic_plan
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY
  WITH RECURSIVE named AS (
    (SELECT m.account_id, m.mailbox_id, 1 AS n FROM messages m
     WHERE (m.account_id, m.mailbox_id) > (p_account_id, p_mailbox_id) AND m.account_id BETWEEN p_first AND p_last
     ORDER BY m.account_id, m.mailbox_id LIMIT 1)
    UNION ALL
    SELECT i.account_id, i.mailbox_id, k.n + 1 FROM named k CROSS JOIN LATERAL (
      SELECT m.account_id, m.mailbox_id FROM messages m
      WHERE (m.account_id, m.mailbox_id) > (k.account_id, k.mailbox_id) AND m.account_id BETWEEN p_first AND p_last
      ORDER BY m.account_id, m.mailbox_id LIMIT 1) i
    WHERE k.n < p_limit
  )
  SELECT k.account_id, k.mailbox_id, EXISTS (SELECT 1 FROM accounts a WHERE a.account_id = k.account_id),
    EXISTS (SELECT 1 FROM mailboxes b WHERE b.account_id = k.account_id AND b.mailbox_id = k.mailbox_id)
  FROM named k ORDER BY 1, 2;
END $$;
