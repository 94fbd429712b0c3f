"""Messages as bytes with a structure (floor 1, pure)."""
