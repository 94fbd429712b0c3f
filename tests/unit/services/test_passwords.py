"""Hashes: kinds, upgrades, and the work a failed login costs."""

from __future__ import annotations

import argon2
import pytest

from sora.errors import InvalidName
from sora.services.logins import passwords
from sora.services.logins.passwords import HashCost

CHEAP = HashCost(memory_kib=64, passes=1)


def test_argon2id_is_the_default_with_owasp_parameters() -> None:
    stored = passwords.hash_password("correct horse")
    assert stored.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert passwords.verify(b"correct horse", stored)
    assert not passwords.verify(b"correct horsf", stored)


def test_equal_passwords_get_different_hashes() -> None:
    assert passwords.hash_password("x", CHEAP) != passwords.hash_password("x", CHEAP)
    assert passwords.hash_app_password("x") != passwords.hash_app_password("x")


def test_composed_and_decomposed_spelling_are_one_password() -> None:
    stored = passwords.hash_password("cafe\u0301", CHEAP)
    assert passwords.verify(passwords.canonical_password("caf\u00e9"), stored)


@pytest.mark.parametrize("bad", ["", "a\0b", "\udc80", "x" * 1025, "é" * 513])
def test_passwords_that_cannot_be(bad: str) -> None:
    with pytest.raises(InvalidName):
        passwords.canonical_password(bad)


def test_longest_password_is_allowed() -> None:
    assert passwords.canonical_password("x" * 1024) == b"x" * 1024


@pytest.mark.parametrize(
    "stored",
    ["", "plain", "$", "$argon2id$", "$argon2id$v=19$m=64,t=1,p=1$x$y", "$blake2b$zz$zz", "$blake2b$00", "$md5$a$b"],
)
def test_damaged_and_unknown_hashes_fit_nothing(stored: str) -> None:
    assert not passwords.verify(b"plain", stored)
    assert not passwords.verify(b"", stored)


def test_app_password_form_and_hash() -> None:
    one, two = passwords.new_app_password(), passwords.new_app_password()
    assert one != two
    assert [len(group) for group in one.split("-")] == [4] * 5
    stored = passwords.hash_app_password(one)
    assert one not in stored
    assert passwords.verify(one.encode(), stored)
    assert not passwords.verify(two.encode(), stored)


def test_find_match_gives_the_position() -> None:
    hashes = [passwords.hash_password("main", CHEAP), passwords.hash_app_password("app"), "$broken"]
    assert passwords.find_match(b"main", hashes, CHEAP) == 0
    assert passwords.find_match(b"app", hashes, CHEAP) == 1
    assert passwords.find_match(b"else", hashes, CHEAP) is None


@pytest.mark.parametrize("kinds", ["", "app", "main", "app main"])
def test_a_failure_costs_one_argon2_whatever_the_account_holds(kinds: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make = {"app": passwords.hash_app_password, "main": lambda p: passwords.hash_password(p, CHEAP)}
    hashes = [make[kind]("right") for kind in kinds.split()]
    work = []
    verify, new = argon2.PasswordHasher.verify, argon2.PasswordHasher.hash
    monkeypatch.setattr(argon2.PasswordHasher, "verify", lambda s, *a: (work.append("v"), verify(s, *a))[1])
    monkeypatch.setattr(argon2.PasswordHasher, "hash", lambda s, *a: (work.append("h"), new(s, *a))[1])
    assert passwords.find_match(b"wrong", hashes, CHEAP) is None
    assert len(work) == 1


def test_upgrade_only_for_argon2_of_another_cost() -> None:
    cheap = passwords.hash_password("x", CHEAP)
    assert passwords.needs_upgrade(cheap, HashCost())
    assert not passwords.needs_upgrade(cheap, CHEAP)
    assert not passwords.needs_upgrade(passwords.hash_app_password("x"), HashCost())
