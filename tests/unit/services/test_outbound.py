"""Small parts of the sender; the whole is in tests/integration and tests/faults."""

from __future__ import annotations

import pytest

from sora import config
from sora.errors import ConfigError
from sora.services.outbound import _network_lines, own_hello, without_return_path
from sora.tables import OutboundTable

BASE = {
    "database": {"primary": "postgresql://x"},
    "object_store": {"kind": "directory", "path": "/o"},
    "local_cache": {"capacity": 0},
    "uploader": {"staging_path": "/s"},
    "process": {"runtime_path": "/r"},
}


@pytest.mark.parametrize(
    ("mail", "without"),
    [
        (b"Return-Path: <a@b>\r\nX: y\r\n\r\n", b"X: y\r\n\r\n"),
        (b"return-path:\r\n <a@b>\r\n\t\r\nX: y\r\n", b"X: y\r\n"),
        (b"X: y\r\nReturn-Path: <a@b>\r\n", b"X: y\r\nReturn-Path: <a@b>\r\n"),
        (b"Return-Path: <a@b>", b""),
        (b"Return-Path: <a@b>\r\n", b""),
        (b"", b""),
    ],
)
def test_only_the_return_path_on_top_goes(mail: bytes, without: bytes) -> None:
    assert without_return_path(mail) == without


@pytest.mark.parametrize(
    ("octets", "sent"),
    [
        (b"a\r\nb\r\n", b"a\r\nb\r\n"),
        (b"a\nb\r\n", b"a\r\nb\r\n"),
        (b"a\n.\r\n", b"a\r\n.\r\n"),
        (b"a\r.\rb", b"a\r\n.\r\nb\r\n"),
        (b"a\r\r\n", b"a\r\n\r\n"),
        (b"\n\r", b"\r\n\r\n"),
        (b"", b"\r\n"),
    ],
)
def test_line_ends(octets: bytes, sent: bytes) -> None:
    assert _network_lines(octets) == sent


@pytest.mark.parametrize(
    "table",
    [
        {"host": "smtp.example.com", "tls": "none", "user": "u", "password": "p"},
        {"host": "h", "password": "p"},
        {"host": "h", "tls_key": "k.pem"},
        {"host": "h", "timeout": "10m"},
        {"host": "h", "timeout": "0s"},
        {"host": "h", "retry": "2h", "retry_longest": "1h"},
        {"host": "h", "give_up": "1h"},
        {"host": "h", "hello": "two words"},
        {"host": "h", "hello": "grün.example"},
        {"host": "h", "tls": "sometimes"},
        {"host": "h", "port": 70000},
    ],
)
def test_what_cannot_be_configured(table: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="outbound"):
        config.parse({**BASE, "outbound": table})


def test_what_can_be_configured() -> None:
    local = {"host": "::1", "tls": "none", "user": "u", "password": "p", "tls_ca": "ca.pem", "retry": "1m"}
    table = config.parse({**BASE, "outbound": local}).outbound
    assert (table.port, table.retry, table.retry_longest, table.give_up) == (0, 60, 86400, 5 * 86400)
    assert table.tls_ca.startswith("/")
    assert config.dump(config.parse({**BASE, "outbound": local}))["outbound"]["password"] == "***"
    assert config.parse(BASE).outbound.host == ""


def test_our_name() -> None:
    assert own_hello(OutboundTable(hello="mail.example.com")) == "mail.example.com"
    assert own_hello(OutboundTable()).isascii()
