"""IDLE (RFC 9051 §6.3.13): changes are told as they happen, until the client says DONE."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from sora.errors import BadSyntax
from sora.protocols.imap.replies import GOING_DOWN, IDLE_TOO_LONG, Reply
from sora.protocols.imap.state import LOGOUT

if TYPE_CHECKING:
    from sora.protocols.imap.session import Session
    from sora.wire import imap_commands as wire

MAX_LINE: Final = 8192


async def idle(s: Session, _cmd: wire.Idle) -> Reply | None:
    """Stay until DONE; a line now and then keeps NAT boxes from forgetting the connection."""
    s.write(b"+ idling\r\n")
    selection = s.selection
    if selection is not None:
        selection.wake = s.wake
    try:
        line = await _until_line(s)
    finally:
        if selection is not None and not (s.notifying is not None and s.notifying.pushes):
            selection.wake = None
    if line is None:
        return Reply(text=b"IDLE ended by the server")
    if line.upper() != b"DONE":
        raise BadSyntax("Expected DONE")
    return None


async def _until_line(s: Session) -> bytes | None:
    """The client's next line; None if the session ends first."""
    limits = s.limits
    end_mono = time.monotonic() + limits.imap_idle_timeout
    while True:
        await s.tell_news()
        if s.state is LOGOUT:  # the mailbox is gone, and the client has been told
            return None
        if (line := s.scanner.take_line(MAX_LINE)) is not None:
            return line
        left_s = end_mono - time.monotonic()
        if left_s <= 0:
            s.bye(IDLE_TOO_LONG)
            return None
        if s.stopping:
            s.bye(GOING_DOWN)
            return None
        await _wait(s, min(limits.imap_keepalive, left_s))


async def _wait(s: Session, timeout_s: float) -> None:
    try:
        await s.wait(timeout_s)
    except TimeoutError:
        s.write(b"* OK Still here\r\n")
