"""A complete node for many cells of the matrix, with everything that can be done to it.

It is a demo (`soractl demo` the first time, plain `soractl start` after that), its own PostgreSQL included, on a file
system of its own that can be made full at any time; beside it, if wanted, a real S3 server behind a proxy that
misbehaves. What is read and written here by SQL is for setting things up and for knowing how far they are; the judge
does not use it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import asyncpg
from minio import Minio
from minio.error import S3Error

from sora.store import keyring
from tests.faults.books import Patience
from tests.support.demo import free_port_base
from tests.support.faultproxy import FaultProxy
from tests.support.swift import REGION, SwiftServer

if TYPE_CHECKING:
    from collections.abc import Iterator

BUCKET: Final = "faults"
ACCOUNTS: Final = 400
ROLES: Final = {"worker", "uploader", "janitor", "http"}
DISK: Final = "2g"
SETTINGS: Final = (
    "cleanup.grace_period=0s",
    "cleanup.wake_interval=1s",
    "cleanup.max_age_restriction=30d",
    "cleanup.orphan_grace=1d",
    "cleanup.max_rows_per_second=100000",
    "search.retention=1d",
    "local_cache.warm_up=0",  # the judge reads from the object store
    "process.linger=1s",
)


class Bench:
    """One node.

    Args:
        directory: Made here; a file system is mounted on it where that is possible.
        store: `directory` or `s3`.

    Attributes:
        proxy: In front of the S3 server; None: the objects are in a directory.
        ports: By server name; they stay the same.
        accounts: Ids by address.
        sealed: Bodies are encrypted.
        full_disk: Why the disk cannot be made full; empty: it can.
    """

    def __init__(self, directory: Path, store: str, *, workers: int = 1, encrypted: bool = False) -> None:
        self.store = store
        self.ports: dict[str, int] = {}
        self.accounts: dict[str, int] = {}
        self.proxy: FaultProxy | None = None
        self.full_disk = ""
        self.starts = 0
        self._directory = directory
        self._node = directory / "n"
        self._workers = workers
        self.sealed = encrypted
        self._crash = directory.with_name(f"{directory.name}.crash")
        self._console = directory.with_name(f"{directory.name}.console")
        self._process: subprocess.Popen[str] | None = None
        self._resources = contextlib.ExitStack()
        self._users = iter(range(1, ACCOUNTS + 1))
        self._days = 0
        self._mounted = False

    # ------------------------------------------------------------------ life

    def __enter__(self) -> Self:
        try:
            self._make()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill_all()
        self._resources.close()
        if self._mounted:
            subprocess.run(["umount", "-l", self._directory], check=False)

    def _make(self) -> None:
        self._directory.mkdir(parents=True)
        self._mount()
        settings = list(SETTINGS)
        if self.store == "s3":
            settings += self._start_s3()
        if self.sealed:
            ring = self._directory.with_name(f"{self._directory.name}.keyring")
            keyring.add_key(ring)
            settings.append(f"encryption.keyring_file={ring}")
        options = [word for setting in settings for word in ("--set", setting)]
        self._spawn(
            "demo", "--dir", str(self._node), "--port-base", str(free_port_base()), "--workers", str(self._workers),
            "--accounts", str(ACCOUNTS), *options,
        )  # fmt: skip
        rows = self.sql("SELECT address, account_id FROM accounts")
        self.accounts = {row["address"]: row["account_id"] for row in rows}

    def _start_s3(self) -> list[str]:
        swift = SwiftServer(self._directory.with_name(f"{self._directory.name}.swift"))
        swift.start()
        self._resources.callback(swift.kill)
        self.proxy = self._resources.enter_context(FaultProxy(swift.port))
        self._s3 = Minio(f"127.0.0.1:{swift.port}", swift.access_key, swift.secret_key, secure=False, region=REGION)
        return [
            "object_store.kind=s3",
            f"object_store.endpoint={self.proxy.endpoint}",
            f"object_store.region={REGION}",
            f"object_store.bucket={BUCKET}",
            f"object_store.access_key={swift.access_key}",
            f"object_store.secret_key={swift.secret_key}",
        ]

    def _spawn(self, verb: str, *arguments: str) -> None:
        """Run `soractl` in the foreground until it says that it is ready."""
        with self._console.open("ab") as console:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "sora.cli.ctl", verb, "--json", *arguments],
                stdout=subprocess.PIPE,
                stderr=console,
                text=True,
                env={**os.environ, "SORA_CRASH_AT": f"@{self._crash}"},
                start_new_session=True,
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the node ended with {self._process.wait()}: {self._console.read_text()[-2000:]}")
        self.ports = json.loads(line)["ports"]
        self.starts += 1

    @property
    def is_up(self) -> bool:
        """The supervisor lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def exit_status(self) -> int | None:
        """Of the last supervisor."""
        return None if self._process is None else self._process.poll()

    def start(self) -> None:
        """`soractl start`, as an operator does it, if there is no supervisor."""
        if self.is_up:
            return
        if self._process is not None and self._process.stdout is not None:
            self._process.stdout.close()
        self._spawn("start", "--foreground", "--config", str(self._node / "sora.toml"))

    def come_back(self) -> None:
        """Start if need be, and wait until every process does its work and the dependencies are there.

        Raises:
            StuckError: That does not happen.
        """
        self.start()
        patience = Patience("the node does not come back")
        while True:
            with contextlib.suppress(OSError, ValueError):
                status = self.status()
                ready = {process["role"] for process in status["processes"] if process["state"] == "ready"}
                health = set(status["health"].values())
                if status["state"] == "running" and ready == ROLES and health == {"ok"}:
                    return
            patience.pause()

    def status(self) -> dict[str, Any]:
        """What the supervisor says.

        Raises:
            OSError, ValueError: Nothing.
        """
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(10)
            connection.connect(str(self._node / "run" / "control.sock"))
            connection.sendall(b'{"verb": "status"}\n')
            with connection.makefile("rb") as answers:
                status: dict[str, Any] = json.loads(answers.readline())
        return status

    def reload(self) -> str:
        """`soractl reload`; what went wrong, or nothing."""
        done = subprocess.run(
            [sys.executable, "-m", "sora.cli.ctl", "reload", "--config", str(self._node / "sora.toml")],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        return done.stderr.strip() or "no word" if done.returncode else ""

    def delete_account(self, address: str) -> bool:
        """As an administrator does it; False: try again."""
        done = subprocess.run(
            [
                sys.executable, "-m", "sora.cli.admin", "--config", str(self._node / "sora.toml"),
                "accounts", "delete", address,
            ],
            check=False, capture_output=True, text=True,
        )  # fmt: skip
        return done.returncode == 0 or "Not found" in done.stderr

    def new_user(self) -> str:
        """An account that nobody has used."""
        return f"user{next(self._users)}@example.com"

    def log_marks(self) -> dict[Path, int]:
        """Where the logs end now: a demo writes to a file, `start` to standard error."""
        paths = (self._console, self._node / "run" / "sora.log")
        return {path: path.stat().st_size for path in paths if path.exists()}

    def log_since(self, marks: dict[Path, int]) -> list[dict[str, Any]]:
        """What was logged after `log_marks`."""
        lines = [line for path, mark in marks.items() for line in path.read_bytes()[mark:].splitlines()]
        return [entry for line in lines if (entry := _entry(line)) is not None]

    # ------------------------------------------------------------------ processes

    def tree(self) -> list[int]:
        """The supervisor and everything below it, PostgreSQL included."""
        return [] if self._process is None else _tree(self._process.pid)

    def postgres(self) -> list[int]:
        """The postmaster and its backends; empty: it does not run."""
        try:
            pid = int((self._node / "postgresql/data/postmaster.pid").read_text().split()[0])
        except (OSError, ValueError, IndexError):
            return []
        return _tree(pid) if is_alive(pid) else []

    def kill_all(self) -> list[int]:
        """SIGKILL for every process of the node, at one moment: all are stopped first. Those that were killed."""
        pids = sorted({*self.tree(), *self.postgres()})
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
        if self._process is not None:
            self._process.wait()
        _wait_gone(pids)
        return pids

    def kill_postgres(self) -> list[int]:
        """SIGKILL for the postmaster and its backends."""
        pids = self.postgres()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        _wait_gone(pids)
        return pids

    # ------------------------------------------------------------------ crash points

    def ask_for_crash(self, point: str, how: str) -> None:
        """The next process that passes the point dies (`kill`) or stops (`stop`)."""
        self.forget_crash()
        new = self._crash.with_name(f"{self._crash.name}-new")
        new.write_text(point if how == "kill" else f"{point} {how}")
        new.rename(self._crash)

    def crashed(self) -> int | None:
        """Who passed the point."""
        for path in self._crash.parent.glob(f"{self._crash.name}.*"):
            return int(path.suffix[1:])
        return None

    def forget_crash(self) -> None:
        """Nobody shall die any more."""
        self._crash.unlink(missing_ok=True)
        for path in self._crash.parent.glob(f"{self._crash.name}.*"):
            path.unlink()

    # ------------------------------------------------------------------ PostgreSQL

    @property
    def postgres_socket(self) -> Path:
        """Where clients connect."""
        return self._node / "postgresql/run/.s.PGSQL.5432"

    def sql(self, statement: str, *arguments: object) -> list[Any]:
        """Run one statement as the superuser.

        Raises:
            OSError, asyncpg.PostgresError: It cannot be reached.
        """
        password = (self._node / "postgresql/password").read_text()
        dsn = f"postgresql://sora:{password}@/sora?host={self.postgres_socket.parent}"

        async def run() -> list[Any]:
            connection = await asyncpg.connect(dsn, timeout=10, server_settings={"search_path": "sora, public"})
            try:
                return list(await connection.fetch(statement, *arguments))
            finally:
                await connection.close(timeout=10)

        return asyncio.run(run())

    def disconnect(self) -> None:
        """End every connection of Sora, so that they are made anew."""
        self.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'sora' AND pid <> pg_backend_pid()"
        )

    def days_pass(self, days: int) -> object:
        """Move the clock of the store on; what it shows then."""
        self._days += days
        self.sql(f"ALTER DATABASE sora SET sora.clock_offset = '{self._days} days'")
        self.disconnect()
        return self.sql("SELECT clock() AS now")[0]["now"]

    # ------------------------------------------------------------------ bodies

    def objects(self, address: str) -> dict[str, bytes]:
        """What the object store has of an account, by key."""
        prefix = f"{self.accounts[address]:016x}/"
        if self.store == "s3":
            names = [entry.object_name for entry in self._s3.list_objects(BUCKET, prefix, recursive=True)]
            return {name: data for name in names if (data := self._object(name)) is not None}
        root = self._node / "objects"
        return {
            str(path.relative_to(root)): data
            for path in (root / prefix).rglob("*.eml")
            if (data := _read(path)) is not None
        }

    def _object(self, name: str) -> bytes | None:
        try:
            answer = self._s3.get_object(BUCKET, name)
        except S3Error as error:
            if error.code != "NoSuchKey":
                raise
            return None  # it was deleted after it was listed
        try:
            data: bytes = answer.read()
        finally:
            answer.close()
            answer.release_conn()
        return data

    def plant_object(self, address: str, data: bytes) -> str:
        """An object that no row knows; its key."""
        digest = os.urandom(32).hex()
        key = f"{self.accounts[address]:016x}/{digest[:2]}/{digest}-{10**15}.eml"
        if self.store == "s3":
            import io

            self._s3.put_object(BUCKET, key, io.BytesIO(data), len(data))
        else:
            path = self._node / "objects" / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return key

    def pending(self, address: str) -> int:
        """Bodies of an account that are not in the object store yet."""
        rows = self.sql("SELECT count(*) AS n FROM pending_uploads WHERE account_id = $1", self.accounts[address])
        return int(rows[0]["n"])

    def is_claimed(self, address: str) -> bool:
        """Some of them are claimed for minutes: being sent, or left by an uploader that could not say so."""
        rows = self.sql(
            "SELECT count(*) AS n FROM pending_uploads WHERE account_id = $1 AND next_try > clock() + interval '31 s'",
            self.accounts[address],
        )
        return bool(rows[0]["n"])

    def empty_local(self, address: str) -> int:
        """Take away every file of an account from the cache and from staging; how many."""
        prefix = f"{self.accounts[address]:016x}-"
        paths = [
            path for name in ("cache", "staging") for path in (self._node / name).rglob(f"{prefix}*") if path.is_file()
        ]
        for path in paths:
            path.unlink(missing_ok=True)
        return len(paths)

    # ------------------------------------------------------------------ disk

    def _mount(self) -> None:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={DISK},mode=755", "none", self._directory],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        self._mounted = done.returncode == 0
        self.full_disk = "" if self._mounted else f"no file system can be mounted here: {done.stderr.strip()}"

    @contextlib.contextmanager
    def disk_full(self) -> Iterator[None]:
        """No octet can be written to the node's file system."""
        self.fill()
        try:
            yield
        finally:
            self._remount(DISK)

    def fill(self) -> None:
        """Take away what room there is."""
        patience = Patience("the disk does not get full")
        while not self.is_full():
            facts = os.statvfs(self._directory)
            used = (facts.f_blocks - facts.f_bfree) * facts.f_frsize
            with contextlib.suppress(subprocess.CalledProcessError):  # it has grown meanwhile
                self._remount(str(used))
            patience.pause()

    def _remount(self, size: str) -> None:
        subprocess.run(["mount", "-o", f"remount,size={size}", self._directory], check=True, capture_output=True)

    def is_full(self) -> bool:
        """A file of one page finds no room."""
        probe = self._directory / "probe"
        try:
            probe.write_bytes(bytes(4096))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            return True
        finally:
            probe.unlink(missing_ok=True)
        return False


def _entry(line: bytes) -> dict[str, Any] | None:
    """A line of a log; None: it is none, or whoever wrote it was killed amid it."""
    if not line.startswith(b"{"):
        return None
    with contextlib.suppress(ValueError):
        entry: dict[str, Any] = json.loads(line)
        return entry
    return None


def is_alive(pid: int) -> bool:
    """It runs, or is stopped."""
    return state_of(pid) not in ("", "Z", "X")


def state_of(pid: int) -> str:
    """The letter of `ps`; empty: there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
    except OSError:
        return ""


def _tree(root: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            with contextlib.suppress(OSError, IndexError):
                facts = (path / "stat").read_text(errors="replace").rpartition(")")[2].split()
                if facts[0] not in ("Z", "X"):
                    children.setdefault(int(facts[1]), []).append(int(path.name))
    found = [root] if is_alive(root) else []
    for pid in found:
        found += children.get(pid, [])
    return found


def _wait_gone(pids: list[int]) -> None:
    patience = Patience("killed processes do not go", 30)
    while any(map(is_alive, pids)):
        patience.pause()


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
