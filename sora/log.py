"""Logging: one line per event, JSON by default, to standard error.

A line carries what its call gave as `extra` and what the running task bound with `bind()` (the session id of a
connection), so that all lines of one session can be found by one search. Secrets are never passed to a logger.
"""

from __future__ import annotations

import contextvars
import logging
import re
import sys
import time
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import Mapping

_context: contextvars.ContextVar[Mapping[str, Any]] = contextvars.ContextVar("sora_log", default={})  # noqa: B039
_PLAIN = frozenset(logging.LogRecord("", 0, "", 0, "", (), None).__dict__) | {"message", "asctime", "taskName"}


def get(name: str) -> logging.Logger:
    """The logger of a module: `log.get(__name__)`."""
    return logging.getLogger(name)


def bind(**fields: Any) -> None:
    """Add fields to every line that the current task writes from now on."""
    _context.set({**_context.get(), **fields})


def setup(format: str = "json", level: str = "info") -> None:
    """Send all logging to standard error as `json` or `text` lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if format == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for noisy in ("urllib3", "asyncio", "uvicorn"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    own = {key: value for key, value in record.__dict__.items() if key not in _PLAIN}
    return {**_context.get(), **own}


class JsonFormatter(logging.Formatter):
    """`{"at": "2026-01-02T03:04:05.678Z", "level": "info", "logger": …, "text": …, fields…}`."""

    def format(self, record: logging.LogRecord) -> str:
        """One line; values that JSON lacks are written by `str`."""
        line = {
            "at": _stamp(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "pid": record.process,
            "text": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return _escaped(orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS).decode())


class TextFormatter(logging.Formatter):
    """`2026-01-02T03:04:05.678Z INFO  sora.x text key=value`."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, or more with a traceback."""
        fields = "".join(f" {key}={value!s}" for key, value in _fields(record).items())
        text = _escaped(f"{record.getMessage()}{fields}")
        line = f"{_stamp(record.created)} {record.levelname:<7} {record.name} {text}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


# Controls and line separators; JSON itself escapes only those below U+0020, and terminals obey U+0080 to U+009F too.
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def _escaped(line: str) -> str:
    """What a peer sent must not begin a line of its own, nor speak to the terminal of who reads the log."""
    return _CONTROLS.sub(lambda match: f"\\u{ord(match[0]):04x}", line)


def _stamp(created: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(created)) + f".{int(created * 1000) % 1000:03d}Z"
