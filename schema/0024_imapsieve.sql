-- Scripts that run when a mailbox changes (RFC 6785): which ones, and for what they still have to run.

-- Whoever remembers the names that `/shared/imapsieve/script` gives to mailboxes is told when one changes.
CREATE FUNCTION script_names_changed() RETURNS trigger LANGUAGE plpgsql SET search_path = sora, public AS $$
BEGIN
  PERFORM pg_notify('sora_script_names', to_hex(CASE TG_OP WHEN 'DELETE' THEN OLD.account_id ELSE NEW.account_id END));
  RETURN NULL;
END $$;
CREATE TRIGGER script_names_changed AFTER INSERT OR UPDATE ON metadata FOR EACH ROW
  WHEN (NEW.entry = '/shared/imapsieve/script') EXECUTE FUNCTION script_names_changed();
CREATE TRIGGER script_names_removed AFTER DELETE ON metadata FOR EACH ROW
  WHEN (OLD.entry = '/shared/imapsieve/script') EXECUTE FUNCTION script_names_changed();
CREATE INDEX metadata_script_names ON metadata (account_id, mailbox_id) WHERE entry = '/shared/imapsieve/script';

-- A command that is about to be answered with OK, and whose script has not run for all its messages. The worker that took
-- the command runs it; if it dies, its claim ends, and whoever claims next goes on behind the last message.
CREATE TABLE imap_events (
  event_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  account_id bigint NOT NULL REFERENCES accounts ON DELETE CASCADE,   -- of the mailbox
  mailbox_id bigint NOT NULL,
  script text COLLATE "C" NOT NULL,
  everywhere boolean NOT NULL,                   -- the server's entry named it, not the mailbox's
  cause text COLLATE "C" NOT NULL CHECK (cause IN ('APPEND', 'COPY', 'FLAG')),
  lows bigint[] NOT NULL,                        -- UIDs, as bounds of ranges, ascending
  highs bigint[] NOT NULL,
  done_to bigint NOT NULL DEFAULT 0,             -- the script has run for messages up to this UID
  changed_flags text NOT NULL DEFAULT '',
  actor_id bigint NOT NULL,                      -- who gave the command
  login text NOT NULL,
  attempts int NOT NULL DEFAULT 0,               -- claims after the first one; -1: nobody has claimed it
  claimed_until timestamptz NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX imap_events_due ON imap_events (claimed_until);
CREATE INDEX imap_events_account ON imap_events (account_id);
