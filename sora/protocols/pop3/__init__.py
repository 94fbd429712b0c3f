"""POP3 server (RFC 1939 with 2449, 2595, 3206, 5034, 6856).

`session` is the loop, `verbs` the table of what it can do, `login` and `transaction` what the verbs do in the two
states. What a client sees and locks is a `services.maildrop.Maildrop`; here is the conversation about it. Listings and
messages leave slice by slice at the peer's pace, and the lease is renewed meanwhile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sora.protocols.pop3.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable

    from sora.net.listener import Listener
    from sora.services.node import Node


def connection_factory(node: Node, listener: Listener) -> Callable[[], Session]:
    """What a listener's `create_server` calls for each connection."""
    return lambda: Session(node, listener)
