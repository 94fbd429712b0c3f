"""ENABLE (RFC 5161): what a client has said it understands, and when it has said so without ENABLE.

Other commands look a name up in `Session.enabled`; this module is the only one that adds to it. Names of extensions
that can be enabled have a row here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import Struct

from sora.protocols.imap import modes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sora.protocols.imap.session import Session
    from sora.wire import imap_commands as wire

CONDSTORE: Final = "CONDSTORE"
QRESYNC: Final = "QRESYNC"
UIDONLY: Final = "UIDONLY"


class Extension(Struct, frozen=True):
    """An extension that ENABLE can switch on.

    Attributes:
        name: As in ENABLE; ENABLED gives it back in this spelling.
        implies: What is switched on with it, without a word.
    """

    name: str
    implies: tuple[str, ...] = ()


EXTENSIONS: Final[tuple[Extension, ...]] = (
    Extension(modes.REV2),
    Extension(modes.UTF8),
    Extension(CONDSTORE),
    Extension(QRESYNC, implies=(CONDSTORE,)),
    Extension(UIDONLY),
)
"""One row for each; a name without one is ignored (RFC 5161 §3.1)."""


def _by_name(rows: tuple[Extension, ...]) -> Mapping[str, Extension]:
    return {row.name.upper(): row for row in rows}


ENABLEABLE: Final = _by_name(EXTENSIONS)


async def enable(s: Session, cmd: wire.Enable) -> None:
    """RFC 9051 §6.3.1: ENABLED names what this command has switched on, which may be nothing.

    It is allowed with a mailbox selected too: clients must not do so, servers need not check (RFC 5161 §3.1).
    """
    rows = [ENABLEABLE[name] for name in dict.fromkeys(cmd.capabilities) if name in ENABLEABLE]
    new = [row.name for row in rows if row.name not in s.enabled]
    s.write(b"* ENABLED%s\r\n" % "".join(f" {name}" for name in new).encode())
    for row in rows:
        switch_on(s, row.name, *row.implies)


def switch_on(s: Session, *names: str) -> None:
    """The client has shown that it understands these extensions.

    Whoever learns of modseqs with a mailbox open must be told where it stands (RFC 7162 §3.1.2.1).
    """
    had_modseqs = CONDSTORE in s.enabled
    s.enabled.update(names)
    modes.adapt(s)
    if CONDSTORE in s.enabled and not had_modseqs and s.selection is not None:
        s.write(b"* OK [HIGHESTMODSEQ %d] Highest\r\n" % s.view.told.highest_modseq)
