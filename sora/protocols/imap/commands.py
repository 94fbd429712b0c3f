"""Which commands there are: one row each, and everything that follows from the row.

The session takes from it the state check, the parser, the handler, whether messages may be renumbered at the command's
end, CAPABILITY and the label of its metrics. A command without a row does not exist.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from sora.protocols.imap import (
    acl,
    append,
    enable,
    flagging,
    idle,
    login,
    mailboxes,
    messages,
    metadata,
    notify,
    quota,
    select,
    transfer,
)
from sora.protocols.imap.finding import batches, contexts, multisearch, search, sort, thread
from sora.protocols.imap.state import ANY, AUTHENTICATED, NOT_AUTHENTICATED, SELECTED, State
from sora.wire import (
    imap_acl,
    imap_append,
    imap_contexts,
    imap_fetch,
    imap_list,
    imap_metadata,
    imap_multisearch,
    imap_notify,
    imap_quota,
    imap_search,
    imap_sort,
)
from sora.wire import imap_commands as wire

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sora._native.imapscan import Cursor
    from sora.protocols.imap.replies import Reply
    from sora.protocols.imap.session import Session


class Effect(enum.Flag):
    """What a command means for the sequence numbers of its session.

    Attributes:
        USES_SEQS: Its arguments or responses hold sequence numbers (unless it is the UID variant).
        BREAKS_SEQS: EXPUNGE responses may be sent at its end although it uses numbers (RFC 9051 §7.5.1).
    """

    NONE = 0
    USES_SEQS = enum.auto()
    BREAKS_SEQS = enum.auto()


NONE: Final = Effect.NONE
USES_SEQS: Final = Effect.USES_SEQS
BREAKS_SEQS: Final = Effect.BREAKS_SEQS


class Command(Struct, frozen=True):
    """One row.

    Attributes:
        name: Upper case, without UID.
        parse: From the cursor behind the name to a value; raises BadSyntax.
        run: Does it; None: `<name> completed`.
        states: States in which it is allowed.
        effect: See `Effect`.
        capability: Advertised once this row is here, in the states in which the command is allowed; or empty.
        uid: There is a UID variant, run by the same two functions.
        takes_messages: Its literals are messages, which are received as they come.
    """

    name: str
    parse: Callable[[Cursor], Any]
    run: Callable[[Session, Any], Awaitable[Reply | None]]
    states: State
    effect: Effect = NONE
    capability: str = ""
    uid: bool = False
    takes_messages: bool = False

    def speaks_of_seqs(self, by_uid: bool) -> bool:
        """Its arguments or responses hold sequence numbers, and need not: it has a UID variant."""
        return self.uid and not by_uid and bool(self.effect & USES_SEQS)

    def holds_expunges(self, by_uid: bool) -> bool:
        """Messages may not be renumbered at the end of this command."""
        return not by_uid and self.effect & (USES_SEQS | BREAKS_SEQS) == USES_SEQS


USES_AND_BREAKS: Final = USES_SEQS | BREAKS_SEQS
OUT: Final = NOT_AUTHENTICATED
IN: Final = AUTHENTICATED | SELECTED
SEL: Final = SELECTED

# fmt: off
ROWS: Final = (
    #       name            parse                      run                    state sequence numbers capability
    Command("CAPABILITY",   wire.parse_capability,     login.capability,      ANY),
    Command("NOOP",         wire.parse_noop,           select.noop,           ANY, BREAKS_SEQS),
    Command("LOGOUT",       wire.parse_logout,         login.logout,          ANY),
    Command("ID",           wire.parse_id,             login.identify,        ANY, NONE,           "ID"),
    Command("STARTTLS",     wire.parse_starttls,       login.starttls,        OUT),
    Command("AUTHENTICATE", wire.parse_authenticate,   login.authenticate,    OUT),
    Command("LOGIN",        wire.parse_login,          login.login,           OUT),
    Command("UNAUTHENTICATE", wire.parse_unauthenticate, login.unauthenticate, IN, NONE,        "UNAUTHENTICATE"),
    Command("ENABLE",       wire.parse_enable,         enable.enable,         IN,  NONE,           "ENABLE"),
    Command("COMPRESS",     wire.parse_compress,       login.compress,        IN),
    Command("SELECT",       wire.parse_select,         select.select,         IN),
    Command("EXAMINE",      wire.parse_examine,        select.select,         IN),
    Command("CREATE",       wire.parse_create,         mailboxes.create,      IN),
    Command("DELETE",       wire.parse_delete,         mailboxes.delete,      IN),
    Command("RENAME",       wire.parse_rename,         mailboxes.rename,      IN),
    Command("SUBSCRIBE",    wire.parse_subscribe,      mailboxes.subscribe,   IN),
    Command("UNSUBSCRIBE",  wire.parse_unsubscribe,    mailboxes.unsubscribe, IN),
    Command("LIST",         imap_list.parse_list,      mailboxes.list_,       IN),
    Command("LSUB",         imap_list.parse_lsub,      mailboxes.lsub,        IN),
    Command("STATUS",       imap_list.parse_status,    mailboxes.status,      IN),
    Command("NAMESPACE",    wire.parse_namespace,      mailboxes.namespace,   IN,  NONE,           "NAMESPACE"),
    Command("GETQUOTA",     imap_quota.parse_getquota, quota.getquota,        IN,  NONE,           "QUOTA"),
    Command("GETQUOTAROOT", imap_quota.parse_getquotaroot, quota.getquotaroot, IN),
    Command("SETQUOTA",     imap_quota.parse_setquota, quota.setquota,        IN,  NONE,           "QUOTASET"),
    Command("SETACL",       imap_acl.parse_setacl,     acl.setacl,            IN,  NONE,           "ACL"),
    Command("DELETEACL",    imap_acl.parse_deleteacl,  acl.deleteacl,         IN),
    Command("GETACL",       imap_acl.parse_getacl,     acl.getacl,            IN),
    Command("LISTRIGHTS",   imap_acl.parse_listrights, acl.listrights,        IN),
    Command("MYRIGHTS",     imap_acl.parse_myrights,   acl.myrights,          IN),
    Command("GETMETADATA",  imap_metadata.parse_getmetadata, metadata.getmetadata, IN, NONE,       "METADATA"),
    Command("SETMETADATA",  imap_metadata.parse_setmetadata, metadata.setmetadata, IN),
    Command("APPEND",       imap_append.parse_append,  append.append,         IN,  NONE,           takes_messages=True),
    Command("IDLE",         wire.parse_idle,           idle.idle,             IN,  BREAKS_SEQS,    "IDLE"),
    Command("NOTIFY",       imap_notify.parse_notify,  notify.notify,         IN,  BREAKS_SEQS,    "NOTIFY"),
    Command("CHECK",        wire.parse_check,          select.noop,           SEL, BREAKS_SEQS),
    Command("CLOSE",        wire.parse_close,          select.close,          SEL),
    Command("UNSELECT",     wire.parse_unselect,       select.unselect,       SEL, NONE,           "UNSELECT"),
    Command("EXPUNGE",      wire.parse_expunge,        transfer.expunge,      SEL, BREAKS_SEQS,    "UIDPLUS", uid=True),
    Command("SEARCH",       imap_search.parse_search,  search.search,         SEL, USES_SEQS,      uid=True),
    Command("ESEARCH",      imap_multisearch.parse_esearch, multisearch.esearch, IN, USES_SEQS, "MULTISEARCH"),
    Command("CANCELUPDATE", imap_contexts.parse_cancelupdate, contexts.cancelupdate, SEL, NONE, "CONTEXT=SEARCH"),
    Command("UIDBATCHES",   imap_contexts.parse_uidbatches, batches.uidbatches, SEL, NONE, "UIDBATCHES"),
    Command("SORT",         imap_sort.parse_sort,      sort.sort,             SEL, USES_SEQS,      "SORT", uid=True),
    Command("THREAD",       imap_sort.parse_thread,    thread.thread,         SEL, USES_SEQS,      uid=True),
    Command("FETCH",        imap_fetch.parse_fetch,    messages.fetch,        SEL, USES_SEQS,      uid=True),
    Command("STORE",        wire.parse_store,          flagging.store,        SEL, USES_SEQS,      uid=True),
    Command("COPY",         wire.parse_copy,           transfer.copy,         SEL, USES_AND_BREAKS, uid=True),
    Command("MOVE",         wire.parse_move,           transfer.move,         SEL, USES_AND_BREAKS, "MOVE", uid=True),
    Command("REPLACE",      imap_append.parse_replace, append.replace,        SEL, USES_AND_BREAKS, "REPLACE", uid=True,
            takes_messages=True),
)
# fmt: on


def _by_name() -> dict[bytes, Command]:
    named = {row.name.encode(): row for row in ROWS}
    return named | {b"UID " + row.name.encode(): row for row in ROWS if row.uid}


COMMANDS: Final = _by_name()
"""By the name that the scanner gives, `UID …` included."""
