"""SASL: mechanisms, exchanges, encodings."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sora.errors import BadSyntax
from sora.wire import sasl
from sora.wire.sasl import Credentials, parse_plain


class Client:
    """Answers challenges in order and notes them."""

    def __init__(self, *responses: bytes) -> None:
        self.responses = list(responses)
        self.challenges: list[bytes] = []

    async def ask(self, challenge: bytes) -> bytes:
        self.challenges.append(challenge)
        return self.responses.pop(0)


def test_plain() -> None:
    assert parse_plain(b"\0alice@example.com\0s\xc3\xa9cret") == Credentials("", "alice@example.com", "sécret")
    assert parse_plain(b"bob\0alice\0x") == Credentials("bob", "alice", "x")


@pytest.mark.parametrize("message", [b"", b"alice", b"\0alice", b"\0\0secret", b"a\0b\0c\0d", b"\0\xff\0x"])
def test_what_is_not_plain(message: bytes) -> None:
    with pytest.raises(BadSyntax):
        parse_plain(message)


@pytest.mark.parametrize(("authzid", "other"), [("", False), ("alice", False), ("bob", True)])
def test_acting_for_another(authzid: str, other: bool) -> None:
    assert Credentials(authzid, "alice", "x").for_another is other


def test_the_password_is_not_shown() -> None:
    assert "secret" not in repr(Credentials("", "alice", "secret"))


@pytest.mark.parametrize(
    ("name", "initial", "responses", "challenges"),
    [
        ("PLAIN", None, [b"\0ann\0pass"], [b""]),
        ("plain", b"\0ann\0pass", [], []),
        ("LOGIN", None, [b"ann", b"pass"], [b"Username:", b"Password:"]),
        ("Login", b"ann", [b"pass"], [b"Password:"]),
    ],
)
async def test_exchanges(name: str, initial: bytes | None, responses: list[bytes], challenges: list[bytes]) -> None:
    mechanism, client = sasl.find(name), Client(*responses)
    assert mechanism is not None
    assert await sasl.negotiate(mechanism, initial, client.ask) == Credentials("", "ann", "pass")
    assert client.challenges == challenges


@pytest.mark.parametrize("responses", [[b"", b"x"], [b"\xff", b"x"], [b"ann", b"\xff"], [b"a\0b", b"x"]])
async def test_what_is_not_login(responses: list[bytes]) -> None:
    with pytest.raises(BadSyntax):
        await sasl.negotiate(sasl.login, None, Client(*responses).ask)


async def test_an_exchange_ends_with_what_asking_raises() -> None:
    async def give_up(challenge: bytes) -> bytes:
        return sasl.decode_response(b"*")

    for mechanism in sasl.MECHANISMS.values():
        with pytest.raises(BadSyntax, match="cancelled"):
            await sasl.negotiate(mechanism, None, give_up)


def test_unknown_mechanisms() -> None:
    assert sasl.find("GSSAPI") is None
    assert sasl.find("") is None


@given(st.binary())
def test_encoding_and_decoding(data: bytes) -> None:
    assert sasl.decode_response(sasl.encode_challenge(data)) == data


@pytest.mark.parametrize("line", [b"*", b"!!", b"A", b"AA=A", b"AGFs aWNl", b"="])
def test_what_is_no_response(line: bytes) -> None:
    with pytest.raises(BadSyntax):
        sasl.decode_response(line)


def test_initial_responses() -> None:
    assert sasl.decode_initial(b"=") == b""
    assert sasl.decode_initial(b"AGE=") == b"\0a"
    with pytest.raises(BadSyntax):
        sasl.decode_initial(b"*")
