"""Grammars of the protocols: bytes to values and back (floor 1, pure)."""
