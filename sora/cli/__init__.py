"""The commands soractl and sora-admin (floor 7)."""
