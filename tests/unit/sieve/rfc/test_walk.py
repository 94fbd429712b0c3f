"""Every RFC of the language has a table of its rules, and shows its own examples."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

RFCS = (
    "3894 5173 5183 5228 5229 5230 5231 5232 5233 5235 5260 5293 5429 5435 5463 5490 5703 6009 6131 6134 6609 6785 7352 "
    "8579 8580 9042"
).split()
"""5436 stands with 5435."""
WITHOUT_EXAMPLES = {"5183"}
FOLDER = Path(__file__).parent


@pytest.mark.parametrize("name", [*(f"rfc{number}" for number in RFCS), "regex"])
def test_there_is_a_table_with_the_examples(name: str) -> None:
    tree = ast.parse((FOLDER / f"test_{name}.py").read_text())
    rows = [
        (ast.unparse(node.args[0]), ast.unparse(node.args[1]))
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and len(node.args) > 2 and "§" in ast.unparse(node.args[0])
    ]
    assert len(rows) >= 6
    assert len(rows) == len(set(rows)), "a rule is there twice"
    if name.removeprefix("rfc") not in WITHOUT_EXAMPLES:
        assert any("example" in section for section, _ in rows)
