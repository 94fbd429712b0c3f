"""`soractl`: start, stop and look after a Sora on this machine.

Exit codes: 0 done, 1 refused or failed (one line on standard error says why), 2 wrong usage, 3 not running or not
answering (try again).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sora import config as configuration
from sora import log
from sora.cli import completion
from sora.errors import ConfigError, SoraError, Unavailable
from sora.server import control, metricfiles
from sora.server.runtime import Runtime

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sora.config import Config
    from sora.server.child import Child
    from sora.server.supervisor import Supervisor

DONE: Final = 0
FAILED: Final = 1
USAGE: Final = 2
TRY_AGAIN: Final = 3

DEFAULT_CONFIG: Final = "/etc/sora/sora.toml"
START_TIMEOUT_S: Final = 55.0
RELOAD_TIMEOUT_S: Final = 90.0
UPGRADE_TIMEOUT_S: Final = 240.0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; gives the exit code."""
    arguments = build_parser().parse_args(argv)
    try:
        status: int = arguments.run(arguments)
    except SoraError as error:
        print(f"soractl: {_one_line(error)}", file=sys.stderr)
        return TRY_AGAIN if isinstance(error, Unavailable) else FAILED
    except KeyboardInterrupt:
        return FAILED
    return status


def build_parser() -> argparse.ArgumentParser:
    """The whole command line; also the source of the manual page."""
    parser = argparse.ArgumentParser(
        prog="soractl",
        description="Start, stop and look after a Sora on this machine.",
        epilog="Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 not running or not answering.",
        allow_abbrev=False,
    )
    verbs = parser.add_subparsers(metavar="VERB", required=True, prog="soractl")
    for name, (run, about, options) in VERBS.items():
        verb = verbs.add_parser(name, help=about, description=about, allow_abbrev=False)
        verb.set_defaults(run=run)
        options(verb)
    return parser


def _config_option(parser: argparse.ArgumentParser) -> None:
    default = Path(DEFAULT_CONFIG)
    parser.add_argument("--config", metavar="FILE", type=Path, default=default, help="default: %(default)s")


def _json_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="write the answer as JSON")


def _query_options(parser: argparse.ArgumentParser) -> None:
    _config_option(parser)
    _json_option(parser)


def _completion_options(parser: argparse.ArgumentParser) -> None:
    _json_option(parser)
    parser.add_argument("shell", choices=completion.SHELLS, help="for which shell")


def _start_options(parser: argparse.ArgumentParser) -> None:
    _query_options(parser)
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--foreground", dest="detach", action="store_false", default=False, help="stay in the foreground (default)"
    )
    how.add_argument("--detach", action="store_true", help="return when every listener accepts")


def _check_options(parser: argparse.ArgumentParser) -> None:
    _query_options(parser)
    parser.add_argument("--crash-points", action="store_true", help="list the points that SORA_CRASH_AT knows")


def _demo_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dir", metavar="DIR", type=Path, required=True, help="where everything is kept")
    parser.add_argument(
        "--port-base", metavar="PORT", type=int, help="first of eight ports (first run: 10000; then as before)"
    )
    parser.add_argument("--accounts", metavar="N", type=int, help="number of accounts, at first 2")
    parser.add_argument("--domain", help="domain of the accounts, at first example.com")
    parser.add_argument("--password", help="password of all accounts, at first demo")
    parser.add_argument("--workers", metavar="N", type=int, help="number of workers; 0: one per CPU")
    parser.add_argument("--detach", action="store_true", help="return when every listener accepts")
    parser.add_argument(
        "--set",
        metavar="TABLE.KEY=VALUE",
        dest="settings",
        action="append",
        default=[],
        help="change the configuration",
    )
    parser.add_argument("--json", action="store_true", help="write the line of JSON and nothing for people")


# ---------------------------------------------------------------------- verbs


def start(arguments: argparse.Namespace) -> int:
    """Run Sora."""
    config = configuration.load(arguments.config)
    path = arguments.config.resolve()
    timeout_s = START_TIMEOUT_S if arguments.detach else None

    def started(supervisor: Supervisor) -> tuple[str, str]:
        ready = {"ready": True, "pid": os.getpid(), "ports": supervisor.listeners.ports()}
        return (json.dumps(ready) if arguments.json else ""), ""

    def serve(report: Report) -> None:
        _supervise(path, config, _prepare, timeout_s, report, started)

    return _run(serve, Runtime(config).log if arguments.detach else None, arguments.detach)


def demo(arguments: argparse.Namespace) -> int:
    """Run a complete Sora in a directory."""
    # Here and in _supervise: these modules pull in everything, and metrics must have found their place before.
    from sora.server import demofiles

    prepared = demofiles.prepare(
        arguments.dir,
        port_base=arguments.port_base,
        workers=arguments.workers,
        settings=arguments.settings,
        facts={"accounts": arguments.accounts, "domain": arguments.domain, "password": arguments.password},
    )

    def serve(report: Report) -> None:
        def populate(child: Child) -> int:
            from sora.server import demo

            return demo.run(child, prepared.facts)

        def started(supervisor: Supervisor) -> tuple[str, str]:
            ports = supervisor.listeners.ports()
            return demofiles.ready_line(prepared, ports), "" if arguments.json else demofiles.welcome(prepared, ports)

        _supervise(prepared.path, prepared.config, populate, START_TIMEOUT_S, report, started)

    return _run(serve, Runtime(prepared.config).log, arguments.detach)


def stop(arguments: argparse.Namespace) -> int:
    """Stop Sora and wait until every process is gone."""
    was_running = _stop(configuration.load(arguments.config))
    _show(arguments, {"stopped": True, "was_running": was_running}, "stopped" if was_running else "Sora is not running")
    return DONE


def _stop(config: Config) -> bool:
    """Stop; False if nothing ran."""
    runtime = Runtime(config)
    if not runtime.is_running():
        return False
    control.call(runtime.control, "stop")
    runtime.wait_gone(config.process.drain_timeout + 30.0)
    return True


def restart(arguments: argparse.Namespace) -> int:
    """Stop, then start."""
    from sora.server import reloading

    config = configuration.load(arguments.config)
    reloading.check_files(config)  # what cannot start again is not stopped
    _stop(config)
    return start(arguments)


def reload(arguments: argparse.Namespace) -> int:
    """Read the configuration again and replace the processes; no connection is lost."""
    runtime = Runtime(configuration.load(arguments.config))
    answer = control.call(runtime.control, "reload", timeout_s=RELOAD_TIMEOUT_S)
    return _show_replaced(arguments, answer, "reloaded")


def upgrade(arguments: argparse.Namespace) -> int:
    """Replace the whole program by the release that is installed now; no connection is lost."""
    runtime = Runtime(configuration.load(arguments.config))
    answer = control.call(runtime.control, "upgrade", timeout_s=UPGRADE_TIMEOUT_S)
    return _show_replaced(arguments, answer, "upgraded")


def _show_replaced(arguments: argparse.Namespace, answer: dict[str, Any], what: str) -> int:
    if "error" in answer:
        raise ConfigError(answer["error"])
    lines = [f"{what}, generation {answer['generation']}"]
    lines += [f"changed: {key}" for key in answer["changed"]]
    lines += [f"needs a restart: {key}" for key in answer["restart_needed"]]
    _show(arguments, answer, "\n".join(lines))
    return DONE


def status(arguments: argparse.Namespace) -> int:
    """Say what runs."""
    runtime = Runtime(configuration.load(arguments.config))
    try:
        answer = control.call(runtime.control, "status")
    except Unavailable:
        if runtime.is_running():
            raise
        _show(arguments, {"state": "stopped"}, "Sora is not running")
        return TRY_AGAIN
    _show(arguments, answer, _status_text(answer))
    return DONE


def check(arguments: argparse.Namespace) -> int:
    """Check the configuration and the files it names; an S3 bucket that cannot be used is a warning."""
    if arguments.crash_points:
        from sora.crashpoints import POINTS

        _show(arguments, dict(POINTS), "\n".join(f"{point:<24} {about}" for point, about in POINTS.items()))
        return DONE
    from sora.server import reloading

    config = configuration.load(arguments.config)
    reloading.check_files(config)
    asyncio.run(_check_keys(config))
    answer: dict[str, Any] = {"ok": True, "servers": [name for name, _ in config.servers.items()]}
    lines = ["the configuration is good"]
    if config.object_store.kind == "s3" and (trouble := _store_trouble(config)):
        answer["warnings"] = [trouble]
        lines.append(f"warning: {trouble}")
    _show(arguments, answer, "\n".join(lines))
    return DONE


async def _check_keys(config: Config) -> None:
    """Whether keyring and database belong together, if the database answers.

    Raises:
        ConfigError: They do not.
    """
    import asyncpg

    from sora.cli.admin import find_dsn
    from sora.server.prepare import check_keys

    with contextlib.suppress(Unavailable, asyncpg.PostgresError):  # away, or without a schema: nothing is encrypted
        await check_keys(config, find_dsn(config))


def _store_trouble(config: Config) -> str:
    """What the object store says against us now, such as a bucket that does not exist; empty: nothing."""
    from sora.store.bodies import open_blob_store

    async def ask() -> str:
        blobs = open_blob_store(config.object_store)
        try:
            await blobs.ping()
        except Unavailable as error:
            return f"object_store: {error.detail}"
        finally:
            blobs.close()
        return ""

    return asyncio.run(ask())


def complete(arguments: argparse.Namespace) -> int:
    """Write a script that completes this command in a shell."""
    script = completion.render(build_parser(), arguments.shell)
    _show(arguments, {"shell": arguments.shell, "script": script}, script.rstrip("\n"))
    return DONE


VERBS: Final[dict[str, tuple[Callable[[argparse.Namespace], int], str, Callable[[argparse.ArgumentParser], None]]]] = {
    "start": (start, "run Sora", _start_options),
    "stop": (stop, "stop Sora and wait until every process is gone", _query_options),
    "reload": (reload, "read the configuration again and replace the processes; no connection is lost", _query_options),
    "upgrade": (upgrade, "become the release that is installed now; no connection is lost", _query_options),
    "restart": (restart, "stop, then start", _start_options),
    "status": (status, "say what runs", _query_options),
    "check": (check, "check the configuration and the files it names", _check_options),
    "demo": (demo, "run a complete Sora in a directory, on loopback", _demo_options),
    "completion": (complete, "write a script that completes this command in a shell", _completion_options),
}


# ---------------------------------------------------------------------- running the supervisor


class Report:
    """How a start tells whoever waits for it: at the terminal, or through a pipe to the process that detached it."""

    def __init__(self, pipe: int | None, console: int) -> None:
        self._pipe = pipe
        self._console = console

    def ready(self, line: str, text: str) -> None:
        """It runs: `line` for standard output, `text` for a person."""
        if self._pipe is not None:
            self._send({"line": line, "text": text})
            return
        if line:
            print(line, flush=True)
        if text:
            os.write(self._console, f"{text}\n".encode())

    def failed(self, error: SoraError) -> None:
        """It does not run."""
        if self._pipe is not None:
            self._send({"error": _one_line(error), "status": TRY_AGAIN if isinstance(error, Unavailable) else FAILED})
        else:
            os.write(self._console, f"soractl: {_one_line(error)}\n".encode())

    def _send(self, message: dict[str, Any]) -> None:
        assert self._pipe is not None
        os.write(self._pipe, json.dumps(message).encode() + b"\n")
        os.close(self._pipe)
        self._pipe = None


def _supervise(
    path: Path,
    config: Config,
    prepare: Callable[[Child], int],
    timeout_s: float | None,
    report: Report,
    started: Callable[[Supervisor], tuple[str, str]],
) -> None:
    """Be the supervisor until it stops."""
    runtime = Runtime(config)
    runtime.acquire(config.process.drain_timeout + 5.0)
    metricfiles.install(runtime.metrics)
    from sora.server import upgrading
    from sora.server.supervisor import Supervisor

    supervisor = Supervisor(
        path,
        config,
        runtime,
        prepare=prepare,
        on_ready=lambda supervisor: report.ready(*started(supervisor)),
        start_timeout_s=timeout_s,
        successor=upgrading.COMMAND,
    )
    supervisor.run()


def _run(serve: Callable[[Report], None], log_path: Path | None, detach: bool) -> int:
    """Run in this process, or in one that nobody waits for."""
    if not detach:
        console = os.dup(2)
        return _serve(serve, Report(None, console), log_path)
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.close(reader)
        os.setsid()
        if os.fork():
            os._exit(0)  # the leader of the session goes, so the rest can never get a terminal
        _leave_terminal()
        os._exit(_serve(serve, Report(writer, 2), log_path))
    os.close(writer)
    os.wait()
    return _await_report(reader, log_path)


def _serve(serve: Callable[[Report], None], report: Report, log_path: Path | None) -> int:
    if log_path is not None:
        _log_to(log_path)
    log.setup()
    try:
        serve(report)
    except SoraError as error:
        report.failed(error)
        return TRY_AGAIN if isinstance(error, Unavailable) else FAILED
    except Exception as error:
        log.get(__name__).exception("the supervisor failed")
        report.failed(SoraError("the supervisor failed", detail=f"{type(error).__name__}: {error}"))
        return FAILED
    return DONE


def _await_report(reader: int, log_path: Path | None) -> int:
    with os.fdopen(reader, "rb") as pipe:
        data = pipe.readline()  # not up to the end: the supervisor's children hold the pipe open too
    if not data:
        raise Unavailable("the supervisor ended without a word", detail=f"see {log_path}")
    message = json.loads(data)
    if "error" in message:
        print(f"soractl: {message['error']}", file=sys.stderr)
        return int(message["status"])
    if message["line"]:
        print(message["line"], flush=True)
    if message["text"]:
        print(message["text"], file=sys.stderr)
    return DONE


def _leave_terminal() -> None:
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)


def _log_to(path: Path) -> None:
    """Send standard error, and with it the log and any traceback, to a file."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}") from error
    os.dup2(file, 2)
    os.close(file)


def _prepare(child: Child) -> int:
    from sora.server import prepare

    return prepare.run(child)


# ---------------------------------------------------------------------- output


def _show(arguments: argparse.Namespace, answer: dict[str, Any], text: str) -> None:
    print(json.dumps(answer) if arguments.json else text)


def _status_text(answer: dict[str, Any]) -> str:
    supervisor, uploads, health = answer["supervisor"], answer["uploads"], answer["health"]
    lines = [
        f"{answer['state']}, generation {supervisor['generation']}, pid {supervisor['pid']}, "
        f"up {supervisor['uptime_s']:.0f} s",
        f"{'process':<12} {'pid':>8} {'gen':>4} {'state':<9} {'restarts':>8} {'up':>8}  connections",
    ]
    for process in answer["processes"]:
        connections = " ".join(f"{name} {count}" for name, count in process["connections"].items() if count)
        lines.append(
            f"{process['role']} {process['slot']:<{11 - len(process['role'])}} {process['pid']:>8} "
            f"{process['generation']:>4} {process['state']:<9} {process['restarts']:>8} "
            f"{process['uptime_s']:>7.0f}s  {connections}"
        )
    lines.append(f"uploads: {_or_unknown(uploads['pending'])} pending, oldest {_or_unknown(uploads['oldest_s'])} s")
    lines += [
        f"stranded: {node['uploads']} bodies have their only copy on {node['host'] or 'an unknown host'}, "
        f"node {node['instance_id']}, silent for {_or_unknown(node['silent_s'] and round(node['silent_s']))} s"
        for node in uploads.get("stranded", ())
    ]
    lines.append(", ".join(f"{name}: {state}" for name, state in health.items()))
    return "\n".join(lines)


def _or_unknown(value: float | None) -> str:
    return "?" if value is None else f"{value:g}"


def _one_line(error: SoraError) -> str:
    text = f"{error.text}: {error.detail}" if error.detail and error.detail != error.text else error.text
    return " ".join(text.split())


if __name__ == "__main__":
    sys.exit(main())
