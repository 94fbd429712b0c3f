"""The house rules that a machine can hold: floors, names, one test file per module."""

from __future__ import annotations

import ast
import logging
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "sora"
LEAVES = {"errors", "types", "config", "log", "metrics", "crashpoints", "tables", "units"}
FLOORS = {
    "_native": 0,
    "wire": 1,
    "mime": 1,
    "sieve": 2,
    "formats": 2,
    "net": 3,
    "store": 3,
    "moving": 3,
    "services": 4,
    "admin": 5,
    "protocols": 6,
    "web": 6,
    "server": 7,
    "cli": 8,
}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")
SOURCES = [*MODULES, *sorted(PACKAGE.rglob("*.pyx"))]


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def imports(path: Path) -> set[str]:
    """Modules of the package that a file imports, type-checking imports included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            if node.module == "sora":
                found |= {f"sora.{alias.name}" for alias in node.names}
            else:
                found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return {name for name in found if name.startswith("sora.")}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_arrows_go_down(path: Path) -> None:
    here = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for target in imports(path):
        there = target.split(".")[1]
        if there in LEAVES or there.startswith("__"):
            continue
        assert here not in LEAVES, f"the leaf {here} imports {target}"
        if here != there:
            assert FLOORS[there] < FLOORS[here], f"{name_of(path)} imports {target}"


@pytest.mark.parametrize(
    "path", [path for path in MODULES if path.parts[-2] in ("wire", "mime", "sieve", "formats")], ids=name_of
)
def test_grammars_are_pure(path: Path) -> None:
    forbidden = {"asyncio", "socket", "time", "random", "os", "asyncpg", "uvloop", "threading", "subprocess"}
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    assert not names & forbidden


def test_no_room_for_leftovers() -> None:
    assert not [path for path in SOURCES if path.stem in ("utils", "util", "common", "helpers", "misc")]


def test_every_extension_has_a_stub_and_a_test() -> None:
    for source in (PACKAGE / "_native").glob("*.pyx"):
        assert source.with_suffix(".pyi").exists(), source
        assert (ROOT / "tests" / "unit" / "_native" / f"test_{source.stem}.py").exists(), source


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_nothing_is_left_open(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"\b(TODO|FIXME|XXX|HACK)\b|NotImplementedError|pragma: no cover", text)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_and_functions_fit(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 700, "a module of this size usually holds two nouns"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno
            assert length <= 80, f"{node.name} has {length} lines"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_public_names_are_documented(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "the module has no docstring"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} has no docstring"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_log_fields_have_names_of_their_own(path: Path) -> None:
    """`extra` with a name of the record itself raises where the line should have been written."""
    taken = {*logging.LogRecord("", 0, "", 0, "", (), None).__dict__, "message", "asctime", "taskName"}
    taken |= {"at", "level", "logger", "pid", "text", "traceback"}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.keyword) and node.arg == "extra" and isinstance(node.value, ast.Dict):
            names = {key.value for key in node.value.keys if isinstance(key, ast.Constant)}
            assert not names & taken, f"line {node.value.lineno}"


def test_comments_refer_to_nothing_outside() -> None:
    """A number of a list that the reader does not have is no reason."""
    for folder, kind in (("sora", "py"), ("sora", "pyx"), ("schema", "sql"), ("tests", "py")):
        for path in (ROOT / folder).rglob(f"*.{kind}"):
            found = re.search(r"\b(lesson|amendment)s? \d", path.read_text(), re.IGNORECASE)
            assert not found, f"{path}: {found and found[0]}"


def test_the_sql_ships_in_the_package() -> None:
    assert (PACKAGE / "schema").resolve() == ROOT / "schema"
    assert sorted((PACKAGE / "schema").glob("0*.sql"))


def test_the_build_knows_the_libraries() -> None:
    """setup.py puts stand-ins for them where it renders the manual pages in an isolated build."""
    tree = ast.parse((ROOT / "setup.py").read_text())
    known = next(
        {element.value for element in ast.walk(node.value) if isinstance(element, ast.Constant)}
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "LIBRARIES"
    )
    used = set()
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                used |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                used.add(node.module.split(".")[0])
    needed_by_the_build = {"argparse_manpage", "msgspec"}
    assert known == used - set(sys.stdlib_module_names) - {"sora"} - needed_by_the_build
