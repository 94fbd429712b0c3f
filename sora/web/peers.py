"""What this node has staged, for other nodes: the application of `servers.peers` (see `services.peers`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from litestar import Litestar, Request, Response, get

from sora.errors import NoPermission, NotFound, SoraError
from sora.services.peers import PREFIX, TOKEN

if TYPE_CHECKING:
    from sora.services.peers import Desk


def build_peer_app(desk: Desk) -> Litestar:
    """One route; every other path, and every request without a token, learns nothing."""

    @get(PREFIX + "{name:str}")
    async def staged(request: Request[Any, Any, Any]) -> Response[bytes]:
        """The stored octets of a staged body, encrypted for who asked."""
        try:
            body = await desk.answer(request.path_params["name"], request.headers.get(TOKEN, ""))
        except NoPermission:
            return _answer(b"", 403)
        except NotFound:
            return _answer(b"", 404)
        except SoraError:
            return _answer(b"", 503)
        return _answer(body, 200)

    return Litestar(route_handlers=[staged], openapi_config=None, logging_config=None)


def _answer(body: bytes, status: int) -> Response[bytes]:
    return Response(body, status_code=status, media_type="application/octet-stream")
