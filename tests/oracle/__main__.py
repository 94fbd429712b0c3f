"""`python -m tests.oracle [--fetch] [--out FILE]`: run the comparison and write its table."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.oracle import dovecot
from tests.oracle.collect import ROOT, collect, fetch
from tests.oracle.report import run, write

OUT = ROOT / "benchmarks" / "results" / "oracle.md"


def main() -> int:
    """Exit code: 0 if everything is explained."""
    parser = argparse.ArgumentParser(prog="python -m tests.oracle", description=__doc__)
    parser.add_argument("--fetch", action="store_true", help="first bring packages with sample mail (pip, apt)")
    parser.add_argument("--out", type=Path, default=OUT, help="the table (default: %(default)s)")
    arguments = parser.parse_args()
    if reason := dovecot.missing():
        sys.stderr.write(f"{reason}\n")
        return 2
    if arguments.fetch:
        fetch()
    with tempfile.TemporaryDirectory(prefix="oracle-") as directory:
        result = run(Path(directory), collect())
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(write(result))
    for difference in result.unexplained:
        sys.stderr.write(f"{difference.kind} {difference.field} {difference.sample.name}\n")
        sys.stderr.write(f"    Sora    {difference.ours!r:.300}\n    Dovecot {difference.theirs!r:.300}\n")
    return 1 if result.unexplained else 0


if __name__ == "__main__":
    sys.exit(main())
