"""A private Dovecot (2.3) on loopback, for one test: its own directory, configuration, port and accounts."""

from __future__ import annotations

import getpass
import grp
import os
import pwd
import shutil
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

USER: Final = "oracle"
PASSWORD: Final = "oracle"

_CONFIGURATION: Final = """
base_dir = {directory}/run
state_dir = {directory}/state
log_path = {directory}/dovecot.log
instance_name = oracle{port}
protocols = imap
listen = 127.0.0.1
default_internal_user = {internal}
default_internal_group = {internal_group}
default_login_user = {login}
first_valid_uid = 1
first_valid_gid = 1
ssl = no
disable_plaintext_auth = no
auth_mechanisms = plain
mail_location = {mail}
mail_max_keyword_length = 200
mail_plugins = acl
mail_fsync = never
imap_max_line_length = 1 M
passdb {{
  driver = static
  args = password={password}
}}
userdb {{
  driver = static
  args = uid={uid} gid={gid} home={directory}/home/%n
}}
namespace inbox {{
  inbox = yes
  separator = /
}}
plugin {{
  acl = vfile
}}
protocol imap {{
  mail_plugins = acl imap_acl
}}
service imap-login {{
  inet_listener imap {{
    port = {port}
  }}
  inet_listener imaps {{
    port = 0
  }}
  {no_chroot}
}}
service anvil {{
  {no_chroot}
}}
"""


def missing() -> str:
    """Why Dovecot cannot be the oracle here; empty if it can."""
    binary = find_binary()
    if binary is None:
        return "no dovecot on this machine (Debian: apt-get install dovecot-imapd)"
    if not _imap_binary().exists():
        return "dovecot is here, its IMAP server is not (Debian: apt-get install dovecot-imapd)"
    version = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout
    return "" if version.startswith("2.3.") else f"this Dovecot is {version.strip()}, the table was made with 2.3"


def version() -> str:
    """Its version number."""
    binary = find_binary()
    assert binary is not None
    return subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout.split()[0]


def find_binary() -> str | None:
    """The master program."""
    return shutil.which("dovecot", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def free_port() -> int:
    """A port on loopback that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _imap_binary() -> Path:
    return Path("/usr/lib/dovecot/imap")


class Dovecot:
    """The server; a context manager that stops it.

    Args:
        mail: `mail_location`.

    Attributes:
        port: Where IMAP is, without TLS; every user's password is `PASSWORD`.
        owner: Whom the mail belongs to.
    """

    def __init__(self, directory: Path, mail: str = "sdbox:~/sdbox") -> None:
        self.directory = directory
        self._mail = mail
        self.port = 0
        root = os.getuid() == 0  # Dovecot refuses to run as root
        self.owner = pwd.getpwnam("mail" if root else getpass.getuser())
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.port = free_port()
        binary = find_binary()
        assert binary is not None
        self._prepare()
        self._process = subprocess.Popen([binary, "-F", "-c", str(self.directory / "dovecot.conf")])
        self._wait()
        return self

    def __exit__(self, *_: object) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(20)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()

    def _prepare(self) -> None:
        """Directories and configuration."""
        root, owner = os.getuid() == 0, self.owner
        internal = "dovecot" if root else owner.pw_name
        home = self.directory / "home"
        home.mkdir(parents=True)
        for directory in (self.directory, home):
            directory.chmod(0o755)
        os.chown(home, owner.pw_uid, owner.pw_gid)
        text = _CONFIGURATION.format(
            directory=self.directory,
            port=self.port,
            mail=self._mail,
            internal=internal,
            internal_group=grp.getgrgid(pwd.getpwnam(internal).pw_gid).gr_name,
            login="dovenull" if root else owner.pw_name,
            password=PASSWORD,
            uid=owner.pw_uid,
            gid=owner.pw_gid,
            no_chroot="" if root else "chroot =",
        )
        (self.directory / "dovecot.conf").write_text(text + self.more())

    def more(self) -> str:
        """What a kind of it has in its configuration besides, where a later setting goes before an earlier one."""
        return ""

    def _wait(self) -> None:
        """Until it accepts.

        Raises:
            RuntimeError: It ended instead, or did not accept within 20 s; the text is its log.
        """
        deadline = time.monotonic() + 20
        assert self._process is not None
        while self._process.poll() is None and time.monotonic() < deadline:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(0.05)
        log = self.directory / "dovecot.log"
        text = log.read_text() if log.exists() else "no log"
        self.__exit__()
        raise RuntimeError(f"Dovecot does not run:\n{text}")
