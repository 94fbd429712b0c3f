"""Sizes and durations as people write them."""

from __future__ import annotations

import re
from typing import Final

_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(B|KB|MB|GB|TB|KiB|MiB|GiB|TiB)?\s*")
_SIZE_UNITS: Final = {
    "B": 1, "KB": 1000, "MB": 1000**2, "GB": 1000**3, "TB": 1000**4,
    "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3, "TiB": 1024**4,
}  # fmt: skip
_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)?\s*")
_DURATION_UNITS: Final = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def parse_size(text: str) -> int:
    """Octets of `"25MB"`, `"64 KiB"`, `"100"`.

    Raises:
        ValueError: Not a size.
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a size such as 25MB or 64KiB")
    return int(float(match[1]) * _SIZE_UNITS[match[2] or "B"])


def parse_duration(text: str) -> float:
    """Seconds of `"90s"`, `"15m"`, `"1h"`, `"14d"`.

    Raises:
        ValueError: Not a duration.
    """
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a duration such as 90s, 15m, 1h or 14d")
    return float(match[1]) * _DURATION_UNITS[match[2] or "s"]
