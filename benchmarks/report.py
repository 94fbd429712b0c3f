"""Tables of results/ from a run: `python -m benchmarks.report build/benchmarks.json`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from msgspec import json

from benchmarks.sides import MIN_ROUNDS

RESULTS = Path(__file__).parent / "results"
TITLES = {
    "native": "Native functions beside their plain models in Python",
    "sql": "SQL functions beside plain SQL on the same PostgreSQL, in the same session",
}


def tables(run: dict[str, Any]) -> dict[str, str]:
    """Text of each table, by the first word of its groups; slowest ratio first."""
    machine = run["machine_info"]
    head = f"Measured by `make bench` on {run['datetime'][:10]}, Python {machine['python_version']}"
    found = {}
    for kind, title in TITLES.items():
        benches = [bench for bench in run["benchmarks"] if bench["group"].startswith(f"{kind} ")]
        if not benches:
            continue
        benches.sort(key=lambda bench: bench["extra_info"]["ratio"])
        found[kind] = "\n".join(
            [
                f"# {title}, {benches[0]['extra_info']['messages']:,} messages",
                "",
                f"{head}, {machine['cpu']['count']} CPUs. The two sides take turns,",
                f"{MIN_ROUNDS} rounds at least; the last column is the median of their ratios, the slowest first.",
                "",
                "| Function | ours, µs | plain, µs | times faster |",
                "|---|---:|---:|---:|",
                *(row(bench["group"].removeprefix(f"{kind} "), bench["extra_info"]) for bench in benches),
                "",
            ]
        )
    return found


def row(name: str, info: dict[str, float]) -> str:
    """A line of a table."""
    ratio = info["ratio"]
    return f"| {name} | {us(info['ours'])} | {us(info['plain'])} | {ratio:.{2 if ratio >= 0.1 else 3}f} |"


def us(seconds: float) -> str:
    """Microseconds with three digits that count."""
    return f"{seconds * 1e6:,.3g}" if seconds < 1e-3 else f"{seconds * 1e6:,.0f}"


def main() -> None:
    """Write the tables of what was measured."""
    for kind, text in tables(json.decode(Path(sys.argv[1]).read_bytes())).items():
        (RESULTS / f"{kind}.md").write_text(text)
        print(f"benchmarks/results/{kind}.md")


if __name__ == "__main__":
    main()
