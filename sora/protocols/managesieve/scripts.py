"""What a client does with its scripts: HAVESPACE, PUTSCRIPT, CHECKSCRIPT, LISTSCRIPTS, SETACTIVE, GETSCRIPT, …"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sora.services.filters.scripts import checks_of, quota_of
from sora.store.scripts import ScriptTooLarge, check_name
from sora.wire import managesieve as wire
from sora.wire.managesieve import Code

if TYPE_CHECKING:
    from sora.protocols.managesieve.session import Session
    from sora.services.filters.scripts import Warnings


async def have_space(s: Session, name: str, size: int) -> None:
    """RFC 5804 §2.5: a forecast, no promise."""
    await s.node.store.scripts.have_space(s.account_id, name, size, quota_of(s.node.config.sieve))
    s.ok()


async def put(s: Session, name: str, content: bytes) -> None:
    """PUTSCRIPT (RFC 5804 §2.6): a script with errors is not stored, and the one that was there stays."""
    check_name(name)
    warnings = await _check(s, content)
    await s.node.store.scripts.put(s.account_id, name, content, quota_of(s.node.config.sieve))
    _changed(s)
    s.stored += 1
    _say_warnings(s, warnings)


async def check(s: Session, content: bytes) -> None:
    """CHECKSCRIPT (RFC 5804 §2.12): as PUTSCRIPT, and nothing is stored."""
    _say_warnings(s, await _check(s, content))


async def _check(s: Session, content: bytes) -> Warnings:
    largest = s.node.config.sieve.max_script_size
    if len(content) > largest:
        raise ScriptTooLarge(f"A script has at most {largest} octets")
    return await s.node.shared(checks_of).check(content, largest, s.node.config.sieve.max_nesting)


def _say_warnings(s: Session, warnings: Warnings) -> None:
    if not warnings:
        s.ok()
        return
    text = "\r\n".join(f"line {line}, column {column}: {text}" for line, column, text in warnings)
    s.write(wire.write_ok(text, Code.WARNINGS))


async def list_scripts(s: Session) -> None:
    """LISTSCRIPTS (RFC 5804 §2.7)."""
    found = await s.node.store.scripts.list_scripts(s.account_id)
    s.write(wire.write_scripts((script.name, script.active) for script in found))
    s.ok()


async def set_active(s: Session, name: str) -> None:
    """SETACTIVE (RFC 5804 §2.8): at every moment one script is active, or none."""
    await s.node.store.scripts.set_active(s.account_id, name)
    _changed(s)
    s.ok()


async def get(s: Session, name: str) -> None:
    """GETSCRIPT (RFC 5804 §2.9): octet for octet what was put."""
    script = await s.node.store.scripts.get(s.account_id, name)
    s.write(wire.write_literal(script.content) + b"\r\n")
    s.ok()


async def delete(s: Session, name: str) -> None:
    """DELETESCRIPT (RFC 5804 §2.10)."""
    await s.node.store.scripts.delete(s.account_id, name)
    _changed(s)
    s.ok()


async def rename(s: Session, name: str, to: str) -> None:
    """RENAMESCRIPT (RFC 5804 §2.11)."""
    await s.node.store.scripts.rename(s.account_id, name, to)
    _changed(s)
    s.ok()


def _changed(s: Session) -> None:
    """The other processes are told by the database; this one need not wait for that."""
    s.node.recipients.forget(s.account_id)
