-- The database built anew from the bucket (services/recovery/rebuild.py): what the journal says is gathered here, and put in place
-- mailbox by mailbox once the bodies are known. And: UIDs and modseqs that are passed over, after the database was put back.
--
-- The tables rebuild_* are empty but while a rebuild is under way, which may be killed and begun again at any step.

-- phase: what is done next, from `place` on. finished_at NULL: no server may start.
CREATE TABLE rebuild_state (
  one boolean PRIMARY KEY DEFAULT true CHECK (one),
  phase text COLLATE "C" NOT NULL,
  place text COLLATE "C" NOT NULL DEFAULT '',
  stopped boolean NOT NULL DEFAULT false,    -- the journal was off: no UID that it names can be trusted
  top_seq bigint NOT NULL DEFAULT 0,         -- the greatest number of an object of the journal
  started_at timestamptz NOT NULL DEFAULT clock(),
  finished_at timestamptz
);

CREATE TABLE rebuild_keys (
  account_id bigint NOT NULL,
  key_id text COLLATE "C" NOT NULL,
  wrapped bytea NOT NULL,
  fingerprint bytea NOT NULL,
  PRIMARY KEY (account_id, key_id)
);

-- The journal as it is in the bucket, sealed where it is sealed there.
CREATE TABLE rebuild_frames (
  account_id bigint NOT NULL,
  group_no bigint NOT NULL,
  part int NOT NULL,
  last boolean NOT NULL,
  sealed boolean NOT NULL,
  snapshot boolean NOT NULL,
  payload bytea NOT NULL,
  PRIMARY KEY (account_id, group_no, part)
);

-- Accounts that are not built anew, and why; deliberate: they were gone before.
CREATE TABLE rebuild_lost (
  account_id bigint PRIMARY KEY,
  reason text NOT NULL,
  deliberate boolean NOT NULL DEFAULT false
);

-- known_next: the first UID of which the journal says nothing. placed_block: what is put in place; done: all of it.
CREATE TABLE rebuild_mailboxes (
  account_id bigint NOT NULL,
  mailbox_id bigint NOT NULL,
  uidvalidity bigint NOT NULL DEFAULT 0,     -- as the journal has it
  known_next bigint NOT NULL DEFAULT 1,
  uid_reserved bigint NOT NULL DEFAULT 1,
  modseq_reserved bigint NOT NULL DEFAULT 2,
  placed_block int NOT NULL DEFAULT -1,
  done boolean NOT NULL DEFAULT false,
  PRIMARY KEY (account_id, mailbox_id)
);

-- flags NULL: as the planes say.
CREATE TABLE rebuild_messages (
  account_id bigint NOT NULL,
  mailbox_id bigint NOT NULL,
  uid bigint NOT NULL,
  content_id bigint NOT NULL,
  content_hash bytea NOT NULL,
  size bigint NOT NULL,
  internal_date timestamptz NOT NULL,
  saved_at timestamptz NOT NULL,
  expunged_at timestamptz,
  flags int2[],
  PRIMARY KEY (account_id, mailbox_id, uid)
);

-- flag -1: the live UIDs. viewer 0: everybody's flags.
CREATE TABLE rebuild_planes (
  account_id bigint NOT NULL,
  mailbox_id bigint NOT NULL,
  block_no int NOT NULL,
  flag_no int2 NOT NULL,
  viewer_id bigint NOT NULL,
  bits bit(1024) NOT NULL,
  PRIMARY KEY (account_id, mailbox_id, block_no, flag_no, viewer_id)
);
ALTER TABLE rebuild_planes ALTER bits SET STORAGE PLAIN;

-- Bodies. known: the journal names it. stored: the bucket has it. same_as: the content with the same octets that was there
-- before. state: due, then stored, missing (no copy is right), or skipped (nothing needs it).
CREATE TABLE rebuild_contents (
  account_id bigint NOT NULL,
  content_id bigint NOT NULL,
  content_hash bytea NOT NULL,
  size bigint NOT NULL,
  known boolean NOT NULL,
  stored boolean NOT NULL DEFAULT false,
  modified_at timestamptz,
  same_as bigint,
  state text COLLATE "C" NOT NULL DEFAULT 'due' CHECK (state IN ('due', 'stored', 'missing', 'skipped')),
  PRIMARY KEY (account_id, content_id)
);
CREATE INDEX rebuild_contents_hash ON rebuild_contents (account_id, content_hash);
CREATE INDEX rebuild_contents_due ON rebuild_contents (known, account_id, content_id) WHERE state = 'due';

-- What the last rebuild could not bring back: messages whose body is nowhere. Kept.
CREATE TABLE rebuild_missing (
  account_id bigint NOT NULL,
  mailbox_id bigint NOT NULL,
  uid bigint NOT NULL,
  content_hash bytea NOT NULL,
  size bigint NOT NULL,
  internal_date timestamptz NOT NULL,
  PRIMARY KEY (account_id, mailbox_id, uid)
);

-- ── What the journal says ───────────────────────────────────────────────────────────────────────────────────────────

-- A page of a mailbox (`Page` in sora/store/journal.py says what it means). Times are microseconds since 1970; expunged 0: not.
CREATE FUNCTION rebuild_page(p_account_id bigint, p_mailbox_id bigint, p_since bigint, p_uid_next bigint,
  p_uid_reserved bigint, p_modseq_reserved bigint, p_first_block int, p_last_block int, p_blocks int[],
  p_plane_block int[], p_flag_no int2[], p_viewer_id bigint[], p_bits bit[],
  p_uid bigint[], p_content_id bigint[], p_content_hash bytea[], p_size bigint[], p_internal_date bigint[],
  p_saved_at bigint[], p_expunged_at bigint[])
RETURNS void LANGUAGE plpgsql SET search_path = sora, public SET plan_cache_mode = force_generic_plan
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off AS $$
BEGIN
  INSERT INTO rebuild_mailboxes AS b (account_id, mailbox_id, known_next, uid_reserved, modseq_reserved)
  VALUES (p_account_id, p_mailbox_id, p_uid_next, p_uid_reserved, p_modseq_reserved)
  ON CONFLICT (account_id, mailbox_id) DO UPDATE SET known_next = EXCLUDED.known_next,
    uid_reserved = greatest(b.uid_reserved, EXCLUDED.uid_reserved),
    modseq_reserved = greatest(b.modseq_reserved, EXCLUDED.modseq_reserved);
  IF p_since = 0 THEN
    DELETE FROM rebuild_messages m WHERE m.account_id = p_account_id AND m.mailbox_id = p_mailbox_id
      AND m.uid BETWEEN p_first_block::bigint << 10 AND (p_last_block::bigint << 10) + 1023;
    DELETE FROM rebuild_planes p WHERE p.account_id = p_account_id AND p.mailbox_id = p_mailbox_id
      AND p.block_no BETWEEN p_first_block AND p_last_block;
  ELSE
    DELETE FROM rebuild_planes p
    WHERE p.account_id = p_account_id AND p.mailbox_id = p_mailbox_id AND p.block_no = ANY (p_blocks);
  END IF;
  INSERT INTO rebuild_planes (account_id, mailbox_id, block_no, flag_no, viewer_id, bits)
  SELECT p_account_id, p_mailbox_id, g.block, g.flag, g.viewer, g.bits
  FROM unnest(p_plane_block, p_flag_no, p_viewer_id, p_bits) g (block, flag, viewer, bits);
  INSERT INTO rebuild_messages AS m (account_id, mailbox_id, uid, content_id, content_hash, size, internal_date, saved_at,
    expunged_at)
  SELECT p_account_id, p_mailbox_id, g.uid, g.content, g.hash, g.size, epoch_micros(g.internal_date), epoch_micros(g.saved_at),
    CASE WHEN g.expunged_at > 0 THEN epoch_micros(g.expunged_at) END
  FROM unnest(p_uid, p_content_id, p_content_hash, p_size, p_internal_date, p_saved_at, p_expunged_at)
    g (uid, content, hash, size, internal_date, saved_at, expunged_at)
  ON CONFLICT (account_id, mailbox_id, uid) DO UPDATE SET content_id = EXCLUDED.content_id,
    content_hash = EXCLUDED.content_hash, size = EXCLUDED.size, internal_date = EXCLUDED.internal_date,
    saved_at = EXCLUDED.saved_at, expunged_at = EXCLUDED.expunged_at;
  -- expunged, and its row removed, since the page before
  DELETE FROM rebuild_messages m USING unnest(p_blocks) k (b)
  WHERE m.account_id = p_account_id AND m.mailbox_id = p_mailbox_id
    AND m.uid BETWEEN k.b::bigint << 10 AND (k.b::bigint << 10) + 1023 AND m.expunged_at IS NULL
    AND NOT EXISTS (
      SELECT 1 FROM rebuild_planes p WHERE p.account_id = p_account_id AND p.mailbox_id = p_mailbox_id AND p.block_no = k.b
        AND p.flag_no = -1 AND p.viewer_id = 0 AND get_bit(p.bits, (m.uid & 1023)::int) = 1);
END $$;

-- Exactly: a double holds no microseconds of this century with certainty.
CREATE FUNCTION epoch_micros(p_micros bigint) RETURNS timestamptz LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT timestamptz 'epoch' + p_micros * interval '1 microsecond'
$$;

-- ── Bodies ──────────────────────────────────────────────────────────────────────────────────────────────────────────

-- Contents that were read and parsed, in the order in which they first came: one after the other, because a thread is that of
-- what came before. Where the same octets are there under another number, that one serves for both.
CREATE FUNCTION rebuild_contents_read(p_account_id bigint[], p_content_id bigint[], p_content_hash bytea[], p_size bigint[],
  p_sent_at timestamptz[], p_message_id text[], p_in_reply_to text[], p_reference_ids text[], p_subject text[],
  p_base_subject text[], p_sender text[], p_recipients text[], p_cc text[], p_bcc text[], p_reply_to text[],
  p_display_from text[], p_display_to text[], p_preview text[], p_envelope bytea[], p_body_structure bytea[],
  p_header bytea[], p_header_text text[], p_body_text text[], p_body_truncated boolean[])
RETURNS void LANGUAGE plpgsql SET search_path = sora, public SET plan_cache_mode = force_generic_plan AS $$
DECLARE
  v_id bigint;
BEGIN
  FOR i IN 1 .. cardinality(p_account_id) LOOP
    INSERT INTO message_contents AS c (account_id, content_id, content_hash, size, sent_at, message_id, in_reply_to,
      reference_ids, thread_id, subject, base_subject, sender, recipients, cc, bcc, reply_to, display_from, display_to,
      preview, envelope, body_structure, header, uploaded_at)
    VALUES (p_account_id[i], p_content_id[i], p_content_hash[i], p_size[i], p_sent_at[i], p_message_id[i], p_in_reply_to[i],
      p_reference_ids[i], find_thread(p_account_id[i], p_content_id[i], p_in_reply_to[i], p_reference_ids[i]), p_subject[i],
      p_base_subject[i], p_sender[i], p_recipients[i], p_cc[i], p_bcc[i], p_reply_to[i], p_display_from[i], p_display_to[i],
      p_preview[i], p_envelope[i], p_body_structure[i], p_header[i], clock())
    ON CONFLICT (account_id, content_hash) WHERE purging_at IS NULL DO UPDATE SET size = EXCLUDED.size
    RETURNING c.content_id INTO v_id;
    IF v_id = p_content_id[i] THEN
      INSERT INTO search_queue (account_id, content_id, headers, body, body_truncated)
      VALUES (p_account_id[i], v_id, p_header_text[i], p_body_text[i], coalesce(p_body_truncated[i], false))
      ON CONFLICT DO NOTHING;
    END IF;
    UPDATE rebuild_contents r SET state = 'stored', same_as = nullif(v_id, p_content_id[i])
    WHERE r.account_id = p_account_id[i] AND r.content_id = p_content_id[i];
  END LOOP;
END $$;

-- ── Mailboxes ───────────────────────────────────────────────────────────────────────────────────────────────────────

-- Puts the messages of the next p_blocks blocks of a mailbox in place; false: it was done, and is closed.
--
-- All messages get the modseq that the journal had reserved: greater than any that a client has seen, so flags are sent once
-- more, and nothing is fetched again. Expunged ones get later ones by their blocks, and each block one entry of the log, as
-- old as the last of them. What was expunged before is told from what there is: the floor is raised above all of it.
CREATE FUNCTION rebuild_fill(p_account_id bigint, p_mailbox_id bigint, p_blocks int DEFAULT 4) RETURNS boolean
LANGUAGE plpgsql SET search_path = sora, public SET plan_cache_mode = force_generic_plan
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off AS $$
DECLARE
  b rebuild_mailboxes;
  v_blocks int[];
BEGIN
  PERFORM lock_mailboxes(ARRAY[p_mailbox_id]);
  SELECT * INTO b FROM rebuild_mailboxes r WHERE r.account_id = p_account_id AND r.mailbox_id = p_mailbox_id FOR UPDATE;
  v_blocks := ARRAY(
    WITH RECURSIVE q AS (   -- from block to block, by the index
      (SELECT (m.uid >> 10)::int AS n FROM rebuild_messages m WHERE m.account_id = p_account_id
         AND m.mailbox_id = p_mailbox_id AND m.uid >= (b.placed_block + 1)::bigint << 10 ORDER BY m.uid LIMIT 1)
      UNION ALL
      SELECT (SELECT (m.uid >> 10)::int FROM rebuild_messages m WHERE m.account_id = p_account_id
         AND m.mailbox_id = p_mailbox_id AND m.uid >= (q.n + 1)::bigint << 10 ORDER BY m.uid LIMIT 1)
      FROM q WHERE q.n IS NOT NULL)
    SELECT n FROM q WHERE n IS NOT NULL LIMIT p_blocks);
  IF v_blocks = '{}' THEN
    -- a UID above what was promised: given out when nothing was reserved, as others may have been
    UPDATE mailbox_stats t SET uid_next = least(4294967296, greatest(b.uid_reserved,
        t.uid_next + CASE WHEN t.uid_next > b.uid_reserved THEN 1048576 ELSE 0 END)),
      highest_modseq = greatest(t.highest_modseq, b.modseq_reserved),
      expunge_floor = greatest(t.highest_modseq, b.modseq_reserved)
    WHERE t.account_id = p_account_id AND t.mailbox_id = p_mailbox_id;
    -- IMAP4rev1: what was there is no news to anybody
    INSERT INTO mailbox_recent (account_id, mailbox_id, recent_uid) VALUES (p_account_id, p_mailbox_id, b.known_next - 1)
    ON CONFLICT DO NOTHING;
    UPDATE rebuild_mailboxes r SET done = true WHERE r.account_id = p_account_id AND r.mailbox_id = p_mailbox_id;
    RETURN false;
  END IF;
  INSERT INTO messages (account_id, mailbox_id, uid, content_id, created_modseq, expunged_modseq, internal_date, saved_at,
    expunged_at, size, initial_flags)
  SELECT p_account_id, p_mailbox_id, m.uid, m.content_id, b.modseq_reserved,
    CASE WHEN m.expunged_at IS NOT NULL THEN b.modseq_reserved + 1 + (m.uid >> 10) END, m.internal_date, m.saved_at,
    m.expunged_at, m.size, coalesce(m.flags, m.plane_flags)
  FROM unnest(v_blocks) k (b) CROSS JOIN LATERAL (
    SELECT x.uid, c.content_id, x.internal_date, x.saved_at, x.expunged_at, c.size, x.flags, (
        SELECT array_agg(p.flag_no ORDER BY p.flag_no) FROM rebuild_planes p
        WHERE p.account_id = p_account_id AND p.mailbox_id = p_mailbox_id AND p.block_no = k.b AND p.viewer_id = 0
          AND p.flag_no >= 0 AND get_bit(p.bits, (x.uid & 1023)::int) = 1) AS plane_flags
    FROM rebuild_messages x
    JOIN rebuild_contents r ON r.account_id = x.account_id AND r.content_id = x.content_id AND r.state = 'stored'
    JOIN message_contents c ON c.account_id = x.account_id AND c.content_id = coalesce(r.same_as, r.content_id)
    WHERE x.account_id = p_account_id AND x.mailbox_id = p_mailbox_id
      AND x.uid BETWEEN k.b::bigint << 10 AND (k.b::bigint << 10) + 1023 OFFSET 0) m;
  -- a block in which nothing is live has a row too
  INSERT INTO message_sequences AS q (account_id, mailbox_id, block_no, n, max_modseq, live)
  SELECT p_account_id, p_mailbox_id, k.b, 0, b.modseq_reserved + 1 + k.b, 0::bit(1024) FROM unnest(v_blocks) k (b)
  ON CONFLICT (account_id, mailbox_id, block_no) DO UPDATE SET max_modseq = greatest(q.max_modseq, EXCLUDED.max_modseq);
  INSERT INTO message_expunges (account_id, mailbox_id, modseq, expunged_at, uids)
  SELECT p_account_id, p_mailbox_id, m.expunged_modseq, max(m.expunged_at), array_agg(m.uid ORDER BY m.uid)
  FROM unnest(v_blocks) k (b) CROSS JOIN LATERAL (
    SELECT x.uid, x.expunged_modseq, x.expunged_at FROM messages x
    WHERE x.account_id = p_account_id AND x.mailbox_id = p_mailbox_id
      AND x.uid BETWEEN k.b::bigint << 10 AND (k.b::bigint << 10) + 1023 AND x.expunged_at IS NOT NULL OFFSET 0) m
  GROUP BY m.expunged_modseq;
  UPDATE mailbox_stats t SET highest_modseq = greatest(t.highest_modseq, b.modseq_reserved + 1 + v_blocks[cardinality(v_blocks)])
  WHERE t.account_id = p_account_id AND t.mailbox_id = p_mailbox_id;
  INSERT INTO message_viewer_seen (account_id, mailbox_id, viewer_id, block_no, bits)
  SELECT p_account_id, p_mailbox_id, p.viewer_id, k.b, p.bits & m.rows
  FROM unnest(v_blocks) k (b) CROSS JOIN LATERAL (
    SELECT bit_or(set_bit(0::bit(1024), (x.uid & 1023)::int, 1)) AS rows FROM messages x
    WHERE x.account_id = p_account_id AND x.mailbox_id = p_mailbox_id
      AND x.uid BETWEEN k.b::bigint << 10 AND (k.b::bigint << 10) + 1023 OFFSET 0) m
  CROSS JOIN LATERAL (
    SELECT x.viewer_id, x.bits FROM rebuild_planes x WHERE x.account_id = p_account_id AND x.mailbox_id = p_mailbox_id
      AND x.block_no = k.b AND x.viewer_id > 0 OFFSET 0) p
  WHERE m.rows IS NOT NULL;
  INSERT INTO rebuild_missing (account_id, mailbox_id, uid, content_hash, size, internal_date)
  SELECT p_account_id, p_mailbox_id, x.uid, x.content_hash, x.size, x.internal_date
  FROM unnest(v_blocks) k (b) CROSS JOIN LATERAL (
    SELECT r.* FROM rebuild_messages r WHERE r.account_id = p_account_id AND r.mailbox_id = p_mailbox_id
      AND r.uid BETWEEN k.b::bigint << 10 AND (k.b::bigint << 10) + 1023 AND r.expunged_at IS NULL OFFSET 0) x
  WHERE NOT EXISTS (
    SELECT 1 FROM messages m WHERE m.account_id = p_account_id AND m.mailbox_id = p_mailbox_id AND m.uid = x.uid)
  ON CONFLICT DO NOTHING;
  UPDATE rebuild_mailboxes r SET placed_block = v_blocks[cardinality(v_blocks)]
  WHERE r.account_id = p_account_id AND r.mailbox_id = p_mailbox_id;
  RETURN true;
END $$;

-- ── Numbers that may have been given out by a later life of this database ───────────────────────────────────────────

-- Passes over numbers of accounts, mailboxes and bodies, and over UIDVALIDITYs. The arguments: the greatest ones that are known
-- to be used, from elsewhere.
CREATE FUNCTION raise_numbers(p_account_id bigint DEFAULT 0, p_content_id bigint DEFAULT 0, p_uidvalidity bigint DEFAULT 0)
RETURNS void LANGUAGE plpgsql SET search_path = sora, public AS $$
BEGIN
  PERFORM setval(pg_get_serial_sequence('accounts', 'account_id'), 1000 + greatest(p_account_id,
    (SELECT max(account_id) FROM accounts), nextval(pg_get_serial_sequence('accounts', 'account_id'))));
  PERFORM setval(pg_get_serial_sequence('domains', 'domain_id'), 1000 + greatest(
    (SELECT max(domain_id) FROM domains), nextval(pg_get_serial_sequence('domains', 'domain_id'))));
  PERFORM setval(pg_get_serial_sequence('mailboxes', 'mailbox_id'), 1048576 + greatest(
    (SELECT max(mailbox_id) FROM mailboxes), nextval(pg_get_serial_sequence('mailboxes', 'mailbox_id'))));
  PERFORM setval(pg_get_serial_sequence('outbound_queue', 'queue_id'), 1048576 + greatest(
    (SELECT max(queue_id) FROM outbound_queue), nextval(pg_get_serial_sequence('outbound_queue', 'queue_id'))));
  PERFORM setval('content_ids', 1048576 + greatest(p_content_id, (SELECT max(content_id) FROM message_contents),
    nextval('content_ids')));
  PERFORM raise_uidvalidity();
  PERFORM setval('uidvalidities', least(4294967295, 1000 + greatest(p_uidvalidity, (SELECT max(uidvalidity) FROM mailboxes),
    nextval('uidvalidities'))));
END $$;

-- Goes on above UIDs and modseqs that clients may know from a later life of this database, p_ahead above what is known here or
-- reserved, in some mailboxes (parallel arrays). Every message gets a new modseq and the floor is raised: clients hear all
-- flags once more and of every UID that is not here, and fetch nothing again. Returns how many mailboxes there are.
CREATE FUNCTION bump_mailboxes(p_account_id bigint[], p_mailbox_id bigint[], p_ahead bigint DEFAULT 1048576) RETURNS bigint
LANGUAGE plpgsql SET search_path = sora, public SET plan_cache_mode = force_generic_plan SET lock_timeout = '10s'
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off AS $$
DECLARE
  v_bumped bigint;
BEGIN
  PERFORM lock_mailboxes(p_mailbox_id);
  -- half of what is left at most: a mailbox without UIDs takes no mail
  UPDATE mailbox_stats s SET uid_next = greatest(s.uid_next, s.uid_reserved)
      + least(p_ahead, (4294967296 - greatest(s.uid_next, s.uid_reserved)) / 2),
    highest_modseq = greatest(s.highest_modseq, s.modseq_reserved) + p_ahead,
    expunge_floor = greatest(s.highest_modseq, s.modseq_reserved) + p_ahead,
    -- what was promised before is passed: the journal promises anew
    uid_reserved = NULL, modseq_reserved = NULL
  FROM unnest(p_account_id, p_mailbox_id) g (account, mailbox)
  WHERE s.account_id = g.account AND s.mailbox_id = g.mailbox;
  GET DIAGNOSTICS v_bumped = ROW_COUNT;
  DELETE FROM message_flag_changes j USING unnest(p_account_id, p_mailbox_id) g (account, mailbox)
  WHERE j.account_id = g.account AND j.mailbox_id = g.mailbox;
  INSERT INTO message_flag_changes (account_id, mailbox_id, modseq, block_no, bits)
  SELECT t.account_id, t.mailbox_id, t.highest_modseq, s.block_no, s.live
  FROM unnest(p_account_id, p_mailbox_id) g (account, mailbox)
  JOIN mailbox_stats t ON t.account_id = g.account AND t.mailbox_id = g.mailbox
  JOIN message_sequences s ON s.account_id = g.account AND s.mailbox_id = g.mailbox AND s.n > 0;
  -- an empty block too: who knows an older state learns that its messages are gone
  UPDATE message_sequences s SET max_modseq = t.highest_modseq FROM unnest(p_account_id, p_mailbox_id) g (account, mailbox)
  JOIN mailbox_stats t ON t.account_id = g.account AND t.mailbox_id = g.mailbox
  WHERE s.account_id = g.account AND s.mailbox_id = g.mailbox;
  PERFORM pg_notify('sora_' || t.account_id % 16,
    format('%s.%s.%s', to_hex(t.account_id), to_hex(t.mailbox_id), to_hex(t.highest_modseq)))
  FROM unnest(p_account_id, p_mailbox_id) g (account, mailbox)
  JOIN mailbox_stats t ON t.account_id = g.account AND t.mailbox_id = g.mailbox;
  RETURN v_bumped;
END $$;
