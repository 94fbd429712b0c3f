"""Tables of results/ from a run: `python -m benchmarks.report build/benchmarks.json`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from msgspec import json

RESULTS = Path(__file__).parent / "results"
TITLES = {
    "native": "Native functions beside their plain models in Python",
    "sql": "SQL functions beside plain SQL on the same PostgreSQL, in the same session, 20,000 messages",
}


def tables(run: dict[str, Any]) -> dict[str, str]:
    """Text of each table, by the first word of its groups; slowest ratio first."""
    pairs: dict[str, dict[str, float]] = {}
    for bench in run["benchmarks"]:
        side = bench["extra_info"].get("side")
        if side:
            pairs.setdefault(bench["group"], {})[side] = bench["stats"]["median"]
    machine = run["machine_info"]
    head = f"Measured by `make bench` on {run['datetime'][:10]}, Python {machine['python_version']}"
    found = {}
    for kind, title in TITLES.items():
        rows = [(name.removeprefix(f"{kind} "), sides) for name, sides in pairs.items() if name.startswith(f"{kind} ")]
        rows.sort(key=lambda row: row[1]["plain"] / row[1]["ours"])
        lines = [f"| {name} | {us(s['ours'])} | {us(s['plain'])} | {s['plain'] / s['ours']:.2f} |" for name, s in rows]
        table = ["| Function | ours, µs | plain, µs | times faster |", "|---|---:|---:|---:|", *lines]
        if lines:
            found[kind] = "\n".join(
                [
                    f"# {title}",
                    "",
                    f"{head}, {machine['cpu']['count']} CPUs; medians, the slowest in proportion first.",
                    "",
                    *table,
                    "",
                ]
            )
    return found


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
