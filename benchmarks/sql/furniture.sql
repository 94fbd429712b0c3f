-- What mail alone does not bring: texts, uploads, witnesses, leases, keywords, an orphan.

INSERT INTO search_index (account_id, content_id, headers, body) SELECT account_id, content_id, 'subject: ' || subject
|| CASE WHEN content_id % 100 = 0 THEN ' needle' ELSE '' END, repeat('hay ', 250) || CASE WHEN content_id % 50 = 0
THEN 'haystack' ELSE '' END FROM message_contents WHERE account_id = {acc} AND content_id % 10 <> 5;
INSERT INTO search_queue (account_id, content_id, headers, body) SELECT account_id, content_id, 'subject: ' ||
subject, repeat('hay ', 250) FROM message_contents WHERE account_id = {acc} AND content_id % 10 = 5;
INSERT INTO pending_uploads (account_id, content_hash, instance_id, content_id, size) SELECT account_id, content_hash,
'bench', content_id, size FROM message_contents WHERE account_id = {acc} ORDER BY content_id LIMIT 500;
SELECT register_instance('bench');
INSERT INTO leases VALUES ('held', 'bench', 1, 1, clock(), clock() + interval '1 d') ON CONFLICT DO NOTHING;
INSERT INTO recent_deliveries (account_id, key, mailbox_id, uid) VALUES ({acc}, '\x01', {mb}, 1);
INSERT INTO append_witnesses (account_id, append_id, mailbox_id, uid) VALUES ({acc},
'00000000-0000-0000-0000-000000000001', {mb}, 1);
SELECT note_account_change({acc}, 'create', {mb}, 'Archive');
SELECT register_keywords({acc}, '{$Forwarded}');
SELECT store_flags({acc}, {mb}, '{5}', '{5}', '{16}', '{}');
INSERT INTO message_contents (account_id, content_hash, size, thread_id, envelope, body_structure) VALUES ({acc},
'\x00', 1, 1, '', '');
INSERT INTO purge_candidates (account_id, content_id) SELECT account_id, max(content_id) FROM message_contents WHERE
account_id = {acc} GROUP BY 1;
