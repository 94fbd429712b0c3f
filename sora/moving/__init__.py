"""Other stores: what mail is read from and written to. All of it blocks, and belongs into one thread."""
