"""A script as octets (RFC 5228 §2.1)."""

from __future__ import annotations

import pytest

from sora.errors import BadScript
from sora.sieve.script import compile


def error(source: bytes, **arguments: int) -> str:
    with pytest.raises(BadScript) as caught:
        compile(source, **arguments)
    return str(caught.value)


def test_scripts_are_utf8() -> None:
    assert compile("# é\nkeep;".encode()).commands
    assert error(b"keep;\n# \xff") == "line 2, column 3: The script is not in UTF-8"
    assert error(b"keep;\n \0") == "line 2, column 2: NUL in the script"
    assert len(compile(b"\xef\xbb\xbfkeep;").commands) == 1


def test_scripts_have_a_size() -> None:
    assert error(b"#" * 101, max_bytes=100) == "line 1, column 1: The script is larger than 100 octets"
    compile(b"#" * 100, max_bytes=100)


def test_an_extension_that_is_not_offered() -> None:
    assert 'Unsupported extension "copy"' in error(b'require "copy";', extensions=frozenset())  # type: ignore[arg-type]


def test_lines_end_with_lf_or_crlf() -> None:
    assert compile(b"keep;\r\nkeep;\r\n").commands[1].line == 2
