"""How clients arrive at the whole product: over a UNIX socket, through a proxy, under TLS from the first octet."""

from __future__ import annotations

import imaplib
import poplib
import smtplib
import socket
import ssl
import stat
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.support.demo import Demo
from tests.support.fakesora import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.timeout(120)
USER, PASSWORD = "user1@example.com", "demo"
V1: Final = b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 143\r\n"
V2: Final = b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + bytes([192, 0, 2, 8, 198, 51, 100, 1, 220, 4, 0, 24])


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sockets") / "lmtp"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, path: Path) -> Iterator[Demo]:
    settings = [f'servers.lmtp.listen=["127.0.0.1:0", "unix:{path}"]', 'servers.lmtp.tls_listen=["127.0.0.1:0"]']
    for server in ("imap", "pop3"):
        settings += [f"servers.{server}.proxy_protocol=true", f'servers.{server}.trusted_networks=["127.0.0.0/8"]']
    arguments = [word for setting in settings for word in ("--set", setting)]
    directory = tmp_path_factory.mktemp("demo") / "sora"
    with Demo(directory, "--workers", "2", "--accounts", "1", *arguments) as demo:
        yield demo


def proxied(port: int, header: bytes) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), timeout=15)
    sock.sendall(header)
    return sock


def trusting() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class Imap(imaplib.IMAP4):
    """A client on a connection that is there already."""

    def __init__(self, sock: socket.socket) -> None:
        self._given = sock
        super().__init__()

    def _create_socket(self, timeout: float | None) -> socket.socket:
        return self._given


class Lmtps(smtplib.LMTP):
    """LMTP under TLS from the first octet."""

    def _get_socket(self, host: str, port: int, timeout: Any) -> socket.socket:
        return trusting().wrap_socket(socket.create_connection((host, port), timeout=15))

    def connect(self, host: str = "localhost", port: int = 0, source_address: Any = None) -> tuple[int, bytes]:
        return smtplib.SMTP.connect(self, host, port, source_address)


def newest(demo: Demo) -> bytes:
    """The last message of the user, over IMAP behind a proxy."""
    client = Imap(proxied(demo.ports["imap"], V1))
    client.login(USER, PASSWORD)
    count = client.select("INBOX")[1][0]
    assert count is not None
    found = client.fetch(count.decode(), "(BODY.PEEK[])")[1][0]
    client.logout()
    assert isinstance(found, tuple)
    return found[1]


def test_lmtp_over_a_unix_socket(demo: Demo, path: Path) -> None:
    assert path.is_socket()
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    with smtplib.LMTP(str(path)) as lmtp:
        lmtp.sendmail("me@example.org", [USER], "Subject: over a UNIX socket\r\n\r\nText.\r\n")
    body = newest(demo)
    assert b"Subject: over a UNIX socket\r\n" in body
    assert b" (local)\r\n" in body


def test_lmtp_with_implicit_tls(demo: Demo) -> None:
    with Lmtps("127.0.0.1", demo.ports["lmtps"]) as lmtp:
        lmtp.ehlo()
        assert not lmtp.has_extn("starttls")
        lmtp.sendmail("me@example.org", [USER], "Subject: under TLS\r\n\r\nText.\r\n")
    assert b" with LMTPS id " in newest(demo)


def test_imap_with_implicit_tls_behind_a_proxy(demo: Demo) -> None:
    sock = proxied(demo.ports["imaps"], V2)
    client = Imap(trusting().wrap_socket(sock))
    assert client.login(USER, PASSWORD)[0] == "OK"
    client.logout()
    until(
        lambda: '"peer":"192.0.2.8"' in (demo.directory / "run" / "sora.log").read_text(),
        "the client's address in the log",
    )


def test_pop3_behind_a_proxy(demo: Demo) -> None:
    class Pop3(poplib.POP3):
        def _create_socket(self, timeout: Any) -> socket.socket:
            return proxied(demo.ports["pop3"], V2)

    client = Pop3("127.0.0.1")
    client.user(USER)
    assert client.pass_(PASSWORD).startswith(b"+OK")
    client.quit()


@pytest.mark.parametrize("name", ["imap", "pop3", "imaps"])
def test_without_a_header_there_is_no_greeting(demo: Demo, name: str) -> None:
    with closing(proxied(demo.ports[name], b"a NOOP\r\n")) as sock:
        try:
            assert sock.recv(100) == b""
        except ConnectionResetError:
            pass  # what was not read makes the close a reset


def test_the_file_goes_away_with_the_server(demo: Demo, path: Path) -> None:
    demo.stop()
    assert not path.exists()
