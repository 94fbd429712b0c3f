"""What threading needs to know of a subject beyond its base (RFC 5256 §2.1, §3)."""

from __future__ import annotations

import re
from typing import Final

from sora.mime.digest import SORT_LENGTH, base_subject
from sora.mime.text import collapse

_BLOB: Final = re.compile(r"\[[^\[\]]*\]")


def is_reply(subject: str) -> bool:
    """The message is a reply or a forward: `Re:`, `Fwd:`, `(fwd)` or `[fwd: ]` was taken from its subject.

    Blobs and white space are taken too, but say nothing. What is taken in front and says something ends in a colon, and
    so does nothing else; behind, everything says it but white space.
    """
    whole = collapse(subject[:SORT_LENGTH])
    base = base_subject(subject)
    if not base:
        return bool(whole)  # of blobs and white space alone something is always left
    front, _, behind = whole.rpartition(base)
    return ":" in _BLOB.sub("", front) or bool(behind.strip())
