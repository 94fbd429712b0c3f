"""The scripts: those written by hand (`scripts/*.sieve`), and those that `matrix` makes.

In the files, `#### NAME` begins a script; `#### NAME/OTHER` is one that NAME includes, and comes before it. `%me%` is
the local part of whoever has the script, `me@example.com` the address.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from tests.oracle.filters.mail import ME
from tests.oracle.filters.matrix import probes

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER: Final = Path(__file__).parent / "scripts"
GLOBAL: Final = {
    "site": 'require ["fileinto", "variables", "include"]; global "found"; set "found" "by the site";\n',
    "shared": 'require "fileinto"; if header :contains "subject" "order" { fileinto "Work"; }\n',
}
"""Scripts of the site, for `include :global`."""
_HEAD: Final = re.compile(r"(?m)^#### (\S.*)\n")


class Case(Struct, frozen=True):
    """A script.

    Attributes:
        group: The file that it stands in.
        name: Unique.
        script: Its text.
        included: Scripts that it includes, by name.
    """

    group: str
    name: str
    script: str
    included: tuple[tuple[str, str], ...] = ()

    def text(self, local: str) -> bytes:
        """As somebody with this local part has it."""
        return _personal(self.script, local)

    def others(self, local: str) -> list[tuple[str, bytes]]:
        """Likewise those that it includes."""
        return [(name, _personal(text, local)) for name, text in self.included]


def _personal(text: str, local: str) -> bytes:
    text = text.replace(ME.decode(), f"{local}@example.com").replace("%me%", local)
    return text.encode("utf-8", "surrogateescape")


def cases() -> list[Case]:
    """All of them, in a fixed order."""
    found = [case for path in sorted(FOLDER.glob("*.sieve")) for case in _read(path)]
    return [*found, *(Case("matrix", name, text) for name, text in probes())]


def _read(path: Path) -> Iterator[Case]:
    pieces = _HEAD.split(path.read_text("utf-8", "surrogateescape"))
    assert not pieces[0].strip(), f"{path.name} has text before its first script"
    included: list[tuple[str, str]] = []
    for title, text in zip(pieces[1::2], pieces[2::2], strict=True):
        name, _, other = title.partition("/")
        if other:
            included.append((other, text))
        else:
            yield Case(path.stem, name, text, tuple(included))
            included = []
