"""What a client does with its maildrop: STAT, LIST, UIDL, RETR, TOP, DELE, RSET, NOOP; and QUIT."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sora import log
from sora.errors import SoraError
from sora.mime.downgrade import downgrade
from sora.protocols.pop3.replies import code_of
from sora.protocols.pop3.state import TRANSACTION
from sora.wire import pop3

if TYPE_CHECKING:
    from collections.abc import Callable

    from sora.protocols.pop3.session import Session

_log = log.get(__name__)


def say_totals(s: Session) -> None:
    """A positive reply with the size of the maildrop."""
    count, size = s.drop.totals()
    s.ok(f"{count} messages ({size} octets)")


async def stat(s: Session, _argument: bytes) -> None:
    """RFC 1939 §5: marked messages count in neither number."""
    count, size = s.drop.totals()
    s.ok(f"{count} {size}")


async def list_sizes(s: Session, argument: bytes) -> None:
    """LIST (RFC 1939 §5)."""
    await _list(s, argument, lambda number: b"%d %d" % (number, s.drop.size(number)))


async def list_unique_ids(s: Session, argument: bytes) -> None:
    """UIDL (RFC 1939 §7)."""
    await _list(
        s, argument, lambda number: b"%d %b" % (number, pop3.write_unique_id(s.drop.uidvalidity, s.drop.uid(number)))
    )


async def _list(s: Session, argument: bytes, line: Callable[[int], bytes]) -> None:
    """One message's line, or those of all."""
    if argument:
        s.ok(line(s.drop.check(pop3.parse_number(argument))).decode())
        return
    say_totals(s)
    await s.send(pop3.write_listing(map(line, s.drop.numbers())))


async def retrieve(s: Session, argument: bytes) -> None:
    """RETR (RFC 1939 §5)."""
    data = await _message(s, pop3.parse_number(argument))
    s.ok(f"{len(data)} octets")
    await s.send(pop3.write_message(data))
    s.retrieved += 1


async def top(s: Session, argument: bytes) -> None:
    """RFC 1939 §7: the header and so many lines of the body."""
    number, lines = pop3.parse_top(argument)
    data = await _message(s, number)
    s.ok()
    await s.send(pop3.write_message(data, pop3.top_end(data, lines)))


async def _message(s: Session, number: int) -> bytes:
    """A message as the client can read it.

    One that has not sent UTF8 gets a likeness of a header in UTF-8: RFC 6856 §4 lets a server refuse such a message
    too, but most clients would ask for it again for ever. LIST tells the size of what is stored (RFC 6858 §4), RETR
    that of what it sends.
    """
    data = await s.drop.body(s.drop.check(number))
    return data if s.utf8 else downgrade(data)


async def delete(s: Session, argument: bytes) -> None:
    """DELE (RFC 1939 §5): marks only."""
    number = pop3.parse_number(argument)
    s.drop.mark(number)
    s.ok(f"Message {number} marked")


async def reset(s: Session, _argument: bytes) -> None:
    """RSET (RFC 1939 §5): nothing is marked any more."""
    s.drop.marked.clear()
    say_totals(s)


async def noop(s: Session, _argument: bytes) -> None:
    """RFC 1939 §5."""
    s.ok()


async def leave(s: Session, _argument: bytes) -> None:
    """QUIT (RFC 1939 §4 and §6): the session ends, whatever becomes of the marked messages."""
    if s.state is TRANSACTION:
        try:
            await s.drop.remove_marked()
        except SoraError as error:
            _log.warning("marked messages not removed", extra={"detail": str(error)})
            s.end(pop3.write_error("Marked messages were not removed", code_of(error)))
            return
    s.end(pop3.write_ok("Bye"))
