"""sora-admin: arguments to requests, answers to text, exit codes; and whole commands on a real database."""

from __future__ import annotations

import io
import json
import logging
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

import asyncpg
import pytest
from msgspec import Meta, Struct

from sora.admin.context import SECRET, SIZE, AdminContext, Done, Operation
from sora.cli import admin
from sora.cli.admin import UsageError, build_parser, read_request, show

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


class Request(Struct, frozen=True, forbid_unknown_fields=True):
    """Every kind of field."""

    name: Annotated[str, Meta(description="who, 100% of it", max_length=10)]
    password: Annotated[str, Meta(description="the secret", extra=SECRET)]
    color: Literal["red", "blue"] = "red"
    count: Annotated[Annotated[int, Meta(ge=1)] | None, Meta(description="how many")] = None
    size_bytes: Annotated[int, Meta(description="octets", extra=SIZE)] = 0
    loud: Annotated[bool, Meta(description="shout")] = False
    tags: Annotated[tuple[str, ...], Meta(description="words")] = ()
    where: Annotated[str | None, Meta(description="place")] = None


async def run(ctx: AdminContext, req: Request) -> Done:
    """Do everything."""
    return Done()


async def ping(ctx: AdminContext) -> Done:
    """Say something."""
    return Done()


TABLE = (
    Operation("things.make", "POST /v1/things", run, positional=("name", "where")),
    Operation("things.ping", "GET /v1/things/ping", ping),
    Operation("ping", "GET /v1/ping", ping),
)


def parse(*argv: str, stdin: str = "pw\n") -> Any:
    arguments = build_parser(TABLE).parse_args(argv)
    return read_request(arguments.operation, arguments, io.StringIO(stdin))


# ── arguments ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_only_what_is_needed() -> None:
    assert parse("things", "make", "ann", "--password-stdin") == Request("ann", "pw")


def test_every_option() -> None:
    request = parse(
        "things", "make", "ann", "here", "--password-stdin", "--color", "blue", "--count", "3", "--size-bytes", "10KiB",
        "--loud", "--tags", "a", "b",
    )  # fmt: skip
    assert request == Request("ann", "pw", "blue", 3, 10240, True, ("a", "b"), "here")


def test_a_noun_without_a_verb_and_a_verb_without_a_request() -> None:
    assert parse("ping") is None
    assert parse("things", "ping", "--json") is None


@pytest.mark.parametrize(
    ("argv", "problem"),
    [
        (("things", "make", "ann"), "give --password-stdin"),
        (("things", "make", "ann-is-too-long", "--password-stdin"), "name: .*length <= 10"),
        (("things", "make", "ann", "--password-stdin", "--count", "0"), "count: .*>= 1"),
        (("things", "make", "ann", "--password-stdin", "--count", "x"), "count: "),
        (("things", "make", "ann", "--password-stdin", "--size-bytes", "much"), "size_bytes: .*not a size"),
    ],
)
def test_values_that_do_not_fit(argv: tuple[str, ...], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        parse(*argv)


@pytest.mark.parametrize(
    "argv",
    [
        (),
        ("things",),
        ("nothing",),
        ("things", "break"),
        ("things", "make"),
        ("things", "make", "ann", "--password", "pw"),
        ("things", "make", "ann", "--password-stdin", "--color", "green"),
        ("things", "make", "ann", "--password-stdin", "--col", "red"),
    ],
)
def test_wrong_usage_ends_with_2_and_one_reason(argv: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parse(*argv)
    assert end.value.code == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.splitlines()[-1].startswith("sora-admin")


def test_the_secret_is_the_first_line_as_it_is() -> None:
    assert parse("things", "make", "ann", "--password-stdin", stdin=" p w \r\nrest\n").password == " p w "


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("second", "ok"), [("typed", True), ("typo", False)])
def test_at_a_terminal_the_secret_is_asked_for_twice(monkeypatch: pytest.MonkeyPatch, second: str, ok: bool) -> None:
    answers = iter(["typed", second])
    monkeypatch.setattr(admin.getpass, "getpass", lambda prompt: next(answers))
    arguments = build_parser(TABLE).parse_args(["things", "make", "ann"])
    if ok:
        assert read_request(arguments.operation, arguments, Terminal()) == Request("ann", "typed")
    else:
        with pytest.raises(UsageError, match="differ"):
            read_request(arguments.operation, arguments, Terminal())


def test_help_tells_of_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parse("things", "make", "--help")
    assert end.value.code == 0
    text = capsys.readouterr().out
    for words in ("Do everything.", "who, 100% of it", "--password-stdin", "--count COUNT", "--no-loud", "--json"):
        assert words in text


# ── answers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class Row(Struct, frozen=True):
    name: str
    size: int
    at: datetime | None = None
    good: bool = True


def shown(answer: Any, *, as_json: bool = False) -> str:
    out = io.StringIO()
    show(answer, as_json=as_json, out=out)
    return out.getvalue()


def test_rows_as_a_table() -> None:
    when = datetime(2024, 5, 6, tzinfo=UTC)
    assert shown([Row("a", 5, when), Row("[bold]b", 1234, None, False)]).splitlines() == [
        "name     size  at                    good",
        "a           5  2024-05-06T00:00:00Z  yes",
        "[bold]b  1234  -                     no",
    ]
    assert shown([]) == "none\n"


def test_sentences_of_a_list_have_lines_of_their_own() -> None:
    assert shown({"notes": ["one is, or was", "two\x1b"], "words": ["a", "b"]}).splitlines() == [
        "notes  one is, or was",
        "       two\N{REPLACEMENT CHARACTER}",
        "words  a, b",
    ]


def test_one_struct_as_lines() -> None:
    assert shown(Row("a", 5)).splitlines() == ["name  a", "size  5", "at    -", "good  yes"]


def test_nested_tables() -> None:
    text = shown({"table": {"key": 1, "list": ["a", "b"]}, "rows": [{"x": 1}], "plain": "p"})
    assert [line.split() for line in text.splitlines()] == [
        ["plain", "p"], ["table"], ["key", "1"], ["list", "a,", "b"], ["x"], ["1"],
    ]  # fmt: skip


def test_a_long_line_is_not_wrapped_and_control_characters_do_not_reach_the_terminal() -> None:
    text = shown(Row("x" * 500 + "\x1b[31m\r", 1))
    assert "x" * 500 + "\ufffd[31m\ufffd" in text
    assert len(text.splitlines()) == 4


def test_a_text_of_several_lines_keeps_them() -> None:
    text = shown({"the_script": "if true {\r\n\tkeep;  \x1b[31m\n\n}\n", "table": {}, "name": "a"})
    assert text == "table  -\nname   a\nthe script\nif true {\n\tkeep;  \ufffd[31m\n\n}\n"


def test_json() -> None:
    assert json.loads(shown([Row("ä", 5)], as_json=True)) == [{"name": "ä", "size": 5, "at": None, "good": True}]


# ── whole commands ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(autouse=True)
def _logging() -> Iterator[None]:
    """A command sets up logging for its process; here that ends with the test."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def write_config(directory: Path, dsn: str) -> Path:
    for name in ("objects", "staging", "run"):
        (directory / name).mkdir()
    path = directory / "sora.toml"
    path.write_text(
        f'[database]\nprimary = "{dsn}"\n[object_store]\nkind = "directory"\npath = "objects"\n'
        '[local_cache]\ncapacity = 0\n[uploader]\nstaging_path = "staging"\n[process]\nruntime_path = "run"\n'
    )
    return path


@pytest.fixture
def sora_admin(
    tmp_path: Path, dsn: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, Any]]:
    """Runs one command with --json; gives the exit code, and the answer or the line of the error."""
    path = write_config(tmp_path, dsn)

    def call(*argv: str, stdin: str = "") -> tuple[int, Any]:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        code = admin.main(["--config", str(path), *argv, "--json"])
        output = capsys.readouterr()
        return code, json.loads(output.out) if output.out else output.err.strip()

    return call


def test_the_life_of_an_account(sora_admin: Callable[..., tuple[int, Any]]) -> None:
    code, made = sora_admin(
        "accounts", "create", "Ann@Example.com", "--password-stdin", "--quota-bytes", "1GB", stdin="pw"
    )
    assert (code, made["address"], made["quota_bytes"]) == (0, "ann@example.com", 10**9)
    assert sora_admin("accounts", "create", "ann@example.com") == (1, "sora-admin: ann@example.com exists")
    assert sora_admin("accounts", "show", "nobody@example.com") == (1, "sora-admin: No account nobody@example.com")
    assert sora_admin("accounts", "disable", "ann@example.com")[1]["disabled"] is True
    assert sora_admin("accounts", "enable", "ann@example.com")[1]["disabled"] is False
    assert sora_admin("accounts", "set-password", "ann@example.com", "--password-stdin", stdin="new\n")[0] == 0
    code, app = sora_admin("credentials", "add", "ann@example.com", "phone", "--expires-in-days", "30")
    assert (code, len(app["password"])) == (0, 24)
    kinds = [c["kind"] for c in sora_admin("credentials", "list", "ann@example.com")[1]]
    assert kinds == ["password", "app_password"]
    assert sora_admin("credentials", "remove", "ann@example.com", str(app["credential_id"])) == (0, {"done": True})
    assert sora_admin("accounts", "delete", "ann@example.com")[0] == 0
    assert sora_admin("accounts", "list") == (0, [])
    assert [a["address"] for a in sora_admin("accounts", "list", "--deleted")[1]] == ["ann@example.com"]
    assert sora_admin("accounts", "restore", "ann@example.com")[1]["deleted_at"] is None


def test_aliases_domains_and_quota(sora_admin: Callable[..., tuple[int, Any]]) -> None:
    sora_admin("accounts", "create", "ann@example.com")
    assert sora_admin("aliases", "add", "info@new.org", "ann@example.com", "--no-login")[0] == 0
    [alias] = sora_admin("aliases", "list", "ann@example.com")[1]
    assert (alias["alias"], alias["login"]) == ("info@new.org", False)
    assert sora_admin("domains", "set-catch-all", "new.org", "ann@example.com")[0] == 0
    catch_all = {d["name"]: d["catch_all"] for d in sora_admin("domains", "list")[1]}
    assert catch_all == {"example.com": None, "new.org": "ann@example.com"}
    assert sora_admin("domains", "set-catch-all", "new.org")[0] == 0
    assert sora_admin("aliases", "remove", "info@new.org")[0] == 0
    assert sora_admin("domains", "remove", "new.org")[0] == 0
    assert sora_admin("domains", "remove", "example.com") == (1, "sora-admin: Domain example.com still has accounts")
    assert sora_admin("domains", "add", "bad..name") == (1, "sora-admin: Invalid domain")
    assert sora_admin("quota", "set", "ann@example.com", "--quota-bytes", "5MiB")[1]["bytes_limit"] == 5 * 2**20
    assert sora_admin("quota", "show", "ann@example.com")[1]["bytes_limit"] == 5 * 2**20
    code, limits = sora_admin("quota", "set", "ann@example.com", "--quota-mailboxes", "20", "--quota-messages", "9")
    assert (code, limits["mailboxes_limit"], limits["messages_limit"], limits["bytes_limit"]) == (0, 20, 9, None)
    assert sora_admin("quota", "set", "ann@example.com")[1]["mailboxes_limit"] is None


def test_metadata(sora_admin: Callable[..., tuple[int, Any]]) -> None:
    sora_admin("accounts", "create", "ann@example.com")
    place = ("--address", "ann@example.com", "--mailbox", "INBOX")
    assert sora_admin("metadata", "set", "/shared/imapsieve/script", "everywhere")[0] == 0
    assert sora_admin("metadata", "set", "/SHARED/comment", "grüß dich")[0] == 0
    assert sora_admin("metadata", "set", "/shared/imapsieve/script", "", *place)[0] == 0
    assert sora_admin("metadata", "get")[1] == [
        {"entry": "/shared/comment", "value": "grüß dich"},
        {"entry": "/shared/imapsieve/script", "value": "everywhere"},
    ]
    assert sora_admin("metadata", "get", "/shared/imapsieve", *place)[1] == [
        {"entry": "/shared/imapsieve/script", "value": ""}
    ]
    assert sora_admin("metadata", "delete", "/shared/imapsieve/script")[0] == 0
    assert sora_admin("metadata", "get", "/shared/imapsieve")[1] == []
    assert sora_admin("metadata", "set", "/private/comment", "x") == (
        1,
        "sora-admin: Only shared entries are set and shown here",
    )
    assert sora_admin("metadata", "set", "/shared", "x")[0] == 1
    assert sora_admin("metadata", "set", "/shared/*", "x")[0] == 1
    assert sora_admin("metadata", "get", "--mailbox", "INBOX")[0] == 1
    assert sora_admin("metadata", "set", "/shared/comment", "x", *place[:3], "Nowhere")[0] == 1


def test_acl(sora_admin: Callable[..., tuple[int, Any]]) -> None:
    for name in ("ann", "bob"):
        sora_admin("accounts", "create", f"{name}@example.com")

    def rights() -> dict[str, str]:
        return {e["identifier"]: e["rights"] for e in sora_admin("acl", "list", "ann@example.com", "INBOX")[1]}

    assert rights() == {"ann@example.com": "lrswipkxtecda"}
    assert sora_admin("acl", "set", "ann@example.com", "INBOX", "Bob@example.com", "lrs")[0] == 0
    assert sora_admin("acl", "set", "ann@example.com", "INBOX", "bob@example.com", "wd", "--change", "add")[0] == 0
    assert sora_admin("acl", "set", "ann@example.com", "INBOX", "anyone", "w", "--negative")[0] == 0
    assert rights() == {"ann@example.com": "lrswipkxtecda", "-anyone": "w", "bob@example.com": "lrswted"}
    assert (
        sora_admin("acl", "set", "ann@example.com", "INBOX", "bob@example.com", "lrswd", "--change", "remove")[0] == 0
    )
    assert sora_admin("acl", "delete", "ann@example.com", "INBOX", "anyone", "--negative")[0] == 0
    assert rights() == {"ann@example.com": "lrswipkxtecda"}
    assert sora_admin("acl", "delete", "ann@example.com", "INBOX", "ann@example.com")[0] == 0
    assert rights() == {"ann@example.com": "la"}
    assert sora_admin("acl", "set", "ann@example.com", "INBOX", "bob@example.com", "lq")[0] == 1
    assert sora_admin("acl", "set", "ann@example.com", "INBOX", "eve@example.com", "l") == (
        1,
        "sora-admin: No such identifier",
    )
    assert sora_admin("acl", "list", "ann@example.com", "Nowhere") == (1, "sora-admin: No such mailbox")


def test_mailboxes_and_messages(sora_admin: Callable[..., tuple[int, Any]]) -> None:
    sora_admin("accounts", "create", "ann@example.com")
    assert sora_admin("mailboxes", "create", "ann@example.com", "Work/2024")[0] == 0
    assert sora_admin("mailboxes", "rename", "ann@example.com", "Work", "Old")[0] == 0
    names = [box["name"] for box in sora_admin("mailboxes", "list", "ann@example.com")[1]]
    assert names == ["Archive", "Drafts", "INBOX", "Junk", "Old", "Old/2024", "Sent", "Trash"]
    assert sora_admin("mailboxes", "delete", "ann@example.com", "Old/2024")[0] == 0
    assert sora_admin("mailboxes", "delete", "ann@example.com", "INBOX")[0] == 1
    assert sora_admin("messages", "list", "ann@example.com") == (0, [])
    assert sora_admin("messages", "list", "ann@example.com", "Nowhere") == (1, "sora-admin: No such mailbox")


def test_the_installation(sora_admin: Callable[..., tuple[int, Any]]) -> None:
    sora_admin("accounts", "create", "ann@example.com")
    assert sora_admin("health") == (
        0,
        {"postgresql": "ok", "object_store": "ok", "staging": "ok", "uploads": "ok", "outbound": "ok"},
    )
    code, stats = sora_admin("stats")
    assert (code, stats["accounts"], stats["mailboxes"], stats["messages"]) == (0, 1, 6, 0)
    assert sora_admin("uploads", "status")[1] == {
        "pending": 0, "bytes": 0, "oldest_s": 0.0, "failing": 0, "last_error": None,
        "copies": 0, "quarantined": 0, "nodes": [], "stranded": [],
    }  # fmt: skip
    assert sora_admin("migrate", "up") == (0, {"applied": [], "waiting": []})
    assert all(step["applied"] for step in sora_admin("migrate", "status")[1])
    assert sora_admin("config", "check") == (0, {"ok": True})


def test_secrets_are_masked_in_the_dump(sora_admin: Callable[..., tuple[int, Any]]) -> None:
    code, dump = sora_admin("config", "dump")
    assert code == 0
    assert dump["database"]["primary"] == "***"
    assert dump["uploader"]["staging_path"].endswith("/staging")


def test_a_dependency_that_is_down_ends_with_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_config(tmp_path, "postgresql://sora@127.0.0.1:1/sora")
    assert admin.main(["--config", str(path), "accounts", "list"]) == 3
    output = capsys.readouterr()
    assert output.out == ""
    assert len(output.err.splitlines()) == 1
    assert "PostgreSQL cannot be reached" in output.err
    (tmp_path / "staging").rmdir()
    assert admin.main(["--config", str(path), "health", "--json"]) == 3
    health = json.loads(capsys.readouterr().out)
    assert health["object_store"] == "ok"
    assert "Connect" in health["postgresql"]
    assert health["staging"] == "No such file or directory"
    assert admin.main(["--config", str(path), "config", "check"]) == 0


def test_a_database_without_the_schema_says_what_to_do(
    tmp_path: Path, empty_dsn: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_config(tmp_path, empty_dsn)
    assert admin.main(["--config", str(path), "accounts", "list"]) == 1
    assert "sora-admin migrate up" in capsys.readouterr().err
    assert admin.main(["--config", str(path), "migrate", "up"]) == 0
    assert "0001_foundation.sql" in capsys.readouterr().out
    assert admin.main(["--config", str(path), "accounts", "list"]) == 0


def test_what_postgresql_refuses_is_one_line(
    sora_admin: Callable[..., tuple[int, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No right to make a schema, an extension that is not installed."""

    async def refused(_: str) -> list[str]:
        raise asyncpg.InsufficientPrivilegeError("permission denied for database mail")

    monkeypatch.setattr("sora.store.migrate.up", refused)
    assert sora_admin("migrate", "up") == (1, "sora-admin: PostgreSQL refuses: permission denied for database mail")


def test_a_bad_configuration_is_one_line_that_names_the_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "sora.toml"
    path.write_text("[databas]\n")
    assert admin.main(["--config", str(path), "config", "check"]) == 1
    assert "databas" in capsys.readouterr().err
    assert admin.main(["--config", str(tmp_path / "absent.toml"), "config", "check"]) == 1


def test_a_value_that_does_not_fit_ends_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        admin.main(["accounts", "list", "--limit", "0"])
    assert end.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("sora-admin accounts list: limit: ")


def test_an_embedded_postgresql_that_never_ran_is_a_dependency_that_is_down(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_config(tmp_path, "x")
    path.write_text(path.read_text().replace('primary = "x"', 'embedded = "postgres"'))
    assert admin.main(["--config", str(path), "accounts", "list"]) == 3
    assert admin.main(["--config", str(path), "config", "dump"]) == 0


# ── files, and operations that need nothing ──────────────────────────────────────────────────────────────────────────


def test_a_script_is_checked_without_a_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script, mail = tmp_path / "a.sieve", tmp_path / "a.eml"
    script.write_text('require "fileinto"; fileinto "Work";')
    mail.write_bytes(b"Subject: \xff\r\n\r\n")
    missing = ["--config", str(tmp_path / "missing.toml"), "sieve"]
    assert admin.main([*missing, "check", "--json", str(script)]) == 0
    assert json.loads(capsys.readouterr().out) == {"valid": True, "requires": ["fileinto"], "problems": []}
    assert admin.main([*missing, "test", "--json", str(script), str(mail)]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["actions"] == [{"action": "fileinto", "target": "Work", "details": "", "edited": False}]
    script.write_text('require "ihave"; error "no more";')
    assert admin.main([*missing, "test", "--from", "", "--to", "a@example.com", str(script), str(mail)]) == 1
    shown = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert shown[:3] == [["error", "line 1: no more"], ["from", "-"], ["to", "a@example.com"]]
    script.write_text("keep\n:x;")
    assert admin.main([*missing, "check", str(script)]) == 1
    assert '"keep" has no argument :x' in capsys.readouterr().out
    assert admin.main([*missing, "test", str(script), str(mail)]) == 1
    assert capsys.readouterr().err == 'sora-admin: line 2, column 1: "keep" has no argument :x\n'
    script.write_text("foo;\nbar;")
    assert admin.main([*missing, "test", str(script), str(mail)]) == 1
    assert capsys.readouterr().err.splitlines() == [
        'sora-admin: line 1, column 1: Unknown command "foo"',
        'sora-admin: line 2, column 1: Unknown command "bar"',
    ]


def test_a_directory_gives_the_texts_in_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script, mail, directory = tmp_path / "a.sieve", tmp_path / "a.eml", tmp_path / "site"
    script.write_text('require "include"; include :global "one"; include :global "deeper/ä.b";')
    mail.write_bytes(b"Subject: x\r\n\r\n")
    (directory / "deeper").mkdir(parents=True)
    (directory / "one.sieve").write_text('redirect "one@example.net";')
    (directory / "deeper" / "ä.b.sieve").write_text('redirect "two@example.net";')
    (directory / "one.txt").write_bytes(b"\xff")
    assert admin.main(["sieve", "test", "--json", "--global", str(directory), str(script), str(mail)]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert [action["target"] for action in answer["actions"]] == ["one@example.net", "two@example.net"]
    (directory / "two.sieve").write_bytes(b"\xff")
    for path, problem in ((directory, f"{directory / 'two.sieve'}: not UTF-8"), (mail, f"{mail}: not a directory")):
        with pytest.raises(SystemExit) as end:
            admin.main(["sieve", "test", "--global", str(path), str(script), str(mail)])
        assert end.value.code == 2
        assert capsys.readouterr().err.endswith(f"global: {problem}\n")


def test_a_file_can_be_standard_input(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"keep;")))
    assert admin.main(["sieve", "check", "-"]) == 0
    assert "valid" in capsys.readouterr().out


def test_scripts_are_checked_by_the_configuration_if_there_is_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, script = tmp_path / "sora.toml", tmp_path / "a.sieve"
    script.write_text("if true { if true { keep; } }")
    assert admin.main(["--config", str(config), "sieve", "check", str(script)]) == 0
    config.write_text('[database]\nprimary = "postgresql:///x"\n[sieve]\nmax_nesting = 1\n')
    assert admin.main(["--config", str(config), "sieve", "check", str(script)]) == 1
    capsys.readouterr()


@pytest.mark.parametrize(
    ("content", "problem"), [(None, "script: {}: No such file or directory"), (b"\xff", "script: {}: not UTF-8")]
)
def test_files_that_cannot_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None, problem: str
) -> None:
    path = tmp_path / "a.sieve"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SystemExit) as end:
        admin.main(["sieve", "check", str(path)])
    assert end.value.code == 2
    assert capsys.readouterr().err.endswith(f"error: {problem.format(path)}\n".removeprefix("error: "))
