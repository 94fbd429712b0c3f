"""Scripts of the site: which files they are, and what is said of bad ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sora.errors import ConfigError
from sora.services.filters.site_scripts import NONE, load
from sora.tables import SieveTable

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.sieve", "a.sieve"):
        (tmp_path / name).write_text("keep;")
    (tmp_path / "notes.txt").write_text("# people\nA@Example.com \n\n")
    (tmp_path / "c.sieve.bak").write_text("no script")
    (tmp_path / "d.sieve").mkdir()
    return tmp_path


def test_without_any(tmp_path: Path) -> None:
    assert load(SieveTable()) == NONE
    assert not NONE.any
    assert not load(SieveTable(global_dir=str(tmp_path))).any, "global ones run only where they are included"


def test_files_and_directories_in_order(folder: Path) -> None:
    site = load(SieveTable(before=(str(folder / "b.sieve"), str(folder)), after=(str(folder),)))
    assert [step.name for step in site.before] == ["b.sieve", "a.sieve", "b.sieve"]
    assert [step.name for step in site.after] == ["a.sieve", "b.sieve"]
    assert site.any


@pytest.mark.parametrize("key", ["before", "after"])
def test_one_alone_counts(folder: Path, key: str) -> None:
    assert load(SieveTable(**{key: (str(folder / "a.sieve"),)})).any


def test_default_global_and_lists(folder: Path) -> None:
    site = load(SieveTable(default=str(folder / "a.sieve"), global_dir=str(folder), list_dir=str(folder)))
    assert site.any
    assert site.default is not None
    assert site.default.name == "a.sieve"
    assert set(site.shared) == {"a", "b"}
    assert site.lists == {"notes": frozenset({"a@example.com"})}


@pytest.mark.parametrize("key", ["before", "after", "default", "global_dir"])
def test_a_script_with_errors(tmp_path: Path, key: str) -> None:
    path = tmp_path / "bad.sieve"
    path.write_text('keep;\n  fileinto "x";\n')
    place = str(tmp_path) if key == "global_dir" else str(path)
    value = (place,) if key in ("before", "after") else place
    with pytest.raises(ConfigError) as caught:
        load(SieveTable(**{key: value}))
    assert str(caught.value).startswith(f"sieve.{key}: {path}:2:3: ")
    assert "fileinto" in str(caught.value)


@pytest.mark.parametrize("key", ["before", "after", "default", "global_dir"])
def test_blocks_in_blocks(tmp_path: Path, key: str) -> None:
    path = tmp_path / "deep.sieve"
    path.write_text("if true {" * 40 + "}" * 40)
    place = str(tmp_path) if key == "global_dir" else str(path)
    table = {key: (place,) if key in ("before", "after") else place}
    with pytest.raises(ConfigError, match="nest deeper than 30"):
        load(SieveTable(**table))
    assert load(SieveTable(max_nesting=40, **table)) != NONE


@pytest.mark.parametrize("key", ["before", "default", "global_dir", "list_dir"])
def test_a_file_that_is_not_there(tmp_path: Path, key: str) -> None:
    place = str(tmp_path / "missing")
    with pytest.raises(ConfigError, match=rf"sieve\.{key}: {place}: No such file"):
        load(SieveTable(**{key: (place,) if key == "before" else place}))


def test_a_list_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_bytes(b"\xff\n")
    with pytest.raises(ConfigError, match=r"sieve\.list_dir: .*x\.txt: not UTF-8"):
        load(SieveTable(list_dir=str(tmp_path)))
