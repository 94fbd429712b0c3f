-- One call stores any number of messages in any number of mailboxes: LMTP, APPEND, micro-batches.

-- Octets that an account and its domain still have room for; NULL: it has no limit of any kind. Asked at RCPT time.
CREATE FUNCTION room_left(p_account_id bigint) RETURNS bigint LANGUAGE plpgsql STABLE
SET search_path = sora, public SET plan_cache_mode = force_generic_plan AS $$
DECLARE
  l account_limits;
BEGIN
  SELECT * INTO l FROM account_limits x WHERE x.account_id = p_account_id;
  IF coalesce(l.bytes, l.messages, l.domain_bytes, l.domain_messages) IS NULL THEN
    RETURN NULL;
  END IF;
  RETURN greatest(0, least(9223372036854775807,
    CASE WHEN l.bytes IS NOT NULL THEN l.bytes - (SELECT u.bytes FROM account_usage(p_account_id) u) END,
    CASE WHEN l.domain_bytes IS NOT NULL THEN l.domain_bytes - (SELECT u.bytes FROM domain_usage(l.domain_id) u) END));
END $$;

-- The thread of a message: that of the first known message it refers to, else its own.
CREATE FUNCTION find_thread(p_account_id bigint, p_content_id bigint, p_in_reply_to text, p_reference_ids text) RETURNS bigint
LANGUAGE plpgsql STABLE SET search_path = sora, public SET plan_cache_mode = force_generic_plan AS $$
DECLARE v bigint;
BEGIN
  IF coalesce(p_reference_ids, p_in_reply_to) IS NULL THEN
    RETURN p_content_id;
  END IF;
  -- the root and the nearest 20: a References header may name thousands
  SELECT c.thread_id INTO v FROM (
    SELECT r.id, r.ord, max(r.ord) OVER () AS last
    FROM string_to_table(concat_ws(' ', p_reference_ids, p_in_reply_to), ' ') WITH ORDINALITY r (id, ord) WHERE r.id <> ''
  ) r CROSS JOIN LATERAL (
    SELECT m.thread_id FROM message_contents m
    WHERE m.account_id = p_account_id AND left(m.message_id, 200) = left(r.id, 200) LIMIT 1) c
  WHERE r.ord = 1 OR r.ord > r.last - 20
  ORDER BY r.ord LIMIT 1;
  RETURN coalesce(v, p_content_id);
END $$;

-- The locks of many, as lock_all() takes them but without waiting: the keys that somebody else holds, or waits for.
CREATE FUNCTION try_lock_all(namespace int, ids bigint[]) RETURNS int[] LANGUAGE plpgsql
SET search_path = sora, public SET plan_cache_mode = force_generic_plan AS $$
BEGIN
  IF cardinality(ids) = 1 THEN
    RETURN CASE WHEN pg_try_advisory_xact_lock(namespace, lock_key(ids[1])) THEN '{}' ELSE ARRAY[lock_key(ids[1])] END;
  END IF;
  -- OFFSET 0: each key is tried once, whatever a second try would say
  RETURN ARRAY(
    SELECT x.k FROM (SELECT DISTINCT lock_key(i) AS k FROM unnest(ids) i WHERE i IS NOT NULL ORDER BY 1 OFFSET 0) x
    WHERE NOT pg_try_advisory_xact_lock(namespace, x.k));
END $$;

-- As lock_quotas(), without waiting: the accounts whose quota, or whose domain's, somebody else has locked. NULL: none of
-- them has a limit.
CREATE FUNCTION try_lock_quotas(p_account_ids bigint[]) RETURNS bigint[] LANGUAGE plpgsql
SET search_path = sora, public SET plan_cache_mode = force_generic_plan AS $$
DECLARE
  v_accounts bigint[];
  v_domains bigint[];   -- of each account; NULL: it has no limit
  v_held_domains int[];
  v_held int[];
BEGIN
  SELECT array_agg(account_id),
         array_agg(CASE WHEN domain_bytes IS NOT NULL OR domain_messages IS NOT NULL THEN domain_id END)
  INTO v_accounts, v_domains
  FROM account_limits
  WHERE account_id = ANY (p_account_ids)
    AND (bytes IS NOT NULL OR messages IS NOT NULL OR domain_bytes IS NOT NULL OR domain_messages IS NOT NULL);
  IF v_accounts IS NULL THEN
    RETURN NULL;
  END IF;
  v_held_domains := try_lock_all(21322, array_remove(v_domains, NULL));
  v_held := try_lock_all(21323, v_accounts);
  RETURN ARRAY(
    SELECT i.account FROM unnest(v_accounts, v_domains) i (account, domain)
    WHERE lock_key(i.account) = ANY (v_held) OR lock_key(i.domain) = ANY (v_held_domains));
END $$;

-- Two groups of parallel arrays. Messages: p_account_id … p_trace_text, p_actor_id and p_body. Digests: p_sent_at …
-- p_body_truncated; message i uses digest p_digest[i] (from 1), so that many recipients share one. What differs between them are
-- the trace fields at its top: p_trace, and as text for search p_trace_text, stand before the digest's header.
--
-- mailbox 0 or NULL is INBOX, found here and not by the caller; -1: the body is held for mail that leaves, and there is no
-- message of it, no quota and no lock (its witness has mailbox -1, and the content id in place of the uid). flags: numbers with commas, or NULL. delivery_key: a retry
-- within 24 h writes nothing and gets the old uid (LMTP); NULL for APPEND, which gives append_id, its witness, instead.
-- actor: who appends to a shared mailbox (NULL: the owner). body: the stored octets, for body_copies; NULL: none is kept, or a
-- message with the same account and hash has it.
--
-- One row for each message, in order. A missing mailbox fails the whole call with P0002 (DETAIL names it): the caller
-- retries one by one. A full account only marks its own rows over_quota.
--
-- patient: wait for locks. Else messages whose mailbox or quota somebody else has locked are not stored but marked so, all
-- those of one mailbox alike, and the caller gives them again, patiently. unit: a number for each message; those with equal
-- numbers are stored together or not at all, so if one of them is locked the others are not stored either, unmarked and
-- without a uid. NULL: each stands for itself.
CREATE FUNCTION deliver(
  p_account_id bigint[], p_mailbox_id bigint[], p_content_hash bytea[], p_size bigint[], p_flags text[],
  p_internal_date timestamptz[], p_delivery_key bytea[], p_append_id uuid[], p_digest int[],
  p_trace bytea[], p_trace_text text[],
  p_sent_at timestamptz[], p_message_id text[], p_in_reply_to text[], p_reference_ids text[], p_subject text[],
  p_base_subject text[], p_sender text[], p_recipients text[], p_cc text[], p_bcc text[], p_reply_to text[],
  p_display_from text[], p_display_to text[], p_preview text[], p_envelope bytea[], p_body_structure bytea[],
  p_header bytea[], p_header_text text[], p_body_text text[], p_body_truncated boolean[],
  p_instance_id text, p_actor_id bigint[] DEFAULT NULL, p_body bytea[] DEFAULT NULL, p_patient boolean DEFAULT true,
  p_unit int[] DEFAULT NULL)
RETURNS TABLE (ord int, account_id bigint, mailbox_id bigint, uid bigint, uidvalidity bigint, modseq bigint, content_id bigint,
               duplicate boolean, over_quota boolean, locked boolean)
LANGUAGE plpgsql
SET search_path = sora, public SET plan_cache_mode = force_generic_plan SET lock_timeout = '10s'
SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
  v_count int := cardinality(p_account_id);
  v_mailbox bigint[] := inboxes_resolved(p_account_id, p_mailbox_id);
  v_limited boolean;
  v_held_quotas bigint[];   -- by somebody else, as are the next ones: accounts
  v_held int[];             -- keys of mailboxes
  v_locked boolean[] := array_fill(false, ARRAY[v_count]);
  v_aside boolean[] := v_locked;   -- they, and the others of their units
  v_first int[] := ARRAY(SELECT generate_series(1, v_count));   -- of the same key and mailbox in this batch
  v_known bigint[] := array_fill(NULL::bigint, ARRAY[v_count]); -- uid it got in an earlier call
  v_over boolean[] := array_fill(false, ARRAY[v_count]);
  v_rows int;
BEGIN
  IF p_patient THEN
    v_limited := lock_quotas(p_account_id) <> '{}';
    PERFORM lock_mailboxes(array_remove(v_mailbox, -1::bigint));
  ELSE
    v_held_quotas := try_lock_quotas(p_account_id);
    v_limited := v_held_quotas IS NOT NULL;
    v_held := try_lock_all(21327, array_remove(v_mailbox, -1::bigint));
    IF v_held <> '{}' OR v_held_quotas <> '{}' THEN
      v_locked := ARRAY(
        SELECT i.mailbox <> -1 AND coalesce(lock_key(i.mailbox) = ANY (v_held) OR i.account = ANY (v_held_quotas), false)
        FROM unnest(p_account_id, v_mailbox) WITH ORDINALITY i (account, mailbox, ord) ORDER BY i.ord);
      v_aside := CASE WHEN p_unit IS NULL THEN v_locked ELSE ARRAY(
        SELECT bool_or(i.locked) OVER (PARTITION BY i.unit)
        FROM unnest(v_locked, p_unit) WITH ORDINALITY i (locked, unit, ord) ORDER BY i.ord) END;
    END IF;
  END IF;
  PERFORM require_mailboxes(p_account_id, v_mailbox);
  IF EXISTS (SELECT 1 FROM unnest(p_delivery_key) k WHERE k IS NOT NULL) THEN
    SELECT array_agg(CASE WHEN q.key IS NULL THEN q.ord ELSE q.first END ORDER BY q.ord),
           array_agg((SELECT d.uid FROM recent_deliveries d
             WHERE d.account_id = q.account AND d.key = q.key AND d.mailbox_id = q.mailbox
               AND d.delivered_at > clock() - interval '24 h') ORDER BY q.ord)
    INTO v_first, v_known FROM (
      SELECT i.*, first_value(i.ord) OVER (PARTITION BY i.account, i.mailbox, i.key ORDER BY i.ord) AS first
      FROM unnest(p_account_id, v_mailbox, p_delivery_key) WITH ORDINALITY i (account, mailbox, key, ord)
    ) q;
  END IF;
  IF v_limited THEN
    SELECT array_agg(coalesce(q.over_quota, false) ORDER BY i.ord) INTO v_over
    FROM generate_series(1, v_count) i (ord) LEFT JOIN quota_check(ARRAY(
      SELECT CASE WHEN v_known[g] IS NULL AND v_first[g] = g AND NOT v_aside[g] AND v_mailbox[g] <> -1 THEN p_account_id[g] END
      FROM generate_series(1, v_count) g ORDER BY g),
      p_size) q USING (ord);
  END IF;
  RETURN QUERY
  WITH given AS MATERIALIZED (
    SELECT i.*, i.ord::int AS n, string_to_array(nullif(i.flag_text, ''), ',')::int2[] AS flags
    FROM unnest(p_account_id, v_mailbox, p_content_hash, p_size, p_flags, p_internal_date, p_delivery_key,
                p_append_id, p_digest, p_trace, p_trace_text, v_first, v_known, v_over, v_locked, v_aside, p_actor_id)
      WITH ORDINALITY i (account, mailbox, hash, size, flag_text, internal_date, key, append_id, digest, trace, trace_text,
                         first, known, over, locked, aside, actor, ord)
  ), fresh AS MATERIALIZED (
    SELECT * FROM given WHERE known IS NULL AND first = n AND NOT over AND NOT aside
  ), bodies AS MATERIALIZED (   -- sorted: the lock order of content rows
    SELECT DISTINCT ON (account, hash) account, hash, size, digest, trace, trace_text, nextval('content_ids') AS new_id
    FROM fresh ORDER BY account, hash, n
  ), contents AS (
    INSERT INTO message_contents (account_id, content_id, content_hash, size, sent_at, message_id, in_reply_to, reference_ids,
      thread_id, subject, base_subject, sender, recipients, cc, bcc, reply_to, display_from, display_to, preview,
      envelope, body_structure, header)
    SELECT b.account, b.new_id, b.hash, b.size, p_sent_at[d], p_message_id[d], p_in_reply_to[d], p_reference_ids[d],
      find_thread(b.account, b.new_id, p_in_reply_to[d], p_reference_ids[d]), p_subject[d], p_base_subject[d], p_sender[d],
      p_recipients[d], p_cc[d], p_bcc[d], p_reply_to[d], p_display_from[d], p_display_to[d], p_preview[d],
      p_envelope[d], p_body_structure[d], coalesce(b.trace, '') || p_header[d]
    FROM bodies b, LATERAL (SELECT b.digest AS d) x
    -- not DO NOTHING: this locks the row against the cleaner, and returns it
    ON CONFLICT (account_id, content_hash) WHERE purging_at IS NULL DO UPDATE SET size = EXCLUDED.size
    RETURNING account_id, content_id, content_hash, uploaded_at
  ), placed AS MATERIALIZED (
    SELECT f.*, c.content_id, s.highest_modseq + 1 AS modseq,
           s.uid_next - 1 + row_number() OVER (PARTITION BY f.account, f.mailbox ORDER BY f.n) AS uid
    FROM fresh f JOIN contents c ON c.account_id = f.account AND c.content_hash = f.hash
    LEFT JOIN LATERAL (   -- of a held letter: none
      SELECT t.uid_next, t.highest_modseq FROM mailbox_stats t
      WHERE t.account_id = f.account AND t.mailbox_id = f.mailbox OFFSET 0) s ON true
  ), stored AS (
    INSERT INTO messages (account_id, mailbox_id, uid, content_id, created_modseq, internal_date, size, initial_flags)
    SELECT p.account, p.mailbox, p.uid, p.content_id, p.modseq, p.internal_date, p.size,
           CASE WHEN p.actor <> p.account THEN nullif(array_remove(p.flags, 0::int2), '{}') ELSE p.flags END
    FROM placed p WHERE p.mailbox <> -1
  ), seen AS (
    INSERT INTO message_viewer_seen AS v (account_id, mailbox_id, viewer_id, block_no, bits)
    SELECT p.account, p.mailbox, p.actor, (p.uid >> 10)::int, bit_or(set_bit(0::bit(1024), (p.uid & 1023)::int, 1))
    FROM placed p WHERE p.actor <> p.account AND 0 = ANY (p.flags) GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4
    ON CONFLICT (account_id, mailbox_id, viewer_id, block_no) DO UPDATE SET bits = v.bits | EXCLUDED.bits
  ), uploads AS (
    INSERT INTO pending_uploads AS u (account_id, content_hash, instance_id, content_id, size)
    SELECT b.account, b.hash, p_instance_id, c.content_id, b.size
    FROM bodies b JOIN contents c ON c.account_id = b.account AND c.content_hash = b.hash ORDER BY 1, 2
    -- DO NOTHING would leave an exhausted row dead, and forget that this node holds a copy now
    ON CONFLICT (account_id, content_hash, instance_id) DO UPDATE SET
      attempts = 0, next_try = clock(), content_id = EXCLUDED.content_id
  ), copies AS (
    -- the bodies themselves are fetched from the array last: no sort and no join carries them
    INSERT INTO body_copies (account_id, content_id, part, body)
    SELECT q.account_id, q.content_id, 0, p_body[q.n] FROM (
      SELECT c.account_id, c.content_id, min(g.n) AS n FROM given g
      JOIN contents c ON c.account_id = g.account AND c.content_hash = g.hash
      WHERE c.uploaded_at IS NULL AND p_body[g.n] IS NOT NULL GROUP BY 1, 2) q
    WHERE p_body IS NOT NULL ORDER BY 1, 2
    ON CONFLICT DO NOTHING   -- the same body, waiting already
  ), texts AS (
    INSERT INTO search_queue (account_id, content_id, headers, body, body_truncated)
    SELECT b.account, b.new_id, concat(b.trace_text, p_header_text[b.digest]), p_body_text[b.digest],
           coalesce(p_body_truncated[b.digest], false)
    FROM bodies b JOIN contents c ON c.account_id = b.account AND c.content_id = b.new_id   -- new contents only
  ), keys AS (
    INSERT INTO recent_deliveries (account_id, key, mailbox_id, uid)
    SELECT p.account, p.key, p.mailbox, coalesce(p.uid, p.content_id) FROM placed p WHERE p.key IS NOT NULL
    ORDER BY p.account, p.key, p.mailbox   -- no lock stands before the rows of held letters
    ON CONFLICT (account_id, key, mailbox_id) DO UPDATE SET uid = EXCLUDED.uid, delivered_at = EXCLUDED.delivered_at
  ), appends AS (
    INSERT INTO append_witnesses (account_id, append_id, mailbox_id, uid)
    SELECT p.account, p.append_id, p.mailbox, p.uid FROM placed p WHERE p.append_id IS NOT NULL
  )
  SELECT g.n, g.account, g.mailbox, CASE WHEN g.mailbox <> -1 THEN coalesce(g.known, p.uid) END, b.uidvalidity, p.modseq,
         coalesce(p.content_id, CASE WHEN g.mailbox = -1 THEN g.known ELSE old.content_id END),
         g.known IS NOT NULL OR (p.content_id IS NOT NULL AND g.first <> g.n),
         g.known IS NULL AND p.content_id IS NULL AND NOT g.aside,
         g.known IS NULL AND g.locked   -- what an earlier call committed is known without the lock
  FROM given g
  LEFT JOIN placed p ON p.n = g.first AND g.known IS NULL
  LEFT JOIN LATERAL (
    SELECT x.uidvalidity FROM mailboxes x WHERE x.account_id = g.account AND x.mailbox_id = g.mailbox OFFSET 0) b ON true
  LEFT JOIN LATERAL (
    SELECT x.content_id FROM messages x
    WHERE x.account_id = g.account AND x.mailbox_id = g.mailbox AND x.uid = g.known OFFSET 0) old ON true
  ORDER BY g.n;
  GET DIAGNOSTICS v_rows = ROW_COUNT;
  IF v_rows <> v_count THEN
    RAISE EXCEPTION 'deliver: % rows for % messages', v_rows, v_count USING ERRCODE = 'XX000';
  END IF;
END $$;

-- The mailbox ids, with INBOX in place of 0 and NULL (NULL stays if the account has none).
CREATE FUNCTION inboxes_resolved(p_account_id bigint[], p_mailbox_id bigint[]) RETURNS bigint[] LANGUAGE plpgsql STABLE
SET search_path = sora, public SET plan_cache_mode = force_generic_plan AS $$
BEGIN
  RETURN (
    SELECT array_agg(coalesce(nullif(i.mailbox, 0), (
        SELECT m.mailbox_id FROM mailboxes m WHERE m.account_id = i.account AND m.name = 'INBOX' AND m.deleted_at IS NULL))
      ORDER BY i.ord)
    FROM unnest(p_account_id, p_mailbox_id) WITH ORDINALITY i (account, mailbox, ord));
END $$;

CREATE FUNCTION require_mailboxes(p_account_id bigint[], p_mailbox_id bigint[]) RETURNS void LANGUAGE plpgsql STABLE
SET search_path = sora, public SET plan_cache_mode = force_generic_plan AS $$
DECLARE v_missing text;
BEGIN
  SELECT string_agg(i.account || '/' || coalesce(i.mailbox::text, 'INBOX'), ' ') INTO v_missing
  FROM (SELECT DISTINCT account, mailbox FROM unnest(p_account_id, p_mailbox_id) i (account, mailbox)) i
  WHERE NOT EXISTS (
    SELECT 1 FROM mailboxes m JOIN accounts a USING (account_id)
    WHERE m.account_id = i.account AND m.mailbox_id = i.mailbox AND m.deleted_at IS NULL AND NOT m.noselect
      AND NOT m.shadow
      AND a.deleted_at IS NULL)
    AND NOT (i.mailbox = -1 AND EXISTS (
      SELECT 1 FROM accounts a WHERE a.account_id = i.account AND a.deleted_at IS NULL));
  IF v_missing IS NOT NULL THEN
    PERFORM fail('P0002', 'No such mailbox', v_missing);
  END IF;
END $$;

-- After a lost connection: which of these deliveries are there. Waits for the mailbox locks, hence for a backend that is
-- still committing them; found only rows come back.
CREATE FUNCTION find_deliveries(p_account_id bigint[], p_mailbox_id bigint[], p_delivery_key bytea[])
RETURNS TABLE (ord int, account_id bigint, mailbox_id bigint, uid bigint, uidvalidity bigint, content_id bigint)
LANGUAGE plpgsql SET search_path = sora, public SET plan_cache_mode = force_generic_plan SET lock_timeout = '30s' AS $$
#variable_conflict use_column
DECLARE
  v_mailbox bigint[] := inboxes_resolved(p_account_id, p_mailbox_id);
BEGIN
  PERFORM lock_mailboxes(v_mailbox);
  RETURN QUERY
  SELECT i.ord::int, d.account_id, d.mailbox_id, d.uid, b.uidvalidity, m.content_id
  FROM unnest(p_account_id, v_mailbox, p_delivery_key) WITH ORDINALITY i (account, mailbox, key, ord)
  JOIN recent_deliveries d ON d.account_id = i.account AND d.key = i.key AND d.mailbox_id = i.mailbox
  JOIN mailboxes b ON b.account_id = d.account_id AND b.mailbox_id = d.mailbox_id
  LEFT JOIN messages m ON m.account_id = d.account_id AND m.mailbox_id = d.mailbox_id AND m.uid = d.uid
  ORDER BY 1;
END $$;

-- The same for APPEND.
CREATE FUNCTION find_appends(p_account_id bigint, p_mailbox_id bigint, p_append_id uuid[])
RETURNS TABLE (append_id uuid, mailbox_id bigint, uid bigint, uidvalidity bigint)
LANGUAGE plpgsql SET search_path = sora, public SET plan_cache_mode = force_generic_plan SET lock_timeout = '30s' AS $$
#variable_conflict use_column
DECLARE
  v_mailbox bigint[] := inboxes_resolved(ARRAY[p_account_id], ARRAY[p_mailbox_id]);
BEGIN
  PERFORM lock_mailboxes(v_mailbox);
  RETURN QUERY
  SELECT w.append_id, w.mailbox_id, w.uid, b.uidvalidity
  FROM unnest(p_append_id) WITH ORDINALITY i (id, ord)
  JOIN append_witnesses w ON w.account_id = p_account_id AND w.append_id = i.id
  JOIN mailboxes b ON b.account_id = w.account_id AND b.mailbox_id = w.mailbox_id
  ORDER BY i.ord;
END $$;
