from collections.abc import Sequence
from mmap import mmap

def publish(
    files: list[tuple[bytes, bytes, Sequence[bytes | mmap]]], directory: bytes, lock: bytes, mode: int
) -> list[int]: ...
def sync_directories(paths: list[bytes]) -> list[int]: ...
