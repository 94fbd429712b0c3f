-- Every SQL function (ours) beside plain SQL that does the same the straightforward way (plain, see plain.sql).
--
-- A pair begins with its name: the function, and what is asked of it. What follows it:
--   covers     functions that run inside this one and are measured with it
--   untimed    statements that run before each of the two, in the same transaction
--   uncompared the answers are times, new numbers, or nothing
--   fails      both raise
-- Words in braces are filled in by pairs.py.

-- ── clock
-- uncompared
-- ours
SELECT clock()
-- plain
SELECT now()

-- ── lock_key
-- ours
SELECT lock_key({mb})
-- plain
SELECT ({mb} & 2147483647)::int

-- ── lock_accounts of 10
-- covers lock_all
-- uncompared
-- ours
SELECT lock_accounts(ARRAY(SELECT g::bigint FROM generate_series(1, 10) g))
-- plain
SELECT pg_advisory_xact_lock(21321, g) FROM generate_series(1, 10) g

-- ── lock_domain_quotas of 10
-- covers lock_all
-- uncompared
-- ours
SELECT lock_domain_quotas(ARRAY(SELECT g::bigint FROM generate_series(1, 10) g))
-- plain
SELECT pg_advisory_xact_lock(21322, g) FROM generate_series(1, 10) g

-- ── lock_account_quotas of 10
-- covers lock_all
-- uncompared
-- ours
SELECT lock_account_quotas(ARRAY(SELECT g::bigint FROM generate_series(1, 10) g))
-- plain
SELECT pg_advisory_xact_lock(21323, g) FROM generate_series(1, 10) g

-- ── lock_mailboxes of 10
-- covers lock_all
-- uncompared
-- ours
SELECT lock_mailboxes(ARRAY(SELECT g::bigint FROM generate_series(1, 10) g))
-- plain
SELECT pg_advisory_xact_lock(21327, g) FROM generate_series(1, 10) g

-- ── try_lock_mailbox
-- ours
SELECT try_lock_mailbox({mb})
-- plain
SELECT pg_try_advisory_xact_lock(21327, {mb}::int)

-- ── fail
-- fails
-- ours
SELECT fail('P0002', 'no')
-- plain
SELECT plain.fail()

-- ── range_mask
-- ours
SELECT range_mask(3, 900)
-- plain
SELECT bit_or(set_bit(0::bit(1024), g, 1)) FROM generate_series(3, 900) g

-- ── fold
-- ours
SELECT fold('User@Example.COM')
-- plain
SELECT lower('User@Example.COM')

-- ── like_pattern
-- ours
SELECT like_pattern('50%')
-- plain
SELECT '%' || regexp_replace('50%', '([\\%_])', '\\\1', 'g') || '%'

-- ── note_account_change
-- ours
SELECT note_account_change({acc}, 'create', {mb}, 'x')
-- plain
WITH u AS (UPDATE accounts SET change_seq = change_seq + 1 WHERE account_id = {acc} RETURNING change_seq) INSERT INTO
account_changes (account_id, seq, kind, mailbox_id, name) SELECT {acc}, change_seq, 'create', {mb}, 'x' FROM u
RETURNING seq

-- ── create_account
-- covers mailbox_created
-- ours
SELECT create_account('new@example.com') > 0
-- plain
WITH d AS (SELECT domain_id FROM domains WHERE name = 'example.com'), a AS (INSERT INTO accounts (domain_id, address)
SELECT domain_id, 'new@example.com' FROM d RETURNING account_id), m AS (INSERT INTO mailboxes (account_id, name)
SELECT account_id, n FROM a, unnest('{INBOX,Sent,Drafts,Archive,Junk,Trash}'::text[]) n RETURNING account_id, name), s
AS (INSERT INTO subscriptions SELECT account_id, name FROM m) SELECT account_id > 0 FROM a

-- ── account_usage
-- ours
SELECT bytes, messages FROM account_usage({acc})
-- plain
SELECT coalesce(sum(m.size), 0)::bigint, count(*) FROM plain.messages m WHERE m.account_id = {acc} AND m.expunged_at
IS NULL

-- ── domain_usage
-- ours
SELECT bytes, messages FROM domain_usage({domain})
-- plain
SELECT coalesce(sum(m.size), 0)::bigint, count(*) FROM plain.messages m JOIN accounts a USING (account_id) WHERE
a.domain_id = {domain} AND m.expunged_at IS NULL

-- ── account_quota
-- ours
SELECT bytes_used, messages_used FROM account_quota({acc})
-- plain
SELECT coalesce(sum(m.size), 0)::bigint, count(*) FROM plain.messages m WHERE m.account_id = {acc} AND m.expunged_at
IS NULL

-- ── is_over_quota
-- untimed
UPDATE accounts SET quota_bytes = 1000000000000 WHERE account_id = {acc}
-- ours
SELECT is_over_quota({acc})
-- plain
SELECT u.bytes >= 1000000000000 FROM (SELECT coalesce(sum(m.size), 0)::bigint, count(*) FROM plain.messages m WHERE
m.account_id = {acc} AND m.expunged_at IS NULL) u (bytes, n)

-- ── quota_check of 32
-- untimed
UPDATE accounts SET quota_bytes = 1000000000000 WHERE account_id = {acc}
-- ours
SELECT bool_or(over_quota) FROM quota_check(array_fill({acc}::bigint, '{32}'), array_fill(3000::bigint, '{32}'))
-- plain
SELECT bool_or(u.bytes + 3000 * g > 1000000000000) FROM generate_series(1, 32) g, LATERAL (SELECT
coalesce(sum(m.size), 0)::bigint, count(*) FROM plain.messages m WHERE m.account_id = {acc} AND m.expunged_at IS NULL)
u (bytes, n)

-- ── lock_quotas
-- uncompared
-- untimed
UPDATE accounts SET quota_bytes = 1000000000000 WHERE account_id = {acc}
-- ours
SELECT lock_quotas(ARRAY[{acc}])::text
-- plain
SELECT ARRAY[{acc}]::text, pg_advisory_xact_lock(21323, {acc})

-- ── resolve_recipients of 100
-- ours
SELECT account_id FROM resolve_recipients(ARRAY(SELECT 'neighbour' || g || '+x@example.com' FROM generate_series(0,
99) g))
-- plain
SELECT (SELECT account_id FROM accounts a WHERE a.address = split_part('neighbour' || g || '+x@example.com', '+', 1)
|| '@example.com' AND deleted_at IS NULL) FROM generate_series(0, 99) g ORDER BY g

-- ── register_keywords of 3
-- ours
SELECT name FROM register_keywords({acc}, '{$A,$B,$C}')
-- plain
INSERT INTO account_keywords SELECT {acc}, coalesce((SELECT max(flag_no) FROM account_keywords WHERE account_id =
{acc}), 15) + o, n FROM unnest('{$A,$B,$C}'::text[]) WITH ORDINALITY i (n, o) RETURNING name

-- ── register_instance
-- ours
SELECT register_instance('bench')
-- plain
WITH d AS (DELETE FROM connections WHERE instance_id = 'bench') UPDATE instances SET incarnation = incarnation + 1,
started_at = now(), heartbeat_at = now() WHERE instance_id = 'bench' RETURNING incarnation

-- ── heartbeat
-- ours
SELECT heartbeat('bench', 1)
-- plain
UPDATE instances SET heartbeat_at = now() WHERE instance_id = 'bench' AND incarnation = 1 RETURNING true

-- ── acquire_lease
-- ours
SELECT acquire_lease('pop3/1', 'bench', '1 min') > 0
-- plain
INSERT INTO leases VALUES ('pop3/1', 'bench', 1, nextval('lease_tokens'), now(), now() + interval '1 min') RETURNING
true

-- ── renew_lease
-- ours
SELECT renew_lease('held', 1, '1 min')
-- plain
UPDATE leases SET expires_at = now() + interval '1 min' WHERE name = 'held' AND token = 1 AND expires_at > now()
RETURNING true

-- ── require_lease
-- uncompared
-- ours
SELECT require_lease('held', 1)
-- plain
SELECT 1 FROM leases WHERE name = 'held' AND token = 1 FOR UPDATE

-- ── release_lease
-- ours
SELECT release_lease('held', 1)
-- plain
DELETE FROM leases WHERE name = 'held' AND token = 1 RETURNING true

-- ── raise_uidvalidity
-- uncompared
-- ours
SELECT raise_uidvalidity()
-- plain
SELECT setval('uidvalidities', greatest(last_value, extract(epoch FROM now())::bigint)) FROM uidvalidities

-- ── mailbox_name
-- ours
SELECT mailbox_name('inbox/Entwürfe/')
-- plain
SELECT 'INBOX' || substr(rtrim(normalize('inbox/Entwürfe/', NFC), '/'), 6)

-- ── require_mailbox
-- uncompared
-- ours
SELECT require_mailbox({box})
-- plain
SELECT 1 FROM mailboxes WHERE account_id = {acc} AND mailbox_id = {mb}

-- ── create_mailbox
-- uncompared
-- ours
SELECT name FROM create_mailbox({acc}, 'a/b/c')
-- plain
INSERT INTO mailboxes (account_id, name) SELECT {acc}, n FROM unnest('{a,a/b,a/b/c}'::text[]) n RETURNING name

-- ── rename_mailbox
-- ours
SELECT name FROM rename_mailbox({acc}, 'Archive', 'Old')
-- plain
UPDATE mailboxes SET name = 'Old' WHERE account_id = {acc} AND name = 'Archive' RETURNING name

-- ── delete_mailbox
-- ours
SELECT delete_mailbox({acc}, 'Archive')
-- plain
UPDATE mailboxes SET deleted_at = now() WHERE account_id = {acc} AND name = 'Archive' RETURNING mailbox_id

-- ── subscribe
-- uncompared
-- ours
SELECT subscribe({acc}, 'x')
-- plain
INSERT INTO subscriptions VALUES ({acc}, 'x')

-- ── unsubscribe
-- ours
SELECT unsubscribe({acc}, 'Trash')
-- plain
DELETE FROM subscriptions WHERE account_id = {acc} AND name = 'Trash' RETURNING true

-- ── list_mailboxes
-- ours
SELECT name, message_count, unseen_count, total_size FROM list_mailboxes({acc})
-- plain
SELECT b.name, count(m.uid)::int, count(m.uid) FILTER (WHERE NOT 0 = ANY (m.flags))::int, coalesce(sum(m.size),
0)::bigint FROM plain.mailboxes b LEFT JOIN plain.messages m ON m.account_id = b.account_id AND m.mailbox_id =
b.mailbox_id AND m.expunged_at IS NULL WHERE b.account_id = {acc} GROUP BY b.name ORDER BY b.name

-- ── viewer_unseen
-- ours
SELECT viewer_unseen({box}, 4711)
-- plain
SELECT count(*) FROM plain.messages m WHERE m.account_id = {acc} AND m.mailbox_id = {mb} AND m.expunged_at IS NULL

-- ── claim_recent
-- ours
SELECT recent_upto FROM claim_recent({box})
-- plain
SELECT max(uid) FROM plain.messages m WHERE m.account_id = {acc} AND m.mailbox_id = {mb} AND m.expunged_at IS NULL

-- ── poll_mailboxes of 500
-- ours
SELECT count(*) FROM poll_mailboxes(ARRAY(SELECT account_id FROM mailboxes ORDER BY mailbox_id LIMIT 500),
ARRAY(SELECT mailbox_id FROM mailboxes ORDER BY mailbox_id LIMIT 500), ARRAY(SELECT 1000000::bigint FROM mailboxes
LIMIT 500))
-- plain
SELECT count(*) FROM (SELECT * FROM plain.mailboxes ORDER BY mailbox_id LIMIT 500) b, LATERAL (SELECT
coalesce(max(m.modseq), 0) AS top FROM plain.messages m WHERE m.account_id = b.account_id AND m.mailbox_id =
b.mailbox_id) t WHERE t.top <> 1000000

-- ── poll_trees of 100
-- ours
SELECT count(*) FROM poll_trees(ARRAY(SELECT account_id FROM accounts ORDER BY 1 LIMIT 100), array_fill(-1::bigint,
'{100}'))
-- plain
SELECT count(*) FROM accounts WHERE account_id IN (SELECT account_id FROM accounts ORDER BY 1 LIMIT 100)
AND change_seq > -1

-- ── poll_accounts of 100
-- ours
SELECT count(*) FROM poll_accounts(ARRAY(SELECT account_id FROM accounts ORDER BY 1 LIMIT 100), array_fill(0::bigint,
'{100}'))
-- plain
SELECT count(*) FROM account_changes c WHERE c.account_id IN (SELECT account_id FROM accounts ORDER BY 1 LIMIT 100)
AND c.seq > 0

-- ── mailbox_state
-- ours
SELECT message_count, unseen_count, length(state) > 0 FROM mailbox_state({box})
-- plain
SELECT count(*)::int, count(*) FILTER (WHERE NOT 0 = ANY (q.flags))::int, length(string_agg(int8send(q.uid) ||
array_send(q.flags), '' ORDER BY q.uid)) > 0 FROM (SELECT m.uid, m.flags FROM plain.messages m WHERE m.account_id =
{acc} AND m.mailbox_id = {mb} AND m.expunged_at IS NULL) q

-- ── mailbox_delta, one message
-- untimed
SELECT store_flags({box}, ARRAY[{mid}::bigint], ARRAY[{mid}::bigint], '{4}', '{}'); SELECT plain.store({box}, {mid},
{mid}, 4::int2)
-- ours
SELECT length(state) > 0 FROM mailbox_delta({box}, {modseq})
-- plain
SELECT count(*) > 0 FROM plain.messages m WHERE m.account_id = {acc} AND m.mailbox_id = {mb} AND m.expunged_at IS NULL
AND m.modseq > {modseq}

-- ── changed_since, one message
-- untimed
SELECT store_flags({box}, ARRAY[{mid}::bigint], ARRAY[{mid}::bigint], '{4}', '{}'); SELECT plain.store({box}, {mid},
{mid}, 4::int2)
-- ours
SELECT uid FROM changed_since({box}, {modseq})
-- plain
SELECT m.uid FROM plain.messages m WHERE m.account_id = {acc} AND m.mailbox_id = {mb} AND m.expunged_at IS NULL AND
m.modseq > {modseq}

-- ── modseqs
-- ours
SELECT length(created) FROM modseqs({box})
-- plain
SELECT length(string_agg(substr(int8send(m.uid), 5) || int8send(m.modseq), '' ORDER BY m.uid)) FROM plain.messages m
WHERE m.account_id = {acc} AND m.mailbox_id = {mb}

-- ── modseqs, one change
-- untimed
SELECT store_flags({box}, ARRAY[{mid}::bigint], ARRAY[{mid}::bigint], '{4}', '{}'); SELECT plain.store({box}, {mid},
{mid}, 4::int2)
-- ours
SELECT bit_count(substr(changes, 17)) FROM modseqs({box}, {modseq})
-- plain
SELECT count(*) FROM plain.messages m WHERE m.account_id = {acc} AND m.mailbox_id = {mb} AND m.modseq > {modseq}

-- ── message_columns of 1,000
-- ours
SELECT message_columns({box}, 1, 1000)
-- plain
SELECT string_agg(substr(int8send(m.uid), 5) || int8send(m.content_id) || int8send(floor(extract(epoch
FROM m.internal_date))::bigint) || int8send(floor(extract(epoch FROM c.sent_at))::bigint) || int8send(floor(extract(epoch
FROM m.saved_at))::bigint) || int8send(m.size), '' ORDER BY m.uid) FROM plain.messages m JOIN plain.contents c USING
(account_id, content_id) WHERE m.account_id = {acc} AND m.mailbox_id = {mb} AND m.expunged_at IS NULL AND m.uid <=
1000

-- ── message_texts of 1,000
-- ours
SELECT message_texts({box}, ARRAY[1::bigint], ARRAY[1000::bigint], 'subject')
-- plain
SELECT string_agg(substr(int8send(m.uid), 5) || int4send(octet_length(c.subject)) || convert_to(c.subject, 'UTF8'), ''
ORDER BY m.uid) FROM plain.messages m JOIN plain.contents c USING (account_id, content_id) WHERE m.account_id = {acc} AND
m.mailbox_id = {mb} AND m.expunged_at IS NULL AND m.uid <= 1000

-- ── expunged_since
-- untimed
SELECT expunge({box}, ARRAY[{mid}::bigint], ARRAY[{mid}::bigint + 99], false); SELECT plain.expunge({box}, {mid},
{mid} + 99)
-- ours
SELECT cardinality(uids)::bigint FROM expunged_since({box}, 1)
-- plain
SELECT count(*) FROM plain.messages m WHERE m.account_id = {acc} AND m.mailbox_id = {mb} AND m.expunged_at IS NOT NULL

-- ── seq_of_uid
-- ours
SELECT seq_of_uid({box}, {mid})
-- plain
SELECT q.n FROM (SELECT m.uid, row_number() OVER (ORDER BY m.uid) AS n FROM plain.messages m WHERE m.account_id =
{acc} AND m.mailbox_id = {mb} AND m.expunged_at IS NULL) q WHERE q.uid = {mid}

-- ── message_sequence_numbers
-- ours
SELECT uid, seqnum FROM message_sequence_numbers WHERE account_id = {acc} AND mailbox_id = {mb} ORDER BY uid
-- plain
SELECT m.uid, row_number() OVER (ORDER BY m.uid) FROM plain.messages m WHERE m.account_id = {acc} AND m.mailbox_id =
{mb} AND m.expunged_at IS NULL ORDER BY m.uid

-- ── store_flags, 1
-- ours
SELECT sum(bit_count(changed))::bigint FROM store_flags({box}, ARRAY[{mid}::bigint], ARRAY[{mid}::bigint], '{4}',
'{}')
-- plain
SELECT plain.store({box}, {mid}, {mid}, 4::int2)

-- ── store_flags, 100
-- ours
SELECT sum(bit_count(changed))::bigint FROM store_flags({box}, ARRAY[{mid}::bigint], ARRAY[{mid}::bigint + 99], '{4}',
'{}')
-- plain
SELECT plain.store({box}, {mid}, {mid} + 99, 4::int2)

-- ── store_flags, all
-- covers uid_masks
-- ours
SELECT sum(bit_count(changed))::bigint FROM store_flags({box}, ARRAY[1::bigint], ARRAY[4294967295], '{3}', '{}')
-- plain
SELECT plain.store({box}, 1, 4294967295, 3::int2)

-- ── expunge of 1
-- covers messages_updated
-- ours
SELECT cardinality(uids)::bigint FROM expunge({box}, ARRAY[{mid}::bigint], ARRAY[{mid}::bigint], false)
-- plain
SELECT plain.expunge({box}, {mid}, {mid})

-- ── expunge of 100
-- ours
SELECT cardinality(uids)::bigint FROM expunge({box}, ARRAY[{mid}::bigint], ARRAY[{mid}::bigint + 99], false)
-- plain
SELECT plain.expunge({box}, {mid}, {mid} + 99)

-- ── uid_masks of 100
-- ours
SELECT sum(bit_count(mask))::bigint FROM uid_masks({box}, ARRAY[{mid}::bigint], ARRAY[{mid}::bigint + 99])
-- plain
SELECT count(*) FROM plain.messages m WHERE m.account_id = {acc} AND m.mailbox_id = {mb} AND m.expunged_at IS NULL AND
m.uid BETWEEN {mid} AND {mid} + 99

-- ── picked_messages of 100
-- ours
SELECT uid FROM picked_messages({box}, ARRAY[{mid}::bigint], ARRAY[{mid}::bigint + 99], NULL) ORDER BY uid
-- plain
SELECT m.uid FROM plain.messages m WHERE m.account_id = {acc} AND m.mailbox_id = {mb} AND m.expunged_at IS NULL AND
m.uid BETWEEN {mid} AND {mid} + 99 ORDER BY m.uid

-- ── copy_messages of 1
-- covers transfer_inside picked_messages messages_inserted flags_changed
-- ours
SELECT cardinality(source_uids)::bigint FROM copy_messages({box}, {acc}, {to}, ARRAY[{mid}::bigint],
ARRAY[{mid}::bigint])
-- plain
SELECT plain.copy({box}, {acc}, {to}, {mid}, {mid}, false)

-- ── copy_messages of 100
-- ours
SELECT cardinality(source_uids)::bigint FROM copy_messages({box}, {acc}, {to}, ARRAY[{mid}::bigint],
ARRAY[{mid}::bigint + 99])
-- plain
SELECT plain.copy({box}, {acc}, {to}, {mid}, {mid} + 99, false)

-- ── copy_messages of 10, by another user into an account with a limit
-- covers copy_viewer_seen require_room quota_check
-- untimed
UPDATE accounts SET quota_bytes = 1000000000000 WHERE account_id = {acc}
-- ours
SELECT cardinality(source_uids)::bigint FROM copy_messages({box}, {acc}, {to}, ARRAY[{mid}::bigint],
ARRAY[{mid}::bigint + 9], {neighbour})
-- plain
SELECT plain.copy({box}, {acc}, {to}, {mid}, {mid} + 9, false)

-- ── copy_messages of 100, to another account
-- covers transfer_across map_keywords
-- ours
SELECT cardinality(source_uids)::bigint FROM copy_messages({box}, {neighbour}, {inbox}, ARRAY[{mid}::bigint],
ARRAY[{mid}::bigint + 99], NULL, 'bench')
-- plain
SELECT plain.copy({box}, {neighbour}, {inbox}, {mid}, {mid} + 99, false)

-- ── move_messages of 1
-- ours
SELECT cardinality(source_uids)::bigint FROM move_messages({box}, {acc}, {to}, ARRAY[{mid}::bigint],
ARRAY[{mid}::bigint])
-- plain
SELECT plain.copy({box}, {acc}, {to}, {mid}, {mid}, true)

-- ── move_messages of 100
-- ours
SELECT cardinality(source_uids)::bigint FROM move_messages({box}, {acc}, {to}, ARRAY[{mid}::bigint],
ARRAY[{mid}::bigint + 99])
-- plain
SELECT plain.copy({box}, {acc}, {to}, {mid}, {mid} + 99, true)

-- ── move_all
-- uncompared
-- ours
SELECT move_all({neighbour}, {inbox}, {sent})
-- plain
SELECT plain.copy({neighbour}, {inbox}, {neighbour}, {sent}, 1, 4294967295, true)

-- ── messages_immutable
-- fails
-- ours
UPDATE messages SET size = 1 WHERE account_id = {acc} AND mailbox_id = {mb} AND uid = {mid}
-- plain
SELECT plain.fail()

-- ── deliver 1
-- covers lock_quotas inboxes_resolved require_mailboxes find_thread lock_mailboxes messages_inserted refuse_shredded
-- ours
deliver 1
-- plain
SELECT plain.deliver({box}, ARRAY[decode(md5('q1'), 'hex')], 3000)

-- ── deliver 1, as the service calls it
-- covers try_lock_all try_lock_quotas
-- ours
deliver 1 impatient
-- plain
SELECT plain.deliver({box}, ARRAY[decode(md5('q1'), 'hex')], 3000)

-- ── deliver 32
-- ours
deliver 32
-- plain
SELECT plain.deliver({box}, ARRAY(SELECT decode(md5('q' || g), 'hex') FROM generate_series(1, 32) g), 3000)

-- ── find_thread
-- ours
SELECT find_thread({acc}, 0, NULL, '<1@example.org> <2@example.org>')
-- plain
SELECT thread_id FROM plain.contents WHERE account_id = {acc} AND message_id IN ('<1@example.org>', '<2@example.org>')
ORDER BY message_id LIMIT 1

-- ── inboxes_resolved of 32
-- ours
SELECT inboxes_resolved(array_fill({neighbour}::bigint, '{32}'), array_fill(NULL::bigint, '{32}'))
-- plain
SELECT array_agg((SELECT mailbox_id FROM mailboxes WHERE account_id = {neighbour} AND name = 'INBOX')) FROM
generate_series(1, 32)

-- ── require_mailboxes of 32
-- uncompared
-- ours
SELECT require_mailboxes(array_fill({acc}::bigint, '{32}'), array_fill({mb}::bigint, '{32}'))
-- plain
SELECT (SELECT 1 FROM mailboxes WHERE account_id = {acc} AND mailbox_id = {mb} AND g > 0) FROM generate_series(1, 32)
g

-- ── find_deliveries
-- ours
SELECT uid FROM find_deliveries(ARRAY[{acc}], ARRAY[{mb}], ARRAY['\x01'::bytea])
-- plain
SELECT uid FROM recent_deliveries WHERE account_id = {acc} AND mailbox_id = {mb} AND key = '\x01'

-- ── find_appends
-- ours
SELECT uid FROM find_appends({box}, ARRAY['00000000-0000-0000-0000-000000000001'::uuid])
-- plain
SELECT uid FROM append_witnesses WHERE account_id = {acc} AND append_id = '00000000-0000-0000-0000-000000000001'

-- ── claim_uploads of 16
-- ours
SELECT count(*) FROM claim_uploads('bench', 16)
-- plain
WITH u AS (UPDATE pending_uploads SET next_try = now() + interval '5 min' WHERE (account_id, content_hash,
instance_id) IN (SELECT account_id, content_hash, instance_id FROM pending_uploads WHERE instance_id = 'bench' AND
next_try <= now() ORDER BY next_try LIMIT 16 FOR UPDATE) RETURNING 1) SELECT count(*) FROM u

-- ── upload_done
-- ours
SELECT upload_done({acc}, {content}, {hash}, 'bench')
-- plain
WITH c AS (UPDATE message_contents SET uploaded_at = now() WHERE account_id = {acc} AND content_id = {content}) DELETE
FROM pending_uploads WHERE account_id = {acc} AND content_hash = {hash} AND instance_id = 'bench' RETURNING true

-- ── upload_failed
-- ours
SELECT upload_failed({acc}, {hash}, 'bench', 'no') > now()
-- plain
UPDATE pending_uploads SET attempts = attempts + 1, last_error = 'no', next_try = now() + interval '2 s' WHERE
account_id = {acc} AND content_hash = {hash} AND instance_id = 'bench' RETURNING next_try > now()

-- ── upload_status
-- ours
SELECT pending, bytes FROM upload_status()
-- plain
SELECT count(*), sum(size)::bigint FROM pending_uploads WHERE instance_id = 'bench'

-- ── index_batch of 100
-- ours
SELECT index_batch(100) > 0
-- plain
WITH d AS (DELETE FROM search_queue WHERE (account_id, content_id) IN (SELECT account_id, content_id FROM search_queue
LIMIT 100) RETURNING *), i AS (INSERT INTO search_index (account_id, content_id, headers, body) SELECT account_id,
content_id, headers, body FROM d) SELECT count(*) > 0 FROM d

-- ── search_text, headers
-- ours
SELECT content_id FROM search_text({acc}, true, false, 'needle') ORDER BY 1
-- plain
SELECT content_id FROM plain.contents WHERE account_id = {acc} AND headers ILIKE '%needle%' ORDER BY 1

-- ── search_messages, headers
-- ours
SELECT uid FROM search_messages({box}, '{1}', '{4294967295}', true, false, 'needle') ORDER BY 1
-- plain
SELECT m.uid FROM plain.messages m JOIN plain.contents c USING (account_id, content_id) WHERE m.account_id = {acc} AND
m.mailbox_id = {mb} AND m.expunged_at IS NULL AND c.headers ILIKE '%needle%' ORDER BY 1

-- ── search_field of the whole mailbox
-- ours
SELECT u FROM unnest(search_field({box}, '{1}', '{4294967295}', 'subject', 'needle', true)) u ORDER BY 1
-- plain
SELECT m.uid FROM plain.messages m JOIN plain.contents c USING (account_id, content_id) WHERE m.account_id = {acc} AND
m.mailbox_id = {mb} AND m.expunged_at IS NULL AND c.headers ILIKE '%subject: %needle%' ORDER BY 1

-- ── is_most_of_account
-- ours
SELECT is_most_of_account({box}, '{1}', '{4294967295}')
-- plain
SELECT 3 * count(*) FILTER (WHERE m.mailbox_id = {mb}) >= count(*) FROM plain.messages m WHERE m.account_id = {acc} AND
m.expunged_at IS NULL

-- ── search_messages, bodies of 100
-- ours
SELECT uid FROM search_messages({box}, ARRAY[{mid}::bigint], ARRAY[{mid}::bigint + 99], false, true, 'haystack') ORDER
BY 1
-- plain
SELECT m.uid FROM plain.messages m JOIN plain.contents c USING (account_id, content_id) WHERE m.account_id = {acc} AND
m.mailbox_id = {mb} AND m.expunged_at IS NULL AND m.uid BETWEEN {mid} AND {mid} + 99 AND c.body ILIKE '%haystack%'
ORDER BY 1

-- ── trim_expunges of 100
-- covers messages_deleted
-- untimed
SELECT expunge({box}, ARRAY[{mid}::bigint], ARRAY[{mid}::bigint + 99], false); SELECT plain.expunge({box}, {mid},
{mid} + 99)
-- ours
SELECT trim_expunges({box}, now() + interval '1 d')
-- plain
WITH d AS (DELETE FROM plain.messages m WHERE m.account_id = {acc} AND m.mailbox_id = {mb} AND m.expunged_at < now() +
interval '1 d' RETURNING 1) SELECT count(*) FROM d

-- ── select_expunged
-- untimed
SELECT expunge({box}, ARRAY[{mid}::bigint], ARRAY[{mid}::bigint + 99], false); SELECT plain.expunge({box}, {mid},
{mid} + 99)
-- ours
SELECT account_id, mailbox_id FROM select_expunged('-1 d')
-- plain
SELECT m.account_id, m.mailbox_id FROM plain.messages m WHERE m.expunged_at < now() + interval '1 d' GROUP BY 1, 2

-- ── select_purgeable
-- untimed
SELECT expunge({box}, ARRAY[{mid}::bigint], ARRAY[{mid}::bigint + 99], false); SELECT plain.expunge({box}, {mid},
{mid} + 99); SELECT trim_expunges({box}, now() + interval '1 d'); DELETE FROM plain.messages WHERE expunged_at IS NOT
NULL
-- ours
SELECT content_id FROM select_purgeable() ORDER BY 1
-- plain
SELECT c.content_id FROM plain.contents c WHERE NOT EXISTS (SELECT 1 FROM plain.messages m WHERE m.account_id =
c.account_id AND m.content_id = c.content_id) ORDER BY 1

-- ── trim_witnesses
-- untimed
UPDATE recent_deliveries SET delivered_at = now() - interval '2 d'
-- ours
SELECT trim_witnesses()
-- plain
WITH d AS (DELETE FROM recent_deliveries WHERE delivered_at < now() - interval '24 h' RETURNING 1) SELECT count(*)
FROM d

-- ── apply_effects of a reply and a redirect
-- ours
SELECT applied, queued, answered FROM apply_effects(ARRAY[{acc}], ARRAY['\x02'::bytea], '{1}', ARRAY['\x03'::bytea],
'{60}', '{1}', ARRAY['\x04'::bytea], '{60}', '{1,1}', '{1,NULL}', '{vacation,redirect}', '{"",a@example.org}',
'{b@example.org,c@example.org}', ARRAY[NULL, {content}], ARRAY['\x05'::bytea, NULL], ARRAY['\x06'::bytea, NULL],
ARRAY[''::bytea, ''], '{1,1}', '{f,f}', ARRAY['{}', '{}']::jsonb[])
-- plain
WITH w AS (INSERT INTO recent_deliveries (account_id, key, mailbox_id, uid) VALUES ({acc}, '\x02', 0, 0)), d AS (INSERT
INTO sieve_duplicates VALUES ({acc}, '\x03', now() + interval '60 s')), v AS (INSERT INTO vacation_replies VALUES
({acc}, '\x04', now() + interval '60 s')), q AS (INSERT INTO outbound_queue (account_id, kind, sender, recipient,
content_id, body, body_hash, size) VALUES ({acc}, 'vacation', '', 'b@example.org', NULL, '\x05', '\x06', 1), ({acc},
'redirect', 'a@example.org', 'c@example.org', {content}, NULL, NULL, 1)) SELECT true, 2, 0

-- ── credentials_changed
-- ours
INSERT INTO credentials (account_id, kind, name, hash) VALUES ({acc}, 'app_password', 'x', 'h') RETURNING name
-- plain
WITH u AS (UPDATE accounts SET credential_version = credential_version + 1 WHERE account_id = {acc}) SELECT 'x'

-- ── sieve_scripts_changed
-- ours
INSERT INTO sieve_scripts (account_id, name, content, version, active) VALUES ({acc}, 'x', 'keep;', sha256('keep;'),
true) RETURNING name
-- plain
WITH u AS (UPDATE accounts SET script_version = script_version + 1, script_active = true WHERE account_id = {acc})
SELECT 'x'

-- ── account_changed
-- ours
UPDATE accounts SET disabled = true WHERE account_id = {acc} RETURNING disabled
-- plain
UPDATE accounts SET quota_bytes = NULL, credential_version = credential_version + 1 WHERE account_id = {acc} RETURNING
true

-- ── true_stats
-- ours
SELECT live, unseen, size FROM true_stats({box})
-- plain
SELECT count(*)::int, count(*) FILTER (WHERE NOT 0 = ANY (m.flags))::int, sum(m.size)::bigint FROM plain.messages m
WHERE m.account_id = {acc} AND m.mailbox_id = {mb} AND m.expunged_at IS NULL

-- ── rebuild_mailbox
-- ours
SELECT rebuild_mailbox({box}) > 0
-- plain
SELECT count(q.n) > 0 FROM (SELECT row_number() OVER (ORDER BY m.uid) AS n, m.size, 0 = ANY (m.flags) AS seen FROM
plain.messages m WHERE m.account_id = {acc} AND m.mailbox_id = {mb} AND m.expunged_at IS NULL) q

-- ── check_mailbox
-- ours
SELECT count(*) FROM check_mailbox({box})
-- plain
SELECT count(*) FROM (SELECT row_number() OVER (ORDER BY m.uid) AS n, count(*) OVER (ORDER BY m.uid) AS k FROM
plain.messages m WHERE m.account_id = {acc} AND m.mailbox_id = {mb} AND m.expunged_at IS NULL) q WHERE q.n <> q.k

-- ── lock_mailbox
-- uncompared
-- ours
SELECT lock_mailbox({mb})
-- plain
SELECT pg_advisory_xact_lock(21327, ({mb} & 2147483647)::int)

-- ── account_held
-- ours
SELECT account_held({acc})
-- plain
SELECT legal_hold FROM accounts WHERE account_id = {acc} FOR KEY SHARE

-- ── set_legal_hold
-- ours
SELECT set_legal_hold({acc}, true, 'a reason', 'somebody')
-- plain
WITH l AS (INSERT INTO legal_hold_log (account_id, address, held, reason, actor) VALUES ({acc}, 'x', true, 'a reason',
'somebody')) UPDATE accounts SET legal_hold = true, hold_reason = 'a reason', held_at = now() WHERE account_id =
{acc} RETURNING true

-- ── register_master_keys
-- ours
SELECT register_master_keys('{k1,k2}', ARRAY['\x01'::bytea, '\x02'])
-- plain
WITH i AS (INSERT INTO master_keys VALUES ('k1', '\x01'), ('k2', '\x02')) SELECT '{}'::text[]

-- ── create_account_key
-- ours
SELECT key_id FROM create_account_key({acc}, 'k1', '\x01', '\x0a', '\x0b')
-- plain
WITH m AS (INSERT INTO master_keys VALUES ('k1', '\x01') RETURNING key_id) INSERT INTO account_keys SELECT {acc},
key_id, '\x0a', '\x0b' FROM m RETURNING key_id

-- ── rewrap_account_keys
-- untimed
SELECT create_account_key({acc}, 'k1', '\x01', '\x0a', '\x0b')
-- ours
SELECT rewrap_account_keys(ARRAY[{acc}], ARRAY['\x0a'::bytea], ARRAY['\x0c'::bytea], 'k1')
-- plain
UPDATE account_keys SET wrapped = '\x0c', stored_at = NULL WHERE account_id = {acc} AND wrapped = '\x0a' RETURNING
1::bigint

-- ── begin_shredding
-- covers account_key_deleted
-- uncompared
-- untimed
SELECT create_account_key({neighbour}, 'k1', '\x01', '\x0a', '\x0b')
-- ours
SELECT begin_shredding({neighbour})
-- plain
WITH u AS (UPDATE accounts SET disabled = true WHERE account_id = {neighbour}) DELETE FROM account_keys WHERE
account_id = {neighbour}

-- ── shred_rows
-- covers shred_messages
-- untimed
SELECT create_account_key({neighbour}, 'k1', '\x01', '\x0a', '\x0b'); SELECT begin_shredding({neighbour})
-- ours
SELECT shred_rows({neighbour})
-- plain
WITH d AS (DELETE FROM plain.messages WHERE account_id = {neighbour} RETURNING 1) SELECT count(*) FROM d

-- ── keep_shredded_disabled
-- fails
-- untimed
SELECT create_account_key({neighbour}, 'k1', '\x01', '\x0a', '\x0b'); SELECT begin_shredding({neighbour})
-- ours
UPDATE accounts SET disabled = false WHERE account_id = {neighbour}
-- plain
SELECT plain.fail()

-- ── account_limits
-- untimed
UPDATE accounts SET quota_bytes = 1000000000000 WHERE account_id = {acc}
-- ours
SELECT bytes, messages FROM account_limits WHERE account_id = {acc}
-- plain
SELECT coalesce(a.quota_bytes, (SELECT d.account_quota_bytes FROM domains d WHERE d.domain_id = a.domain_id)),
coalesce(a.quota_messages, (SELECT d.account_quota_messages FROM domains d WHERE d.domain_id = a.domain_id)) FROM
accounts a WHERE a.account_id = {acc}

-- ── room_left
-- untimed
UPDATE accounts SET quota_bytes = 1000000000000 WHERE account_id = {acc}
-- ours
SELECT room_left({acc})
-- plain
SELECT 1000000000000 - coalesce(sum(m.size), 0)::bigint FROM plain.messages m WHERE m.account_id = {acc} AND
m.expunged_at IS NULL

-- ── open_mailbox
-- ours
SELECT mailbox_id, recent_uid, message_count, unseen_count, length(state) > 0 FROM open_mailbox({acc}, 'Archive',
NULL, NULL, true)
-- plain
SELECT b.mailbox_id, 0::bigint, count(*)::int, count(*) FILTER (WHERE NOT 0 = ANY (m.flags))::int,
length(string_agg(int8send(m.uid) || array_send(m.flags), '' ORDER BY m.uid)) > 0 FROM plain.mailboxes b JOIN
plain.messages m USING (account_id, mailbox_id) WHERE b.account_id = {acc} AND b.name = 'Archive' AND m.expunged_at IS
NULL GROUP BY 1

-- ── open_mailbox, known but for one message
-- untimed
SELECT store_flags({box}, ARRAY[{mid}::bigint], ARRAY[{mid}::bigint], '{4}', '{}'); SELECT plain.store({box}, {mid},
{mid}, 4::int2)
-- ours
SELECT whole, message_count, length(state) > 0 FROM open_mailbox({acc}, 'Archive', {mb}, {modseq}, true)
-- plain
SELECT false, count(*)::int, bool_or(m.modseq > {modseq}) FROM plain.mailboxes b JOIN plain.messages m USING
(account_id, mailbox_id) WHERE b.account_id = {acc} AND b.name = 'Archive' AND m.expunged_at IS NULL

-- ── scan_old_messages of 1,000
-- ours
SELECT last_uid, cardinality(uids) FROM scan_old_messages({box}, 0, now() + interval '1 d', 1000)
-- plain
SELECT max(q.uid), count(*)::int FROM (SELECT m.uid FROM plain.messages m JOIN plain.contents c USING (account_id,
content_id) WHERE m.account_id = {acc} AND m.mailbox_id = {mb} AND m.expunged_at IS NULL AND m.internal_date < now() +
interval '1 d' AND c.created_at < now() + interval '1 d' ORDER BY m.uid LIMIT 1000) q

-- ── expunge_old of 100
-- ours
SELECT expunged FROM expunge_old({box}, ARRAY(SELECT generate_series({mid}::bigint, {mid}::bigint + 99)))
-- plain
SELECT plain.expunge({box}, {mid}, {mid} + 99)

-- ── drop_empty_blocks
-- uncompared
-- untimed
DELETE FROM messages WHERE account_id = {acc} AND mailbox_id = {mb} AND uid BETWEEN 1024 AND 2047
-- ours
SELECT drop_empty_blocks({box}, ARRAY(SELECT generate_series(1000::bigint, 2047)))
-- plain
DELETE FROM message_flags f WHERE f.account_id = {acc} AND f.mailbox_id = {mb} AND NOT EXISTS (SELECT 1 FROM messages
m WHERE m.account_id = {acc} AND m.mailbox_id = {mb} AND m.uid >> 10 = f.block_no) RETURNING f.block_no

-- ── scan_journals of 100
-- untimed
SELECT store_flags({box}, ARRAY[g], ARRAY[g], '{4}', '{}') FROM generate_series(1::bigint, 200) g
-- ours
SELECT account_id, mailbox_id, excess FROM scan_journals(0, 0, 3, 100)
-- plain
SELECT s.account_id, s.mailbox_id, (SELECT CASE WHEN count(*) > 6 * count(DISTINCT c.block_no) THEN count(*) - 3 *
count(DISTINCT c.block_no) ELSE 0 END FROM message_flag_changes c WHERE c.account_id = s.account_id AND c.mailbox_id =
s.mailbox_id) FROM mailbox_stats s ORDER BY 1, 2 LIMIT 100

-- ── compact_journal of 200
-- untimed
SELECT store_flags({box}, ARRAY[g], ARRAY[g], '{4}', '{}') FROM generate_series(1::bigint, 200) g
-- ours
SELECT compact_journal({box}, 10000)
-- plain
WITH k AS (SELECT block_no, max(modseq) AS top, bit_or(bits) AS bits FROM message_flag_changes WHERE account_id =
{acc} AND mailbox_id = {mb} GROUP BY 1), u AS (UPDATE message_flag_changes j SET bits = k.bits FROM k WHERE
j.account_id = {acc} AND j.mailbox_id = {mb} AND j.block_no = k.block_no AND j.modseq = k.top), d AS (DELETE FROM
message_flag_changes j USING k WHERE j.account_id = {acc} AND j.mailbox_id = {mb} AND j.block_no = k.block_no AND
j.modseq < k.top RETURNING 1) SELECT count(*) FROM d

-- ── select_deleted_mailboxes
-- untimed
UPDATE mailboxes SET deleted_at = now() - interval '40 d' WHERE name = 'Junk'
-- ours
SELECT account_id, mailbox_id FROM select_deleted_mailboxes('30 d')
-- plain
SELECT m.account_id, m.mailbox_id FROM mailboxes m WHERE m.deleted_at < now() - interval '30 d' AND NOT (SELECT
a.legal_hold FROM accounts a WHERE a.account_id = m.account_id) ORDER BY m.deleted_at, m.mailbox_id LIMIT 100

-- ── purge_mailbox of 1,000
-- untimed
UPDATE mailboxes SET deleted_at = now() - interval '40 d' WHERE account_id = {acc} AND mailbox_id = {mb}
-- ours
SELECT purge_mailbox({box}, '30 d', 1000)
-- plain
WITH d AS (DELETE FROM plain.messages WHERE (account_id, mailbox_id, uid) IN (SELECT account_id, mailbox_id, uid FROM
plain.messages WHERE account_id = {acc} AND mailbox_id = {mb} ORDER BY uid LIMIT 1000) RETURNING 1) SELECT count(*)
FROM d

-- ── select_deleted_accounts
-- untimed
UPDATE accounts SET deleted_at = now() - interval '40 d' WHERE address LIKE 'neighbour1%'
-- ours
SELECT account_id FROM select_deleted_accounts('30 d')
-- plain
SELECT account_id FROM accounts WHERE deleted_at < now() - interval '30 d' AND NOT legal_hold ORDER BY deleted_at,
account_id LIMIT 100

-- ── purge_account, its mailboxes
-- untimed
UPDATE accounts SET deleted_at = now() - interval '40 d' WHERE account_id = {neighbour}
-- ours
SELECT purge_account({neighbour}, '30 d')
-- plain
WITH u AS (UPDATE mailboxes m SET deleted_at = a.deleted_at FROM accounts a WHERE a.account_id = {neighbour} AND
m.account_id = a.account_id AND m.deleted_at IS NULL RETURNING 1) SELECT count(*) FROM u

-- ── purge_account, itself
-- untimed
INSERT INTO accounts (domain_id, address, deleted_at) VALUES ({domain}, 'gone@example.com', now() - interval '40 d')
-- ours
SELECT purge_account((SELECT account_id FROM accounts WHERE address = 'gone@example.com'), '30 d')
-- plain
DELETE FROM accounts WHERE address = 'gone@example.com' AND deleted_at < now() - interval '30 d' RETURNING 1::bigint

-- ── content_user
-- ours
SELECT content_user({acc}, {content}), content_user({acc}, {orphan})
-- plain
SELECT CASE WHEN (SELECT count(*) FROM plain.messages WHERE account_id = {acc} AND content_id = {content}) > 0 THEN
'message' WHEN (SELECT count(*) FROM pending_uploads WHERE account_id = {acc} AND content_id = {content}) > 0 THEN
'upload' END, CASE WHEN (SELECT count(*) FROM plain.messages WHERE account_id = {acc} AND content_id = {orphan}) > 0
THEN 'message' WHEN (SELECT count(*) FROM pending_uploads WHERE account_id = {acc} AND content_id = {orphan}) > 0 THEN
'upload' END

-- ── begin_purges of 100
-- untimed
DELETE FROM messages WHERE account_id = {acc} AND mailbox_id = {mb} AND uid BETWEEN {mid} AND {mid} + 98; DELETE FROM
plain.messages WHERE account_id = {acc} AND mailbox_id = {mb} AND uid BETWEEN {mid} AND {mid} + 98
-- ours
SELECT content_id FROM begin_purges(ARRAY(SELECT account_id FROM purge_candidates WHERE account_id = {acc}),
ARRAY(SELECT content_id FROM purge_candidates WHERE account_id = {acc})) ORDER BY 1
-- plain
WITH u AS (UPDATE message_contents c SET purging_at = now() WHERE c.account_id = {acc} AND NOT EXISTS (SELECT 1 FROM
plain.messages m WHERE m.account_id = c.account_id AND m.content_id = c.content_id) AND NOT EXISTS (SELECT 1 FROM
pending_uploads p WHERE p.account_id = c.account_id AND p.content_id = c.content_id) RETURNING content_id) SELECT
content_id FROM u ORDER BY 1

-- ── finish_purges of 100
-- untimed
DELETE FROM messages WHERE account_id = {acc} AND mailbox_id = {mb} AND uid BETWEEN {mid} AND {mid} + 98; UPDATE
message_contents SET purging_at = now() WHERE account_id = {acc} AND content_id IN (SELECT content_id FROM
purge_candidates WHERE account_id = {acc})
-- ours
SELECT finish_purges(ARRAY(SELECT account_id FROM purge_candidates WHERE account_id = {acc}), ARRAY(SELECT content_id
FROM purge_candidates WHERE account_id = {acc}))
-- plain
WITH d AS (DELETE FROM message_contents WHERE account_id = {acc} AND purging_at IS NOT NULL RETURNING content_id), q
AS (DELETE FROM search_queue WHERE account_id = {acc} AND content_id IN (SELECT content_id FROM d)), i AS (DELETE FROM
search_index WHERE account_id = {acc} AND content_id IN (SELECT content_id FROM d)), r AS (DELETE FROM search_archive
WHERE account_id = {acc} AND content_id IN (SELECT content_id FROM d)), p AS (DELETE FROM purge_candidates WHERE
account_id = {acc} AND content_id IN (SELECT content_id FROM d)) SELECT count(*) FROM d

-- ── unknown_objects of 100
-- ours
SELECT ord FROM unknown_objects(array_fill({acc}::bigint, '{100}'), ARRAY(SELECT {content} + g FROM
generate_series(0::bigint, 99) g), array_fill({hash}, '{100}'))
-- plain
SELECT g FROM generate_series(1, 100) g WHERE (SELECT count(*) FROM message_contents WHERE account_id = {acc} AND
content_id = {content} + g - 1 AND content_hash = {hash}) = 0 ORDER BY 1

-- ── note_orphans of 100
-- untimed
INSERT INTO orphan_objects (key, size, modified_at, first_seen_at) SELECT 'k' || g, 1, now() - interval '10 d', now()
- interval '10 d' FROM generate_series(1, 50) g
-- ours
SELECT count(k) FROM note_orphans(ARRAY(SELECT 'k' || g FROM generate_series(1, 100) g), array_fill(1::bigint,
'{100}'), array_fill(now() - interval '10 d', '{100}'), '3 d') k
-- plain
WITH i AS (INSERT INTO orphan_objects (key, size, modified_at) SELECT 'k' || g, 1, now() - interval '10 d' FROM
generate_series(1, 100) g ON CONFLICT (key) DO UPDATE SET last_seen_at = now() RETURNING first_seen_at) SELECT
count(*) FROM i WHERE first_seen_at < now() - interval '3 d'

-- ── trim_logs
-- untimed
UPDATE account_changes SET changed_at = now() - interval '40 d' WHERE account_id = {acc}
-- ours
SELECT trim_logs('30 d')
-- plain
WITH d AS (DELETE FROM account_changes WHERE changed_at < now() - interval '30 d' RETURNING 1) SELECT count(*) FROM d

-- ── archive_search_texts of 100
-- untimed
UPDATE search_index SET indexed_at = now() - interval '40 d' WHERE account_id = {acc} AND content_id IN (SELECT
content_id FROM search_index WHERE account_id = {acc} ORDER BY 1 LIMIT 100)
-- ours
SELECT archive_search_texts('30 d')
-- plain
WITH d AS (DELETE FROM search_index WHERE indexed_at < now() - interval '30 d' RETURNING *), i AS (INSERT INTO
search_archive (account_id, content_id, headers, body_truncated) SELECT account_id, content_id, headers, true FROM d
RETURNING 1) SELECT count(*)::int FROM i

-- ── search_texts of 100
-- ours
SELECT content_id, length(headers) FROM search_texts WHERE account_id = {acc} AND content_id BETWEEN {content} AND
{content} + 99 ORDER BY 1
-- plain
SELECT content_id, length(headers) FROM plain.contents WHERE account_id = {acc} AND content_id BETWEEN {content} AND
{content} + 99 ORDER BY 1

-- ── begin_auth_blocks of 10
-- uncompared
-- ours
SELECT begin_auth_blocks(array_fill('address'::text, '{10}'), ARRAY(SELECT '192.0.2.' || g FROM generate_series(1, 10)
g), array_fill(''::text, '{10}'), array_fill(interval '1 h', '{10}'))
-- plain
INSERT INTO auth_blocks (scope, site, login, expires_at) SELECT 'address', '192.0.2.' || g, '', now() + interval '1 h'
FROM generate_series(1, 10) g ON CONFLICT (scope, site, login) DO UPDATE SET expires_at = EXCLUDED.expires_at RETURNING
seq

-- ── lift_auth_blocks
-- untimed
INSERT INTO auth_blocks (scope, site, login, expires_at) SELECT 'address', '192.0.2.' || g, '', now() + interval '1 h'
FROM generate_series(1, 100) g
-- ours
SELECT site FROM lift_auth_blocks('192.0.2.7', 'user@example.com')
-- plain
UPDATE auth_blocks SET lifted = true WHERE site = '192.0.2.7' AND expires_at > now() RETURNING site

-- ── leave_instance
-- ours
SELECT leave_instance('bench', (SELECT incarnation FROM instances WHERE instance_id = 'bench'))
-- plain
UPDATE instances SET stopped_at = now() WHERE instance_id = 'bench' RETURNING true

-- ── fence_instance
-- untimed
UPDATE instances SET heartbeat_at = now() - interval '1 d' WHERE instance_id = 'bench'
-- ours
SELECT fence_instance('bench', '60 s')
-- plain
UPDATE instances SET incarnation = incarnation + 1, fenced_at = now() WHERE instance_id = 'bench' AND heartbeat_at <
now() - interval '60 s' RETURNING true

-- ── adoptable_instances
-- untimed
UPDATE instances SET heartbeat_at = now() - interval '1 d' WHERE instance_id = 'bench'; UPDATE message_contents SET
uploaded_at = now() WHERE account_id = {acc} AND content_id = {content}
-- ours
SELECT instance_id FROM adoptable_instances('60 s')
-- plain
SELECT DISTINCT i.instance_id FROM instances i JOIN pending_uploads u USING (instance_id) JOIN message_contents c USING
(account_id, content_id) WHERE i.heartbeat_at < now() - interval '60 s' AND c.uploaded_at IS NOT NULL

-- ── adopt_uploads of 100
-- untimed
UPDATE instances SET fenced_at = now() WHERE instance_id = 'bench'; UPDATE message_contents SET uploaded_at = now()
WHERE account_id = {acc} AND content_id BETWEEN {content} AND {content} + 99
-- ours
SELECT adopt_uploads('bench', 'other')
-- plain
WITH u AS (UPDATE pending_uploads u SET instance_id = 'other', attempts = 0, next_try = now() FROM message_contents c
WHERE u.instance_id = 'bench' AND c.account_id = u.account_id AND c.content_id = u.content_id AND c.uploaded_at IS NOT
NULL RETURNING 1) SELECT count(*) FROM u

-- ── adopt_upload
-- untimed
UPDATE instances SET fenced_at = now() WHERE instance_id = 'bench'
-- ours
SELECT adopt_upload({acc}, {hash}, 'bench', 'other')
-- plain
UPDATE pending_uploads SET instance_id = 'other', attempts = 0, next_try = now() WHERE account_id = {acc} AND
content_hash = {hash} AND instance_id = 'bench' RETURNING true

-- ── stranded_uploads
-- untimed
UPDATE instances SET heartbeat_at = now() - interval '1 d' WHERE instance_id = 'bench'
-- ours
SELECT instance_id, uploads, bytes FROM stranded_uploads('60 s')
-- plain
SELECT i.instance_id, count(*), sum(u.size)::bigint FROM instances i JOIN pending_uploads u USING (instance_id) WHERE
i.heartbeat_at < now() - interval '60 s' GROUP BY 1

-- ── peer_secret
-- uncompared
-- ours
SELECT length(peer_secret())
-- plain
INSERT INTO peer_secrets (secret) VALUES (uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())) RETURNING 32

-- ── body_holders
-- untimed
UPDATE instances SET peer_address = '192.0.2.1:4' WHERE instance_id = 'bench'
-- ours
SELECT instance_id, peer_address FROM body_holders({acc}, {content}, 'other')
-- plain
SELECT instance_id, peer_address FROM instances WHERE instance_id <> 'other' AND peer_address <> '' AND instance_id IN
(SELECT instance_id FROM pending_uploads WHERE account_id = {acc} AND content_id = {content}) ORDER BY heartbeat_at DESC

-- ── mailbox_rights of a viewer
-- untimed
SELECT set_acl({box}, 0, false, 11, '='); SELECT set_acl({box}, {neighbour}, true, 8, '=')
-- ours
SELECT mailbox_rights({box}, {neighbour})
-- plain
SELECT coalesce(bit_or(c.rights) FILTER (WHERE NOT c.negative), 0) & ~coalesce(bit_or(c.rights) FILTER (WHERE
c.negative), 0) FROM mailbox_acl c WHERE c.account_id = {acc} AND c.mailbox_id = {mb} AND c.grantee_id IN ({neighbour}, 0)

-- ── set_acl
-- ours
SELECT changed FROM set_acl({box}, {neighbour}, false, 3, '=')
-- plain
INSERT INTO mailbox_acl VALUES ({box}, {neighbour}, false, 3) RETURNING true

-- ── inherit_acl
-- untimed
SELECT set_acl({box}, {neighbour}, false, 3, '=')
-- uncompared
-- ours
SELECT inherit_acl({acc}, {to}, 'Archive/below')
-- plain
INSERT INTO mailbox_acl SELECT c.account_id, {to}, c.grantee_id, c.negative, c.rights FROM mailbox_acl c
WHERE c.account_id = {acc} AND c.mailbox_id = {mb}

-- ── list_shared
-- untimed
SELECT set_acl({box}, {neighbour}, false, 3, '=')
-- ours
SELECT mailbox_id, name, rights, message_count FROM list_shared({neighbour})
-- plain
SELECT m.mailbox_id, m.name, c.rights, s.message_count FROM mailbox_acl c JOIN mailboxes m USING (account_id, mailbox_id)
JOIN mailbox_stats s USING (account_id, mailbox_id) WHERE c.grantee_id = {neighbour}

-- ── grantee_deleted
-- untimed
INSERT INTO domains (name) VALUES ('gone.example'); INSERT INTO accounts (account_id, domain_id, address)
SELECT 987654321, domain_id, 'a@gone.example' FROM domains WHERE name = 'gone.example';
INSERT INTO mailbox_acl VALUES ({box}, 987654321, false, 3)
-- uncompared
-- ours
DELETE FROM accounts WHERE account_id = 987654321
-- plain
DELETE FROM mailbox_acl WHERE grantee_id = 987654321

-- ── allowed_flags
-- ours
SELECT allowed_flags('{3,4,16}', true, 8)
-- plain
SELECT array_agg(f) FROM unnest('{3,4,16}'::int2[]) f WHERE f <> 3

-- ── set_metadata
-- ours
SELECT set_metadata({box}, '{0}', '{/shared/comment}', '{abc}', 200, 1000000)
-- plain
INSERT INTO metadata VALUES ({box}, 0, '/shared/comment', 'abc') RETURNING true

-- ── script_names_changed
-- ours
INSERT INTO metadata VALUES ({acc}, 987654321, 0, '/shared/imapsieve/script', 'abc') RETURNING entry
-- plain
WITH n AS (SELECT pg_notify('sora_script_names', to_hex({acc}))) SELECT '/shared/imapsieve/script' FROM n

-- ── metadata_orphaned
-- untimed
INSERT INTO mailboxes (account_id, mailbox_id, name) VALUES ({acc}, 987654321, 'Orphan');
INSERT INTO metadata VALUES ({acc}, 987654321, 0, '/shared/comment', 'abc')
-- uncompared
-- ours
DELETE FROM mailboxes WHERE account_id = {acc} AND mailbox_id = 987654321
-- plain
DELETE FROM metadata WHERE account_id = {acc} AND mailbox_id = 987654321

-- ── claim_outbound of 64
-- untimed
INSERT INTO outbound_queue (account_id, kind, sender, recipient, body, body_hash, size) SELECT {acc}, 'redirect',
'a@example.org', 'b@example.org', 'x', 'x', 1 FROM generate_series(1, 200)
-- ours
SELECT count(*) FROM claim_outbound('bench', 64, '5 min', 0)
-- plain
WITH u AS (UPDATE outbound_queue SET next_try = now() + interval '5 min', claimed_by = 'bench' WHERE queue_id IN (SELECT
queue_id FROM outbound_queue WHERE next_try <= now() ORDER BY next_try LIMIT 64 FOR UPDATE SKIP LOCKED) RETURNING *)
SELECT count(*) FROM u LEFT JOIN message_contents USING (account_id, content_id)

-- ── claim_outbound of 64, 50 of them within the limit
-- covers outbound_over_limit
-- untimed
INSERT INTO outbound_queue (account_id, kind, sender, recipient, body, body_hash, size) SELECT {acc}, 'redirect',
'a@example.org', 'b@example.org', 'x', 'x', 1 FROM generate_series(1, 200)
-- ours
SELECT count(*) FROM claim_outbound('bench', 64, '5 min', 50)
-- plain
WITH n AS (INSERT INTO outbound_usage VALUES ({acc}, date_trunc('hour', now()), 50)), u AS (UPDATE outbound_queue SET
next_try = now() + interval '5 min', claimed_by = 'bench', counted = true WHERE queue_id IN (SELECT queue_id FROM
outbound_queue WHERE next_try <= now() ORDER BY next_try LIMIT 50 FOR UPDATE SKIP LOCKED) RETURNING *) SELECT count(*)
FROM u LEFT JOIN message_contents USING (account_id, content_id)

-- ── claim_outbound of 64 that are too old
-- untimed
INSERT INTO outbound_queue (account_id, kind, sender, recipient, body, body_hash, size, created_at, next_try) SELECT {acc},
'redirect', 'a@example.org', 'b@example.org', 'x', 'x', 1, now() - interval '9 d', now() + interval '1 d' FROM
generate_series(1, 200)
-- ours
SELECT count(*) FROM claim_outbound('bench', 64, '5 min', 0, now() - interval '5 d')
-- plain
WITH u AS (UPDATE outbound_queue SET next_try = now() + interval '5 min', claimed_by = 'bench' WHERE queue_id IN (SELECT
queue_id FROM outbound_queue WHERE created_at < now() - interval '5 d' ORDER BY queue_id LIMIT 64 FOR UPDATE SKIP LOCKED)
RETURNING *) SELECT count(*) FROM u LEFT JOIN message_contents USING (account_id, content_id)

-- ── outbound_deleted of a redirect
-- untimed
INSERT INTO outbound_queue (account_id, kind, sender, recipient, content_id, size) VALUES ({acc}, 'redirect',
'a@example.org', 'b@example.org', {content}, 1)
-- ours
DELETE FROM outbound_queue WHERE account_id = {acc} RETURNING recipient
-- plain
WITH d AS (DELETE FROM outbound_queue WHERE account_id = {acc} RETURNING recipient), n AS (INSERT INTO purge_candidates
VALUES ({acc}, {content}) ON CONFLICT DO NOTHING) SELECT recipient FROM d

-- ── deleted_uids of 100
-- untimed
SELECT expunge({box}, ARRAY[{mid}::bigint], ARRAY[{mid}::bigint + 99], false); SELECT plain.expunge({box}, {mid},
{mid} + 99)
-- ours
SELECT cardinality(deleted_uids({box}))::bigint
-- plain
SELECT count(*) FROM plain.messages m WHERE m.account_id = {acc} AND m.mailbox_id = {mb} AND m.expunged_at IS NOT NULL

-- ── list_deleted of 100
-- untimed
SELECT expunge({box}, ARRAY[{mid}::bigint], ARRAY[{mid}::bigint + 99], false); SELECT plain.expunge({box}, {mid},
{mid} + 99)
-- ours
SELECT count(subject) FROM list_deleted({box}, deleted_uids({box}))
-- plain
SELECT count(c.subject) FROM plain.messages m JOIN plain.contents c USING (account_id, content_id)
WHERE m.account_id = {acc} AND m.expunged_at IS NOT NULL

-- ── restore_messages of 100
-- covers put_back
-- untimed
SELECT expunge({box}, ARRAY[{mid}::bigint], ARRAY[{mid}::bigint + 99], false); SELECT plain.expunge({box}, {mid},
{mid} + 99)
-- ours
SELECT cardinality(target_uids)::bigint FROM restore_messages({box}, {mb}, deleted_uids({box}))
-- plain
SELECT count(plain.restore({box}, m.uid)) FROM plain.messages m WHERE m.account_id = {acc} AND m.mailbox_id = {mb} AND
m.expunged_at IS NOT NULL

-- ── list_deleted_mailboxes
-- untimed
UPDATE mailboxes SET deleted_at = now() WHERE account_id = {acc} AND mailbox_id = {to}
-- ours
SELECT mailbox_id, message_count::bigint FROM list_deleted_mailboxes({acc})
-- plain
SELECT b.mailbox_id, (SELECT count(*) FROM plain.messages m WHERE m.account_id = {acc} AND m.mailbox_id = b.mailbox_id AND
m.expunged_at IS NULL) FROM mailboxes b WHERE b.account_id = {acc} AND b.deleted_at IS NOT NULL

-- ── restore_mailbox
-- untimed
UPDATE mailboxes SET deleted_at = now() WHERE account_id = {acc} AND mailbox_id = {to}
-- ours
SELECT mailbox_id FROM restore_mailbox({acc}, {to})
-- plain
UPDATE mailboxes SET deleted_at = NULL WHERE account_id = {acc} AND mailbox_id = {to} RETURNING mailbox_id

-- ── deleted_names
-- covers deleted_mark
-- untimed
SELECT expunge({box}, ARRAY[{mid}::bigint], ARRAY[{mid}::bigint + 99], false); SELECT plain.expunge({box}, {mid},
{mid} + 99)
-- ours
SELECT name FROM deleted_names({acc}, 'Deleted/', '14 days')
-- plain
SELECT DISTINCT b.name FROM plain.mailboxes b JOIN plain.messages m USING (account_id, mailbox_id) WHERE b.account_id = {acc}
AND m.expunged_at IS NOT NULL

-- ── shown_as_deleted of 100
-- untimed
SELECT expunge({box}, ARRAY[{mid}::bigint], ARRAY[{mid}::bigint + 99], false); SELECT plain.expunge({box}, {mid},
{mid} + 99)
-- ours
SELECT count(*) FROM mailboxes b, shown_as_deleted({acc}, b.name, '14 days', 1000) WHERE b.mailbox_id = {mb}
-- plain
SELECT count(*) FROM plain.messages m WHERE m.account_id = {acc} AND m.mailbox_id = {mb} AND m.expunged_at IS NOT NULL AND
NOT EXISTS (SELECT 1 FROM plain.messages x WHERE x.account_id = {acc} AND x.content_id = m.content_id AND
x.internal_date = m.internal_date AND x.expunged_at IS NULL)

-- ── refresh_deleted of 100
-- covers plan_shadow fill_shadow
-- uncompared
-- untimed
SELECT expunge({box}, ARRAY[{mid}::bigint], ARRAY[{mid}::bigint + 99], false); SELECT plain.expunge({box}, {mid},
{mid} + 99)
-- ours
SELECT more FROM mailboxes b, refresh_deleted({acc}, b.name, 'Deleted', '14 days') WHERE b.mailbox_id = {mb}
-- plain
SELECT count(plain.restore({box}, m.uid)) FROM plain.messages m WHERE m.account_id = {acc} AND m.mailbox_id = {mb} AND
m.expunged_at IS NOT NULL

-- ── select_outdated_shadows
-- ours
SELECT count(*) FROM select_outdated_shadows('0 s')
-- plain
SELECT count(DISTINCT shadow_id) FROM deleted_messages WHERE deleted_at < now()

-- ── trim_shadow of 100
-- covers hide_deleted
-- uncompared
-- untimed
SELECT expunge({box}, ARRAY[{mid}::bigint], ARRAY[{mid}::bigint + 99], false);
SELECT refresh_deleted({acc}, b.name, 'Deleted', '14 days') FROM mailboxes b WHERE b.mailbox_id = {mb};
SELECT plain.expunge({box}, {mid}, {mid} + 99)
-- ours
SELECT trim_shadow({acc}, s.mailbox_id, '-1 s') FROM mailboxes s WHERE s.account_id = {acc} AND s.shadow
-- plain
WITH d AS (DELETE FROM plain.messages m WHERE m.account_id = {acc} AND m.mailbox_id = {mb} AND m.expunged_at IS NOT NULL
RETURNING 1) SELECT count(*) FROM d

-- ── note_dirty of a credential
-- uncompared
-- ours
INSERT INTO credentials (account_id, kind, hash) VALUES ({acc}, 'password', 'x')
-- plain
WITH c AS (INSERT INTO credentials (account_id, kind, name, hash) VALUES ({acc}, 'app_password', 'y', 'x') RETURNING 1)
INSERT INTO journal_dirty (account_id, kind) SELECT {acc}, 'account' FROM c

-- ── note_outbound of 10 mails
-- uncompared
-- ours
INSERT INTO outbound_queue (account_id, kind, sender, recipient, content_id, size) SELECT {acc}, 'redirect', 'a@b', 'c@d',
{content}, 1 FROM generate_series(1, 10)
-- plain
WITH q AS (INSERT INTO outbound_queue (account_id, kind, sender, recipient, content_id, size) SELECT {acc}, 'redirect', 'a@b',
'c@d', {content}, 1 FROM generate_series(1, 10) RETURNING account_id) INSERT INTO journal_dirty (account_id, kind)
SELECT DISTINCT account_id, 'outbound' FROM q

-- ── journal_due when nothing is written
-- ours
SELECT count(*) FROM journal_due(-1, 1000000)
-- plain
SELECT count(*) + 1 FROM accounts

-- ── journal_page of all that 16 blocks have
-- ours
SELECT octet_length(uids)::bigint / 8, octet_length(hashes)::bigint / 32 FROM journal_page({box}, 0, -1, 16)
-- plain
SELECT count(*), count(c.content_hash) FROM plain.messages m JOIN plain.contents c USING (account_id, content_id)
WHERE m.account_id = {acc} AND m.mailbox_id = {mb} AND m.uid < 16384

-- ── journal_page of one that is new
-- ours
SELECT octet_length(uids)::bigint / 8 FROM journal_page({box}, {modseq} - 1, -1, 16)
-- untimed
SELECT expunge({box}, ARRAY[{mid}::bigint], ARRAY[{mid}::bigint], false)
-- plain
SELECT count(*) FROM plain.messages m JOIN plain.contents c USING (account_id, content_id)
WHERE m.account_id = {acc} AND m.mailbox_id = {mb} AND m.uid = {mid}

-- ── take_journal_seq
-- uncompared
-- ours
SELECT take_journal_seq('held', 1)
-- plain
UPDATE journal_state SET seq = seq + 1 RETURNING seq

-- ── journal_written of a mailbox
-- uncompared
-- ours
SELECT journal_written('held', 1, 5, 100, ARRAY[{acc}::bigint], '{5}', '{100}', '{t}', '{}', ARRAY[{acc}::bigint], ARRAY[{mb}::bigint], ARRAY[{modseq}::bigint],
'{4000000000}', '{4000000000000}')
-- plain
WITH s AS (INSERT INTO journal_segments VALUES (5, 100)), a AS (INSERT INTO journal_accounts VALUES ({acc}, 5, 100)), k AS
(INSERT INTO journal_marks VALUES ({acc}, {mb}, {modseq}, 0, 4000000000, 4000000000000)) UPDATE mailbox_stats SET
uid_reserved = 4000000000, modseq_reserved = 4000000000000 WHERE account_id = {acc} AND mailbox_id = {mb}

-- ── reserve_uids
-- ours
SELECT reserve_uids({box}, 5000000)
-- plain
SELECT coalesce(uid_reserved, 4294967296) >= 5000000 FROM mailbox_stats WHERE account_id = {acc} AND mailbox_id = {mb}

-- ── forget_journal
-- uncompared
-- ours
SELECT forget_journal('held', 1)
-- plain
DELETE FROM journal_dirty

-- ── rebuild_page of 1,023 messages
-- uncompared
-- ours
SELECT rebuild_page({acc}, {mb}, 0, 1024, 2000000, 2000000, 0, 4194303, '{0}', '{0,0}', '{-1,0}', '{0,0}',
ARRAY[~0::bit(1024), ~0::bit(1024)], ARRAY(SELECT generate_series(1, 1023)::bigint), ARRAY(SELECT generate_series(1, 1023)::bigint),
array_fill('\x00'::bytea, ARRAY[1023]), array_fill(100::bigint, ARRAY[1023]), array_fill(1700000000000000, ARRAY[1023]),
array_fill(1700000000000000, ARRAY[1023]), array_fill(0::bigint, ARRAY[1023]))
-- plain
INSERT INTO rebuild_messages (account_id, mailbox_id, uid, content_id, content_hash, size, internal_date, saved_at)
SELECT {acc}, {mb}, g, g, '\x00', 100, now(), now() FROM generate_series(1, 1023) g

-- ── epoch_micros
-- ours
SELECT epoch_micros(1700000000123456)
-- plain
SELECT timestamptz 'epoch' + interval '1700000000.123456 s'

-- ── rebuild_contents_read of 10
-- covers find_thread
-- uncompared
-- ours
SELECT rebuild_contents_read(array_fill({acc}::bigint, ARRAY[10]), ARRAY(SELECT 90000000 + generate_series(1, 10)::bigint),
ARRAY(SELECT int4send(g) FROM generate_series(1, 10) g), array_fill(100::bigint, ARRAY[10]), '{}', '{}',
array_fill('<a@b>'::text, ARRAY[10]), '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}',
array_fill('()'::bytea, ARRAY[10]), array_fill('()'::bytea, ARRAY[10]), '{}', array_fill('x'::text, ARRAY[10]), '{}', '{}')
-- plain
WITH c AS (INSERT INTO message_contents (account_id, content_id, content_hash, size, in_reply_to, thread_id, envelope,
body_structure) SELECT {acc}, 90000000 + g, int4send(g), 100, '<a@b>', 1, '()', '()' FROM generate_series(1, 10) g
RETURNING account_id, content_id) INSERT INTO search_queue (account_id, content_id, headers) SELECT account_id, content_id, 'x'
FROM c

-- ── rebuild_fill with 1,000 messages
-- uncompared
-- untimed
INSERT INTO rebuild_mailboxes (account_id, mailbox_id, modseq_reserved) VALUES ({acc}, {to}, 4000000000);
INSERT INTO rebuild_contents (account_id, content_id, content_hash, size, known, state) SELECT account_id, content_id,
content_hash, size, true, 'stored' FROM message_contents WHERE account_id = {acc};
INSERT INTO rebuild_messages (account_id, mailbox_id, uid, content_id, content_hash, size, internal_date, saved_at) SELECT
account_id, {to}, 10000000 + uid, content_id, '\x00', size, internal_date, saved_at FROM messages WHERE account_id = {acc} AND
mailbox_id = {mb} AND uid <= 1000
-- ours
SELECT rebuild_fill({acc}, {to})
-- plain
INSERT INTO messages (account_id, mailbox_id, uid, content_id, created_modseq, internal_date, size) SELECT account_id,
mailbox_id, uid, content_id, 4000000000, internal_date, size FROM rebuild_messages WHERE account_id = {acc}

-- ── raise_numbers
-- uncompared
-- ours
SELECT raise_numbers()
-- plain
SELECT setval('content_ids', nextval('content_ids') + 1)

-- ── bump_mailboxes with one
-- ours
SELECT bump_mailboxes(ARRAY[{acc}::bigint], ARRAY[{mb}::bigint], 1000)
-- plain
WITH u AS (UPDATE mailbox_stats SET uid_next = uid_next + 1000, highest_modseq = highest_modseq + 1000 WHERE account_id = {acc}
AND mailbox_id = {mb} RETURNING 1) SELECT count(*) FROM u

-- ── body_facts of 500 bodies
-- ours
SELECT f.* FROM (SELECT array_agg(q.account_id) AS a, array_agg(q.content_hash) AS h FROM (SELECT account_id, content_hash
FROM message_contents WHERE account_id = {acc} ORDER BY content_hash LIMIT 500) q) n, body_facts('a', '1 min', n.a, n.h) f
-- plain
SELECT c.account_id, c.content_id, c.content_hash, c.size, c.uploaded_at IS NOT NULL, count(u) FILTER (WHERE u.instance_id = 'a')
> 0, count(u) FILTER (WHERE u.instance_id <> 'a' AND i.heartbeat_at > clock() - interval '1 min') > 0, count(u) > 0 AND count(u)
FILTER (WHERE u.instance_id = 'a' OR i.heartbeat_at > clock() - interval '1 min') = 0, EXISTS (SELECT 1 FROM body_copies b WHERE
b.account_id = c.account_id AND b.content_id = c.content_id), content_user(c.account_id, c.content_id) IS NULL AND NOT EXISTS
(SELECT 1 FROM purge_candidates p WHERE p.account_id = c.account_id AND p.content_id = c.content_id), EXISTS (SELECT 1 FROM
account_keys k WHERE k.account_id = c.account_id) FROM message_contents c LEFT JOIN pending_uploads u ON u.account_id =
c.account_id AND u.content_hash = c.content_hash LEFT JOIN instances i ON i.instance_id = u.instance_id WHERE c.account_id = {acc}
GROUP BY c.account_id, c.content_id ORDER BY c.content_hash LIMIT 500

-- ── named_mailboxes
-- ours
SELECT * FROM named_mailboxes(0, 0, 0, 9223372036854775807, 500)
-- plain
SELECT m.account_id, m.mailbox_id, count(a) > 0, count(b) > 0 FROM messages m LEFT JOIN accounts a ON a.account_id = m.account_id
LEFT JOIN mailboxes b ON b.account_id = m.account_id AND b.mailbox_id = m.mailbox_id GROUP BY 1, 2 ORDER BY 1, 2 LIMIT 500
