"""Rights decide: every command on a mailbox of somebody else, with random rights, against a table of RFC 4314 §4.

The table says what each command takes and what it leaves behind. It knows nothing of how rights are kept: it adds up
entries of an access control list by itself.
"""

from __future__ import annotations

import random
import re
from typing import TYPE_CHECKING, Final

import pytest
import pytest_asyncio

from tests.support.imap import ImapWorld
from tests.support.node import open_node

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.support.postgres import Cluster
    from tests.support.transcripts import Link

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]

LETTERS: Final = "lrswipkxtea"
BOX: Final = "Shared/ann@example.com/Box"
WORLDS: Final = 8
STEPS: Final = 60


@pytest_asyncio.fixture(loop_scope="module")
async def world(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ImapWorld]:
    name = await cluster.create()
    async with open_node(cluster.dsn(name), tmp_path_factory.mktemp("node")) as node:
        yield ImapWorld(node)
    await cluster.drop(name)


class Client:
    """One connection; `run` gives the untagged lines and the tagged one."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._number = 0

    async def run(self, command: str) -> tuple[list[str], str]:
        self._number += 1
        tag = f"t{self._number}"
        await self._link.send(f"{tag} {command}\r\n".encode())
        lines: list[str] = []
        while True:
            line = (await self._link.read_line()).decode()
            assert not line.startswith("* BYE"), (command, line)
            if line.startswith(f"{tag} "):
                return lines, line.removeprefix(f"{tag} ")
            lines.append(line)

    async def must(self, command: str) -> list[str]:
        lines, done = await self.run(command)
        assert done.startswith("OK"), (command, done)
        return lines


class Model:
    """The access control list of one mailbox, and the rights that follow from it."""

    def __init__(self) -> None:
        self.entries: dict[str, set[str]] = {}

    def rights(self) -> set[str]:
        given = self.entries.get("bob", set()) | self.entries.get("anyone", set())
        return given - self.entries.get("-bob", set())

    def may(self, needed: str) -> str:
        """OK, or the response code of the refusal: what may not be looked up does not exist, but can be used."""
        if set(needed) <= self.rights():
            return "OK"
        return "NOPERM" if "l" in self.rights() else "NONEXISTENT"


def code(done: str) -> str:
    """OK, or the response code of a NO."""
    found = re.match(r"NO \[(\w+)\]", done)
    return found[1] if found else done.split()[0]


class Play:
    """Ann owns the mailbox, Bob uses it; `Box/Doomed` is there to be deleted or renamed, with the same rights."""

    def __init__(self, ann: Client, bob: Client, dice: random.Random) -> None:
        self.ann = ann
        self.bob = bob
        self.dice = dice
        self.model = Model()

    async def set_rights(self) -> None:
        """One entry changes; mostly to something with which a command has a chance."""
        await self.bob.must("EXAMINE INBOX")  # who loses r in what is selected is thrown out
        identifier = self.dice.choice(["bob", "bob", "bob", "anyone", "-bob"])  # -anyone is Ann too
        likely = 0.3 if identifier.startswith("-") else 0.7
        letters = {letter for letter in LETTERS if self.dice.random() < likely}
        if identifier == "bob" and self.dice.random() < 0.8:
            letters |= {"l", "r"}
        mode = self.dice.choice("=+-")
        old = self.model.entries.get(identifier, set())
        new = {"=": letters, "+": old | letters, "-": old - letters}[mode]
        self.model.entries[identifier] = new
        who = identifier.replace("bob", "bob@example.com")
        rights = ("" if mode == "=" else mode) + "".join(self.dice.sample(sorted(letters), len(letters)))
        for box in ("Box", "Box/Doomed"):
            await self.ann.must(f'SETACL {box} {who} "{rights}"')

    async def listed(self) -> None:
        lines = await self.bob.must('LIST "" "Shared/*" RETURN (MYRIGHTS)')
        shown = {line.split()[-1] for line in lines if line.startswith("* LIST (\\HasChildren) ") and "Box" in line}
        assert shown == ({BOX} if "l" in self.model.rights() else set())
        for line in lines:
            if line.startswith(f"* MYRIGHTS {BOX} "):
                assert set(line.split()[-1]) - set("cd") == self.model.rights()

    async def refused_or_done(self, command: str, needed: str, *, missing: str = "NONEXISTENT") -> bool:
        """Run a command that takes rights; True if it was done."""
        expected = self.model.may(needed)
        expected = missing if expected == "NONEXISTENT" else expected
        _, done = await self.bob.run(command)
        assert code(done) == expected, (command, done, sorted(self.model.rights()))
        return expected == "OK"

    async def in_selected(self, command: str, needed: str) -> bool:
        """The same in the mailbox that is selected: there is no doubt that it exists."""
        _, done = await self.bob.run(command)
        allowed = set(needed) <= self.model.rights()
        assert code(done) == ("OK" if allowed else "NOPERM"), (command, done, sorted(self.model.rights()))
        return allowed

    async def simple(self) -> None:
        command, needed = self.dice.choice(
            [
                (f"STATUS {BOX} (MESSAGES)", "r"),
                (f"SUBSCRIBE {BOX}", "l"),
                (f"GETACL {BOX}", "a"),
                (f"LISTRIGHTS {BOX} bob@example.com", "a"),
                (f"EXAMINE {BOX}", "r"),
                (f"GETQUOTAROOT {BOX}", "r"),
            ]
        )
        await self.refused_or_done(command, needed)

    async def myrights(self) -> None:
        """Any right that shows what the mailbox is for (RFC 4314 §4)."""
        lines, done = await self.bob.run(f"MYRIGHTS {BOX}")
        shown = bool(self.model.rights() & set("lrikxa"))
        assert code(done) == ("OK" if shown else "NONEXISTENT"), (done, sorted(self.model.rights()))
        if shown:
            assert set(lines[0].split()[-1]) - set("cd") == self.model.rights()

    async def metadata(self) -> None:
        some = self.model.rights() & set("rswip")
        lookup = "l" in self.model.rights()
        for command, allowed in (
            (f"GETMETADATA {BOX} /shared/comment", bool(some)),
            (f'SETMETADATA {BOX} (/private/comment "x")', bool(some)),
            (f'SETMETADATA {BOX} (/shared/comment "x")', "w" in some),
        ):
            _, done = await self.bob.run(command)
            expected = "NONEXISTENT" if not lookup else "OK" if allowed else "NOPERM"
            assert code(done) == expected, (command, done, sorted(self.model.rights()))

    async def create(self) -> None:
        name = f"{BOX}/New{self.dice.randrange(10**9)}"
        # a parent that may not be looked up still says no more than that this may not be
        _, done = await self.bob.run(f"CREATE {name}")
        assert code(done) == ("OK" if "k" in self.model.rights() else "NOPERM")
        if code(done) == "OK":
            own = name.removeprefix("Shared/ann@example.com/")
            lines = await self.ann.must(f"GETACL {own}")
            parent = await self.ann.must("GETACL Box")
            assert lines[0].removeprefix(f"* ACL {own}") == parent[0].removeprefix("* ACL Box"), "it inherits the ACL"
            await self.ann.must(f"DELETE {own}")

    async def delete(self) -> None:
        if await self.refused_or_done(f"DELETE {BOX}/Doomed", "x"):
            await self.ann.must("CREATE Box/Doomed")

    async def rename(self) -> None:
        rights = self.model.rights()
        _, done = await self.bob.run(f"RENAME {BOX}/Doomed {BOX}/Renamed")
        expected = self.model.may("x")
        if expected == "OK" and "k" not in rights:
            expected = "NOPERM"
        assert code(done) == expected, (done, sorted(rights))
        if expected == "OK":
            await self.ann.must("RENAME Box/Renamed Box/Doomed")

    def kept(self, flags: set[str]) -> set[str]:
        """Flags that one with these rights may set."""
        right = {"\\Seen": "s", "\\Deleted": "t"}
        return {flag for flag in flags if right.get(flag, "w") in self.model.rights()}

    async def flags_of(self, client: Client, box: str, what: str = "*") -> set[str]:
        await client.must(f"EXAMINE {box}")
        lines = await client.must(f"FETCH {what} (FLAGS)")
        return set(re.findall(r"\\?\w+", lines[-1].rpartition("FLAGS (")[2])) - {"\\Recent"}

    async def append(self) -> None:
        flags = {flag for flag in ("\\Seen", "\\Deleted", "\\Flagged", "Key") if self.dice.random() < 0.5}
        before = await self.count()
        if await self.refused_or_done(f"APPEND {BOX} ({' '.join(flags)}) {{5+}}\r\nhello", "i", missing="TRYCREATE"):
            assert await self.count() == before + 1
            assert await self.flags_of(self.ann, "Box") == self.kept(flags) - {"\\Seen"}, "the owner has not seen it"
            if "r" in self.model.rights():
                assert await self.flags_of(self.bob, BOX) == self.kept(flags)
        else:
            assert await self.count() == before

    async def copy_in(self) -> None:
        flags = {flag for flag in ("\\Seen", "\\Deleted", "\\Answered", "Key") if self.dice.random() < 0.5}
        await self.bob.must("SELECT INBOX")
        await self.bob.must(f"STORE 1 FLAGS ({' '.join(flags)})")
        if await self.refused_or_done(f"COPY 1 {BOX}", "i", missing="TRYCREATE"):
            assert await self.flags_of(self.ann, "Box") == self.kept(flags) - {"\\Seen"}
            if "r" in self.model.rights():
                assert await self.flags_of(self.bob, BOX) == self.kept(flags)

    async def count(self) -> int:
        [line] = [line for line in await self.ann.must("STATUS Box (MESSAGES)") if line.startswith("* STATUS ")]
        return int(line.split()[-1].rstrip(")"))

    async def selected(self) -> None:
        """Commands of the selected state, on a message that Ann has just put there."""
        await self.ann.must("APPEND Box (\\Answered) {5+}\r\nhello")
        rights = self.model.rights()
        lines, done = await self.bob.run(f"SELECT {BOX}")
        assert code(done) == self.model.may("r"), (done, sorted(rights))
        if code(done) != "OK":
            return
        assert done.startswith("OK [READ-WRITE]") == bool(rights & set("wtie")), (done, sorted(rights))
        permanent = next(line for line in lines if "PERMANENTFLAGS" in line)
        for flag, right in (("\\Seen", "s"), ("\\Deleted", "t"), ("\\Flagged", "w"), ("\\*", "w")):
            assert (f"{flag} " in permanent or f"{flag})" in permanent) == (right in rights), permanent
        await self.dice.choice([self.store, self.fetch, self.expunge, self.move, self.close])()

    async def store(self) -> None:
        flags = {flag for flag in ("\\Seen", "\\Deleted", "\\Flagged", "Key") if self.dice.random() < 0.5} or {"Key"}
        mode = self.dice.choice(["", "+", "-"])
        _, done = await self.bob.run(f"STORE * {mode}FLAGS ({' '.join(flags)})")
        kept, had = self.kept(flags), {"\\Answered"}
        changeable = self.kept({"\\Seen", "\\Deleted", "\\Flagged", "Key", "\\Answered"})
        assert code(done) == ("OK" if (changeable if mode == "" else kept) else "NOPERM"), (done, mode, flags)
        after = {"": (had - changeable) | kept, "+": had | kept, "-": had - kept}[mode]
        assert await self.flags_of(self.bob, BOX) == after
        assert await self.flags_of(self.ann, "Box") == after - {"\\Seen"}

    async def fetch(self) -> None:
        await self.bob.must("FETCH * BODY[]")
        assert await self.flags_of(self.bob, BOX) == {"\\Answered"} | ({"\\Seen"} & self.kept({"\\Seen"}))
        assert await self.flags_of(self.ann, "Box") == {"\\Answered"}

    async def expunge(self) -> None:
        await self.delete_flag()
        before = await self.count()
        if await self.in_selected("EXPUNGE", "e"):
            assert await self.count() < before
        else:
            assert await self.count() == before

    async def close(self) -> None:
        await self.delete_flag()
        before = await self.count()
        await self.bob.must("CLOSE")
        assert (await self.count() < before) == ("e" in self.model.rights())

    async def delete_flag(self) -> None:
        """As somebody else would have set it."""
        await self.ann.must("SELECT Box")
        await self.ann.must("STORE * +FLAGS.SILENT (\\Deleted)")
        await self.bob.must("NOOP")

    async def move(self) -> None:
        before = await self.count()
        if await self.in_selected("MOVE * INBOX", "et"):
            assert await self.count() == before - 1
        else:
            assert await self.count() == before

    async def revoke_while_selected(self) -> None:
        """What is taken away is gone at the next command, and what is given is there."""
        if self.model.may("r") != "OK":
            return
        await self.ann.must("APPEND Box {5+}\r\nhello")
        await self.bob.must(f"SELECT {BOX}")
        letter = self.dice.choice("we")
        command = {"w": "STORE 1 +FLAGS (Key)", "e": "EXPUNGE"}[letter]
        self.model.entries.setdefault("-bob", set()).symmetric_difference_update({letter})
        mode = "+" if letter in self.model.entries["-bob"] else "-"
        for box in ("Box", "Box/Doomed"):
            await self.ann.must(f"SETACL {box} -bob@example.com {mode}{letter}")
        await self.in_selected(command, letter)

    def moves(self) -> list[Callable[[], object]]:
        return [
            self.set_rights, self.set_rights, self.listed, self.simple, self.simple, self.myrights, self.metadata,
            self.create, self.delete, self.rename, self.append, self.copy_in, self.selected, self.selected,
            self.selected, self.revoke_while_selected,
        ]  # fmt: skip


@pytest.mark.parametrize("seed", range(WORLDS))
async def test_every_command_asks_the_rights(world: ImapWorld, seed: int) -> None:
    for given in ("ann: Box=1 Box/Doomed=0", "bob: INBOX=1", "link 1: ann", "link 2: bob"):
        await world.given(given)
    links = [await world.connect(number) for number in (1, 2)]
    play = Play(Client(links[0]), Client(links[1]), random.Random(seed))
    for _ in range(STEPS):
        await play.dice.choice(play.moves())()  # type: ignore[misc]
    for link in links:
        await link.hang_up()
