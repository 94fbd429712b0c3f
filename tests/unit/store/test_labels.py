"""What an object says of itself: small enough for S3, sealed where its body is, and of no use elsewhere."""

from __future__ import annotations

import base64
import zlib
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from sora.store import labels
from sora.store.labels import Label, Place
from sora.store.sealing import AccountKey
from sora.types import AccountId

KEY = "0000000000000007/ab/abcd-5.eml"
WHEN = datetime(2026, 3, 4, tzinfo=UTC)
SEALER = AccountKey(AccountId(7), bytes(range(32)))
LABEL = Label(7, 5, 100, (Place(3, "Work/2026", 12345, 77, WHEN, ("\\Seen", "$Junk")),))


def test_a_plain_one_comes_back() -> None:
    assert labels.read(labels.write(LABEL, KEY, None), KEY, None) == LABEL
    assert labels.read(labels.write(LABEL, KEY, None), KEY, SEALER) == LABEL


def test_a_sealed_one_opens_for_its_key_and_object_alone() -> None:
    stored = labels.write(LABEL, KEY, SEALER)
    assert b"Work" not in stored
    assert labels.read(stored, KEY, SEALER) == LABEL
    assert labels.read(stored, KEY, None) is None
    assert labels.read(stored, KEY.replace("5.", "6."), SEALER) is None
    assert labels.read(stored, KEY, AccountKey(AccountId(8), bytes(range(32)))) is None


@given(st.lists(st.text(max_size=300), max_size=20), st.booleans())
def test_it_fits_whatever_the_names_are(names: list[str], sealed: bool) -> None:
    places = tuple(Place(n, name, 1, n, WHEN, (name[:50],)) for n, name in enumerate(names))
    label = Label(7, 5, 100, places)
    stored = labels.write(label, KEY, SEALER if sealed else None)
    text = base64.b64encode(stored)
    assert len(text) + -(-len(text) // 250) * len("x-amz-meta-sora-0") <= 2048
    read = labels.read(stored, KEY, SEALER)
    assert read is not None
    assert read.places == places[: len(read.places)]
    if sum(len(name.encode()) for name in names) < 500 and len(names) < 5:
        assert len(read.places) == len(places)


@given(st.binary(max_size=100))
def test_anything_else_is_no_label(data: bytes) -> None:
    assert labels.read(data, KEY, SEALER) is None
    assert labels.read(b"\x00" + zlib.compress(data), KEY, None) is None
