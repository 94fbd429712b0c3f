"""What LMTP costs a worker: parsing, and whole deliveries on a real database.

pytest benchmarks/test_lmtp.py -p benchmark
"""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING, Any

import pytest

from sora.server.embedded_pg import EmbeddedPostgres
from sora.services.delivery import MailEnvelope
from sora.services.recipients import Recipient
from sora.store import migrate
from sora.wire import lmtp
from tests.support.node import open_node

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pytest_benchmark.fixture import BenchmarkFixture

    from sora.services.node import Node

LETTER = b"From: a@example.org\r\nTo: b@example.com\r\nSubject: Hello\r\nMessage-ID: <%d@x>\r\n\r\n" + b"text\r\n" * 600
COMMANDS = b"MAIL FROM:<sender@example.org> SIZE=4096 BODY=8BITMIME\r\nRCPT TO:<user@example.com>\r\nDATA\r\n"
MESSAGES = 512


def test_parse_commands(benchmark: BenchmarkFixture) -> None:
    """One pipelined group of three."""

    def run() -> None:
        scanner = lmtp.Scanner()
        scanner.feed(COMMANDS)
        while (line := scanner.line()) is not None:
            verb, arguments = lmtp.parse_command(line)
            if verb == "MAIL":
                lmtp.parse_mail(arguments)
            elif verb == "RCPT":
                lmtp.parse_recipient(arguments, utf8=False)

    benchmark(run)


@pytest.mark.parametrize("size", [4096, 50_000_000])
def test_read_data(benchmark: BenchmarkFixture, size: int) -> None:
    """A message in pieces of 64 KiB, a stuffed dot in each 8 KiB."""
    block = b"x" * 62 + b"\r\n"
    stream = (b"..\r\n" + block * 128) * (size // 8192 + 1)
    pieces = [stream[start : start + 65536] for start in range(0, len(stream), 65536)] + [b"\r\n.\r\n"]

    def run() -> None:
        scanner = lmtp.Scanner()
        scanner.start_data()
        for piece in pieces:
            scanner.feed(piece)
            scanner.take()
        assert not scanner.receiving

    benchmark(run)


@pytest.fixture(scope="module")
def dsn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A migrated database that syncs as usual: a delivery is mostly waiting for the disk."""
    postgres = EmbeddedPostgres(tmp_path_factory.mktemp("postgres"), {"max_connections": "50"})
    postgres.prepare()
    postgres.start()
    asyncio.run(migrate.up(postgres.dsn))
    yield postgres.dsn
    postgres.stop()


@pytest.mark.parametrize("clients", [1, 8, 64])
def test_deliver(benchmark: BenchmarkFixture, dsn: str, tmp_path: Path, clients: int) -> None:
    """Messages of 3.6 kB to 100 mailboxes, `clients` at a time; a round is 512 of them, 128 if there is one client."""
    messages = MESSAGES if clients > 1 else MESSAGES // 4
    with asyncio.Runner() as runner:
        scope = open_node(dsn, tmp_path)
        node = runner.run(scope.__aenter__())
        try:
            accounts = runner.run(_accounts(node))
            numbers = iter(range(10**9))
            benchmark.pedantic(
                lambda: runner.run(_deliver(node, accounts, numbers, clients, messages)), rounds=3, warmup_rounds=1
            )
            benchmark.extra_info["messages_per_s"] = round(messages / benchmark.stats.stats.median)
        finally:
            runner.run(scope.__aexit__(None, None, None))


async def _accounts(node: Node) -> list[Recipient]:
    domain = f"{secrets.token_hex(4)}.example"
    names = [f"u{number}@{domain}" for number in range(100)]
    return [Recipient(name, await node.store.accounts.create(name), name) for name in names]


async def _deliver(node: Node, accounts: list[Recipient], numbers: Any, clients: int, messages: int) -> None:
    left = iter(range(messages))

    async def client() -> None:
        for _ in left:
            number = next(numbers)
            recipients = (accounts[number % len(accounts)],)
            envelope = MailEnvelope(sender="s@x", recipients=recipients, hello="mx", peer="local", id=str(number))
            assert await node.delivery.deliver(LETTER % number, envelope) == [None]

    await asyncio.gather(*(client() for _ in range(clients)))
