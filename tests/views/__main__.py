"""`python -m tests.views --seconds N [--seed S]`: random commands of several clients, seed after seed.

Of each seed that finds something the text is printed; the seed alone plays it again (`--seed S --seconds 0`). Runs of
odd seeds are made of clients that speak at the same time, so such a seed may need a few attempts.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import sys
import tempfile
import time
from pathlib import Path

import uvloop

from tests.support.postgres import Cluster
from tests.views.run import play


def main() -> int:
    """Exit code: 0 if every picture was true."""
    parser = argparse.ArgumentParser(prog="python -m tests.views", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1000, help="the first one (default: %(default)s)")
    parser.add_argument("--chapters", type=int, default=10, help="how often all pictures are compared")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="views-") as directory:
        cluster = Cluster(Path(directory) / "postgres")
        cluster.start()
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                return runner.run(_play(cluster, Path(directory), arguments))
        finally:
            cluster.stop()


async def _play(cluster: Cluster, directory: Path, arguments: argparse.Namespace) -> int:
    dsn = cluster.dsn(await cluster.create())
    end = time.monotonic() + arguments.seconds
    seed, commands, compared, found = arguments.seed, 0, 0, 0
    modes: collections.Counter[str] = collections.Counter()
    while True:
        try:
            outcome = await play(dsn, directory, seed, chapters=arguments.chapters)
        except AssertionError as wrong:
            found += 1
            sys.stdout.write(f"seed {seed}: {wrong}\n\n")
        else:
            commands += outcome.commands
            compared += outcome.compared
            modes.update(outcome.modes)
        seed += 1
        if time.monotonic() > end:
            break
    sys.stdout.write(
        f"seeds {arguments.seed} to {seed - 1}: {commands} commands, {compared} pictures compared, "
        f"{found} seeds found something; extensions {dict(modes)}\n"
    )
    return int(found > 0)


if __name__ == "__main__":
    sys.exit(main())
