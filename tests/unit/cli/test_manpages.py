"""The manual pages: whole, without a complaint of the formatters, and built where no library is."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sora import config as configuration
from sora import units
from sora.admin.operations import OPERATIONS
from sora.cli import ctl, manpages

ROOT = Path(__file__).parent.parent.parent.parent
NAMES = ("soractl.1", "sora-admin.1", "sora.toml.5")


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return manpages.pages("1.2.3")


def plain(text: str) -> str:
    """Without fonts and escapes."""
    return re.sub(r"\\f.|\\[,/&]", "", text).replace("\\-", "-").replace("\\e", "\\")


@pytest.mark.parametrize("name", NAMES)
def test_the_structure(pages: dict[str, str], name: str) -> None:
    lines = pages[name].splitlines()
    assert re.fullmatch(r'\.TH \S+ "[15]" "\d{4}-\d\d-\d\d" "Sora 1\.2\.3" "Sora Manual"', lines[0].replace("\\-", "-"))
    headings = [line.removeprefix(".SH ") for line in lines if line.startswith(".SH ")]
    assert headings[0] == "NAME"
    assert {"DESCRIPTION", "SEE ALSO"} <= set(headings)
    known = {".TH", ".SH", ".SS", ".TP", ".PP", ".B", ".I", ".BR", ".nf", ".fi", ".R", ".UR", ".UE"}
    assert {line.split()[0] for line in lines if line.startswith(".")} <= known


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("formatter", ["man", "mandoc"])
def test_the_formatters_do_not_complain(tmp_path: Path, name: str, formatter: str) -> None:
    if shutil.which(formatter) is None:
        pytest.skip(f"{formatter} is not installed")
    (page,) = [path for path in manpages.write(tmp_path, "1.2.3") if path.name == name]
    options = ["--warnings", "-l"] if formatter == "man" else ["-T", "lint", "-W", "warning"]
    done = subprocess.run(
        [formatter, *options, str(page)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "LC_ALL": "C.UTF-8", "MANPAGER": "cat", "MANWIDTH": "100"},
    )
    if formatter == "man":
        assert len(done.stdout.splitlines()) > 50
        assert done.stderr == ""
    else:
        assert done.stdout + done.stderr == ""


def test_every_verb_and_operation_is_there(pages: dict[str, str]) -> None:
    for verb, (_, about, _) in ctl.VERBS.items():
        assert f"COMMAND 'soractl {verb}'".lower() in plain(pages["soractl.1"]).lower()
        assert about in plain(pages["soractl.1"])
    text = " ".join(plain(pages["sora-admin.1"]).split())
    for operation in OPERATIONS:
        assert f"sora-admin {operation.noun} {operation.verb}".strip() in text
        assert operation.summary in text


def entries(page: str) -> dict[str, tuple[str, str]]:
    """Type and text by `table.key`."""
    found = {}
    for section in plain(page).split("\n.SH ")[1:]:
        heading, _, body = section.partition("\n")
        for entry in body.split(".TP\n")[1:]:
            head, _, text = entry.partition("\n")
            name, _, kind = head.partition(" = ")
            found[f"{heading.strip('[]')}.{name}"] = (kind, text.strip())
    return found


def test_every_key_is_there_with_its_reload_class(pages: dict[str, str]) -> None:
    found = entries(pages["sora.toml.5"])
    expected = {
        re.sub(r"^servers\.\w+\.(?!advertise$)", "servers.NAME.", key.path): key for key in configuration.keys()
    }
    assert found.keys() == expected.keys()
    for path, key in expected.items():
        kind, text = found[path]
        assert manpages.RELOAD[key.reload] in text
        assert key.description[1:] in text
        if key.kind:
            assert kind == key.kind


def test_types_bounds_and_defaults(pages: dict[str, str]) -> None:
    found = entries(pages["sora.toml.5"])
    assert found["log.level"][0] == '"debug" or "error" or "info" or "warning"'
    assert found["process.workers"][0] == "integer"
    assert "From 0 to 256. Default: 0." in found["process.workers"][1]
    assert "At least 1. Default: 1000." in found["limits.recipients"][1]
    assert "At least 1. Default: 1000000." in found["limits.imap_messages"][1]
    assert 'Default: "14d".' in found["cleanup.grace_period"][1]
    assert 'Default: "10GB".' in found["local_cache.capacity"][1]
    assert 'Default: ["127.0.0.0/8", "::1/128"].' in found["limits.exempt_networks"][1]
    assert "secret_key_file names a file" in found["object_store.secret_key"][1]
    assert found["servers.NAME.enabled"][0] == "boolean"


@pytest.mark.parametrize(
    ("value", "kind", "parse"),
    [
        (n, "size", units.parse_size)
        for n in (1, 999, 1000, 1024, 65536, 1234567, 1234567000, 1 << 20, 25 * 10**6, 10**11)
    ]
    + [(n, "duration", units.parse_duration) for n in (0.5, 1, 90, 60, 3600, 86400, 1209600)],
)
def test_a_value_is_written_as_it_would_be_read(value: float, kind: str, parse: object) -> None:
    written = manpages._value(value, {"kind": kind})
    assert (parse(written.strip('"')) if written.startswith('"') else float(written)) == value  # type: ignore[operator]


def test_text_that_roff_would_take_for_itself() -> None:
    assert manpages._escape(".TH is no request, nor is a-b\\c") == "\\&.TH is no request, nor is a\\-b\\ec"
    assert manpages._escape("'quoted'") == "\\&'quoted'"


@pytest.mark.timeout(60)  # another Python, which imports all that the pages are made from
def test_the_build_renders_the_same_without_any_library(tmp_path: Path) -> None:
    """`setup.py build_man`, with every library of the run time away."""
    program = """
import runpy, sys
class Away:
    def find_spec(self, name, *_):
        if name.split(".")[0] in {"asyncpg", "minio", "orjson", "uvloop", "nacl", "argon2", "cryptography", "rich",
                                  "prometheus_client"} or name.startswith("sora._native."):
            return next(hook for hook in sys.meta_path if type(hook).__name__ == "Absent").find_spec(name)
sys.meta_path.insert(0, Away())
sys.argv = ["setup.py", "-q", "build_man"]
runpy.run_path("setup.py", run_name="__main__")
"""
    for name in ("sora", "schema", "setup.py", "pyproject.toml", "README.md"):
        (tmp_path / name).symlink_to(ROOT / name)
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "0"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, check=False, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    built = {path.name: path.read_text() for path in (tmp_path / "build" / "man").rglob("*.[15]")}
    assert built.keys() == set(NAMES)
    for name, text in built.items():
        assert '"1970-01-01"' in text.partition("\n")[0]
        assert len(text.splitlines()) == len(manpages.pages("1")[name].splitlines())
