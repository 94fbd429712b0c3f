-- Accounts: creation, login and recipient lookup, keywords, quota.

-- With its domain, INBOX and the five special-use mailboxes of RFC 6154, all subscribed.
CREATE FUNCTION create_account(p_address text) RETURNS bigint LANGUAGE plpgsql
SET search_path = sora, public SET plan_cache_mode = force_generic_plan AS $$
DECLARE
  v_address text := fold(p_address);
  v_domain text := split_part(v_address, '@', -1);
  v_account_id bigint;
BEGIN
  IF v_address !~ '^[^@[:space:]]+@[^@[:space:]]+$' OR length(v_address) > 254 THEN
    PERFORM fail('SR003', 'Invalid address', p_address);
  END IF;
  IF EXISTS (SELECT 1 FROM aliases WHERE address = v_address) THEN
    RAISE EXCEPTION 'Address is an alias' USING ERRCODE = '23505', DETAIL = v_address;
  END IF;
  INSERT INTO domains (name) VALUES (v_domain) ON CONFLICT DO NOTHING;
  INSERT INTO accounts (domain_id, address) SELECT domain_id, v_address FROM domains WHERE name = v_domain
  RETURNING account_id INTO v_account_id;
  INSERT INTO mailboxes (account_id, name, special_use) VALUES
    (v_account_id, 'INBOX', NULL), (v_account_id, 'Sent', '\Sent'), (v_account_id, 'Drafts', '\Drafts'),
    (v_account_id, 'Archive', '\Archive'), (v_account_id, 'Junk', '\Junk'), (v_account_id, 'Trash', '\Trash');
  INSERT INTO subscriptions (account_id, name) SELECT account_id, name FROM mailboxes WHERE account_id = v_account_id;
  RETURN v_account_id;
END $$;

-- Usage is what the mailboxes hold now: expunged mail and deleted mailboxes do not count.
CREATE FUNCTION account_usage(p_account_id bigint) RETURNS TABLE (bytes bigint, messages bigint, mailboxes bigint)
LANGUAGE plpgsql STABLE SET search_path = sora, public SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY
  SELECT coalesce(sum(s.total_size), 0)::bigint, coalesce(sum(s.message_count), 0)::bigint, count(*)
  FROM mailboxes m JOIN mailbox_stats s USING (account_id, mailbox_id)
  WHERE m.account_id = p_account_id AND m.deleted_at IS NULL AND NOT m.shadow;
END $$;

CREATE FUNCTION domain_usage(p_domain_id bigint) RETURNS TABLE (bytes bigint, messages bigint)
LANGUAGE plpgsql STABLE SET search_path = sora, public SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY
  SELECT coalesce(sum(s.total_size), 0)::bigint, coalesce(sum(s.message_count), 0)::bigint
  FROM accounts a JOIN mailboxes m USING (account_id) JOIN mailbox_stats s USING (account_id, mailbox_id)
  WHERE a.domain_id = p_domain_id AND a.deleted_at IS NULL AND m.deleted_at IS NULL AND NOT m.shadow;
END $$;

-- Limits that hold for an account; NULL = none.
CREATE VIEW account_limits AS
  SELECT a.account_id, a.domain_id,
         nullif(coalesce(a.quota_bytes, d.account_quota_bytes), 0) AS bytes,
         nullif(coalesce(a.quota_messages, d.account_quota_messages), 0) AS messages,
         nullif(coalesce(a.quota_mailboxes, d.account_quota_mailboxes), 0) AS mailboxes,
         nullif(d.quota_bytes, 0) AS domain_bytes, nullif(d.quota_messages, 0) AS domain_messages
  FROM accounts a JOIN domains d USING (domain_id);

CREATE FUNCTION account_quota(p_account_id bigint)
RETURNS TABLE (bytes_limit bigint, bytes_used bigint, messages_limit bigint, messages_used bigint,
               mailboxes_limit bigint, mailboxes_used bigint)
LANGUAGE plpgsql STABLE SET search_path = sora, public SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY
  SELECT l.bytes, u.bytes, l.messages, u.messages, l.mailboxes, u.mailboxes
  FROM account_limits l, account_usage(p_account_id) u WHERE l.account_id = p_account_id;
END $$;

-- The answer at RCPT time, before anything is stored; deliver() decides.
CREATE FUNCTION is_over_quota(p_account_id bigint) RETURNS boolean LANGUAGE plpgsql STABLE
SET search_path = sora, public SET plan_cache_mode = force_generic_plan AS $$
DECLARE
  l account_limits;
BEGIN
  SELECT * INTO l FROM account_limits x WHERE x.account_id = p_account_id;
  RETURN coalesce((l.bytes IS NOT NULL OR l.messages IS NOT NULL)
      AND (SELECT u.bytes >= l.bytes OR u.messages >= l.messages FROM account_usage(p_account_id) u), false)
    OR coalesce((l.domain_bytes IS NOT NULL OR l.domain_messages IS NOT NULL)
      AND (SELECT u.bytes >= l.domain_bytes OR u.messages >= l.domain_messages FROM domain_usage(l.domain_id) u), false);
END $$;

-- Takes the quota locks of those accounts that have a limit, and returns them. Before any mailbox lock.
CREATE FUNCTION lock_quotas(p_account_ids bigint[]) RETURNS bigint[] LANGUAGE plpgsql
SET search_path = sora, public SET plan_cache_mode = force_generic_plan AS $$
DECLARE
  v_accounts bigint[];
  v_domains bigint[];
BEGIN
  SELECT array_agg(account_id),
         array_agg(DISTINCT domain_id) FILTER (WHERE domain_bytes IS NOT NULL OR domain_messages IS NOT NULL)
  INTO v_accounts, v_domains
  FROM account_limits
  WHERE account_id = ANY (p_account_ids)
    AND (bytes IS NOT NULL OR messages IS NOT NULL OR domain_bytes IS NOT NULL OR domain_messages IS NOT NULL);
  IF v_accounts IS NULL THEN
    RETURN '{}';
  END IF;
  IF v_domains IS NOT NULL THEN
    PERFORM lock_domain_quotas(v_domains);
  END IF;
  PERFORM lock_account_quotas(v_accounts);
  RETURN v_accounts;
END $$;

-- Which of these messages would pass a limit, each counted after those before it that fit. Call under lock_quotas().
CREATE FUNCTION quota_check(p_account_id bigint[], p_size bigint[]) RETURNS TABLE (ord int, over_quota boolean)
LANGUAGE plpgsql STABLE SET search_path = sora, public SET plan_cache_mode = force_generic_plan AS $$
DECLARE
  r record;
  u record;
  d record;
  v_account bigint;
  v_domain bigint;
BEGIN
  FOR r IN
    SELECT i.ord::int AS ord, i.size, l.* FROM unnest(p_account_id, p_size) WITH ORDINALITY i (account, size, ord)
    JOIN account_limits l ON l.account_id = i.account ORDER BY l.domain_id, l.account_id, i.ord
  LOOP
    IF v_domain IS DISTINCT FROM r.domain_id THEN
      v_domain := r.domain_id;
      IF r.domain_bytes IS NOT NULL OR r.domain_messages IS NOT NULL THEN
        SELECT * INTO d FROM domain_usage(v_domain);
      ELSE
        SELECT 0::bigint AS bytes, 0::bigint AS messages INTO d;
      END IF;
    END IF;
    IF v_account IS DISTINCT FROM r.account_id THEN
      v_account := r.account_id;
      SELECT * INTO u FROM account_usage(v_account);
    END IF;
    ord := r.ord;
    over_quota := coalesce(u.bytes + r.size > r.bytes, false) OR coalesce(u.messages + 1 > r.messages, false)
      OR coalesce(d.bytes + r.size > r.domain_bytes, false) OR coalesce(d.messages + 1 > r.domain_messages, false);
    IF NOT over_quota THEN
      u.bytes := u.bytes + r.size;
      u.messages := u.messages + 1;
      d.bytes := d.bytes + r.size;
      d.messages := d.messages + 1;
    END IF;
    RETURN NEXT;
  END LOOP;
END $$;

-- Where mail for these addresses goes: the account, else its aliases, else both without "+detail", else the catch-all of
-- the domain. One row a target; an unknown address has one row with account_id NULL. over_quota is only the answer at
-- RCPT time; deliver() decides.
CREATE FUNCTION resolve_recipients(p_addresses text[], p_separator text DEFAULT '+')
RETURNS TABLE (ord int, account_id bigint, address text, detail text, disabled boolean, over_quota boolean, script bigint)
LANGUAGE plpgsql STABLE SET search_path = sora, public SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY
  WITH asked AS (
    SELECT i.ord::int AS ord, fold(i.address) AS full_address, split_part(fold(i.address), '@', -1) AS domain,
           left(fold(i.address), length(i.address) - length(split_part(i.address, '@', -1)) - 1) AS local,
           left(i.address, length(i.address) - length(split_part(i.address, '@', -1)) - 1) AS spelled
    FROM unnest(p_addresses) WITH ORDINALITY i (address, ord)
  ), split AS (
    SELECT *, CASE WHEN position(p_separator IN local) > 1
                THEN split_part(local, p_separator, 1) || '@' || domain END AS base,
           CASE WHEN position(p_separator IN local) > 1
                THEN substr(spelled, position(p_separator IN spelled) + length(p_separator)) END AS plus
    FROM asked
  )
  SELECT s.ord, a.account_id, a.address, t.detail, a.disabled,
         a.account_id IS NOT NULL AND is_over_quota(a.account_id),
         CASE WHEN a.script_active THEN a.script_version ELSE 0 END
  FROM split s
  LEFT JOIN LATERAL (
    SELECT x.account_id, x.detail, rank() OVER (ORDER BY x.step) AS place FROM (
      SELECT 1 AS step, a.account_id, NULL AS detail FROM accounts a
      WHERE a.address = s.full_address AND a.deleted_at IS NULL
      UNION ALL
      SELECT 2, l.account_id, NULL FROM aliases l WHERE l.address = s.full_address
      UNION ALL
      SELECT 3, a.account_id, s.plus FROM accounts a WHERE a.address = s.base AND a.deleted_at IS NULL
      UNION ALL
      SELECT 4, l.account_id, s.plus FROM aliases l WHERE l.address = s.base
      UNION ALL
      -- mail for an account that is only deleted for now is not for others to read
      SELECT 5, d.catch_all_account_id, NULL FROM domains d
      WHERE d.name = s.domain AND d.catch_all_account_id IS NOT NULL
        AND NOT EXISTS (SELECT 1 FROM accounts g WHERE g.address IN (s.full_address, s.base) AND g.deleted_at IS NOT NULL)
    ) x JOIN accounts alive ON alive.account_id = x.account_id AND alive.deleted_at IS NULL
  ) t ON t.place = 1
  LEFT JOIN accounts a ON a.account_id = t.account_id
  ORDER BY s.ord, a.account_id;
END $$;

-- Flag numbers of these keywords, made where they are new. First spelling stays; SR004 above 1,000 in the account.
CREATE FUNCTION register_keywords(p_account_id bigint, p_names text[]) RETURNS TABLE (name text, flag_no int2)
LANGUAGE plpgsql SET search_path = sora, public SET plan_cache_mode = force_generic_plan SET lock_timeout = '10s' AS $$
#variable_conflict use_column
DECLARE
  v_last int;
  v_new text[];
BEGIN
  PERFORM lock_accounts(ARRAY[p_account_id]);
  SELECT array_agg(n ORDER BY first) INTO v_new FROM (
    SELECT DISTINCT ON (fold(i.n)) i.n, i.first FROM unnest(p_names) WITH ORDINALITY i (n, first)
    WHERE NOT EXISTS (SELECT 1 FROM account_keywords k WHERE k.account_id = p_account_id AND fold(k.name) = fold(i.n))
    ORDER BY fold(i.n), i.first
  ) q;
  IF v_new IS NOT NULL THEN
    SELECT coalesce(max(k.flag_no), 15) INTO v_last FROM account_keywords k WHERE k.account_id = p_account_id;
    IF v_last + cardinality(v_new) > 1015 THEN
      PERFORM fail('SR004', 'Too many keywords in this account');
    END IF;
    INSERT INTO account_keywords (account_id, flag_no, name)
    SELECT p_account_id, (v_last + i.ord)::int2, i.n FROM unnest(v_new) WITH ORDINALITY i (n, ord);
  END IF;
  RETURN QUERY SELECT k.name, k.flag_no FROM account_keywords k
    WHERE k.account_id = p_account_id AND fold(k.name) IN (SELECT fold(n) FROM unnest(p_names) n) ORDER BY k.flag_no;
END $$;
