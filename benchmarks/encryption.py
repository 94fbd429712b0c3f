"""LMTP with encryption at rest against LMTP without, on two whole servers, in turns.

    python -m benchmarks.encryption [--rounds 9] [--messages 1500] [--connections 16] [--size 8000] [--same-search]

Both servers are demos on this machine with the same settings; one has a keyring. A round sends the messages to one of
them and then to the other, the first of the two changing places, so that whatever else the machine does meets both. The
figure is the median of the rounds' ratios. Text bodies are not indexed with encryption on unless that is asked for:
`--same-search` turns it on for both, without it it is off for both.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Final

from sora.store import keyring
from tests.support.demo import Demo

WORDS: Final = "the of and to in mail list server report please find attached meeting regards thanks".split()
ACCOUNTS: Final = 50


def letter(number: int, size: int, source: random.Random) -> bytes:
    """A mail of about `size` octets: text that compresses as text does, every fifth time one that hardly does."""
    head = (
        f"From: Sender <s{number % 97}@example.org>\r\nTo: user@example.com\r\nSubject: Report {number}\r\n"
        f"Message-ID: <{number}.{source.random()}@bench>\r\nDate: Mon, 06 May 2024 09:08:09 +0200\r\n\r\n"
    )
    lines = []
    length = len(head)
    while length < size:
        line = source.randbytes(38).hex() if number % 5 == 0 else " ".join(source.choices(WORDS, k=12))
        lines.append(line)
        length += len(line) + 2
    return (head + "\r\n".join(lines) + "\r\n.\r\n").encode()


async def send(port: int, mails: list[bytes], connections: int) -> float:
    """Deliver all; how many a second."""
    left = iter(enumerate(mails))

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await reader.readline()
        await _ask(reader, writer, b"LHLO bench\r\n")
        for number, mail in left:
            recipient = b"user%d@example.com" % (number % ACCOUNTS + 1)
            writer.write(b"MAIL FROM:<s@example.org>\r\nRCPT TO:<%s>\r\nDATA\r\n" % recipient)
            for _ in range(3):
                await _reply(reader)
            writer.write(mail)
            answer = await _reply(reader)
            if not answer.startswith(b"250"):
                raise RuntimeError(answer.decode())
        await _ask(reader, writer, b"QUIT\r\n")
        writer.close()

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(connections)))
    return len(mails) / (time.perf_counter() - began)


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, command: bytes) -> bytes:
    writer.write(command)
    return await _reply(reader)


async def _reply(reader: asyncio.StreamReader) -> bytes:
    while True:
        line = await reader.readline()
        if not line or line[3:4] != b"-":
            return line


def run(arguments: argparse.Namespace) -> dict[str, object]:
    """Two demos, and the rounds."""
    source = random.Random(1)
    search = f"search.index_bodies={'true' if arguments.same_search else 'false'}"
    common = ("--accounts", str(ACCOUNTS), "--set", search, *arguments.demo)
    with tempfile.TemporaryDirectory() as folder:
        ring = Path(folder) / "keyring.toml"
        keyring.add_key(ring)
        plain = Demo(Path(folder) / "plain", *common)
        sealed = Demo(Path(folder) / "sealed", *common, "--set", f"encryption.keyring_file={ring}")
        rates: dict[str, list[float]] = {"plain": [], "sealed": []}
        with plain, sealed:
            ports = {"plain": plain.ports["lmtp"], "sealed": sealed.ports["lmtp"]}
            for number in range(arguments.rounds + 1):
                mails = [letter(number * 10**6 + i, arguments.size, source) for i in range(arguments.messages)]
                for name in sorted(ports, reverse=bool(number % 2)):
                    rate = asyncio.run(send(ports[name], mails, arguments.connections))
                    if number:  # the first round warms up
                        rates[name].append(rate)
                    _uploaded(sealed if name == "sealed" else plain)
        ratios = [b / a for a, b in zip(rates["plain"], rates["sealed"], strict=True)]
    return {
        "plain_per_s": round(statistics.median(rates["plain"])),
        "sealed_per_s": round(statistics.median(rates["sealed"])),
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
        "load": os.getloadavg(),
    }


def _uploaded(demo: Demo) -> None:
    """Until nothing waits: the uploads of one round are no part of the next."""
    while json.loads(demo.admin("uploads", "status", "--json").stdout)["pending"]:
        time.sleep(0.2)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--messages", type=int, default=1500)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--size", type=int, default=8000)
    parser.add_argument("--same-search", action="store_true", help="index text bodies on both")
    parser.add_argument("demo", nargs="*", help="further arguments for both demos, after --")
    print(json.dumps(run(parser.parse_args()), indent=2))


if __name__ == "__main__":
    main()
