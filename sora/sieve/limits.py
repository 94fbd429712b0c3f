"""What one run may take, of work and of room."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from sora.sieve.actions import FileInto, Keep, Redirect, Send

if TYPE_CHECKING:
    from sora.sieve.actions import Action
    from sora.sieve.mail import Mail


class Limits(Struct, frozen=True):
    """What one run may take.

    Attributes:
        instructions: Of all scripts together; about a second.
        slice: Instructions between two pauses; 3 to 5 ms at the worst.
        redirects: Redirections and notifications.
        actions: All of them.
        variable_bytes: Length of one variable.
        variables: How many of them there may be.
        text_characters: Of a text with its variables filled in.
        include_depth: Scripts inside scripts.
        includes: Scripts included in all.
        edited_bytes: Of all versions of the message that are filed or sent, as far as they are not the one that came:
            each is held in memory, hashed and stored on its own.
        made_bytes: Of all mail that is made, for each of its recipients and for its copy: it is written in one
            transaction with the message.
    """

    instructions: int = 1_000_000
    slice: int = 3_000
    redirects: int = 32
    actions: int = 100
    variable_bytes: int = 64 * 1024
    variables: int = 256
    text_characters: int = 1 << 20
    include_depth: int = 10
    includes: int = 100
    edited_bytes: int = 128 << 20
    made_bytes: int = 16 << 20


class Weight:
    """What the actions of a run come to, so that no bound is passed: each is looked at once."""

    __slots__ = "_actions", "_edited", "_limits", "_made", "_original", "_sent", "_versions"

    def __init__(self, limits: Limits, original: Mail) -> None:
        self._limits = limits
        self._original = original
        self._actions = self._sent = self._edited = self._made = 0
        self._versions: tuple[Mail, ...] = ()

    def add(self, action: Action) -> str:
        """One more action, of those that a script takes; which bound it passes, empty if none.

        The run ends where one is passed: what was added then does not count any more.
        """
        self._actions += 1
        if self._actions > self._limits.actions:
            return f"More than {self._limits.actions} actions"
        if isinstance(action, (Redirect, Send)):
            self._sent += 1
            if self._sent > self._limits.redirects:
                return f"More than {self._limits.redirects} messages are sent"
        if isinstance(action, (Keep, FileInto, Redirect)):
            mail = action.mail
            if mail is not self._original:
                if over := self.over(mail):
                    return over
                if not self._has(mail):
                    self._versions += (mail,)
                    self._edited += mail.size
        elif isinstance(action, Send):
            self._made += len(action.data) * (len(action.recipients) + (action.copy is not None))
            if self._made > self._limits.made_bytes:
                return f"The mail that is made has more than {self._limits.made_bytes} octets"
        return ""

    def over(self, mail: Mail) -> str:
        """The same, if this version of the message is kept implicitly; that is no action (RFC 5228 §2.10.2)."""
        if mail is self._original or self._edited + mail.size <= self._limits.edited_bytes or self._has(mail):
            return ""
        return f"The edited versions of this message have more than {self._limits.edited_bytes} octets"

    def _has(self, mail: Mail) -> bool:
        return any(one is mail for one in self._versions)
