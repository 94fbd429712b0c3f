"""HTTP (floor 5)."""
