"""Which keys a reload can change, and what it goes on with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sora import config as configuration
from sora.errors import ConfigError
from sora.server import reloading

BASE: dict[str, Any] = {
    "database": {"primary": "postgresql:///sora"},
    "object_store": {"path": "objects"},
    "local_cache": {"capacity": 0},
    "uploader": {"staging_path": "staging"},
    "process": {"runtime_path": "run"},
    "servers": {"imap": {"listen": ["127.0.0.1:143"]}},
}


def config(**tables: dict[str, Any]) -> configuration.Config:
    merged = {name: {**BASE.get(name, {}), **tables.get(name, {})} for name in {**BASE, **tables}}
    return configuration.parse(merged, base=Path("/srv"))


def test_nothing_changed() -> None:
    change = reloading.classify(config(), config())
    assert (change.live, change.worker, change.restart) == ((), (), ())


def test_every_key_goes_to_its_class() -> None:
    new = config(limits={"recipients": 5}, auth={"default_domain": "example.com"}, process={"workers": 7})
    change = reloading.classify(config(), new)
    assert change.live == ("limits.recipients",)
    assert change.worker == ("auth.default_domain",)
    assert change.restart == ("process.workers",)
    assert change.effective.limits.recipients == 5
    assert change.effective.auth.default_domain == "example.com"
    assert change.effective.process.workers == 0


def test_the_addresses_of_a_server_need_a_restart_and_the_rest_of_it_does_not() -> None:
    new = config(servers={"imap": {"listen": ["127.0.0.1:144"], "trusted_networks": ["10.0.0.0/8"]}})
    change = reloading.classify(config(), new)
    assert change.restart == ("servers.imap.listen",)
    assert change.worker == ("servers.imap.trusted_networks",)
    imap = change.effective.servers.imap
    assert imap is not None
    assert imap.listen == ("127.0.0.1:143",)
    assert imap.trusted_networks == ("10.0.0.0/8",)


@pytest.mark.parametrize("appears", [True, False])
def test_a_server_that_appears_or_goes_away_needs_a_restart_as_a_whole(appears: bool) -> None:
    without, with_pop3 = config(), config(servers={**BASE["servers"], "pop3": {"listen": ["127.0.0.1:110"]}})
    old, new = (without, with_pop3) if appears else (with_pop3, without)
    change = reloading.classify(old, new)
    assert change.worker == change.live == ()
    assert all(path.startswith("servers.pop3.") for path in change.restart)
    assert change.restart
    assert change.effective == old


def test_live_values_travel_as_json_and_arrive_as_they_were() -> None:
    import orjson

    new = config(limits={"exempt_networks": ["10.0.0.0/8"], "message_size": "1MB"})
    values = orjson.loads(orjson.dumps(reloading.live_values(new)))
    assert reloading.apply_live(config(), values) == new


def test_live_values_hold_nothing_else() -> None:
    classes = {key.path: key.reload for key in configuration.keys()}
    assert {classes[path] for path in reloading.live_values(config())} == {"live"}


def test_a_certificate_that_cannot_be_read_is_found_before_the_fork(tmp_path: Path) -> None:
    servers = {"imap": {"listen": [], "tls_cert": str(tmp_path / "cert"), "tls_key": str(tmp_path / "key")}}
    with pytest.raises(ConfigError, match="TLS certificate"):
        reloading.check_files(config(servers=servers))
    reloading.check_files(config())


def test_a_script_of_the_site_with_errors_is_found_before_the_fork(tmp_path: Path) -> None:
    path = tmp_path / "bad.sieve"
    path.write_text("nonsense;")
    with pytest.raises(ConfigError, match=r"sieve\.default: .*bad\.sieve:1:1: "):
        reloading.check_files(config(sieve={"default": str(path)}))


def test_live_values_of_a_later_release_are_left_alone() -> None:
    told = {"limits.recipients": 7, "limits.of_tomorrow": 1, "tomorrow.key": 2, "auth.default_domain": "x.example"}
    assert reloading.apply_live(config(), told) == config(limits={"recipients": 7})
