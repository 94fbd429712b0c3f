"""Every native name has a stub, a plain model that gives the same, and a benchmark that times the two."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from benchmarks.native import all_cases

if TYPE_CHECKING:
    from benchmarks.cases import Case

NATIVE = Path(__file__).parents[3] / "sora" / "_native"
STUBS = sorted(NATIVE.glob("*.pyi"))
CASES = all_cases(3000)
EXEMPT = {
    "mimescan.Part": "made by scan() only",
    "viewcols.Snapshot": "made by load() and its own methods only",
    "seqset.NumSet": "base of SeqSet and UidSet",
    "ring.Ring.fd": "a number that is read once a process",
    "ring.Ring.memory": "a number that is read once a process",
    "imapscan.Scanner": "its constructor is named __init__",
}
"""Names without a benchmark of their own, and why."""
UNDECLARED = {"viewcols.FlagWriter": "the iterator that write_fetch_flags() gives"}
"""Public names of extensions that no stub shows, and why."""


def names(stub: Path) -> set[str]:
    """Functions and classes of a stub, and methods and properties; constants and type aliases cost nothing."""
    found = set()
    for node in ast.parse(stub.read_text()).body:
        if isinstance(node, ast.FunctionDef):
            found.add(f"{stub.stem}.{node.name}")
        elif isinstance(node, ast.ClassDef):
            found.add(f"{stub.stem}.{node.name}")
            for member in node.body:
                if isinstance(member, ast.FunctionDef):
                    found.add(f"{stub.stem}.{node.name}.{member.name}")
                elif isinstance(member, ast.AnnAssign) and "Final" not in ast.unparse(member.annotation):
                    found.add(f"{stub.stem}.{node.name}.{ast.unparse(member.target)}")
    return found


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_the_model_gives_the_same(case: Case) -> None:
    assert case.ours() == case.plain()
    assert case.ours() == case.plain(), "a second call finds another state"


@pytest.mark.parametrize("stub", STUBS, ids=lambda path: path.stem)
def test_every_name_is_measured(stub: Path) -> None:
    measured = {name for case in CASES for name in case.names}
    assert names(stub) - measured - EXEMPT.keys() == set()


def test_nothing_is_measured_or_exempt_that_is_not_there() -> None:
    known = set().union(*map(names, STUBS))
    measured = {name for case in CASES for name in case.names}
    assert measured - known == set()
    assert EXEMPT.keys() - known == set()
    assert EXEMPT.keys() & measured == set()


@pytest.mark.parametrize("stub", STUBS, ids=lambda path: path.stem)
def test_the_stub_is_the_extension(stub: Path) -> None:
    """Every name of the stub is there, and every public name that is there is in the stub."""
    module = importlib.import_module(f"sora._native.{stub.stem}")
    tree = ast.parse(stub.read_text())
    declared = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    values = {ast.unparse(node.target) for node in tree.body if isinstance(node, ast.AnnAssign)}
    aliases = {ast.unparse(n.target) for n in tree.body if isinstance(n, ast.AnnAssign) and "Alias" in ast.unparse(n)}
    for name, node in declared.items():
        assert callable(getattr(module, name)), name
        if isinstance(node, ast.ClassDef):
            same_members(node, getattr(module, name))
        else:
            same_arguments(node, getattr(module, name))
    assert {name for name in values - aliases if not hasattr(module, name)} == set()
    extra = {f"{stub.stem}.{name}" for name in own_names(module) - declared.keys() - values}
    assert extra - UNDECLARED.keys() == set()


def own_names(module: object) -> set[str]:
    """Public names that the extension itself defines."""
    own = getattr(module, "__name__", "")
    found = set()
    for name, value in vars(module).items():
        made_here = getattr(value, "__module__", None) == own or isinstance(value, int | bytes)
        if not name.startswith("_") and made_here:
            found.add(name)
    return found


def same_members(node: ast.ClassDef, found: type) -> None:
    """Attributes, properties and methods of a class, and the arguments of the latter."""
    members = {m.name: m for m in node.body if isinstance(m, ast.FunctionDef)}
    attributes = {ast.unparse(m.target) for m in node.body if isinstance(m, ast.AnnAssign)}
    for name in [*members, *attributes]:
        assert hasattr(found, name), f"{node.name}.{name}"
    public = {name for name in vars(found) if not name.startswith("_")}
    inherited = {name for base in found.__mro__[1:-1] for name in vars(base)}
    assert public - members.keys() - attributes - inherited == set(), node.name
    for name, member in members.items():
        if member.decorator_list and "property" in ast.unparse(member.decorator_list[0]):
            assert not callable(getattr(found, name)), f"{node.name}.{name} is a method"
        elif not name.startswith("__"):
            same_arguments(member, getattr(found, name))


def same_arguments(node: ast.FunctionDef, found: object) -> None:
    """Names, order and number of defaults, from the signature that Cython writes into the code object."""
    code = getattr(found, "__code__", None) or getattr(getattr(found, "__func__", None), "__code__", None)
    assert code is not None, node.name
    wanted = [arg.arg for arg in (*node.args.posonlyargs, *node.args.args)]
    names = list(code.co_varnames[: code.co_argcount])
    assert names[-len(wanted) :] == wanted if wanted else not names, node.name
    defaults = getattr(found, "__defaults__", None) or getattr(getattr(found, "__func__", None), "__defaults__", None)
    assert len(defaults or ()) == len(node.args.defaults), node.name
