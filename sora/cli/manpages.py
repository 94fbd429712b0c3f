"""Manual pages from the definitions that the programs work with; the build calls this, nothing at run time does.

soractl(1) and sora-admin(1) come from the parsers by argparse-manpage, sora.toml(5) from the fields of the
configuration.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, Final

import msgspec
import msgspec.inspect

from sora import config as configuration
from sora.admin.context import facts
from sora.cli import admin, ctl
from sora.tables import PeersTable, ServerTable

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping
    from pathlib import Path

MANUAL: Final = "Sora Manual"
SIZES: Final = (
    ("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10),
    ("KB", 10**3),
)  # fmt: skip
DURATIONS: Final = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))
RELOAD: Final = {
    "live": "A reload changes it for running sessions too.",
    "worker": "A reload changes it for new sessions.",
    "restart": "It needs a restart.",
}

_CTL_SECTIONS: Final = {
    "signals": r"""The supervisor, whose pid
.B soractl status
shows, stops at SIGTERM and SIGINT (at a second one without waiting for sessions), reloads at SIGHUP and upgrades at
SIGUSR2.""",
    "upgrade": r"""Install the new release over the old one, then run
.BR "soractl upgrade" .
The new release first says whether it can go on with what the old one has. If so, it is executed in the supervisor's own
process, which keeps its pid, its listening sockets, its PostgreSQL and its children, and then replaces the processes as
a reload does. Otherwise nothing happens, and the reason is shown.""",
    "files": r""".TP
.I /etc/sora/sora.toml
The configuration, see
.BR sora.toml (5).""",
    "see also": r""".BR sora\-admin (1),
.BR sora.toml (5)""",
}
_ADMIN_SECTIONS: Final = {
    "trying a script": r""".B sora\-admin sieve test
runs a Sieve script on a message without a server: nothing is stored and nothing is sent. It shows the envelope that it
took, the actions, and what the script did on each of its lines, with its questions and their answers in between. Every
mailbox is taken to exist, unless
.B \-\-missing
is given; lists are empty. The exit status is 1 if the script has errors or fails on this message, which would be kept
in INBOX then.
.PP
.nf
sora\-admin sieve check away.sieve
sora\-admin sieve test away.sieve mail.eml \-\-from bob@example.net \-\-to ann+x@example.com \-\-owner ann@example.com
sora\-admin sieve test \-\-personal scripts/ \-\-global /etc/sora/sieve/ \-\-json main.sieve \- < mail.eml
.fi""",
    "verifying": r""".B sora\-admin verify
walks through mailboxes, bodies, pending uploads, the staging and cache directories of this node, and wrapped keys. What
is known of each body is compared with what is there; with
.B \-\-deep
every copy is read and compared with its hash. With
.B \-\-repair
a body is mended from any good copy: object store, staging, cache, database, quarantine, or the same bytes in another
object of the account. What has no good copy is left as it is. Run it on every node: each sees its own disks. A run that
was cut short goes on where it stopped, unless
.B \-\-restart
is given; it may run beside the servers.
.PP
.B sora\-admin doctor
makes a number of checks and says what to do about those that fail.
.PP
The exit status of
.B verify
is 0 if nothing is wrong or all of it was mended, 3 if a dependency went away (call it again), 4 if something can be
mended or waits for somebody, and 5 if a body has no good copy anywhere. That of
.B doctor
is 0 if there are notices at most, 3 if PostgreSQL or the object store does not answer, 4 if there are warnings, and 5
if there are errors.""",
    "moving in and out": r""".B sora\-admin import maildir|mbox|imap
runs on a node, as the user of the servers, and beside them. The same command given again goes on where it stopped, or
brings what is new; what users have removed here meanwhile does not come back.
.B \-\-dry\-run
only counts. Links in a directory are not followed. Notes say what is not as it was, such as other names and new UIDs;
problems say what was left behind: with one of these the exit status is 1. A folder of an IMAP server whose UIDVALIDITY
has changed between two runs is left alone, because nothing tells what of it is here.
.PP
.B sora\-admin export maildir|mbox
and
.B accounts export
write into a new or empty directory, or go on in one that they have begun.
.B accounts erase
removes an account, its key, its mail and its objects at once; what it cannot reach is in its answer.""",
    "getting it back": r"""Within the grace period
.B messages restore, mailboxes restore
and
.B accounts restore
bring back what was removed.
.B import s3
builds a lost database anew from the journal and the bodies in the object store;
.B journal status
says how much would be lost.
.B mailboxes bump\-uids
is for after a restore of the database to an earlier moment. The commands of a backup and a restore stand
in README.md.""",
    "files": _CTL_SECTIONS["files"],
    "see also": r""".BR soractl (1),
.BR sora.toml (5)""",
}
_TOML_ABOUT: Final = r"""One TOML file says everything that Sora must know.
An unknown key is an error that names the nearest known one;
.B soractl check
reads the file without starting anything.
.PP
A
.I size
is a number of octets or a string such as "25MB" (powers of 1,000) or "25MiB" (powers of 1,024); a
.I duration
is a number of seconds or a string such as "90s", "15m", "1h" or "14d". In any string
.B ${NAME}
is replaced by the variable NAME of the environment. A
.I secret
may also be given as the name of a file that has it: the key with
.B _file
at its end. Relative paths are relative to the file."""
_TOML_EXAMPLE: Final = r""".nf
[database]
primary = "postgresql:///sora"

[object_store]
kind = "s3"
endpoint = "https://s3.example.com"
bucket = "mail"
access_key = "sora"
secret_key_file = "/etc/sora/s3.key"

[local_cache]
path = "/var/lib/sora/cache"

[uploader]
staging_path = "/var/lib/sora/staging"

[process]
runtime_path = "/run/sora"

[servers.imap]
listen = ["0.0.0.0:143"]
tls_listen = ["0.0.0.0:993"]
tls_cert = "/etc/sora/tls.pem"
tls_key = "/etc/sora/tls.key"

[servers.lmtp]
listen = ["unix:/run/sora/lmtp.sock"]
.fi"""


def write(directory: Path, version: str) -> list[Path]:
    """Write every page below `directory`, as `man1/soractl.1` and so on; gives the paths."""
    paths = []
    for name, text in pages(version).items():
        path = directory / f"man{name[-1]}" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        paths.append(path)
    return paths


def pages(version: str) -> dict[str, str]:
    """Every page by file name."""
    about = "start, stop and look after a Sora mail store"
    return {
        "soractl.1": _of_parser(ctl.build_parser(), about, _CTL_SECTIONS, version),
        "sora-admin.1": _of_parser(admin.build_parser(), "administer a Sora mail store", _ADMIN_SECTIONS, version),
        "sora.toml.5": toml(version),
    }


def _of_parser(parser: argparse.ArgumentParser, about: str, sections: Mapping[str, str], version: str) -> str:
    from argparse_manpage.manpage import Manpage  # type: ignore[import-untyped]

    codes, parser.epilog = parser.epilog or "", None  # or it would stand under COMMENTS
    data = {"project_name": "Sora", "version": version, "manual_title": MANUAL, "description": about}
    page = Manpage(parser, data)
    page.add_section("exit status", "=", _escape(codes.removeprefix("Exit codes: ")))
    for heading, text in sections.items():
        page.add_section(heading, "=", text)
    header, _, rest = str(page).partition("\n")
    return header.replace("\\-", "-") + "\n" + rest  # a date with minus signs is no date for mandoc


# ---------------------------------------------------------------------- sora.toml(5)


def toml(version: str) -> str:
    """sora.toml(5)."""
    epoch = float(os.environ.get("SOURCE_DATE_EPOCH", time.time()))
    date = time.strftime("%Y-%m-%d", time.gmtime(epoch))
    lines = [
        f'.TH SORA.TOML "5" "{date}" "Sora {version}" "{MANUAL}"',
        *(".SH NAME", r"sora.toml \- configuration of the Sora mail store"),
        *(".SH DESCRIPTION", _TOML_ABOUT),
    ]
    for heading, about, table in tables():
        lines += [f".SH [{_escape(heading)}]", _escape(about)]
        for key in table:
            lines += _key(key)
    lines += [".SH EXAMPLE", _TOML_EXAMPLE, ".SH SEE ALSO", r".BR soractl (1),", r".BR sora\-admin (1)"]
    return "\n".join(lines) + "\n"


def tables() -> Iterator[tuple[str, str, tuple[msgspec.inspect.Field, ...]]]:
    """Heading, description and keys of every table; the servers' tables are one."""
    for field in _fields(configuration.Config):
        if field.name == "servers":
            names = ", ".join(sorted(configuration.SERVED))
            about = f"One server; NAME is one of {names}. A server whose table is absent does not run."
            shared = _fields(ServerTable)
            yield "servers.NAME", about, shared
            known = {key.name for key in shared}
            about = (PeersTable.__doc__ or "").partition("]: ")[2] + " It has the keys above, and:"
            own = tuple(key for key in _fields(PeersTable) if key.name not in known)
            yield "servers.peers", about[:1].upper() + about[1:], own
        else:
            kind, _, _ = facts(field)
            assert isinstance(kind, msgspec.inspect.StructType)
            about = (kind.cls.__doc__ or "").partition("\n")[0]
            yield field.name, about.partition("]")[2].lstrip(":. ").capitalize(), kind.fields


def _fields(table: type[msgspec.Struct]) -> tuple[msgspec.inspect.Field, ...]:
    info = msgspec.inspect.type_info(table)
    assert isinstance(info, msgspec.inspect.StructType)
    return info.fields


def _key(field: msgspec.inspect.Field) -> Iterator[str]:
    kind, about, extra = facts(field)
    yield ".TP"
    yield rf"\fB{_escape(field.encode_name)}\fR = \fI{_escape(_type(kind, extra))}\fR"
    default = extra.get("default") or _value(field.default, extra)
    sentences = [f"{_sentence(about)}.", *_bounds(kind, extra), f"Default: {default}."]
    if extra.get("secret") and isinstance(kind, msgspec.inspect.StrType):
        sentences.append(f"A secret: {field.encode_name}_file names a file that has it.")
    sentences.append(RELOAD[extra.get("reload", "restart")])
    yield _escape(" ".join(sentences))


def _sentence(text: str) -> str:
    """With a capital, unless it begins with a value or an address."""
    return text[:1].upper() + text[1:] if text.partition(" ")[0].isalpha() else text


def _type(kind: msgspec.inspect.Type, extra: Mapping[str, Any]) -> str:
    """What may stand behind the equals sign."""
    if "kind" in extra:
        return str(extra["kind"])
    if isinstance(kind, msgspec.inspect.LiteralType):
        return " or ".join(f'"{value}"' for value in kind.values)
    names: dict[type[msgspec.inspect.Type], str] = {
        msgspec.inspect.BoolType: "boolean",
        msgspec.inspect.IntType: "integer",
        msgspec.inspect.FloatType: "number",
        msgspec.inspect.StrType: "string",
        msgspec.inspect.VarTupleType: "array of strings",
    }
    return names[type(kind)]


def _bounds(kind: msgspec.inspect.Type, extra: Mapping[str, Any]) -> Iterator[str]:
    least, most = getattr(kind, "ge", None), getattr(kind, "le", None)
    if least is not None and most is not None:
        yield f"From {_number(least)} to {_number(most)}."
    elif least:
        yield f"At least {_value(least, extra)}."


def _value(value: Any, extra: Mapping[str, Any]) -> str:
    """A value as one would write it in the file."""
    units = {"size": SIZES, "duration": DURATIONS}.get(extra.get("kind", ""), ())
    for unit, factor in units:
        if value and value % factor == 0:
            return f'"{_number(value // factor)}{unit}"'
    if isinstance(value, tuple):
        return "[" + ", ".join(_value(item, {}) for item in value) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else _number(value)


def _number(value: float) -> str:
    """All its digits: an integer with an exponent would not be one to TOML."""
    return f"{value:.0f}" if value == int(value) else f"{value:g}"


def _escape(text: str) -> str:
    """Text that roff shows as it is: a leading dot or quote is a request, a bare hyphen may be set as a dash."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{text}" if text.startswith((".", "'")) else text
