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
