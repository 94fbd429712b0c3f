"""The protocol servers (floor 5)."""
