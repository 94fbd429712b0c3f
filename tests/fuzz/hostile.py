"""Hostile clients against a running Sora: `python -m tests.fuzz.hostile --inputs N` starts a demo and reports.

Each connection hands over a few inputs that nearly follow the protocol: in one write, octet by octet, slowly, without
reading the answers; and ends them by half a close or a reset. What must hold: a connection that is half closed ends,
nothing is logged with a traceback, no process dies, the memory comes back, and normal clients are served as before.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import imaplib
import json
import poplib
import random
import re
import smtplib
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from msgspec import Struct

from tests.fuzz.mutate import Mutator
from tests.fuzz.seeds import SEEDS, WORDS
from tests.support.demo import PASSWORD, Demo

PROTOCOLS: Final = ("imap", "pop3", "lmtp", "managesieve")
CLIENTS: Final = 8
ACCOUNTS: Final = CLIENTS + 1
"""One for each client, and one that only the normal client uses."""
BATCH: Final = 10
PATIENCE_S: Final = 30
HUGE: Final = (b"A" * 70_000, b"a" + b" (" * 20_000, b"{" * 3000, b'"' + b"\\" * 9000, b"1," * 30_000, b"\0" * 5000)
LARGER: Final = 1.05
"""So much more memory than at first may a process have."""
STARTTLS: Final = {
    "imap": b"a STARTTLS\r\n",
    "pop3": b"STLS\r\n",
    "lmtp": b"LHLO x\r\nSTARTTLS\r\n",
    "managesieve": b"STARTTLS\r\n",
}
CLIENT_HELLO: Final = b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03"
"""The beginning of one."""
OPTIONS: Final = (
    "limits.bad_commands=1000000",
    "limits.login_failures_per_account=0",
    "limits.login_failures_per_address=0",
    "limits.connections_per_account=1000",
)
"""Those that would end a connection early are out of the way; they have tests of their own."""


class Tally(Struct):
    """What was done, and what went wrong.

    Attributes:
        inputs: Handed over.
        connections: Made.
        received: Octets of answers.
        stuck: Connections that did not end.
    """

    inputs: int = 0
    connections: int = 0
    received: int = 0
    stuck: int = 0


def address(number: int) -> str:
    """The account of a client; the demo counts from one."""
    return f"user{number + 1}@example.com"


def _corpus(protocol: str) -> list[bytes]:
    """Single commands and short conversations, for accounts that exist."""
    whole = [seed[1:] if protocol == "imap" else seed for seed in SEEDS[protocol]()]
    lines = [line + b"\r\n" for seed in whole for line in seed.split(b"\r\n") if line]
    known = [re.sub(rb"(alice|bob|carol)(@example\.com)?", b"user1@example.com", text) for text in [*lines, *whole]]
    return [text for text in known if len(text) < 3000 and not re.search(rb"LOGOUT|QUIT", text, re.IGNORECASE)]


class Attack:
    """All hostile clients of one protocol."""

    def __init__(self, protocol: str, port: int, seed: int) -> None:
        self.tally = Tally()
        self._protocol = protocol
        self._port = port
        self._choose = random.Random(seed)
        self._mutator = Mutator(self._choose, _corpus(protocol), WORDS[protocol])

    async def run(self, inputs: int) -> None:
        """Hand over so many inputs at least."""

        async def client(number: int) -> None:
            while self.tally.inputs < inputs:
                await self._connection(number)

        async with asyncio.TaskGroup() as group:
            for number in range(CLIENTS):
                group.create_task(client(number))

    def _input(self) -> bytes:
        if self._choose.random() < 0.01:
            return self._choose.choice(HUGE) + b"\r\n"
        return self._mutator.make()

    def _greeting(self, number: int) -> bytes:
        """What a client begins with; sometimes nothing."""
        if self._choose.random() < 0.2:
            return b""
        if self._protocol == "imap":
            return b"x LOGIN %b %b\r\ny SELECT INBOX\r\n" % (address(number).encode(), PASSWORD.encode())
        if self._protocol == "pop3":
            return b"USER %b\r\nPASS %b\r\n" % (address(number).encode(), PASSWORD.encode())
        if self._protocol == "managesieve":
            plain = base64.b64encode(b"\0%b\0%b" % (address(number).encode(), PASSWORD.encode()))
            return b'AUTHENTICATE "PLAIN" "%b"\r\n' % plain
        return b"LHLO hostile.example.org\r\nMAIL FROM:<>\r\nRCPT TO:<%b>\r\n" % address(number).encode()

    def _texts(self, number: int) -> list[bytes]:
        """What a connection hands over: a beginning and some inputs, or what it leaves a TLS handshake with."""
        if self._choose.random() < 0.03:
            return [STARTTLS[self._protocol], CLIENT_HELLO[: self._choose.randint(0, len(CLIENT_HELLO))]]
        return [self._greeting(number), *(self._input() for _ in range(BATCH))]

    async def _connection(self, number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        self.tally.connections += 1
        texts = self._texts(number)
        manner = self._choose.random()
        reading = asyncio.create_task(self._read(reader)) if manner > 0.02 else None
        try:
            await self._write(writer, texts, manner)
            self.tally.inputs += len(texts) - 1
            if manner < 0.1:
                writer.transport.abort()
            else:
                writer.write_eof()
            if reading is not None:
                await asyncio.wait_for(asyncio.shield(reading), PATIENCE_S)
        except TimeoutError:
            self.tally.stuck += 1
        except OSError:
            self.tally.inputs += 1  # it was closed while it spoke: who says which input that was
        finally:
            if reading is not None:
                reading.cancel()
                with suppress(asyncio.CancelledError):
                    await reading
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                self.tally.received += len(data)

    async def _write(self, writer: asyncio.StreamWriter, texts: list[bytes], manner: float) -> None:
        data = b"".join(texts)
        pause = 0.01 if manner > 0.998 else 0
        if manner > 0.95:
            for at in range(min(len(data), 100)):
                writer.write(data[at : at + 1])
                await asyncio.sleep(pause)
            data = data[100:]
        if 0.5 < manner < 0.7:
            for text in texts:
                writer.write(text)
                await writer.drain()
        else:
            writer.write(data)
            if manner > 0.02:
                await writer.drain()


async def say_and_wait(port: int, text: bytes) -> bytes:
    """Say something, close that half, and give all that is answered until the end.

    Raises:
        TimeoutError: The connection does not end.
    """
    async with asyncio.timeout(PATIENCE_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(text)
        writer.write_eof()
        answered = await reader.read()
        writer.close()
        await writer.wait_closed()
    return answered


# ----------------------------------------------------------------------------------------------------- what must hold


def check_service(demo: Demo, subject: str) -> None:
    """A message comes in by LMTP and is seen by IMAP and POP3. Raises AssertionError or what the clients raise."""
    name = address(ACCOUNTS - 1)
    with smtplib.LMTP("127.0.0.1", demo.ports["lmtp"]) as lmtp:
        assert lmtp.sendmail("a@example.org", [name], f"Subject: {subject}\r\n\r\nx\r\n") == {}
    with imaplib.IMAP4("127.0.0.1", demo.ports["imap"]) as imap:
        imap.login(name, PASSWORD)
        count = int((imap.select()[1][0] or b"0").decode())
        found = imap.search(None, "SUBJECT", f'"{subject}"')[1][0].split()
        assert len(found) == 1
    pop3 = poplib.POP3("127.0.0.1", demo.ports["pop3"])
    pop3.user(name)
    pop3.pass_(PASSWORD)
    assert pop3.stat()[0] == count
    pop3.quit()


def tracebacks(demo: Demo) -> list[str]:
    """Lines of the log that tell of a bug, the first ones."""
    log = (demo.directory / "run" / "sora.log").read_text(errors="replace")
    return [line for line in log.splitlines() if "traceback" in line.lower()][:20]


def errors(demo: Demo) -> list[str]:
    """What was logged as an error, each text once."""
    log = (demo.directory / "run" / "sora.log").read_text(errors="replace")
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    return sorted({line["text"] for line in lines if line.get("level") == "error"})


def restarts(demo: Demo) -> int:
    """How many processes had to be replaced."""
    return sum(process["restarts"] for process in demo.status()["processes"])


def memory(demo: Demo) -> dict[str, int]:
    """Resident kB of each process by its role and number."""
    return {
        f"{process['role']} {number}": _resident(process["pid"])
        for number, process in enumerate(demo.status()["processes"])
    }


def _resident(pid: int) -> int:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition("VmRSS:")[2].split()[0])


def grown(before: dict[str, int], after: dict[str, int]) -> dict[str, float]:
    """By how much each process has grown, 1.0 = not at all."""
    return {name: round(after[name] / kb, 4) for name, kb in before.items()}


def wait_until_idle(demo: Demo, seconds: float) -> None:
    """Until no worker has a connection any more. Raises AssertionError if one stays."""
    deadline = time.monotonic() + seconds
    while any(sum(process["connections"].values()) for process in demo.status()["processes"]):
        assert time.monotonic() < deadline, "connections stay open"


def prepare(demo: Demo) -> None:
    """Accounts stay small, whatever is delivered."""
    for number in range(CLIENTS):
        done = demo.admin("quota", "set", address(number), "--quota-messages", "50", "--quota-mailboxes", "100")
        assert done.returncode == 0, done.stderr


def raise_file_limit() -> None:
    """Of this process, for many connections."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65_536), hard))


def main() -> int:
    """The whole attack; 0 if all that must hold holds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=200_000, help="to each protocol")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--protocols", nargs="+", default=PROTOCOLS, choices=PROTOCOLS)
    parser.add_argument("--warm", type=int, default=10_000, help="inputs before memory is measured the first time")
    parser.add_argument("--idle", type=float, default=20, help="seconds to wait before memory is measured")
    arguments = parser.parse_args()
    raise_file_limit()
    failed = False
    with tempfile.TemporaryDirectory() as directory, Demo(Path(directory) / "demo", *demo_options()) as demo:
        prepare(demo)
        cold = memory(demo)
        for protocol in arguments.protocols:
            # What is loaded on demand and kept in bounds: statements of each database connection, codecs, label sets.
            asyncio.run(Attack(protocol, demo.ports[protocol], arguments.seed - 1).run(arguments.warm))
            before = _settled(demo, arguments.idle)
            attack = Attack(protocol, demo.ports[protocol], arguments.seed)
            started = time.monotonic()
            asyncio.run(attack.run(arguments.inputs))
            seconds = time.monotonic() - started
            peak, after = memory(demo), _settled(demo, arguments.idle)
            check_service(demo, f"after {protocol}")
            report = {
                "protocol": protocol, "inputs": attack.tally.inputs, "connections": attack.tally.connections,
                "received": attack.tally.received, "stuck": attack.tally.stuck, "seconds": round(seconds),
                "kb_cold": cold, "kb_before": before, "kb_peak": peak, "kb_after": after,
                "grown": grown(before, after),
                "restarts": restarts(demo), "tracebacks": tracebacks(demo), "errors": errors(demo),
            }  # fmt: skip
            sys.stdout.write(json.dumps(report) + "\n")
            sys.stdout.flush()
            larger = any(factor > LARGER for factor in grown(before, after).values())
            failed |= bool(
                attack.tally.stuck or report["restarts"] or report["tracebacks"] or report["errors"] or larger
            )
    return int(failed)


def demo_options() -> list[str]:
    """Arguments of the demo."""
    options = [part for option in OPTIONS for part in ("--set", option)]
    return ["--accounts", str(ACCOUNTS), "--workers", "1", *options]


def _settled(demo: Demo, seconds: float) -> dict[str, int]:
    wait_until_idle(demo, PATIENCE_S)
    time.sleep(seconds)  # allocators and pools give back what was idle for a while
    return memory(demo)


if __name__ == "__main__":
    sys.exit(main())
