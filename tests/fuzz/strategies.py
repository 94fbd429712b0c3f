"""Inputs that hypothesis makes, for the targets that have them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hypothesis import strategies as st

from tests.fuzz.sieve import MESSAGE
from tests.support.sieve import MAIL
from tests.support.sievescripts import SCRIPTS, TOKENS, TREES

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

STRATEGIES: Final[dict[str, SearchStrategy[bytes]]] = {
    "sievelexer": st.one_of(TOKENS.map(str.encode), st.binary(max_size=40)),
    "sieveparser": st.builds(lambda nesting, source: bytes([nesting]) + source.encode(), st.integers(0, 31), TREES),
    "sieve": st.builds(
        lambda source, message: source.encode() + b"\0" + message,
        SCRIPTS,
        st.one_of(st.sampled_from([b"", MAIL, MESSAGE, MAIL.replace(b"\r\n", b"\n"), b"\xff\r\n\r\n"]), st.binary()),
    ),
}
