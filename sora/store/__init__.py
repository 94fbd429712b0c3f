"""PostgreSQL, object store, cache, staging (floor 2)."""
