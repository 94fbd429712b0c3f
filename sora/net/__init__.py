"""Connections, listeners, TLS (floor 2)."""
