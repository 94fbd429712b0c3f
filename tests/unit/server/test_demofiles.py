"""The files of the demo."""

from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sora import config as configuration
from sora.errors import ConfigError
from sora.server import demofiles
from sora.server.runtime import Runtime
from sora.sieve.script import compile

if TYPE_CHECKING:
    from sora.server.demofiles import Demo


def prepare(directory: Path, *settings: str, port_base: int | None = None, **facts: Any) -> Demo:
    workers = facts.pop("workers", None)
    return demofiles.prepare(directory, port_base=port_base, workers=workers, settings=settings, facts=facts)


def test_the_first_run_writes_a_configuration_that_loads(tmp_path: Path) -> None:
    demo = prepare(tmp_path / "demo", port_base=20000)
    assert demo.path == tmp_path / "demo" / "sora.toml"
    assert configuration.load(demo.path) == demo.config
    assert demo.config.database.embedded == str(tmp_path / "demo" / "postgresql")
    assert demo.config.auth.allow_cleartext
    servers = demo.config.servers
    assert servers.imap is not None
    assert servers.imap.listen == ("127.0.0.1:20000",)
    assert servers.imap.tls_listen == ("127.0.0.1:20001",)
    assert servers.pop3 is not None
    assert (*servers.pop3.listen, *servers.pop3.tls_listen) == ("127.0.0.1:20002", "127.0.0.1:20003")
    assert servers.lmtp is not None
    assert servers.lmtp.listen == ("127.0.0.1:20004",)
    assert servers.managesieve is not None
    assert servers.managesieve.listen == ("127.0.0.1:20005",)
    assert servers.metrics is not None
    assert servers.metrics.listen == ("127.0.0.1:20007",)
    assert demo.facts.addresses == ["user1@example.com", "user2@example.com"]
    assert demo.path.stat().st_mode & 0o777 == 0o600


def test_later_runs_reuse_everything(tmp_path: Path) -> None:
    first = prepare(tmp_path, "limits.recipients=7", port_base=20000, accounts=3, domain="a.example", password="x")
    written = first.path.stat()
    second = prepare(tmp_path)
    assert second == first
    assert second.path.stat().st_mtime_ns == written.st_mtime_ns


def test_options_of_a_later_run_change_the_files(tmp_path: Path) -> None:
    prepare(tmp_path, "limits.recipients=7", port_base=20000)
    demo = prepare(tmp_path, "limits.message_size=1MB", port_base=21000, accounts=5, workers=3)
    loaded = configuration.load(demo.path)
    assert loaded.limits.recipients == 7
    assert loaded.limits.message_size == 1_000_000
    assert loaded.process.workers == 3
    assert loaded.servers.imap is not None
    assert loaded.servers.imap.listen == ("127.0.0.1:21000",)
    assert len(prepare(tmp_path).facts.addresses) == 5


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ('servers.imap.listen=["0.0.0.0:1"]', "loopback only"),
        ('servers.pop3.tls_listen=["192.0.2.1:1"]', "loopback only"),
        ("limits.recipiens=5", "nearest known key is limits.recipients"),
        ("limits", "table.key=value"),
        ("recipients=5", "table.key=value"),
        ("auth.default_domain.x=5", "not a table"),
    ],
)
def test_a_wrong_setting_is_refused_and_nothing_is_written(tmp_path: Path, setting: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        prepare(tmp_path, setting)
    assert not (tmp_path / "sora.toml").exists()


def test_a_bad_domain_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--domain: Invalid domain"):
        prepare(tmp_path / "demo", domain="bad domain")
    assert not list((tmp_path / "demo").iterdir())


def test_a_running_demo_is_left_as_it_is(tmp_path: Path) -> None:
    demo = prepare(tmp_path / "demo", port_base=20000)
    runtime = Runtime(demo.config)
    runtime.acquire(0)
    before = demo.path.read_bytes()
    try:
        with pytest.raises(ConfigError, match=r"runs in .* already"):
            prepare(tmp_path / "demo", port_base=30000, accounts=9)
        assert demo.path.read_bytes() == before
        assert json.loads((tmp_path / "demo" / "demo.json").read_text())["accounts"] == 2
    finally:
        runtime.release()
    prepare(tmp_path / "demo", port_base=30000)


def test_impossible_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="65535"):
        prepare(tmp_path, port_base=65530)
    with pytest.raises(ConfigError, match="at least 1"):
        prepare(tmp_path, accounts=0)


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file"):
        prepare(tmp_path / "file" / "demo")


def test_what_it_says(tmp_path: Path) -> None:
    demo = prepare(tmp_path, port_base=20000, accounts=5, password="secret")
    ports = {"imap": 20000, "lmtp": 20004}
    line = json.loads(demofiles.ready_line(demo, ports))
    assert line["ready"] is True
    assert line["config"] == str(demo.path)
    assert line["ports"] == ports
    assert line["accounts"] == [f"user{number}@example.com" for number in range(1, 6)]
    assert line["api_token"] is None
    text = demofiles.welcome(demo, ports)
    for words in ("127.0.0.1:20004", "user1@example.com … user5@example.com", "password secret", "smtplib.LMTP"):
        assert words in text
    assert compile(demofiles.FILTER.encode()).demanded == {"fileinto", "mailbox"}
    program = Path(sys.executable).with_name("sora-admin")
    assert f"echo '{demofiles.FILTER}' | {program} --config {demo.path} sieve put user1@example.com rules -" in text


VALUES = st.one_of(st.booleans(), st.integers(-(2**60), 2**60), st.text(st.characters(exclude_categories=["Cs"])))
NAMES = st.from_regex(r"[a-z_]{1,8}", fullmatch=True)
TABLES = st.recursive(
    st.dictionaries(NAMES, VALUES | st.lists(VALUES, max_size=3), max_size=4),
    lambda inner: st.dictionaries(NAMES, inner | VALUES, max_size=3),
    max_leaves=6,
)


@given(TABLES)
def test_tables_survive_being_written(tables: dict[str, Any]) -> None:
    assert tomllib.loads(demofiles._toml(tables)) == tables
