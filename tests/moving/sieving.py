"""A Dovecot that has filters, and gives them by ManageSieve."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tests.oracle.dovecot import Dovecot, free_port

if TYPE_CHECKING:
    from pathlib import Path


class SieveDovecot(Dovecot):
    """See `Dovecot`; in the home of an account are its filters, as Pigeonhole has them."""

    def __init__(self, directory: Path, mail: str = "maildir:~/Maildir") -> None:
        super().__init__(directory, mail)
        self.sieve_port = free_port()

    def more(self) -> str:
        """See `Dovecot.more`."""
        return f"""
protocols = imap sieve
service managesieve-login {{
  inet_listener sieve {{
    port = {self.sieve_port}
  }}
}}
"""


def add_scripts(home: Path, scripts: dict[str, str]) -> None:
    """Filters; the first is active."""
    (home / "sieve").mkdir(mode=0o755)
    for name, text in scripts.items():
        (home / "sieve" / f"{name}.sieve").write_text(text)
    (home / ".dovecot.sieve").symlink_to(f"sieve/{next(iter(scripts))}.sieve")
    owner = home.stat()
    for path in (home / "sieve", *(home / "sieve").iterdir(), home / ".dovecot.sieve"):
        os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)
