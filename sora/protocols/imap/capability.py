"""CAPABILITY: what is advertised, each name only in the state in which it works.

Names that belong to a command come from its row of the command table; this module holds those that belong to none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sora.protocols.imap.commands import ROWS
from sora.protocols.imap.state import NOT_AUTHENTICATED, SELECTED
from sora.wire.sasl import MECHANISMS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sora.protocols.imap.state import State

REVISIONS: Final = ("IMAP4rev1", "IMAP4rev2")

BEFORE_LOGIN: Final = ("LITERAL+", "SASL-IR", "ID", "ENABLE")
"""What a client may want to know of before it logs in; the rest is announced with the answer to the login."""

AFTER_LOGIN: Final = (
    "LITERAL+", "CHILDREN", "LIST-EXTENDED", "LIST-STATUS", "STATUS=SIZE", "SPECIAL-USE", "CREATE-SPECIAL-USE",
    "MULTIAPPEND", "BINARY", "ESEARCH", "WITHIN", "QUOTA=RES-STORAGE", "QUOTA=RES-MESSAGE", "QUOTA=RES-MAILBOX",
    "OBJECTID", "UTF8=ACCEPT", "SAVEDATE", "PREVIEW", "RIGHTS=texk", "LIST-MYRIGHTS", "LIST-METADATA",
    "CONDSTORE", "QRESYNC", "UIDONLY",
)  # fmt: skip

SAVING: Final = ("CATENATE", "URL-PARTIAL")
"""What APPEND and REPLACE take beside literals."""

SEARCHING: Final = (
    "SEARCHRES", "PARTIAL", "INPROGRESS", "ESORT", "CONTEXT=SORT", "SEARCH=FUZZY", "FILTERS",
    "SORT=DISPLAY", "I18NLEVEL=1", "THREAD=ORDEREDSUBJECT", "THREAD=REFERENCES", "THREAD=REFS",
)  # fmt: skip
"""Of searching and of what takes long; `AFTER_LOGIN` has ESEARCH and WITHIN."""

OF_COMMANDS: Final = tuple(row.capability for row in ROWS if row.capability and SELECTED in row.states)


COMPRESS: Final = ("COMPRESS=DEFLATE",)


def capabilities(
    state: State,
    *,
    tls: bool,
    can_start_tls: bool,
    allow_cleartext: bool,
    append_limit: int,
    message_limit: int,
    save_limit: int,
    sieve_url: str = "",
    compressed: bool = False,
) -> bytes:
    """The names for one state of a session, separated by spaces.

    Args:
        tls: The connection is encrypted.
        can_start_tls: The listener has a certificate.
        allow_cleartext: Passwords are taken without TLS.
        append_limit: Octets that a message may have (RFC 7889).
        message_limit: Messages that a command works on (RFC 9738).
        save_limit: Messages of one COPY or APPEND.
        sieve_url: Of the ManageSieve server (RFC 6785); empty: there is none.
        compressed: The connection is compressed (RFC 4978); it cannot be twice.
    """
    if state is NOT_AUTHENTICATED:
        names = [*REVISIONS, *BEFORE_LOGIN, *_ways_in(tls, can_start_tls, allow_cleartext)]
    else:
        compress = () if compressed else COMPRESS
        limits = (f"APPENDLIMIT={append_limit}", f"MESSAGELIMIT={message_limit}", f"SAVELIMIT={save_limit}")
        sieve = (f"IMAPSIEVE={sieve_url}",) if sieve_url else ()
        names = [*REVISIONS, *AFTER_LOGIN, *SAVING, *SEARCHING, *limits, *sieve, *OF_COMMANDS, *compress]
    return " ".join(names).encode()


def _ways_in(tls: bool, can_start_tls: bool, allow_cleartext: bool) -> Iterator[str]:
    if can_start_tls and not tls:
        yield "STARTTLS"
    if tls or allow_cleartext:
        yield from (f"AUTH={mechanism}" for mechanism in MECHANISMS)
    else:
        yield "LOGINDISABLED"
