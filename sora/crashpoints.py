"""Named points at which a process can be told to die, on the ordinary build.

With `SORA_CRASH_AT=<point>[:n]` in the environment, the process that passes the point for the n-th time (n = 1 if it is
left out) kills itself with SIGKILL: no handler, no flush, no `finally`, exactly what a power cut leaves behind. Every
process counts for itself. Without the variable `crash_point` is an empty function.

`SORA_CRASH_AT=@<file>` asks the file at every point instead, so that one running node can be told again and again: it
need not be there, and holds `<point>` or `<point> stop`. The first process to pass the point renames the file to
`<file>.<pid>`, so it happens once, and then kills itself, or stops (SIGSTOP) for whoever wants to do something else to
the node at this very moment.

A point stands at every step between which a crash could lose or double something. Whoever adds a step adds a row here;
a test compares the rows with the calls.
"""

from __future__ import annotations

import difflib
import os
import signal
from typing import TYPE_CHECKING, Final

from sora.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

VARIABLE: Final = "SORA_CRASH_AT"

POINTS: Final[dict[str, str]] = {
    "lmtp.staged": "delivered bodies are on disk in staging, nothing is in the database",
    "lmtp.committed": "the delivery is committed, the client has had no reply",
    "lmtp.replied": "the replies are handed to the socket",
    "append.staged": "appended bodies are on disk in staging, nothing is in the database",
    "append.committed": "APPEND is committed, the client has had no reply",
    "copy.chosen": "the messages of a COPY are chosen, nothing is in the database",
    "copy.committed": "COPY is committed, the client has had no reply",
    "move.chosen": "the messages of a MOVE are chosen, nothing is in the database",
    "move.committed": "MOVE is committed, the client has had no reply",
    "expunge.chosen": "EXPUNGE is about to begin, nothing is in the database",
    "expunge.committed": "EXPUNGE is committed, the client has had no reply",
    "imapsieve.noted": "a change of a mailbox is noted, its script has not run, the client has had no reply",
    "imapsieve.stored": "what a script files and sends is committed, the message itself is as it was",
    "imapsieve.flagged": "the message has its flags, the event is still there",
    "uploader.claimed": "a pending upload is chosen, nothing is sent",
    "uploader.put": "the object store has confirmed the object, the row is still pending",
    "uploader.marked": "the content is marked as uploaded, the staged file is still there",
    "uploader.unlinked": "the staged file is gone",
    "uploader.key_put": "the wrapped key of an account is in the object store, its row does not say so",
    "outbound.claimed": "mail is claimed from the queue, nothing is sent",
    "outbound.sent": "the smarthost has taken a mail, it is still in the queue",
    "outbound.marked": "a mail that was sent is gone from the queue, or it is noted why it was not",
    "adopt.fenced": "a silent node is declared dead, its uploads are still its own",
    "adopt.moved": "a batch of its uploads belongs to another node, the next one not yet",
    "adopt.staged": "a body of a dead node is staged on the node that adopts it, the upload is still the dead one's",
    "cleanup.expunged": "messages past the retention are expunged, the place of the walk is not noted",
    "cleanup.account_step": "a step of removing a deleted account is committed",
    "cleanup.mailbox_step": "a batch of a deleted mailbox is removed",
    "cleanup.trimmed": "a batch of expunged messages is removed, their bodies are not looked at",
    "cleanup.witnesses_trimmed": "old witnesses of deliveries are removed",
    "cleanup.archived": "a batch of texts has left the full-text index",
    "cleanup.compacted": "a part of a journal is merged",
    "cleanup.selected": "contents to remove are chosen, nothing is removed",
    "cleanup.marked": "contents are marked as going, their objects are still there",
    "cleanup.object_deleted": "the object is gone from the object store, its row is still there",
    "cleanup.row_deleted": "the row of a removed content is gone",
    "cleanup.orphan_noted": "objects without a row are noted",
    "cleanup.orphan_deleted": "an object without a row is deleted, its note is still there",
    "journal.read": "what has changed is read, nothing of it is in the object store",
    "journal.put": "a segment of the journal is in the object store, the database does not know",
    "journal.marked": "the database knows of a segment of the journal",
    "journal.snapshot_put": "a snapshot of an account is in the object store, the database does not know",
    "journal.snapshot_marked": "the database knows of a snapshot, the one before is still there",
    "journal.deleted": "segments that nobody needs are deleted, the database does not know",
    "journal.stopped": "the bucket says that the journal is off, the database does not",
    "rebuild.key": "a wrapped key is gathered out of the bucket",
    "rebuild.journal": "an object of the journal is gathered",
    "rebuild.account": "an account is made again, its messages are gathered",
    "rebuild.objects": "some objects are listed",
    "rebuild.staged": "all numbers in use are passed over, and bodies are found that are only staged",
    "rebuild.put": "a staged body is in the object store, its content is not",
    "rebuild.bodies": "some bodies that the journal names are read",
    "rebuild.placed": "some messages that the journal does not name have a place, and no body",
    "rebuild.found": "some bodies that the journal does not name are read",
    "rebuild.filled": "some messages of a mailbox are in place",
    "rebuild.closed": "a mailbox is done",
    "rebuild.finished": "all is there, nobody was told",
    "reload.forked": "the processes of the new generation are forked, none is ready; in the supervisor",
    "reload.successor": "a process of a later generation is about to say that it is ready",
    "reload.ready": "the new generation is ready, the old one does not know; in the supervisor",
    "reload.taken_over": "the old generation is told to end, nobody has been answered; in the supervisor",
    "shred.begun": "the key of an account is destroyed, everything else of it is still there",
    "shred.keys_removed": "its wrapped keys are gone from the object store too",
    "shred.rows_removed": "a batch of its rows is removed",
    "shred.files_removed": "its staged and cached files are gone from this node, which is not noted",
    "import.begun": "an import has a row, nothing has come",
    "import.folder_begun": "the mailbox of a folder is there, nothing has come into it",
    "import.staged": "bodies of a batch are on disk in staging, nothing is in the database",
    "import.committed": "a batch is committed with the rows that say so",
    "import.folder_done": "all of a folder is here, the next one is not begun",
    "import.scripts_done": "everything has come, the import is not noted as finished",
    "export.page_written": "a page of messages is written, the list of UIDs of the folder is not",
    "export.mailbox_done": "all of a mailbox is written, the next one is not begun",
    "erase.deleted": "an account to erase is deleted, all of it is still there",
    "erase.shredded": "its key is destroyed, if it had one",
    "erase.purged": "its rows and bodies are gone, the account itself is still there",
    "rotate.key_added": "a master key is in the keyring, nothing is wrapped with it",
    "rotate.rewrapped": "the keys of a batch of accounts are wrapped anew",
    "verify.noted": "the damage of a page is written down, nothing of it is mended",
    "verify.put_aside": "a damaged staged file is put aside, the good copy is still elsewhere",
    "verify.staged": "a good copy of a body is staged, nobody knows that it is to be uploaded",
    "verify.queued": "the body waits for its upload again, the object is still missing or damaged",
    "verify.uploaded": "the object is right again, the finding does not say so",
    "verify.cache_cleared": "a damaged file of the cache is put aside, the good copy is still elsewhere",
    "verify.housed": "messages that have lost their mailbox have another one, whose counters are zero",
    "verify.rebuilt": "what is derived of a mailbox is made anew, the finding does not say so",
    "verify.content_restored": "a content row is made anew from its object, the finding does not say so",
    "verify.key_unmarked": "a wrapped key is to be stored again, its object is still missing or damaged",
    "verify.mended": "all damage of a page is mended, the place of the run is not noted",
}


def parse(value: str) -> tuple[str, int] | None:
    """The point and the count that `SORA_CRASH_AT` names; None if it is empty.

    Raises:
        ConfigError: no such point, or a count that is not a positive number.
    """
    if not value:
        return None
    point, _, count = value.partition(":")
    if point not in POINTS:
        near = difflib.get_close_matches(point, POINTS, 1)
        raise ConfigError(f"{VARIABLE}: no crash point {point!r}" + (f", did you mean {near[0]!r}?" if near else ""))
    if count and not (count.isascii() and count.isdigit() and int(count)):
        raise ConfigError(f"{VARIABLE}: the count after {point!r} must be a positive number, not {count!r}")
    return point, int(count or 1)


def _pass(point: str) -> None:
    """No crash is asked for."""


def _armed(target: str, count: int) -> Callable[[str], None]:
    """A counter that ends this process when `target` is passed for the `count`-th time."""
    passes = 0

    def crash_point(point: str) -> None:
        nonlocal passes
        if point == target:
            passes += 1
            if passes == count:
                os.kill(os.getpid(), signal.SIGKILL)

    return crash_point


def _watching(path: str) -> Callable[[str], None]:
    """What the file asks for, once."""

    def crash_point(point: str) -> None:
        try:
            with open(path, encoding="ascii") as file:
                wanted, _, how = file.read().strip().partition(" ")
            if wanted != point:
                return
            os.rename(path, f"{path}.{os.getpid()}")
        except FileNotFoundError:
            return  # nothing is asked for, or another process was first
        os.kill(os.getpid(), signal.SIGSTOP if how == "stop" else signal.SIGKILL)

    return crash_point


def _chosen(value: str) -> Callable[[str], None]:
    if value.startswith("@"):
        return _watching(value[1:])
    target = parse(value)
    return _armed(*target) if target else _pass


crash_point: Callable[[str], None] = _chosen(os.environ.get(VARIABLE, ""))
"""`crash_point("lmtp.staged")`: pass a point of the table."""
