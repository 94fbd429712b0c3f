"""doctor"""

from msgspec import Struct

from sora.admin.context import AdminContext


class D(Struct, frozen=True):
    """d"""

    ok: bool = True


async def doctor(ctx: AdminContext) -> D:
    """doctor."""
    return D()


def failed(d: D) -> int:
    """f"""
    return 0
