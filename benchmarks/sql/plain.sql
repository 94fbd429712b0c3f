-- The same mailboxes the straightforward way: a row a message with its flags in an array, nothing counted in advance,
-- and functions that go from row to row. What schema/*.sql is compared with.

CREATE SCHEMA plain;
SET LOCAL search_path = plain, sora, public;

CREATE TABLE plain.mailboxes AS
  SELECT m.account_id, m.mailbox_id, m.name, m.uidvalidity, s.uid_next, s.highest_modseq
  FROM sora.mailboxes m JOIN sora.mailbox_stats s USING (account_id, mailbox_id);
ALTER TABLE plain.mailboxes ADD PRIMARY KEY (account_id, mailbox_id);

CREATE TABLE plain.messages AS
  SELECT m.account_id, m.mailbox_id, m.uid, m.content_id, m.size, m.internal_date, m.saved_at, m.created_modseq,
         m.created_modseq AS modseq, '{}'::int2[] AS flags, NULL::timestamptz AS expunged_at
  FROM sora.messages m WHERE m.expunged_at IS NULL;
ALTER TABLE plain.messages ADD PRIMARY KEY (account_id, mailbox_id, uid);
ANALYZE plain.messages;
CREATE TEMP TABLE flagged ON COMMIT DROP AS
  SELECT account_id, mailbox_id, (block_no::bigint << 10) + g AS uid, array_agg(flag_no ORDER BY flag_no) AS flags
  FROM sora.message_flags, generate_series(0, 1023) g WHERE get_bit(bits, g) = 1 GROUP BY 1, 2, 3;
ANALYZE flagged;
UPDATE plain.messages m SET flags = f.flags, modseq = 5 FROM flagged f
WHERE m.account_id = f.account_id AND m.mailbox_id = f.mailbox_id AND m.uid = f.uid;
CREATE INDEX ON plain.messages (account_id, content_id);

CREATE TABLE plain.contents AS SELECT c.*, t.headers, t.body FROM sora.message_contents c LEFT JOIN (
  SELECT account_id, content_id, headers, body FROM sora.search_index
  UNION ALL
  SELECT account_id, content_id, headers, body FROM sora.search_queue) t USING (account_id, content_id);
ALTER TABLE plain.contents ADD PRIMARY KEY (account_id, content_id);
CREATE UNIQUE INDEX ON plain.contents (account_id, content_hash);
CREATE INDEX ON plain.contents (account_id, message_id);

CREATE FUNCTION plain.deliver(p_account bigint, p_mailbox bigint, p_hashes bytea[], p_size bigint) RETURNS SETOF bigint
LANGUAGE plpgsql AS $$
DECLARE h bytea; c bigint; u bigint; m bigint;
BEGIN
  FOREACH h IN ARRAY p_hashes LOOP
    PERFORM 1 FROM plain.mailboxes b WHERE b.account_id = p_account AND b.mailbox_id = p_mailbox FOR UPDATE;
    SELECT x.content_id INTO c FROM plain.contents x WHERE x.account_id = p_account AND x.content_hash = h;
    IF c IS NULL THEN
      INSERT INTO plain.contents (account_id, content_id, content_hash, size, thread_id, subject, sender, recipients, envelope,
        body_structure, headers, body)
      VALUES (p_account, nextval('sora.content_ids'), h, p_size, 1, repeat('x', 60), repeat('x', 60), repeat('x', 60),
        convert_to(repeat('x', 400), 'UTF8'), convert_to(repeat('x', 400), 'UTF8'), repeat('header: value ', 60),
        repeat('body text ', 150))
      RETURNING content_id INTO c;
    END IF;
    UPDATE plain.mailboxes b SET uid_next = uid_next + 1, highest_modseq = highest_modseq + 1
    WHERE b.account_id = p_account AND b.mailbox_id = p_mailbox RETURNING uid_next - 1, highest_modseq INTO u, m;
    INSERT INTO plain.messages (account_id, mailbox_id, uid, content_id, size, internal_date, saved_at, created_modseq, modseq,
      flags) VALUES (p_account, p_mailbox, u, c, p_size, now(), now(), m, m, '{}');
    RETURN NEXT u;
  END LOOP;
END $$;

CREATE FUNCTION plain.store(p_account bigint, p_mailbox bigint, p_first bigint, p_last bigint, p_flag int2) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE m bigint; n bigint;
BEGIN
  UPDATE plain.mailboxes b SET highest_modseq = highest_modseq + 1
  WHERE b.account_id = p_account AND b.mailbox_id = p_mailbox RETURNING highest_modseq INTO m;
  UPDATE plain.messages x SET flags = array_append(x.flags, p_flag), modseq = m
  WHERE x.account_id = p_account AND x.mailbox_id = p_mailbox AND x.uid BETWEEN p_first AND p_last AND x.expunged_at IS NULL
    AND NOT p_flag = ANY (x.flags);
  GET DIAGNOSTICS n = ROW_COUNT;
  RETURN n;
END $$;

CREATE FUNCTION plain.expunge(p_account bigint, p_mailbox bigint, p_first bigint, p_last bigint) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE m bigint; n bigint;
BEGIN
  UPDATE plain.mailboxes b SET highest_modseq = highest_modseq + 1
  WHERE b.account_id = p_account AND b.mailbox_id = p_mailbox RETURNING highest_modseq INTO m;
  UPDATE plain.messages x SET expunged_at = now(), modseq = m
  WHERE x.account_id = p_account AND x.mailbox_id = p_mailbox AND x.uid BETWEEN p_first AND p_last AND x.expunged_at IS NULL;
  GET DIAGNOSTICS n = ROW_COUNT;
  RETURN n;
END $$;

CREATE FUNCTION plain.copy(p_account bigint, p_mailbox bigint, p_to_account bigint, p_to bigint, p_first bigint, p_last bigint,
  p_move boolean)
RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE r plain.messages; c plain.contents; u bigint; m bigint; n bigint := 0;
BEGIN
  FOR r IN SELECT * FROM plain.messages x WHERE x.account_id = p_account AND x.mailbox_id = p_mailbox
           AND x.uid BETWEEN p_first AND p_last AND x.expunged_at IS NULL ORDER BY x.uid LOOP
    UPDATE plain.mailboxes b SET uid_next = uid_next + 1, highest_modseq = highest_modseq + 1
    WHERE b.account_id = p_to_account AND b.mailbox_id = p_to RETURNING uid_next - 1, highest_modseq INTO u, m;
    IF p_account <> p_to_account THEN
      SELECT * INTO c FROM plain.contents x WHERE x.account_id = r.account_id AND x.content_id = r.content_id;
      c.account_id := p_to_account;
      INSERT INTO plain.contents SELECT c.*;
    END IF;
    INSERT INTO plain.messages VALUES (p_to_account, p_to, u, r.content_id, r.size, r.internal_date, now(), m, m, r.flags, NULL);
    IF p_move THEN
      UPDATE plain.messages x SET expunged_at = now(), modseq = m
      WHERE x.account_id = p_account AND x.mailbox_id = p_mailbox AND x.uid = r.uid;
    END IF;
    n := n + 1;
  END LOOP;
  RETURN n;
END $$;

CREATE FUNCTION plain.restore(p_account bigint, p_mailbox bigint, p_uid bigint) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE u bigint; m bigint;
BEGIN
  UPDATE plain.mailboxes b SET uid_next = uid_next + 1, highest_modseq = highest_modseq + 1
  WHERE b.account_id = p_account AND b.mailbox_id = p_mailbox RETURNING uid_next - 1, highest_modseq INTO u, m;
  INSERT INTO plain.messages (account_id, mailbox_id, uid, content_id, size, internal_date, saved_at, created_modseq, modseq,
    flags)
  SELECT x.account_id, x.mailbox_id, u, x.content_id, x.size, x.internal_date, now(), m, m, x.flags FROM plain.messages x
  WHERE x.account_id = p_account AND x.mailbox_id = p_mailbox AND x.uid = p_uid AND NOT EXISTS (
    SELECT 1 FROM plain.messages y WHERE y.account_id = p_account AND y.content_id = x.content_id
    AND y.internal_date = x.internal_date AND y.expunged_at IS NULL);
  RETURN u;
END $$;

CREATE FUNCTION plain.fail() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'no' USING ERRCODE = 'P0002';
END $$;
