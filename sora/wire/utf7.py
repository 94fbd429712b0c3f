"""Modified UTF-7, the encoding of mailbox names (RFC 3501 §5.1.3).

Strict on the way in: every name has one spelling, so two spellings cannot stand for one mailbox. The codec itself is
next to the cursor that reads mailbox names.
"""

from __future__ import annotations

from sora._native.imapscan import decode_utf7 as decode
from sora._native.imapscan import encode_utf7 as encode

__all__ = ["decode", "encode"]
