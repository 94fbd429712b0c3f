"""The commands of a README chapter, taken from its text so that a test runs what an operator reads."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

README: Final = Path(__file__).parents[2] / "README.md"
_BLOCK: Final = re.compile(r"\*\*([^*\n]+)\*\*((?:(?!\*\*|```).)*)```sh\n(.*?)```", re.DOTALL)
_ANY_BLOCK: Final = re.compile(r"^```sh$", re.MULTILINE)


def chapter(title: str) -> str:
    """The text of a `###` chapter.

    Raises:
        LookupError: There is none.
    """
    text = README.read_text(encoding="utf-8")
    _, found, rest = text.partition(f"\n### {title}\n")
    if not found:
        raise LookupError(f"README.md has no chapter {title!r}")
    return re.split(r"\n##{1,2} ", rest, maxsplit=1)[0]


def commands(title: str) -> dict[str, str]:
    """The fenced `sh` blocks of a chapter by the words in bold before each.

    Raises:
        LookupError: A block has no such words, or two have the same.
    """
    text = chapter(title)
    blocks = {name.strip(".: "): script for name, _, script in _BLOCK.findall(text)}
    if len(blocks) != len(_ANY_BLOCK.findall(text)):
        raise LookupError(f"chapter {title!r}: a block of commands has no name of its own")
    return blocks
