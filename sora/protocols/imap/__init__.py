"""IMAP4rev1 (RFC 3501, and RFC 9051 where it says the same more clearly).

`session` is the loop, `commands` the table of what it can do, `view` the heart: what each client has been told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sora.protocols.imap.session import ImapServer, Session

if TYPE_CHECKING:
    from collections.abc import Callable

    from sora.net.listener import Listener
    from sora.services.node import Node


def connection_factory(node: Node, listener: Listener) -> Callable[[], Session]:
    """What a listener's `create_server` calls for each connection; all listeners of a node share the mailbox views."""
    server = node.shared(ImapServer)
    return lambda: Session(server, listener)
