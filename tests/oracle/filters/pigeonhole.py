"""A private Dovecot with Pigeonhole: LMTP and ManageSieve on ports of its own, with every extension switched on."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.oracle import dovecot
from tests.oracle.dovecot import Dovecot, free_port

if TYPE_CHECKING:
    from collections.abc import Mapping

EXTENSIONS: Final = (
    "editheader mboxmetadata servermetadata vacation-seconds spamtest spamtestplus virustest special-use"
).split()
"""Those that are off unless somebody asks for them."""

_CONFIGURATION: Final = """
protocols = imap lmtp sieve
hostname = mail.example.com
postmaster_address = postmaster@example.com
submission_host = 127.0.0.1:{sink}
auth_username_format = %n
recipient_delimiter = +
lda_mailbox_autocreate = no
imap_metadata = yes
mail_attribute_dict = file:%h/attributes
service lmtp {{
  inet_listener lmtp {{
    address = 127.0.0.1
    port = {lmtp}
  }}
}}
service managesieve-login {{
  inet_listener sieve {{
    port = {sieve}
  }}
  {no_chroot}
}}
protocol lmtp {{
  mail_plugins = acl sieve
}}
namespace inbox {{
  mailbox Sent {{
    auto = subscribe
    special_use = \\Sent
  }}
  mailbox Drafts {{
    auto = subscribe
    special_use = \\Drafts
  }}
  mailbox Archive {{
    auto = subscribe
    special_use = \\Archive
  }}
  mailbox Junk {{
    auto = subscribe
    special_use = \\Junk
  }}
  mailbox Trash {{
    auto = subscribe
    special_use = \\Trash
  }}
}}
plugin {{
  sieve = file:~/sieve;active=~/.dovecot.sieve
  sieve_global = {directory}/global
  sieve_extensions = {extensions}
  sieve_max_script_size = 1M
  sieve_max_redirects = 32
  sieve_user_email = %n@example.com
  sieve_quota_max_scripts = 100
  sieve_vacation_min_period = 0
  sieve_vacation_use_original_recipient = no
  sieve_spamtest_status_type = score
  sieve_spamtest_status_header = X-Spam-Score: ([+-]?[0-9.]+)
  sieve_spamtest_max_value = 10
  sieve_virustest_status_type = text
  sieve_virustest_status_header = X-Virus-Scan: ([a-z]+)
  sieve_virustest_text_value1 = clean
  sieve_virustest_text_value2 = replaced
  sieve_virustest_text_value3 = cured
  sieve_virustest_text_value4 = suspect
  sieve_virustest_text_value5 = infected
}}
"""


def missing() -> str:
    """Why it cannot be the oracle here; empty if it can."""
    if reason := dovecot.missing():
        return reason
    for file, package in (("lmtp", "lmtpd"), ("managesieve", "managesieved"), ("libdovecot-sieve.so", "sieve")):
        if not (Path("/usr/lib/dovecot") / file).exists():
            return f"dovecot is here, not all of it (Debian: apt-get install dovecot-{package})"
    return ""


def version() -> str:
    """Pigeonhole's version number."""
    done = subprocess.run(["doveconf", "-c", "/dev/null"], capture_output=True, text=True, check=True)
    found = re.search(r"Pigeonhole version (\S+)", done.stdout)
    assert found is not None
    return found[1]


class Pigeonhole(Dovecot):
    """The server; a context manager that stops it. The password of everybody is `dovecot.PASSWORD`.

    Args:
        sink: Port of the SMTP server that takes what scripts send.
        global_scripts: Scripts of the site by name.

    Attributes:
        lmtp: Port of LMTP.
        sieve: Port of ManageSieve.
    """

    def __init__(self, directory: Path, sink: int, global_scripts: Mapping[str, str]) -> None:
        super().__init__(directory)
        self.lmtp, self.sieve = free_port(), free_port()
        self._sink = sink
        self._global_scripts = global_scripts

    def more(self) -> str:
        """The configuration of delivery."""
        folder = self.directory / "global"
        folder.mkdir()
        for name, script in self._global_scripts.items():
            (folder / f"{name}.sieve").write_text(script)
        for path in (folder, *folder.iterdir()):
            os.chown(path, self.owner.pw_uid, self.owner.pw_gid)
        return _CONFIGURATION.format(
            directory=self.directory,
            sink=self._sink,
            lmtp=self.lmtp,
            sieve=self.sieve,
            extensions=" ".join(f"+{name}" for name in EXTENSIONS),
            no_chroot="" if os.getuid() == 0 else "chroot =",
        )

    @property
    def ports(self) -> dict[str, int]:
        """By protocol."""
        return {"imap": self.port, "lmtp": self.lmtp, "managesieve": self.sieve}

    def log(self) -> str:
        """What it has logged."""
        return (self.directory / "dovecot.log").read_text()
