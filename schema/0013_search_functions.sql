-- Substring search, exact at any time: over the index and over what is not indexed yet, in one snapshot.
--
-- Pattern and texts are folded by the worker. certain = false: the stored text is not whole, so the message itself decides.

CREATE FUNCTION index_batch(p_limit int DEFAULT 500) RETURNS int LANGUAGE plpgsql SET search_path = sora, public AS $$
DECLARE v_moved int;
BEGIN
  PERFORM set_config('synchronous_commit', 'off', true);   -- what a power cut undoes is in the queue again
  WITH taken AS MATERIALIZED (
    SELECT account_id, content_id FROM search_queue LIMIT p_limit FOR UPDATE SKIP LOCKED
  ), gone AS (
    DELETE FROM search_queue q USING taken t WHERE q.account_id = t.account_id AND q.content_id = t.content_id RETURNING q.*
  )
  INSERT INTO search_index (account_id, content_id, headers, body, body_truncated)
  SELECT account_id, content_id, headers, body, body_truncated FROM gone
  ON CONFLICT DO NOTHING;
  GET DIAGNOSTICS v_moved = ROW_COUNT;
  RETURN v_moved;
END $$;

-- LIKE pattern that finds a text as it stands.
CREATE FUNCTION like_pattern(p text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT '%' || replace(replace(replace(p, '\', '\\'), '%', '\%'), '_', '\_') || '%'
$$;

-- Contents of the account whose headers (with field names) or body hold the pattern.
CREATE FUNCTION search_text(p_account_id bigint, p_headers boolean, p_body boolean, p_pattern text)
RETURNS TABLE (content_id bigint, certain boolean) LANGUAGE plpgsql STABLE SET search_path = sora, public AS $$
#variable_conflict use_column
DECLARE
  v_like text := like_pattern(p_pattern);
BEGIN
  -- Under three characters there is no trigram and a GIN scan would read the whole index (seconds).
  IF p_headers AND NOT p_body AND length(p_pattern) >= 3 THEN
    RETURN QUERY
    SELECT i.content_id, true FROM search_index i WHERE i.account_id = p_account_id AND i.headers LIKE v_like
    UNION ALL
    SELECT q.content_id, true FROM search_queue q WHERE q.account_id = p_account_id AND strpos(q.headers, p_pattern) > 0
    UNION ALL
    SELECT a.content_id, true FROM search_archive a WHERE a.account_id = p_account_id AND strpos(a.headers, p_pattern) > 0;
    RETURN;
  END IF;
  RETURN QUERY
  SELECT t.content_id,
         (p_headers AND strpos(t.headers, p_pattern) > 0) OR (p_body AND coalesce(strpos(t.body, p_pattern) > 0, false))
  FROM search_texts t
  WHERE t.account_id = p_account_id AND ((p_headers AND strpos(t.headers, p_pattern) > 0)
     OR (p_body AND (t.body_truncated OR coalesce(strpos(t.body, p_pattern) > 0, false))));
END $$;

-- The same for the messages of a UID set in one mailbox. A small set is looked up message by message, so SEARCH UNSEEN BODY x
-- reads unseen messages only. For a set that is most of the account it is cheaper to read the texts of the account in
-- their own order (one index descent in all, instead of four a message), and to ask for the messages of what was found.
CREATE FUNCTION search_messages(p_account_id bigint, p_mailbox_id bigint, p_lo bigint[], p_hi bigint[], p_headers boolean,
  p_body boolean, p_pattern text)
RETURNS TABLE (uid bigint, certain boolean) LANGUAGE plpgsql STABLE
SET search_path = sora, public SET plan_cache_mode = force_generic_plan
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
  v_set int8multirange := (SELECT range_agg(int8range(l, h, '[]')) FROM unnest(p_lo, p_hi) r (l, h));
  v_like text := like_pattern(p_pattern);
  v_indexed boolean := p_headers AND length(p_pattern) >= 3;
BEGIN
  IF (v_indexed AND NOT p_body) OR is_most_of_account(p_account_id, p_mailbox_id, p_lo, p_hi) THEN
    RETURN QUERY
    SELECT m.uid, bool_or(f.certain) FROM (
      SELECT i.content_id, true AS certain FROM search_index i
      WHERE v_indexed AND i.account_id = p_account_id AND i.headers LIKE v_like
      UNION ALL
      SELECT t.content_id,
             (p_headers AND strpos(t.headers, p_pattern) > 0) OR (p_body AND coalesce(strpos(t.body, p_pattern) > 0, false))
      FROM search_queue t
      WHERE t.account_id = p_account_id AND ((p_headers AND strpos(t.headers, p_pattern) > 0)
         OR (p_body AND (t.body_truncated OR coalesce(strpos(t.body, p_pattern) > 0, false))))
      UNION ALL
      SELECT t.content_id,
             (p_headers AND strpos(t.headers, p_pattern) > 0) OR (p_body AND coalesce(strpos(t.body, p_pattern) > 0, false))
      FROM search_archive t
      WHERE t.account_id = p_account_id AND ((p_headers AND strpos(t.headers, p_pattern) > 0)
         OR (p_body AND (t.body_truncated OR coalesce(strpos(t.body, p_pattern) > 0, false))))
      UNION ALL
      SELECT t.content_id,
             (p_headers AND NOT v_indexed AND strpos(t.headers, p_pattern) > 0)
               OR (p_body AND coalesce(strpos(t.body, p_pattern) > 0, false))
      FROM search_index t
      WHERE (p_body OR NOT v_indexed) AND t.account_id = p_account_id
        AND ((p_headers AND NOT v_indexed AND strpos(t.headers, p_pattern) > 0)
         OR (p_body AND (t.body_truncated OR coalesce(strpos(t.body, p_pattern) > 0, false))))
    ) f CROSS JOIN LATERAL (
      SELECT i.uid, i.mailbox_id, i.expunged_at FROM messages i
      WHERE i.account_id = p_account_id AND i.content_id = f.content_id OFFSET 0) m
    WHERE m.mailbox_id = p_mailbox_id AND m.expunged_at IS NULL AND m.uid <@ v_set
    GROUP BY m.uid;
    RETURN;
  END IF;
  RETURN QUERY
  SELECT m.uid,
         (p_headers AND strpos(t.headers, p_pattern) > 0) OR (p_body AND coalesce(strpos(t.body, p_pattern) > 0, false))
  FROM unnest(p_lo, p_hi) r (l, h) CROSS JOIN LATERAL (
    SELECT i.uid, i.content_id FROM messages i
    WHERE i.account_id = p_account_id AND i.mailbox_id = p_mailbox_id AND i.uid BETWEEN r.l AND r.h
      AND i.expunged_at IS NULL OFFSET 0) m
  CROSS JOIN LATERAL (
    SELECT i.headers, i.body, i.body_truncated FROM search_texts i
    WHERE i.account_id = p_account_id AND i.content_id = m.content_id OFFSET 0) t
  WHERE (p_headers AND strpos(t.headers, p_pattern) > 0)
     OR (p_body AND (t.body_truncated OR coalesce(strpos(t.body, p_pattern) > 0, false)));
END $$;

-- A set of UIDs, numbers without a message included, has a third of the account's messages or more.
CREATE FUNCTION is_most_of_account(p_account_id bigint, p_mailbox_id bigint, p_lo bigint[], p_hi bigint[]) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = sora, public SET plan_cache_mode = force_generic_plan AS $$
BEGIN
  RETURN (
    SELECT 3 * least(
        (SELECT sum(h - l + 1) FROM unnest(p_lo, p_hi) r (l, h)),
        sum(s.message_count) FILTER (WHERE s.mailbox_id = p_mailbox_id)) >= sum(s.message_count)
    FROM mailbox_stats s WHERE s.account_id = p_account_id);
END $$;

-- UIDs of a set whose header has a field that holds the pattern, in no order. The text of the headers has one line for each
-- field, `NAME: VALUE`; nearly always the first line of that name decides, and only if there is another all are looked at.
-- p_many: the index is asked for what has the pattern in any field, and not message by message.
CREATE FUNCTION search_field(p_account_id bigint, p_mailbox_id bigint, p_lo bigint[], p_hi bigint[], p_field text,
  p_pattern text, p_many boolean)
RETURNS bigint[] LANGUAGE plpgsql STABLE
SET search_path = sora, public SET plan_cache_mode = force_generic_plan
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off AS $$
DECLARE
  v_set int8multirange := (SELECT range_agg(int8range(l, h, '[]')) FROM unnest(p_lo, p_hi) r (l, h));
  v_like text := like_pattern(p_pattern);
  v_line text := E'\n' || p_field || ': ';
  v_skip int := length(p_field) + 2;
BEGIN
  IF p_many AND length(p_pattern) >= 3 THEN
    RETURN (
      SELECT array_agg(m.uid) FROM (
        SELECT i.content_id, i.headers FROM search_index i WHERE i.account_id = p_account_id AND i.headers LIKE v_like
        UNION ALL
        SELECT q.content_id, q.headers FROM search_queue q
        WHERE q.account_id = p_account_id AND strpos(q.headers, p_pattern) > 0
        UNION ALL
        SELECT a.content_id, a.headers FROM search_archive a
        WHERE a.account_id = p_account_id AND strpos(a.headers, p_pattern) > 0
      ) t CROSS JOIN LATERAL (SELECT strpos(E'\n' || t.headers, v_line) AS place OFFSET 0) f
      CROSS JOIN LATERAL (
        SELECT i.uid, i.mailbox_id, i.expunged_at FROM messages i
        WHERE i.account_id = p_account_id AND i.content_id = t.content_id OFFSET 0) m
      WHERE f.place > 0
        AND (strpos(split_part(substr(t.headers, f.place + v_skip), E'\n', 1), p_pattern) > 0
          OR (strpos(substr(t.headers, f.place + v_skip), v_line) > 0 AND EXISTS (
            SELECT 1 FROM string_to_table(t.headers, E'\n') line
            WHERE starts_with(E'\n' || line, v_line) AND strpos(substr(line, v_skip + 1), p_pattern) > 0)))
        AND m.mailbox_id = p_mailbox_id AND m.expunged_at IS NULL AND m.uid <@ v_set);
  END IF;
  RETURN (
    SELECT array_agg(m.uid) FROM unnest(p_lo, p_hi) r (l, h) CROSS JOIN LATERAL (
      SELECT i.uid, i.content_id FROM messages i
      WHERE i.account_id = p_account_id AND i.mailbox_id = p_mailbox_id AND i.uid BETWEEN r.l AND r.h
        AND i.expunged_at IS NULL OFFSET 0) m
    CROSS JOIN LATERAL (
      SELECT i.headers FROM search_texts i WHERE i.account_id = p_account_id AND i.content_id = m.content_id OFFSET 0) t
    CROSS JOIN LATERAL (SELECT strpos(E'\n' || t.headers, v_line) AS place OFFSET 0) f
    WHERE f.place > 0
      AND (strpos(split_part(substr(t.headers, f.place + v_skip), E'\n', 1), p_pattern) > 0
        OR (strpos(substr(t.headers, f.place + v_skip), v_line) > 0 AND EXISTS (
          SELECT 1 FROM string_to_table(t.headers, E'\n') line
          WHERE starts_with(E'\n' || line, v_line) AND strpos(substr(line, v_skip + 1), p_pattern) > 0))));
END $$;

-- Moves texts that were indexed longer than p_age ago out of the index. Headers stay as text; of bodies only that there is
-- more to look at. Nothing brings them back, also not a longer age.
CREATE FUNCTION archive_search_texts(p_age interval, p_limit int DEFAULT 1000) RETURNS int LANGUAGE plpgsql
SET search_path = sora, public AS $$
DECLARE v_moved int;
BEGIN
  PERFORM set_config('synchronous_commit', 'off', true);
  WITH old AS MATERIALIZED (
    SELECT i.account_id, i.content_id FROM search_index i WHERE i.indexed_at < clock() - p_age
    ORDER BY i.indexed_at LIMIT p_limit FOR UPDATE SKIP LOCKED
  ), gone AS (
    DELETE FROM search_index i USING old o WHERE i.account_id = o.account_id AND i.content_id = o.content_id RETURNING i.*
  )
  INSERT INTO search_archive (account_id, content_id, headers, body, body_truncated)
  SELECT g.account_id, g.content_id, g.headers, CASE WHEN g.body = '' THEN '' END, g.body_truncated OR coalesce(g.body <> '', false)
  FROM gone g
  ON CONFLICT DO NOTHING;
  GET DIAGNOSTICS v_moved = ROW_COUNT;
  RETURN v_moved;
END $$;

-- Texts of messages for SORT and THREAD without a row each, also of expunged ones, for clients that were not told yet:
-- [uint4 uid][uint4 length][text] by uid. What they are is said by the name of a column, or by 'references', which is three
-- lines: the message id, what the message refers to, and the base subject.
CREATE FUNCTION message_texts(p_account_id bigint, p_mailbox_id bigint, p_lo bigint[], p_hi bigint[], p_what text)
RETURNS bytea LANGUAGE plpgsql STABLE
SET search_path = sora, public SET plan_cache_mode = force_generic_plan
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off AS $$
BEGIN
  IF p_what = 'envelope' THEN
    RETURN (
      SELECT string_agg(substr(int8send(m.uid), 5) || int4send(length(c.envelope)) || c.envelope, ''::bytea ORDER BY m.uid)
      FROM unnest(p_lo, p_hi) r (l, h) CROSS JOIN LATERAL (
        SELECT i.uid, i.content_id FROM messages i
        WHERE i.account_id = p_account_id AND i.mailbox_id = p_mailbox_id AND i.uid BETWEEN r.l AND r.h OFFSET 0) m
      CROSS JOIN LATERAL (
        SELECT i.envelope FROM message_contents i
        WHERE i.account_id = p_account_id AND i.content_id = m.content_id OFFSET 0) c);
  END IF;
  RETURN (
    SELECT string_agg(substr(int8send(m.uid), 5) || int4send(octet_length(c.t)) || convert_to(c.t, 'UTF8'), ''::bytea
             ORDER BY m.uid)
    FROM unnest(p_lo, p_hi) r (l, h) CROSS JOIN LATERAL (
      SELECT i.uid, i.content_id FROM messages i
      WHERE i.account_id = p_account_id AND i.mailbox_id = p_mailbox_id AND i.uid BETWEEN r.l AND r.h OFFSET 0) m
    CROSS JOIN LATERAL (
      SELECT coalesce(CASE p_what WHEN 'base_subject' THEN i.base_subject WHEN 'subject' THEN i.subject
          WHEN 'display_from' THEN i.display_from WHEN 'display_to' THEN i.display_to
          WHEN 'references' THEN
            coalesce(i.message_id, '') || E'\n' || coalesce(nullif(i.reference_ids, ''), i.in_reply_to, '')
              || E'\n' || coalesce(i.base_subject, '') END, '') AS t
      FROM message_contents i WHERE i.account_id = p_account_id AND i.content_id = m.content_id OFFSET 0) c);
END $$;
