"""Addresses: one form for all spellings, and nothing odd in it."""

from __future__ import annotations

import pytest

from sora.errors import InvalidName
from sora.store.addresses import canonical_address, canonical_domain, fold_address, split_detail


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ("Ann@Example.COM", "ann@example.com"),
        (" ann@example.com ", "ann@example.com"),
        ("ann@example.com.", "ann@example.com"),
        ("JOSE\u0301@m\u00fcnchen.de", "jos\u00e9@m\u00fcnchen.de"),
        ("o'hara+x/y=z@mail-1.example", "o'hara+x/y=z@mail-1.example"),
        ("x" * 64 + "@" + "y" * 63, "x" * 64 + "@" + "y" * 63),
        ("a@\u0939\u093f\u0928\u094d\u0926\u0940.example", "a@\u0939\u093f\u0928\u094d\u0926\u0940.example"),
    ],
)
def test_canonical(given: str, stored: str) -> None:
    assert canonical_address(given) == stored
    assert canonical_address(stored) == stored


@pytest.mark.parametrize(
    "bad",
    [
        "", "@", "ann", "ann@", "@example.com", "a b@example.com", "a\tb@example.com", '"a"@example.com', "a@b@c.de",
        "a\0@example.com", "a\n@example.com", "a\x7f@example.com", "a@exa mple.com", "a@-x.com", "a@x-.com", "a@x..com",
        "a@.com", "\udc80@example.com", "a@\udc80.com", "x" * 65 + "@example.com", "a@" + "y" * 64 + ".com",
        "a@" + ".".join(["y" * 60] * 5), "a\u2028b@example.com", "a\u202e@example.com",
    ],
)  # fmt: skip
def test_refused(bad: str) -> None:
    with pytest.raises(InvalidName):
        canonical_address(bad)


def test_domain_alone() -> None:
    assert canonical_domain("EXAMPLE.com.") == "example.com"
    with pytest.raises(InvalidName):
        canonical_domain("")


@pytest.mark.parametrize(
    ("address", "base", "detail"),
    [
        ("ann@example.com", "ann@example.com", ""),
        ("ann+List@example.com", "ann@example.com", "List"),
        ("ann+a+b@example.com", "ann@example.com", "a+b"),
        ("ann+@example.com", "ann@example.com", ""),
        ("+x@example.com", "+x@example.com", ""),
        ("nobody", "nobody", ""),
    ],
)
def test_detail(address: str, base: str, detail: str) -> None:
    assert split_detail(address) == (base, detail)


def test_fold_never_raises() -> None:
    assert fold_address(" \udc80A\0@") == "\udc80a\0@"
