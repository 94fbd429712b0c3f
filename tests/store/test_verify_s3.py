"""`sora-admin verify` with an object store that lists in pages and may list late."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import pytest

from sora.admin import verify
from sora.admin.verify import Verify
from tests.support.wrecks import open_wreck

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.swift import SwiftServer

pytestmark = pytest.mark.timeout(60)


async def test_damage_in_a_bucket_is_found_and_mended(
    dsn: str, tmp_path: Path, s3_server: SwiftServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sora.services.recovery.verifying.PAGE", 3)
    table: dict[str, object] = {
        "kind": "s3",
        "endpoint": s3_server.endpoint,
        "bucket": f"verify-{secrets.token_hex(4)}",
        "access_key": s3_server.access_key,
        "secret_key": s3_server.secret_key,
    }
    async with open_wreck(dsn, tmp_path, object_store=table) as wreck:
        bodies = [b"Subject: %d\r\n\r\nHello.\r\n" % number for number in range(8)]
        refs = [await wreck.at_rest(body) for body in bodies]
        assert (await verify.verify(wreck.context, Verify())).findings == []
        await wreck.node.blobs.delete(refs[0].key)
        await wreck.node.blobs.put(refs[1].key, bodies[2])
        wreck.spoil(wreck.cache.path(refs[3]))
        stray = refs[4].key.replace(f"-{refs[4].content_id}.eml", "-999999.eml")
        await wreck.node.blobs.put(stray, bodies[4])
        wreck.cache.path(refs[4]).unlink()
        await wreck.node.blobs.delete(refs[4].key)
        found = await verify.verify(wreck.context, Verify(deep=True, repair=True))
        states = {(finding.kind, finding.subject): finding.state for finding in found.findings}
        assert states == {
            ("object missing", refs[0].key): "mended",
            ("object damaged", refs[1].key): "mended",
            ("cache damaged", refs[3].name): "mended",
            ("object missing", refs[4].key): "mended",  # from the stray, which has the same octets
            ("object without row", stray): "waits",
        }
        assert [await wreck.read(ref) for ref in refs] == bodies
        assert found.objects >= 7
