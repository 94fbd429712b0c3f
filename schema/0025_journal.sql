-- What the journal in the object store (sora/store/journal.py) has of this database, and what it has promised for it.
--
-- Messages and flags are found by modseq: journal_marks says up to which one each mailbox was written, and whoever changes
-- a mailbox raises highest_modseq anyway, so a delivery writes nothing for the journal. The few small tables beside have
-- triggers that note the account, in rows of their own: nobody waits for anybody, and the order of locks stays as it was.

-- ── Reservations ────────────────────────────────────────────────────────────────────────────────────────────────────
-- UIDs below uid_reserved and modseqs below modseq_reserved are promised by the journal not to be given out by a database
-- that is built anew from it. To pass them before the journal has promised more is refused, which is temporary
-- (sora/store/db.py). NULL: the journal knows nothing of the mailbox, which would get a new UIDVALIDITY.
ALTER TABLE mailbox_stats ADD COLUMN uid_reserved bigint, ADD COLUMN modseq_reserved bigint,
  ADD CONSTRAINT journal_reservation CHECK (uid_next <= uid_reserved AND highest_modseq < modseq_reserved);

-- ── What was written ────────────────────────────────────────────────────────────────────────────────────────────────

-- seq: the last number that was taken for an object; closed_seq: of the last one that is in the store for certain. recovery_point: all
-- that was committed before it is in the bucket. skipped: accounts that could not be written, for want of their key.
-- compact_upto: the compaction under way makes segments up to this one needless; 0: none is. compacted_*: what the last one left.
CREATE TABLE journal_state (
  one boolean PRIMARY KEY DEFAULT true CHECK (one),
  seq bigint NOT NULL DEFAULT 0,
  closed_seq bigint NOT NULL DEFAULT 0,
  recovery_point timestamptz,
  skipped int NOT NULL DEFAULT 0,
  stopped_at timestamptz,
  compact_upto bigint NOT NULL DEFAULT 0,
  compacted_segments bigint NOT NULL DEFAULT 0,
  compacted_bytes bigint NOT NULL DEFAULT 0
);
INSERT INTO journal_state DEFAULT VALUES;

CREATE TABLE journal_segments (
  seq bigint PRIMARY KEY,
  bytes bigint NOT NULL,
  closed_at timestamptz NOT NULL DEFAULT clock()
);

-- first_seq: the oldest segment that is needed for the account, if since_bytes is not 0. since_bytes: what it takes of segments since its snapshot.
CREATE TABLE journal_accounts (
  account_id bigint PRIMARY KEY,
  first_seq bigint NOT NULL,
  since_bytes bigint NOT NULL DEFAULT 0,
  snapshot_seq bigint NOT NULL DEFAULT 0,
  snapshot_parts int NOT NULL DEFAULT 0,
  snapshot_bytes bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 70);
CREATE INDEX journal_accounts_first ON journal_accounts (first_seq);

-- modseq: up to which the journal has it. uid_wanted: what an import is going to need. The reservations are those that stand
-- in the bucket; mailbox_stats gets them afterwards.
CREATE TABLE journal_marks (
  account_id bigint NOT NULL,
  mailbox_id bigint NOT NULL,
  modseq bigint NOT NULL DEFAULT 0,
  snapshot_modseq bigint NOT NULL DEFAULT 0,
  uid_reserved bigint,
  modseq_reserved bigint,
  uid_wanted bigint NOT NULL DEFAULT 0,
  PRIMARY KEY (account_id, mailbox_id),
  FOREIGN KEY (account_id, mailbox_id) REFERENCES mailboxes ON DELETE CASCADE
) WITH (fillfactor = 70);

-- ── What has changed beside messages ────────────────────────────────────────────────────────────────────────────────
-- Account 0: what belongs to none. The writer removes the rows that it saw.
CREATE TABLE journal_dirty (
  note_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  account_id bigint NOT NULL,
  kind text COLLATE "C" NOT NULL CHECK (kind IN ('account', 'scripts', 'outbound'))
);
CREATE INDEX journal_dirty_account ON journal_dirty (account_id);

-- Mailboxes that show expunged mail are made anew when somebody looks, and are no part of the journal.
CREATE INDEX mailboxes_shadow ON mailboxes (account_id, mailbox_id) WHERE shadow;

CREATE FUNCTION note_dirty() RETURNS trigger LANGUAGE plpgsql
SET search_path = sora, public SET plan_cache_mode = force_generic_plan AS $$
BEGIN
  IF TG_TABLE_NAME = 'domains' THEN
    INSERT INTO journal_dirty (account_id, kind) VALUES (0, 'account');
    RETURN NULL;
  ELSIF TG_TABLE_NAME = 'mailboxes' THEN
    IF coalesce(NEW.shadow, OLD.shadow) THEN
      RETURN NULL;
    END IF;
  END IF;
  INSERT INTO journal_dirty (account_id, kind) VALUES (coalesce(NEW.account_id, OLD.account_id), TG_ARGV[0]);
  RETURN NULL;
END $$;
CREATE TRIGGER journal AFTER INSERT OR UPDATE OR DELETE ON domains FOR EACH ROW EXECUTE FUNCTION note_dirty();
CREATE TRIGGER journal AFTER INSERT OR DELETE OR UPDATE OF address, domain_id, disabled, legal_hold, hold_reason, held_at,
  deleted_at, quota_bytes, quota_messages, quota_mailboxes ON accounts FOR EACH ROW EXECUTE FUNCTION note_dirty('account');
CREATE TRIGGER journal AFTER INSERT OR UPDATE OR DELETE ON credentials FOR EACH ROW EXECUTE FUNCTION note_dirty('account');
CREATE TRIGGER journal AFTER INSERT OR UPDATE OR DELETE ON aliases FOR EACH ROW EXECUTE FUNCTION note_dirty('account');
CREATE TRIGGER journal AFTER INSERT OR UPDATE OR DELETE ON account_keywords
  FOR EACH ROW EXECUTE FUNCTION note_dirty('account');
CREATE TRIGGER journal AFTER INSERT OR UPDATE OR DELETE ON mailboxes FOR EACH ROW EXECUTE FUNCTION note_dirty('account');
CREATE TRIGGER journal AFTER INSERT OR UPDATE OR DELETE ON subscriptions
  FOR EACH ROW EXECUTE FUNCTION note_dirty('account');
CREATE TRIGGER journal AFTER INSERT OR UPDATE OR DELETE ON mailbox_acl FOR EACH ROW EXECUTE FUNCTION note_dirty('account');
CREATE TRIGGER journal AFTER INSERT OR UPDATE OR DELETE ON metadata FOR EACH ROW EXECUTE FUNCTION note_dirty('account');
CREATE TRIGGER journal AFTER INSERT OR UPDATE OR DELETE ON legal_hold_log
  FOR EACH ROW EXECUTE FUNCTION note_dirty('account');
CREATE TRIGGER journal AFTER INSERT OR UPDATE OR DELETE ON sieve_scripts FOR EACH ROW EXECUTE FUNCTION note_dirty('scripts');
CREATE TRIGGER journal AFTER INSERT ON shreddings FOR EACH ROW EXECUTE FUNCTION note_dirty('account');

-- Filters queue many mails at a time; tries are not written down.
CREATE FUNCTION note_outbound() RETURNS trigger LANGUAGE plpgsql
SET search_path = sora, public SET plan_cache_mode = force_generic_plan AS $$
BEGIN
  INSERT INTO journal_dirty (account_id, kind) SELECT DISTINCT r.account_id, 'outbound' FROM rows r;
  RETURN NULL;
END $$;
CREATE TRIGGER journal_in AFTER INSERT ON outbound_queue REFERENCING NEW TABLE AS rows
  FOR EACH STATEMENT EXECUTE FUNCTION note_outbound();
CREATE TRIGGER journal_out AFTER DELETE ON outbound_queue REFERENCING OLD TABLE AS rows
  FOR EACH STATEMENT EXECUTE FUNCTION note_outbound();

-- Accounts of which something is not in the journal, ascending, behind p_after: one pass over the counters and the marks.
CREATE FUNCTION journal_due(p_after bigint, p_limit int) RETURNS SETOF bigint LANGUAGE sql STABLE
SET search_path = sora, public AS $$
  SELECT q.account_id FROM (
    SELECT d.account_id FROM journal_dirty d WHERE d.account_id > p_after
    UNION
    SELECT a.account_id FROM accounts a
    WHERE a.account_id > p_after AND NOT EXISTS (SELECT 1 FROM journal_accounts j WHERE j.account_id = a.account_id)
    UNION
    SELECT s.account_id FROM mailbox_stats s LEFT JOIN journal_marks m USING (account_id, mailbox_id)
    WHERE s.account_id > p_after AND (m.modseq IS DISTINCT FROM s.highest_modseq
      OR m.uid_reserved IS DISTINCT FROM s.uid_reserved OR m.modseq_reserved IS DISTINCT FROM s.modseq_reserved
      OR m.uid_wanted > m.uid_reserved)
      AND NOT EXISTS (
        SELECT 1 FROM mailboxes b WHERE b.account_id = s.account_id AND b.mailbox_id = s.mailbox_id AND b.shadow)
    UNION
    SELECT 0 WHERE p_after < 0 AND NOT EXISTS (SELECT 1 FROM journal_accounts j WHERE j.account_id = 0)
  ) q ORDER BY 1 LIMIT p_limit
$$;

-- What has changed in a mailbox after p_since (0: all there is), in up to p_blocks blocks behind p_after. One row always, by
-- column: see `Page` and `Messages` in sora/store/journal.py for the octets. planes: block, flag, viewer, 128 octets of bits
-- each. more: there are blocks behind last_block.
CREATE FUNCTION journal_page(p_account_id bigint, p_mailbox_id bigint, p_since bigint, p_after int, p_blocks int)
RETURNS TABLE (blocks int[], more boolean, planes bytea, uids bytea, content_ids bytea, hashes bytea, sizes bytea, modseqs bytea,
               internal_dates bytea, saved_ats bytea, expunged_ats bytea)
LANGUAGE plpgsql STABLE SET search_path = sora, public SET plan_cache_mode = force_generic_plan
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
  v_blocks int[] := ARRAY(
    SELECT s.block_no FROM message_sequences s
    WHERE s.account_id = p_account_id AND s.mailbox_id = p_mailbox_id AND s.block_no > p_after AND s.max_modseq > p_since
    UNION
    SELECT j.block_no FROM message_flag_changes j
    WHERE j.account_id = p_account_id AND j.mailbox_id = p_mailbox_id AND j.block_no > p_after AND j.modseq > p_since
    ORDER BY 1 LIMIT p_blocks + 1);
  v_more boolean := cardinality(v_blocks) > p_blocks;
BEGIN
  v_blocks := v_blocks[: p_blocks];
  RETURN QUERY
  SELECT v_blocks, v_more, (
    SELECT string_agg(int4send(q.b) || int2send(q.f) || int8send(q.v) || substr(bit_send(q.bits), 5), ''::bytea ORDER BY b, f, v)
    FROM (
      SELECT k.b, (-1)::int2 AS f, 0::bigint AS v, i.live AS bits FROM unnest(v_blocks) k (b) CROSS JOIN LATERAL (
        SELECT x.live FROM message_sequences x
        WHERE x.account_id = p_account_id AND x.mailbox_id = p_mailbox_id AND x.block_no = k.b OFFSET 0) i
      UNION ALL
      SELECT k.b, i.flag_no, 0, i.bits FROM unnest(v_blocks) k (b) CROSS JOIN LATERAL (
        SELECT x.flag_no, x.bits FROM message_flags x
        WHERE x.account_id = p_account_id AND x.mailbox_id = p_mailbox_id AND x.block_no = k.b OFFSET 0) i
      UNION ALL
      SELECT i.block_no, 0::int2, i.viewer_id, i.bits FROM message_viewer_seen i
      WHERE i.account_id = p_account_id AND i.mailbox_id = p_mailbox_id AND i.block_no = ANY (v_blocks)
    ) q WHERE q.bits <> 0::bit(1024)),
    m.uids, m.content_ids, m.hashes, m.sizes, m.modseqs, m.internal_dates, m.saved_ats, m.expunged_ats
  FROM (
    SELECT string_agg(int8send(r.uid), ''::bytea) AS uids, string_agg(int8send(r.content_id), ''::bytea) AS content_ids,
      string_agg(r.content_hash, ''::bytea) AS hashes, string_agg(int8send(r.size), ''::bytea) AS sizes,
      string_agg(int8send(r.created_modseq), ''::bytea) AS modseqs,
      string_agg(int8send((extract(epoch FROM r.internal_date) * 1000000)::bigint), ''::bytea) AS internal_dates,
      string_agg(int8send((extract(epoch FROM r.saved_at) * 1000000)::bigint), ''::bytea) AS saved_ats,
      string_agg(int8send(coalesce((extract(epoch FROM r.expunged_at) * 1000000)::bigint, 0)), ''::bytea) AS expunged_ats
    FROM (
      SELECT i.*, c.content_hash FROM unnest(v_blocks) WITH ORDINALITY k (b, n) CROSS JOIN LATERAL (
        SELECT x.uid, x.content_id, x.size, x.created_modseq, x.internal_date, x.saved_at, x.expunged_at FROM messages x
        WHERE x.account_id = p_account_id AND x.mailbox_id = p_mailbox_id
          AND x.uid BETWEEN k.b::bigint << 10 AND (k.b::bigint << 10) + 1023
          AND (x.created_modseq > p_since OR x.expunged_modseq > p_since)
        ORDER BY x.uid OFFSET 0) i
      CROSS JOIN LATERAL (
        SELECT x.content_hash FROM message_contents x
        WHERE x.account_id = p_account_id AND x.content_id = i.content_id OFFSET 0) c
      ORDER BY i.uid
    ) r
  ) m;
END $$;

-- ── The writer's steps; each under its lease ────────────────────────────────────────────────────────────────────────

-- A number that no object has, and greater than all of them: also after the database was put back in time.
CREATE FUNCTION take_journal_seq(p_lease_name text, p_lease_token bigint) RETURNS bigint LANGUAGE plpgsql
SET search_path = sora, public AS $$
DECLARE v bigint;
BEGIN
  PERFORM require_lease(p_lease_name, p_lease_token);
  UPDATE journal_state SET seq = greatest(seq + 1, (extract(epoch FROM clock_timestamp()) * 1000)::bigint)
  RETURNING seq INTO v;
  RETURN v;
END $$;

-- A segment is in the store (p_snapshot_parts 0), or a snapshot of one account in so many objects. Parallel arrays of accounts
-- that are complete with it: the number of the group, its octets, and whether it makes all segments before it needless; of the
-- notes that are answered; and of mailboxes, with what was written of them.
--
-- A mailbox whose counters are locked at this moment waits for the next pass: this waits for nobody but the lease.
CREATE FUNCTION journal_written(p_lease_name text, p_lease_token bigint, p_seq bigint, p_bytes bigint,
  p_account_id bigint[], p_group bigint[], p_account_bytes bigint[], p_whole boolean[], p_note_id bigint[],
  p_of bigint[], p_mailbox_id bigint[], p_modseq bigint[], p_uid_reserved bigint[], p_modseq_reserved bigint[],
  p_snapshot_parts int DEFAULT 0)
RETURNS void LANGUAGE plpgsql SET search_path = sora, public SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off AS $$
DECLARE
  v_snapshot CONSTANT boolean := p_snapshot_parts > 0;
BEGIN
  PERFORM require_lease(p_lease_name, p_lease_token);
  IF NOT v_snapshot THEN
    INSERT INTO journal_segments (seq, bytes) VALUES (p_seq, p_bytes);
  END IF;
  UPDATE journal_state SET closed_seq = greatest(closed_seq, p_seq);
  INSERT INTO journal_accounts AS j (account_id, first_seq, since_bytes, snapshot_seq, snapshot_parts, snapshot_bytes)
  SELECT g.account, CASE WHEN g.whole OR v_snapshot OR coalesce(o.since_bytes, 0) = 0 THEN g.n ELSE o.first_seq END,
    CASE WHEN v_snapshot THEN 0 WHEN g.whole THEN g.bytes ELSE coalesce(o.since_bytes, 0) + g.bytes END,
    CASE WHEN v_snapshot THEN p_seq ELSE coalesce(o.snapshot_seq, 0) END,
    CASE WHEN v_snapshot THEN p_snapshot_parts ELSE coalesce(o.snapshot_parts, 0) END,
    CASE WHEN v_snapshot THEN g.bytes ELSE coalesce(o.snapshot_bytes, 0) END
  FROM unnest(p_account_id, p_group, p_account_bytes, p_whole) g (account, n, bytes, whole)
  LEFT JOIN journal_accounts o ON o.account_id = g.account
  ON CONFLICT (account_id) DO UPDATE SET first_seq = EXCLUDED.first_seq, since_bytes = EXCLUDED.since_bytes,
    snapshot_seq = EXCLUDED.snapshot_seq, snapshot_parts = EXCLUDED.snapshot_parts, snapshot_bytes = EXCLUDED.snapshot_bytes;
  DELETE FROM journal_dirty d USING unnest(p_note_id) n (id) WHERE d.note_id = n.id;
  INSERT INTO journal_marks AS k (account_id, mailbox_id, modseq, snapshot_modseq, uid_reserved, modseq_reserved)
  SELECT g.account, g.mailbox, g.modseq, CASE WHEN v_snapshot THEN g.modseq ELSE 0 END, g.uids, g.modseqs
  FROM unnest(p_of, p_mailbox_id, p_modseq, p_uid_reserved, p_modseq_reserved) g (account, mailbox, modseq, uids, modseqs)
  -- a mailbox that was removed meanwhile needs no mark
  WHERE EXISTS (SELECT 1 FROM mailboxes b WHERE b.account_id = g.account AND b.mailbox_id = g.mailbox FOR KEY SHARE SKIP LOCKED)
  ON CONFLICT (account_id, mailbox_id) DO UPDATE SET modseq = EXCLUDED.modseq, uid_reserved = EXCLUDED.uid_reserved,
    modseq_reserved = EXCLUDED.modseq_reserved,
    snapshot_modseq = CASE WHEN v_snapshot THEN EXCLUDED.snapshot_modseq ELSE k.snapshot_modseq END;
  UPDATE mailbox_stats t SET uid_reserved = x.uids, modseq_reserved = x.modseqs FROM (
    SELECT s.account_id, s.mailbox_id, g.uids, g.modseqs
    FROM unnest(p_of, p_mailbox_id, p_uid_reserved, p_modseq_reserved) g (account, mailbox, uids, modseqs)
    JOIN mailbox_stats s ON s.account_id = g.account AND s.mailbox_id = g.mailbox
    WHERE (s.uid_reserved, s.modseq_reserved) IS DISTINCT FROM (g.uids, g.modseqs)
      AND s.uid_next <= g.uids AND s.highest_modseq < g.modseqs
    FOR UPDATE OF s SKIP LOCKED) x
  WHERE t.account_id = x.account_id AND t.mailbox_id = x.mailbox_id;
END $$;

-- UIDs up to p_uid_next are going to be given out at once, by an import that keeps those of another server: the next segment
-- reserves them. True: they are reserved already, or nothing needs to be.
CREATE FUNCTION reserve_uids(p_account_id bigint, p_mailbox_id bigint, p_uid_next bigint) RETURNS boolean LANGUAGE plpgsql
SET search_path = sora, public SET plan_cache_mode = force_generic_plan AS $$
BEGIN
  IF EXISTS (
    SELECT 1 FROM mailbox_stats s WHERE s.account_id = p_account_id AND s.mailbox_id = p_mailbox_id
      AND coalesce(s.uid_reserved, 4294967296) >= p_uid_next) THEN
    RETURN true;
  END IF;
  UPDATE journal_marks SET uid_wanted = greatest(uid_wanted, p_uid_next)
  WHERE account_id = p_account_id AND mailbox_id = p_mailbox_id;
  RETURN false;
END $$;

-- The journal ends, or begins anew: nothing is known to be written, and nothing is reserved. Some mailboxes at a time; false
-- when there is nothing left to do.
CREATE FUNCTION forget_journal(p_lease_name text, p_lease_token bigint, p_limit int DEFAULT 1000) RETURNS boolean
LANGUAGE plpgsql SET search_path = sora, public AS $$
DECLARE
  v_rows bigint;
  v_total bigint;
BEGIN
  PERFORM require_lease(p_lease_name, p_lease_token);
  UPDATE mailbox_stats t SET uid_reserved = NULL, modseq_reserved = NULL FROM (
    SELECT s.account_id, s.mailbox_id FROM mailbox_stats s WHERE s.uid_reserved IS NOT NULL LIMIT p_limit FOR UPDATE SKIP LOCKED) x
  WHERE t.account_id = x.account_id AND t.mailbox_id = x.mailbox_id;
  GET DIAGNOSTICS v_total = ROW_COUNT;
  DELETE FROM journal_marks k WHERE k.ctid = ANY (ARRAY(SELECT i.ctid FROM journal_marks i LIMIT p_limit));
  GET DIAGNOSTICS v_rows = ROW_COUNT;
  v_total := v_total + v_rows;
  DELETE FROM journal_accounts k WHERE k.ctid = ANY (ARRAY(SELECT i.ctid FROM journal_accounts i LIMIT p_limit));
  GET DIAGNOSTICS v_rows = ROW_COUNT;
  v_total := v_total + v_rows;
  DELETE FROM journal_dirty k WHERE k.ctid = ANY (ARRAY(SELECT i.ctid FROM journal_dirty i LIMIT p_limit));
  GET DIAGNOSTICS v_rows = ROW_COUNT;
  RETURN v_total + v_rows > 0;
END $$;
