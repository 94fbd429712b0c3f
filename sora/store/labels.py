"""What an object of a body says of itself, for a rebuild of mail that no segment of the journal knows yet.

A label is stored with its object: as user metadata in S3 (`x-amz-meta-sora-0` and so on, base64 in pieces), as a hidden
file beside it in a directory. It is written once, with the upload, and says what was true then; where the journal says
something else, the journal is right. With encryption on it is sealed with the key of the account, bound to the key of
the object.

The first octet says how to read the rest: 0, msgpack compressed by zlib; 1, the same, sealed.
"""

from __future__ import annotations

import zlib
from datetime import datetime  # noqa: TC003 — msgspec reads the annotations at run time
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

if TYPE_CHECKING:
    from sora.store.sealing import AccountKey

MOST_BYTES: Final = 1400
"""S3 takes 2 KB of user metadata, names included, and these octets are a third more in base64."""
MOST_PLACES: Final = 20
_SEALED_MORE: Final = 40
_PLAIN: Final = b"\x00"
_SEALED: Final = b"\x01"


class Place(Struct, frozen=True, array_like=True):
    """A message with this body.

    Attributes:
        name: Of the mailbox, at that time.
        flags: As IMAP writes them, keywords in their first spelling.
    """

    mailbox_id: int
    name: str
    uidvalidity: int
    uid: int
    internal_date: datetime
    flags: tuple[str, ...] = ()


class Label(Struct, frozen=True, omit_defaults=True):
    """One object.

    Attributes:
        places: Those that fit.
    """

    account_id: int
    content_id: int
    size: int
    places: tuple[Place, ...] = ()


def write(label: Label, key: str, sealer: AccountKey | None) -> bytes:
    """The octets that are stored with the object `key`; places are left out until they are few enough.

    Args:
        sealer: None: the body is not sealed either.
    """
    packed = zlib.compress(msgspec.msgpack.encode(label), 9)
    while len(packed) + _SEALED_MORE + 1 > MOST_BYTES and label.places:
        label = replace(label, places=label.places[:-1])
        packed = zlib.compress(msgspec.msgpack.encode(label), 9)
    return _PLAIN + packed if sealer is None else _SEALED + sealer.seal_record(_context(key), packed)


def read(stored: bytes, key: str, sealer: AccountKey | None) -> Label | None:
    """The label of the object `key`; None: there is none, or it is not genuine, or its key is missing."""
    packed: bytes | None = stored[1:]
    if stored[:1] == _SEALED:
        packed = sealer.open_record(_context(key), stored[1:]) if sealer else None
    elif stored[:1] != _PLAIN:
        return None
    if packed is None:
        return None
    try:
        return msgspec.msgpack.decode(zlib.decompress(packed), type=Label)
    except (zlib.error, msgspec.MsgspecError):
        return None


def _context(key: str) -> bytes:
    return b"sora label " + key.encode()
