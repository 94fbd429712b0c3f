"""ManageSieve server (RFC 5804).

`session` is the loop, `verbs` the table of what it can do, `login` and `scripts` what the verbs do before and after
login. What a script says is looked at by `services.scripts`, and it is kept by `store.scripts`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sora.protocols.managesieve.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable

    from sora.net.listener import Listener
    from sora.services.node import Node


def connection_factory(node: Node, listener: Listener) -> Callable[[], Session]:
    """What a listener's `create_server` calls for each connection."""
    return lambda: Session(node, listener)
