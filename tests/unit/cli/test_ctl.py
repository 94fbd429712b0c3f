"""`soractl`: arguments, exit codes and output, without a running Sora."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from sora.cli import ctl
from sora.crashpoints import POINTS

if TYPE_CHECKING:
    from pathlib import Path

    from sora.config import Config

CONFIG = """
[database]
primary = "postgresql:///sora"
[object_store]
path = "objects"
[local_cache]
capacity = 0
[uploader]
staging_path = "staging"
[process]
runtime_path = "run"
[servers.imap]
listen = ["127.0.0.1:0"]
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "sora.toml"
    path.write_text(CONFIG)
    return path


def test_check_says_good(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ctl.main(["check", "--config", str(config), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"ok": True, "servers": ["imap"]}


def test_check_names_the_wrong_key_in_one_line(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config.write_text(CONFIG + "tls_crt = 'x'\n")
    assert ctl.main(["check", "--config", str(config)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "soractl: unknown key servers.imap.tls_crt; the nearest known key is servers.imap.tls_cert\n"


def test_check_reads_the_certificates(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config.write_text(CONFIG + "tls_cert = 'cert.pem'\ntls_key = 'key.pem'\n")
    assert ctl.main(["check", "--config", str(config)]) == 1
    assert "cert.pem" in capsys.readouterr().err


def test_check_warns_of_a_bucket_that_cannot_be_used(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Mail would be taken and never leave staging; but a store that is away for now must not prevent a start."""
    s3 = 'kind = "s3"\nendpoint = "http://127.0.0.1:1"\nbucket = "mail"\naccess_key = "a"\nsecret_key = "s"\n'
    config.write_text(CONFIG.replace('path = "objects"\n', s3))
    assert ctl.main(["check", "--config", str(config)]) == 0
    good, warning = capsys.readouterr().out.splitlines()
    assert good == "the configuration is good"
    assert warning.startswith("warning: object_store: ping: ")
    assert ctl.main(["check", "--config", str(config), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["warnings"] == [warning.removeprefix("warning: ")]


def test_crash_points_are_listed_without_a_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    assert ctl.main(["check", "--crash-points"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(POINTS)
    assert ctl.main(["check", "--crash-points", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == POINTS


def test_nothing_runs(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ctl.main(["status", "--config", str(config), "--json"]) == 3
    assert json.loads(capsys.readouterr().out) == {"state": "stopped"}
    assert ctl.main(["stop", "--config", str(config)]) == 0
    assert capsys.readouterr().out == "Sora is not running\n"
    assert ctl.main(["reload", "--config", str(config)]) == 3
    assert "not running" in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv", [[], ["fly"], ["start", "--detach", "--foreground"], ["demo"], ["status", "--conf", "x"]]
)
def test_wrong_usage_is_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        ctl.main(argv)
    assert ended.value.code == 2
    assert "usage" in capsys.readouterr().err


def test_a_missing_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ctl.VERBS.keys() - {"demo", "completion"}:
        assert ctl.main([verb, "--config", str(tmp_path / "none.toml")]) == 1
        assert "none.toml" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["start", "restart"])
@pytest.mark.parametrize(("how", "detach"), [([], False), (["--foreground"], False), (["--detach"], True)])
def test_a_start_stays_in_the_foreground_unless_told_otherwise(verb: str, how: list[str], detach: bool) -> None:
    assert ctl.build_parser().parse_args([verb, *how]).detach is detach


@pytest.mark.parametrize("detach", [[], ["--detach"]])
def test_a_start_that_fails_says_why_in_one_line(config: Path, detach: list[str]) -> None:
    config.write_text(CONFIG + 'tls_cert = "cert.pem"\ntls_key = "key.pem"\n')
    command = [sys.executable, "-m", "sora.cli.ctl", "start", "--config", str(config), *detach]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    reasons = [line for line in done.stderr.splitlines() if line.startswith("soractl: ")]
    assert len(reasons) == 1
    assert "cert.pem" in reasons[0]


def test_a_restart_that_cannot_start_stops_nothing(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped: list[Config] = []
    monkeypatch.setattr(ctl, "_stop", stopped.append)
    config.write_text(CONFIG + "[encryption]\nkeyring_file = 'none.toml'\n")
    assert ctl.main(["restart", "--config", str(config)]) == 1
    assert stopped == []


def test_a_wrong_crash_point_stops_the_start(config: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sora.cli.ctl", "start", "--config", str(config), "--detach"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "SORA_CRASH_AT": "lmtp.stagd"},
    )
    assert done.returncode == 1
    assert "did you mean 'lmtp.staged'?" in done.stderr


STATUS: dict[str, Any] = {
    "state": "running",
    "supervisor": {"pid": 1, "generation": 2, "uptime_s": 3.0, "postgres_pid": None},
    "processes": [
        {
            "role": "worker",
            "slot": 0,
            "pid": 7,
            "generation": 2,
            "state": "ready",
            "restarts": 1,
            "uptime_s": 2.5,
            "connections": {"imap": 4, "pop3": 0, "lmtp": 1},
        }
    ],
    "uploads": {"pending": None, "oldest_s": None},
    "health": {"postgresql": "ok", "object_store": "down"},
}


def test_status_for_a_person() -> None:
    first, _, worker, uploads, health = ctl._status_text(STATUS).splitlines()
    assert first == "running, generation 2, pid 1, up 3 s"
    assert worker.split() == ["worker", "0", "7", "2", "ready", "1", "2s", "imap", "4", "lmtp", "1"]
    assert uploads == "uploads: ? pending, oldest ? s"
    assert health == "postgresql: ok, object_store: down"


def test_status_names_nodes_that_have_the_only_copies() -> None:
    node = {"instance_id": "n-1", "host": "mail7", "silent_s": 61.4, "uploads": 3, "bytes": 9, "oldest_s": 70.0}
    uploads = {"pending": 0, "oldest_s": 0.0, "stranded": [node, {**node, "host": "", "silent_s": None}]}
    lines = ctl._status_text({**STATUS, "uploads": uploads}).splitlines()
    assert lines[4:6] == [
        "stranded: 3 bodies have their only copy on mail7, node n-1, silent for 61 s",
        "stranded: 3 bodies have their only copy on an unknown host, node n-1, silent for ? s",
    ]
