"""Processes: supervisor, workers, uploader, janitor, http (floor 6)."""
