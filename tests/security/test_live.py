"""Rules of security that only the whole product can show: one demo, hostile clients, and a look at what it left."""

from __future__ import annotations

import base64
import json
import os
import re
import socket
import ssl
import stat
import urllib.request
from typing import TYPE_CHECKING, Final

import pytest

from sora.protocols import lmtp
from sora.protocols.imap import commands as imap_commands
from sora.protocols.imap import session as imap_session
from sora.protocols.managesieve import session as managesieve_session
from sora.protocols.managesieve import verbs as managesieve_verbs
from sora.protocols.pop3 import session as pop3_session
from sora.protocols.pop3 import verbs as pop3_verbs
from tests.support.demo import Demo
from tests.support.fakesora import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.timeout(120)

USER: Final = "user1@example.com"
PASSWORD: Final = "demo"
WRONG: Final = "Wr0ng-7Zq%sPw"
INJECTED: Final = '"}\\n{"level":"error","text":"forged entry"'


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    options = ["--set", 'log.level="debug"']
    with Demo(tmp_path_factory.mktemp("security") / "demo", "--accounts", "2", "--workers", "1", *options) as demo:
        yield demo


def blob(password: str, user: str = USER) -> str:
    """The PLAIN response (RFC 4616)."""
    return base64.b64encode(f"\0{user}\0{password}".encode()).decode()


def talk(port: int, *lines: bytes) -> bytes:
    """Send everything and hang up; what was answered."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as link:
        link.sendall(b"".join(lines))
        link.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := link.recv(65536):
            answer += piece
    return answer


def log_text(demo: Demo) -> str:
    return (demo.directory / "run" / "sora.log").read_text()


def logged(demo: Demo, marker: str) -> str:
    """The log once everything before the marker, a login of a name of ours, has been written."""
    talk(demo.ports["imap"], f'a LOGIN "{marker}@example.com" "x"\r\nb LOGOUT\r\n'.encode())
    return until(lambda: marker in (text := log_text(demo)) and text, f"{marker} in the log")


SESSIONS: Final = {
    "imap": [
        f'a LOGIN "{USER}" "{WRONG % 1}"\r\n',
        f"a AUTHENTICATE PLAIN {blob(WRONG % 2)}\r\n",
        f"a AUTHENTICATE PLAIN\r\n{blob(WRONG % 3)}\r\n",
        f"a AUTHENTICATE LOGIN\r\n{base64.b64encode(USER.encode()).decode()}\r\n"
        f"{base64.b64encode((WRONG % 4).encode()).decode()}\r\n",
        f"a LOGIN {USER} {{{len(WRONG % 5)}+}}\r\n{WRONG % 5}\r\n",
        f"a LOGIN {USER} {WRONG % 6} {WRONG % 6}\r\n",
        f"{WRONG % 7}\r\n",
        f"{WRONG % 8} NOOP\r\n",
        f"a {WRONG % 9} x\r\n",
        f"a NOOP {WRONG % 10}\r\n",
        f'a LOGIN "{USER}" "{PASSWORD}"\r\nb SELECT INBOX\r\n',
    ],
    "pop3": [
        f"USER {USER}\r\nPASS {WRONG % 11}\r\n",
        f"AUTH PLAIN {blob(WRONG % 12)}\r\n",
        f"AUTH PLAIN\r\n{blob(WRONG % 13)}\r\n",
        f"PASS {WRONG % 14}\r\n",
        f"USER {USER}\r\nPASS  {WRONG % 15}\x01\r\n",
        f"{WRONG % 16}\r\nSTAT {WRONG % 17}\r\n",
    ],
    "managesieve": [
        f'AUTHENTICATE "PLAIN" "{blob(WRONG % 26)}"\r\n',
        f'AUTHENTICATE "PLAIN"\r\n"{blob(WRONG % 27)}"\r\n',
        f"AUTHENTICATE {blob(WRONG % 28)}\r\n",
        f'{WRONG % 29}\r\nNOOP "{WRONG % 30}" "x"\r\n',
        f'AUTHENTICATE "PLAIN" "{blob(PASSWORD)}"\r\nPUTSCRIPT "a" "{WRONG % 31}"\r\n',
    ],
    "lmtp": [
        f"LHLO x\r\nAUTH PLAIN {blob(WRONG % 21)}\r\n",
        f"LHLO x\r\nMAIL FROM:<> AUTH={WRONG % 22}\r\n",
        f"LHLO x\r\nXCLIENT LOGIN={WRONG % 23}\r\n",
        f"{WRONG % 24}\r\nNOOP {WRONG % 25}\r\n",
    ],
}


def test_secrets_are_never_in_the_log(demo: Demo) -> None:
    """Passwords right and wrong, AUTH blobs, secrets in the wrong place; at the most talkative level."""
    for protocol, texts in SESSIONS.items():
        for text in texts:
            assert talk(demo.ports[protocol], text.encode(), b"z LOGOUT\r\nQUIT\r\nLOGOUT\r\n")
    text = logged(demo, "secrets-sent")
    assert USER in text, "logins are logged"
    assert "Wr0ng" not in text
    for number in range(1, 32):
        secret = WRONG % number
        assert base64.b64encode(secret.encode()).decode().rstrip("=") not in text
        assert blob(secret) not in text
    assert blob(PASSWORD) not in text


def test_nobody_writes_log_lines_of_their_own(demo: Demo) -> None:
    """Line ends, quotes and control characters of peers stay inside the string of their line."""
    ends = [b"\r\n", b"\n", b"\r", b"\\n", "\u2028".encode(), "\x85".encode(), b"\x1b[2J", b"\0"]
    for end in ends:
        name = b"x" + end.strip(b"\r\n") + INJECTED.encode() + b"@example.com"
        quoted = name.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
        talk(demo.ports["imap"], b'a LOGIN "' + quoted + b'" "y"\r\n', b"a LOGIN {%d+}\r\n%s y\r\n" % (len(name), name))
        talk(
            demo.ports["imap"],
            b"a LOGIN {%d+}\r\nx%s%s y\r\n" % (len(end + INJECTED.encode()) + 1, end, INJECTED.encode()),
        )
        talk(demo.ports["pop3"], b"USER " + name + b"\r\nPASS y\r\nQUIT\r\n")
        talk(
            demo.ports["lmtp"],
            b"LHLO " + name + b"\r\nMAIL FROM:<" + name + b">\r\nRCPT TO:<" + name + b">\r\nQUIT\r\n",
        )
    text = logged(demo, "injected")
    assert "\x1b" not in text
    assert "\0" not in text
    for line in text.split("\n")[:-1]:
        entry = json.loads(line)
        assert entry["text"] != "forged entry"
        assert len(line.splitlines()) == 1, "somebody's pager would see two"


WORDS: Final = {
    "imap": {name.decode() for name in imap_commands.COMMANDS} | {imap_session.NO_COMMAND},
    "pop3": {*pop3_verbs.VERBS, pop3_session.NO_COMMAND},
    "lmtp": {*lmtp.VERBS, lmtp.NO_COMMAND},
    "managesieve": {*managesieve_verbs.VERBS, managesieve_session.NO_COMMAND},
}
"""What may be a label `command`."""


def test_labels_are_our_words(demo: Demo) -> None:
    """No octet of a peer becomes a label: each would be a series that is kept for ever."""
    for protocol in WORDS:
        talk(
            demo.ports[protocol],
            b"a Zlabel1\r\nZlabel2 x\r\na UID Zlabel3\r\na AUTHENTICATE Zlabel4\r\nAUTH Zlabel5\r\n",
            b"a Zlabel\r\nZlabel\r\nZlabel x\r\nzlab\r\nzla x\r\n",  # letters, and as many as a verb may have
        )
    talk(demo.ports["imap"], b"a LOGIN Zlabel6@example.com x\r\n")
    talk(demo.ports["lmtp"], b"LHLO Zlabel7\r\nMAIL FROM:<Zlabel8@x>\r\nRCPT TO:<Zlabel9@example.com>\r\n")
    with urllib.request.urlopen(f"http://127.0.0.1:{demo.ports['metrics']}/metrics", timeout=20) as response:
        text = response.read().decode()
    assert "zla" not in text.lower()
    counted = re.findall(r'^sora_commands_total\{command="([^"]*)",protocol="([^"]*)"', text, re.MULTILINE)
    assert {protocol for _, protocol in counted} == WORDS.keys()
    assert {(command, protocol) for command, protocol in counted if command not in WORDS[protocol]} == set()


OUTSIDE: Final = (
    "../../../escape", "..", "../..", "a/../../escape", "a/./b", "/etc/escape", "~/escape", "C:\\escape",
    "a%2f..%2fescape", "....//escape", "escape\\..\\..",
)  # fmt: skip


def tree(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if "postgres" not in path.parts}


def test_names_of_mailboxes_are_no_paths(demo: Demo) -> None:
    """Whatever a mailbox is called, its mail lies under the number of the account and the hash of its bytes."""
    top = demo.directory.parent
    before = tree(top)
    lines = [f'a LOGIN "{USER}" "{PASSWORD}"\r\n']
    for number, name in enumerate(OUTSIDE):
        quoted = name.replace("\\", "\\\\")
        body = f"Subject: {number}\r\n\r\npath {number}\r\n"
        lines += [f'b CREATE "{quoted}"\r\n', f'c APPEND "{quoted}" {{{len(body)}+}}\r\n{body}\r\n']
        lines += [f'd RENAME "{quoted}" "{quoted}/../x"\r\n', f'e DELETE "{quoted}"\r\n']
    answer = talk(demo.ports["imap"], "".join(lines).encode(), b"z LOGOUT\r\n")
    assert answer.count(b"c OK [APPENDUID") >= 3, "some of them are names like any others"
    done = talk(
        demo.ports["lmtp"],
        b"LHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<user1+../../escape@example.com>\r\nDATA\r\na: b\r\n\r\n.\r\n",
    )  # fmt: skip
    assert b"354" in done
    new = tree(top) - before
    mail = {name for name in new if name.endswith(".eml") or "staging" in name}
    assert mail
    assert not {name for name in new if "escape" in name or ".." in name}
    files = {name for name in mail if name.endswith(".eml")}
    assert not {
        name for name in files if not re.search(r"(^|/)[0-9a-f]{16}(/[0-9a-f]{2}/|-)[0-9a-f]{64}(-\d+)?\.eml$", name)
    }


def test_what_lies_on_disk_is_the_owners(demo: Demo) -> None:
    """Directories 0700 and files 0600 of mail, cache, keys, sockets and configuration, whatever the umask."""
    talk(demo.ports["lmtp"], b"LHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<user1@example.com>\r\nDATA\r\na: b\r\n\r\n.\r\n")
    talk(demo.ports["imap"], f'a LOGIN "{USER}" "{PASSWORD}"\r\n'.encode(), b"b SELECT INBOX\r\nc FETCH * BODY[]\r\n")
    open_to_others = []
    kinds = set()
    for folder, folders, files in os.walk(demo.directory):
        if stat.S_IMODE(os.stat(folder).st_mode) & 0o077:
            if os.path.relpath(folder, demo.directory) not in OPEN:
                open_to_others.append(folder)
        else:
            folders.clear()  # what lies below is out of reach
        for path in (os.path.join(folder, name) for name in files):
            mode = os.lstat(path).st_mode
            kinds.add(stat.S_IFMT(mode))
            reachable = stat.S_IMODE(os.stat(folder).st_mode) & 0o077
            if reachable and stat.S_IMODE(mode) & 0o077 and not path.endswith(PUBLIC):
                open_to_others.append(path)
    assert kinds == {stat.S_IFREG, stat.S_IFSOCK}
    assert open_to_others == []
    for name, wanted in KEPT.items():
        assert oct(stat.S_IMODE((demo.directory / name).stat().st_mode)) == oct(wanted), name


KEPT: Final = {
    "sora.toml": 0o600, "demo.json": 0o600, "tls/key.pem": 0o600, "run": 0o700, "staging": 0o700, "cache": 0o700,
    "objects": 0o700, "postgresql/postgresql.log": 0o600,
}  # fmt: skip
OPEN: Final = {".", "tls", "postgresql"}
"""Directories that may be looked into: PostgreSQL may run as another user, and has to get to its own."""
PUBLIC: Final = ("cert.pem", "ca.pem")
"""Certificates are for everybody."""


def trusting() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


STARTS: Final = {
    "imap": (b"", b"a STARTTLS\r\n", b"a OK", b"x NOOP\r\n", b"c CAPABILITY\r\n", (b"x OK", b"x BAD")),
    "pop3": (b"", b"STLS\r\n", b"+OK", b"USER evil@example.com\r\n", b"CAPA\r\n", (b"+OK\r\n",)),
    "managesieve": (
        b"",
        b"STARTTLS\r\n",
        b'OK "Begin TLS"',
        b'NOOP "x"\r\n',
        b"CAPABILITY\r\n",
        (b'OK (TAG "x") "Done"',),
    ),
    "lmtp": (b"LHLO x\r\n", b"STARTTLS\r\n", b"220 2.0.0", b"NOOP\r\n", b"LHLO y\r\n", (b"250 2.0.0 OK\r\n",)),
}


@pytest.mark.parametrize("pieces", ["one", "two"])
@pytest.mark.parametrize("protocol", STARTS)
def test_nothing_crosses_from_plaintext_into_tls(demo: Demo, protocol: str, pieces: str) -> None:
    """Commands behind STARTTLS are neither answered in plaintext nor inside TLS; nothing is announced twice."""
    hello, start, ready, injected, asked, answers = STARTS[protocol]
    with socket.create_connection(("127.0.0.1", demo.ports[protocol]), timeout=20) as link:
        link.sendall(hello)
        seen = received(link, b"\r\n" if not hello else b"STARTTLS")
        link.sendall(start + injected if pieces == "one" else start)
        seen = received(link, ready)
        if pieces == "two":
            link.sendall(injected)  # plaintext where the handshake should begin: no TLS comes of it
            link.settimeout(20)
            rest = b""
            try:
                while piece := link.recv(4096):
                    rest += piece
            except ConnectionResetError:
                pass
            assert not any(answer in rest for answer in answers)
            return
        assert seen.endswith(b"\r\n")
        assert seen.count(b"\r\n", seen.rindex(ready)) == 1, "the answer to STARTTLS is the last thing in plaintext"
        with trusting().wrap_socket(link, server_hostname="localhost") as secure:
            secure.sendall(asked)
            secure.settimeout(20)
            inside = secure.recv(65536)
            assert not any(inside.startswith(answer) for answer in answers)
            assert b"STARTTLS" not in inside
            assert b"STLS\r\n" not in inside


def received(link: socket.socket, wanted: bytes) -> bytes:
    """Up to a line that holds *wanted*, and what came with it."""
    seen = b""
    while wanted not in seen or not seen.endswith(b"\r\n"):
        piece = link.recv(4096)
        assert piece, seen
        seen += piece
    return seen
