"""Sora: a cloud-native mail store (LMTP in, IMAP and POP3 out; PostgreSQL for metadata, object storage for bodies)."""
