"""`python -m tests.oracle.filters [--out FILE] [NAME…]`: run the comparison and write its table."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.oracle.collect import ROOT
from tests.oracle.filters import pigeonhole
from tests.oracle.filters.report import run, write
from tests.oracle.filters.scripts import cases

OUT = ROOT / "benchmarks" / "results" / "oracle-filters.md"


def main() -> int:
    """Exit code: 0 if everything is explained."""
    parser = argparse.ArgumentParser(prog="python -m tests.oracle.filters", description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT, help="the table (default: %(default)s)")
    parser.add_argument("names", nargs="*", help="scripts, or files of scripts; nothing is written then")
    arguments = parser.parse_args()
    if reason := pigeonhole.missing():
        sys.stderr.write(f"{reason}\n")
        return 2
    wanted = [case for case in cases() if not arguments.names or {case.name, case.group} & {*arguments.names}]
    with tempfile.TemporaryDirectory(prefix="oracle-") as directory:
        result = run(Path(directory), wanted)
    if not arguments.names:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(write(result))
    for d in result.unexplained:
        sys.stderr.write(f"{d.kind} {d.field} {d.case.name}, {d.letter.name}\n")
        sys.stderr.write(f"    Sora       {d.ours!r:.300}\n    Pigeonhole {d.theirs!r:.300}\n")
    return 1 if result.unexplained else 0


if __name__ == "__main__":
    sys.exit(main())
