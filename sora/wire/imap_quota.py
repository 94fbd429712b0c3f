"""QUOTA (RFC 9208): commands in, responses out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from sora.wire.imap_responses import mailbox
from sora.wire.imap_syntax import astring, parenthesised, whole

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sora._native.imapscan import Cursor


class GetQuota(Struct, frozen=True):
    """GETQUOTA (RFC 9208 §4.1.1)."""

    root: bytes


class GetQuotaRoot(Struct, frozen=True):
    """GETQUOTAROOT (RFC 9208 §4.1.2)."""

    mailbox: str


class SetQuota(Struct, frozen=True):
    """SETQUOTA (RFC 9208 §4.1.3).

    Attributes:
        limits: by resource name, upper case.
    """

    root: bytes
    limits: tuple[tuple[str, int], ...]


class Resource(Struct, frozen=True):
    """One resource of a QUOTA response, in the unit of its name: STORAGE in KiB."""

    name: str
    used: int
    limit: int


@whole
def parse_getquota(cur: Cursor) -> GetQuota:
    """`SP quota-root-name`."""
    return GetQuota(cur.sp().astring())


@whole
def parse_getquotaroot(cur: Cursor) -> GetQuotaRoot:
    """`SP mailbox`."""
    return GetQuotaRoot(cur.sp().mailbox())


@whole
def parse_setquota(cur: Cursor) -> SetQuota:
    """`SP quota-root-name SP "(" [resource SP limit *(SP resource SP limit)] ")"`."""

    def limit(cur: Cursor) -> tuple[str, int]:
        return cur.keyword().decode(), cur.sp().number64()

    root = cur.sp().astring()
    return SetQuota(root, tuple(parenthesised(cur.sp(), limit, empty=True)))


def quota_line(root: bytes, resources: Iterable[Resource]) -> bytes:
    """QUOTA (RFC 9208 §4.2.1)."""
    found = b" ".join(b"%s %d %d" % (r.name.encode(), r.used, r.limit) for r in resources)
    return b"* QUOTA %s (%s)\r\n" % (astring(root), found)


def quotaroot_line(name: str, roots: Iterable[bytes], *, utf8: bool = False) -> bytes:
    """QUOTAROOT (RFC 9208 §4.2.2)."""
    return b"* QUOTAROOT %s\r\n" % b" ".join([mailbox(name, utf8=utf8), *map(astring, roots)])
