"""`fcc` (RFC 8580): what a script sends is filed too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sora.sieve.actions import FileInto
from sora.sieve.boxes import FILEINTO_TAGS, target_of
from sora.sieve.checks import STRING, CommandRow, Tag, TestRow
from sora.sieve.flags import FLAGS_TAG, flags_of
from sora.sieve.mail import Mail

if TYPE_CHECKING:
    from collections.abc import Callable

    from sora.sieve.checks import Bound, Checker
    from sora.sieve.interpreter import Run

FCC_TAGS: Final = (Tag(":fcc", STRING, extension="fcc"), FLAGS_TAG, *FILEINTO_TAGS)


def copy_of(check: Checker, bound: Bound) -> Callable[[Run, bytes], FileInto | None]:
    """What files a copy of a message that is sent; it gives None if `:fcc` is not there."""
    mailbox = bound.tags.get(":fcc")
    extra = [name for name in (":create", ":flags", ":specialuse", ":mailboxid") if name in bound.tags]
    if mailbox is None:
        if extra:
            check.error(bound, f"{extra[0]} needs :fcc here")
        return lambda _state, _data: None
    target, flags = target_of(check, bound), flags_of(check, bound)
    has_flags = ":flags" in bound.tags

    def copy(state: Run, data: bytes) -> FileInto:
        return FileInto(
            Mail(data), state.text(mailbox), flags(state) if has_flags else None, **target(state), where=state.where()
        )

    return copy


EXTENSIONS: Final = frozenset({"fcc"})
TESTS: Final[tuple[TestRow, ...]] = ()
COMMANDS: Final[tuple[CommandRow, ...]] = ()
