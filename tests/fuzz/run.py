"""Fuzz one target for a while: `python -m tests.fuzz.run TARGET --seconds N`.

With atheris (which is no dependency of Sora) new inputs are those that reach new lines of Python. Without it, or with
--plain, they are mutations of the seeds alone; the seed of the random numbers is printed, and the same one gives the
same inputs. With --hypothesis (for targets that have a strategy) inputs are what hypothesis makes, and what breaks
something is made small. An input that breaks something is written to a folder.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
import sys
import time
import traceback
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def run_plain(
    test: Callable[[bytes], None],
    corpus: list[bytes],
    words: list[bytes],
    *,
    seed: int,
    seconds: float,
    folder: Path,
    most: int = 2**62,
    name: str = "input",
) -> tuple[int, list[Path]]:
    """Run mutations until the time is over, or *most* of them.

    Returns:
        How many inputs were run, the corpus itself included, and the files of those that broke something.
    """
    from tests.fuzz.mutate import Mutator

    mutator = Mutator(random.Random(seed), corpus, words)
    broken: dict[str, Path] = {}
    executions, deadline = 0, time.monotonic() + seconds
    while executions < most and time.monotonic() < deadline:
        data = corpus[executions] if executions < len(corpus) else mutator.make()
        executions += 1
        try:
            test(data)
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)
            place = " ".join(f"{frame.name}:{frame.lineno}" for frame in frames[-3:])
            if place not in broken:
                broken[place] = _keep(folder, name, data)
                sys.stderr.write(f"{broken[place]}\n{''.join(traceback.format_exception(error))}\n")
    return executions, list(broken.values())


def run_hypothesis(
    name: str, *, seed: int, seconds: float, folder: Path, examples: int = 2000
) -> tuple[int, list[Path]]:
    """Run what hypothesis makes, so many examples at a time, until the time is over or something breaks.

    Returns:
        As `run_plain`.
    """
    import hypothesis

    from tests.fuzz.strategies import STRATEGIES
    from tests.fuzz.targets import TARGETS

    executions, last, deadline = 0, b"", time.monotonic() + seconds

    def test(data: bytes) -> None:
        nonlocal executions, last
        executions, last = executions + 1, data
        TARGETS[name](data)

    settings = hypothesis.settings(
        max_examples=examples, database=None, deadline=None, suppress_health_check=list(hypothesis.HealthCheck)
    )
    while time.monotonic() < deadline:
        try:
            hypothesis.seed(seed)(settings(hypothesis.given(STRATEGIES[name])(test)))()
        except Exception as error:  # the last input is the smallest one
            path = _keep(folder, name, last)
            sys.stderr.write(f"{path}\n{''.join(traceback.format_exception(error))}\n")
            return executions, [path]
        seed += 1
    return executions, []


def _keep(folder: Path, name: str, data: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{zlib.crc32(data):08x}"
    path.write_bytes(data)
    return path


def run_guided(name: str, *, seed: int, seconds: int, folder: Path) -> None:
    """Let atheris find inputs; does not return."""
    import atheris

    with atheris.instrument_imports(include=["sora", "tests.support"], enable_loader_override=False):
        from tests.fuzz.seeds import SEEDS, WORDS, findings
        from tests.fuzz.targets import TARGETS

    folder.mkdir(parents=True, exist_ok=True)
    corpus = folder / f"corpus-{name}"
    corpus.mkdir(exist_ok=True)
    for data in [*SEEDS[name](), *findings(name)]:
        (corpus / f"{zlib.crc32(data):08x}").write_bytes(data)
    words = folder / f"words-{name}"
    words.write_text("".join('"' + "".join(f"\\x{octet:02x}" for octet in word) + '"\n' for word in WORDS[name]))
    options = [
        f"-max_total_time={seconds}", f"-seed={seed}", f"-artifact_prefix={folder}/{name}-", f"-dict={words}",
        "-print_final_stats=1", "-max_len=8192", "-timeout=20", "-rss_limit_mb=2048", str(corpus),
    ]  # fmt: skip
    atheris.Setup([sys.argv[0], *options], TARGETS[name])
    atheris.Fuzz()


def main() -> int:
    """0 if nothing was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--folder", type=Path, default=Path("build/fuzz"))
    parser.add_argument("--hypothesis", action="store_true", help="inputs made by hypothesis")
    parser.add_argument("--plain", action="store_true", help="without atheris")
    arguments = parser.parse_args()
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().randrange(2**31)
    sys.stderr.write(f"seed {seed}\n")
    if arguments.hypothesis:
        done = run_hypothesis(arguments.target, seed=seed, seconds=arguments.seconds, folder=arguments.folder)
        return _report(arguments.target, seed, *done)
    if not arguments.plain and importlib.util.find_spec("atheris") is not None:
        run_guided(arguments.target, seed=seed, seconds=arguments.seconds, folder=arguments.folder)
    from tests.fuzz.seeds import SEEDS, WORDS, findings
    from tests.fuzz.targets import TARGETS

    name = arguments.target
    executions, broken = run_plain(
        TARGETS[name],
        [*findings(name), *SEEDS[name]()],
        WORDS[name],
        seed=seed,
        seconds=arguments.seconds,
        folder=arguments.folder,
        name=name,
    )
    return _report(name, seed, executions, broken)


def _report(name: str, seed: int, executions: int, broken: list[Path]) -> int:
    report = {"target": name, "seed": seed, "executions": executions, "broken": [str(path) for path in broken]}
    sys.stdout.write(json.dumps(report) + "\n")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
