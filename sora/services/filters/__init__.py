"""Filters: which scripts run when mail comes or a mailbox changes, and carrying out what they decide."""
