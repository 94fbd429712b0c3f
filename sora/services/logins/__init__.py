"""Logins: who is this, may they in, how often may they guess, and how many connections they may hold."""
