"""The configuration: units, unknown keys, secrets, rules over several keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from sora import config, units
from sora.errors import ConfigError
from sora.tables import DatabaseTable

if TYPE_CHECKING:
    from pathlib import Path

MINIMAL: dict[str, Any] = {
    "database": {"embedded": "db"},
    "object_store": {"path": "objects"},
    "local_cache": {"path": "cache"},
    "uploader": {"staging_path": "staging"},
    "process": {"runtime_path": "run"},
}


def parse(environment: dict[str, str] | None = None, **tables: Any) -> config.Config:
    return config.parse({**MINIMAL, **tables}, environment=environment or {})


def refusal(**tables: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(**tables)
    assert "\n" not in caught.value.text
    return caught.value.text


@pytest.mark.parametrize(
    ("text", "octets"),
    [("0", 0), ("1KB", 1000), ("1KiB", 1024), ("25 MB", 25_000_000), ("1.5GiB", 1_610_612_736), ("2TB", 2 * 10**12)],
)
def test_sizes(text: str, octets: int) -> None:
    assert units.parse_size(text) == octets
    assert parse(limits={"message_size": text}).limits.message_size == octets


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("15m", 900), ("1h", 3600), ("14d", 1_209_600), ("7", 7)])
def test_durations(text: str, seconds: float) -> None:
    assert units.parse_duration(text) == seconds
    assert parse(cleanup={"grace_period": text}).cleanup.grace_period == seconds


def test_a_verified_login_is_not_believed_for_longer_than_a_minute() -> None:
    assert parse(auth={"cache_ttl": "60s"}).auth.cache_ttl == 60
    assert refusal(auth={"cache_ttl": "61s"}).startswith("auth.cache_ttl: ")


@pytest.mark.parametrize("text", ["", "MB", "1 XB", "-1MB", "1MBs"])
def test_a_bad_size_names_its_key(text: str) -> None:
    assert refusal(limits={"message_size": text}).startswith("limits.message_size: ")


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"uploder": {}}, "unknown key uploder; the nearest known key is uploader"),
        (
            {"cleanup": {"grace_peroid": "1d"}},
            "unknown key cleanup.grace_peroid; the nearest known key is cleanup.grace_period",
        ),
        (
            {"servers": {"imap": {"listn": []}}},
            "unknown key servers.imap.listn; the nearest known key is servers.imap.listen",
        ),
        ({"limits": {"recipients": "many"}}, "limits.recipients: expected int, got str"),
        ({"limits": {"recipients": 0}}, "limits.recipients: expected int >= 1"),
        ({"log": 3}, "log must be a table"),
        ({"database": {}}, "database: give exactly one of database.embedded and database.primary"),
        (
            {"database": {"embedded": "x", "primary": "postgresql://x"}},
            "database: give exactly one of database.embedded and database.primary",
        ),
        ({"object_store": {"kind": "s3", "endpoint": "https://s3"}}, 'object_store.bucket is missing (kind = "s3")'),
        ({"uploader": {}}, "uploader.staging_path is missing"),
        ({"local_cache": {}}, "local_cache.path is missing (or set local_cache.capacity = 0)"),
        ({"limits": {"exempt_networks": ["10.0.0.1/8"]}}, "limits.exempt_networks: 10.0.0.1/8 has host bits set"),
        (
            {"servers": {"imap": {"tls_listen": ["127.0.0.1:993"]}}},
            "servers.imap.tls_listen needs servers.imap.tls_cert and servers.imap.tls_key",
        ),
        (
            {"servers": {"imap": {"listen": ["143"]}}},
            "'143' is not an address such as 127.0.0.1:143 or [::1]:143",
        ),
        (
            {"servers": {"imap": {"listen": ["unix:/tmp/x"]}}},
            "servers.imap.listen: only lmtp listens on a UNIX socket",
        ),
        (
            {"servers": {"lmtp": {"listen": ["0.0.0.0:24"]}}},
            "servers.lmtp listens beyond loopback: servers.lmtp.trusted_networks must say who may deliver",
        ),
        (
            {"servers": {"http_api": {"listen": ["127.0.0.1:8080"]}}},
            "servers.http_api: this release has no such server; remove the table or set "
            "servers.http_api.enabled = false",
        ),
        ({"object_store": {"path": "${NOWHERE}"}}, "object_store.path: the environment has no NOWHERE"),
        ({"outbound": {"user": "a"}}, "outbound.user needs outbound.password or outbound.password_file"),
        ({"outbound": {"password": "a"}}, "outbound.password needs outbound.user"),
    ],
)
def test_refusals_are_one_line_that_names_the_key(tables: dict[str, Any], message: str) -> None:
    assert refusal(**tables) == message


def peers(**table: Any) -> dict[str, Any]:
    return {"servers": {"peers": {"listen": ["10.0.0.1:24"], **table}}}


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"uploader": {"staging_path": "s", "adopt_after": "60s"}}, "uploader.adopt_after: at least 120s, or 0"),
        ({"sieve": {"url": "http://mail.example.com"}}, "sieve.url: it has the form sieve://host or sieve://host:port"),
        ({"sieve": {"url": "sieve://[::1]"}}, "sieve.url: it has the form sieve://host or sieve://host:port"),
        (
            {"uploader": {"staging_path": "s", "quarantine_retention": "1h"}},
            "uploader.quarantine_retention: at least 1d, or 0",
        ),
        (peers(tls_cert="c", tls_key="k"), "servers.peers: it has no TLS, what it sends is encrypted in another way"),
        (
            peers(listen=["0.0.0.0:24"]),
            "servers.peers.advertise is missing: others cannot reach a wildcard address",
        ),
    ],
)
def test_uploads_and_peers_are_checked(tables: dict[str, Any], message: str) -> None:
    assert refusal(**tables) == message


@pytest.mark.parametrize(
    ("table", "key", "value"),
    [
        ("database", "replicas", ["postgresql://x"]),
    ],
)
def test_what_this_release_cannot_do_is_refused_and_not_ignored(table: str, key: str, value: object) -> None:
    message = f"{table}.{key}: this release cannot do that; leave the key out"
    assert refusal(**{table: {**MINIMAL.get(table, {}), key: value}}) == message


def test_text_of_bodies_is_not_indexed_where_they_are_encrypted_unless_that_is_asked_for() -> None:
    sealed = {"encryption": {"keyring_file": "keys.toml"}}
    assert parse().search.index_bodies is True
    assert parse(**sealed).search.index_bodies is False
    assert parse(**sealed, search={"index_bodies": True}).search.index_bodies is True
    assert parse(search={"index_bodies": False}).search.index_bodies is False
    assert config.dump(parse(**sealed))["search"]["index_bodies"] is False


@pytest.mark.parametrize(
    ("table", "key"),
    [
        ("cleanup", "max_age_restriction"),
        ("cleanup", "log_retention"),
        ("cleanup", "orphan_grace"),
        ("search", "retention"),
    ],
)
def test_ages_that_would_remove_nearly_everything_are_refused(table: str, key: str) -> None:
    assert config.get(parse(**{table: {key: "1d"}}), f"{table}.{key}") in ("1d", 86400)
    assert refusal(**{table: {key: "30s"}}) == f"{table}.{key}: at least 1d, or leave it out"
    assert f"{table}.{key}: " in refusal(**{table: {key: "ten days"}})


@pytest.mark.parametrize("prefix", ["", "Deleted", "Deleted/", "Trash/Deleted/"])
def test_where_deleted_mail_is_to_be_seen(prefix: str) -> None:
    assert parse(cleanup={"deleted_namespace": prefix}).cleanup.deleted_namespace == prefix


@pytest.mark.parametrize("prefix", ["/", "a//b", "inbox/", "Shared/x", "Del*", "a%", 'a"b', "a\\b", "Gelöscht", "a\nb"])
def test_prefixes_that_cannot_be(prefix: str) -> None:
    assert refusal(cleanup={"deleted_namespace": prefix}).startswith("cleanup.deleted_namespace: ")


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("imap", {}, "servers.imap.proxy_protocol needs servers.imap.trusted_networks, the addresses of the proxies"),
        (
            "metrics",
            {"trusted_networks": ["10.0.0.0/8"]},
            "servers.metrics.proxy_protocol: metrics reads no PROXY header",
        ),
    ],
)
def test_a_proxy_header_needs_who_may_send_it_and_who_reads_it(
    name: str, changes: dict[str, Any], message: str
) -> None:
    server = {"listen": ["127.0.0.1:143"], "proxy_protocol": True, **changes}
    assert refusal(servers={name: server}) == message


def test_a_unix_socket_has_no_implicit_tls() -> None:
    server = {"tls_listen": ["unix:/run/lmtp"], "tls_cert": "c", "tls_key": "k"}
    assert refusal(servers={"lmtp": server}) == "servers.lmtp.tls_listen: a UNIX socket has no implicit TLS"


def test_lmtp_may_listen_beyond_loopback_for_trusted_peers() -> None:
    table = {"listen": ["0.0.0.0:24"], "trusted_networks": ["10.0.0.0/8"]}
    assert parse(servers={"lmtp": table}).servers.lmtp is not None


def test_a_secret_may_stand_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hush\n")
    s3 = {"kind": "s3", "endpoint": "https://s3", "bucket": "b", "access_key": "a"}
    given = parse(object_store={**s3, "secret_key_file": str(tmp_path / "secret")})
    assert given.object_store.secret_key == "hush"
    assert config.dump(given)["object_store"]["secret_key"] == "***"
    assert "keep one" in refusal(object_store={**s3, "secret_key": "x", "secret_key_file": "y"})
    assert "No such file" in refusal(object_store={**s3, "secret_key_file": str(tmp_path / "none")})


def test_only_secrets_have_file_twins() -> None:
    assert refusal(log={"level_file": "x"}).startswith("unknown key log.level_file")


def test_a_list_of_secrets_has_no_file_twin_and_is_masked() -> None:
    """One file holds one value: what it gave could only be refused later, for another reason."""
    assert refusal(database={"replicas_file": "x"}).startswith("unknown key database.replicas_file; the nearest")
    table = DatabaseTable(replicas=("postgresql://x",))
    assert "postgresql://x" not in str(config.dump(config.Config(database=table)))


def test_the_environment_fills_in() -> None:
    given = parse(
        {"NAME": "mail", "SIZE": "1KB"}, object_store={"path": "/srv/${NAME}/o"}, limits={"literal": "${SIZE}"}
    )
    assert given.object_store.path == "/srv/mail/o"
    assert given.limits.literal == 1000


def test_relative_paths_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "sora.toml"
    file.write_text(
        '[database]\nembedded = "db"\n[object_store]\npath = "o"\nsecret_key_file = "secret"\n'
        '[uploader]\nstaging_path = "s"\n[process]\nruntime_path = "r"\n[local_cache]\npath = "/abs"\n'
    )
    (tmp_path / "secret").write_text("hush\n")
    monkeypatch.chdir("/")
    given = config.load(file)
    assert given.object_store.secret_key == "hush"
    assert given.database.embedded == str(tmp_path / "db")
    assert given.local_cache.path == "/abs"


def test_unreadable_files_are_configuration_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        config.load(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("[database\n")
    with pytest.raises(ConfigError, match="line 1"):
        config.load(tmp_path / "bad.toml")
    (tmp_path / "bad.toml").write_bytes(b'[log]\nlevel = "\xff"\n')
    with pytest.raises(ConfigError, match=r"bad\.toml"):
        config.load(tmp_path / "bad.toml")
    (tmp_path / "secret").write_bytes(b"\xff")
    s3 = {"kind": "s3", "endpoint": "https://s3", "bucket": "b", "access_key": "a"}
    assert "not UTF-8" in refusal(object_store={**s3, "secret_key_file": str(tmp_path / "secret")})


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"spam_pattern": "("}, "sieve.spam_pattern: missing )"),
        ({"virus_texts": ["clean"]}, "sieve.virus_texts: 'clean' is not word=number"),
        ({"spam_texts": ["a=1", "b=11"]}, "sieve.spam_texts: 'b=11' is not word=number"),
        ({"vacation_min_period": "2d", "vacation_max_period": "1d"}, "sieve.vacation_min_period: it is longer"),
        ({"slice_instructions": 50_000}, "sieve.slice_instructions"),
    ],
)
def test_settings_of_scripts(table: dict[str, object], said: str) -> None:
    assert said in refusal(sieve=table)


def test_places_of_scripts_are_relative_to_the_file(tmp_path: Path) -> None:
    table = {"before": ["a", "/b"], "default": "c", "global_dir": "d"}
    sieve = config.parse({**MINIMAL, "sieve": table}, base=tmp_path).sieve
    assert sieve.before == (str(tmp_path / "a"), "/b")
    assert (sieve.default, sieve.global_dir, sieve.list_dir) == (str(tmp_path / "c"), str(tmp_path / "d"), "")


def test_changed_keys_carry_their_reload_class() -> None:
    old, new = parse(), parse(limits={"recipients": 5}, database={"embedded": "other"})
    assert {key.path: key.reload for key in config.changed_keys(old, new)} == {
        "limits.recipients": "live",
        "database.embedded": "restart",
    }


def test_every_key_says_what_it_is_and_how_it_reloads() -> None:
    for key in config.keys():
        assert key.description, key.path
        assert key.reload in ("live", "worker", "restart"), key.path


@pytest.mark.parametrize(
    ("address", "loopback"),
    [
        ("127.0.0.1:1", True),
        ("[::1]:1", True),
        ("localhost:1", True),
        ("unix:/x", True),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("example.com:1", False),
    ],
)
def test_loopback(address: str, loopback: bool) -> None:
    assert config.is_loopback(address) is loopback


def test_bodies_outlive_the_longest_restore() -> None:
    assert parse(cleanup={"recovery_window": "14d"}).cleanup.recovery_window == 14 * 86400
    assert refusal(cleanup={"recovery_window": "15d"}).startswith("cleanup.grace_period is shorter than ")
    longer = {"recovery_window": "15d", "grace_period": "15d"}
    assert parse(cleanup=longer).cleanup.grace_period == 15 * 86400
    assert refusal(cleanup={**longer, "orphan_grace": "14d"}).startswith("cleanup.orphan_grace is shorter than ")
    parse(cleanup={**longer, "orphan_grace": "15d"})
