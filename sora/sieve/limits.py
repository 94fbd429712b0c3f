"""What one run may take, of work and of room."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from sora.sieve.actions import FileInto, Keep, Redirect, Send

if TYPE_CHECKING:
    from collections.abc import Sequence

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

    def over(self, actions: Sequence[Action], original: Mail) -> str:
        """Which bound these actions pass; empty if they pass none.

        What is kept implicitly is no action (RFC 5228 §2.10.2), though a version of the message like any other.
        """
        taken = [action for action in actions if not (isinstance(action, Keep) and action.implicit)]
        if len(taken) > self.actions:
            return f"More than {self.actions} actions"
        if sum(isinstance(action, (Redirect, Send)) for action in taken) > self.redirects:
            return f"More than {self.redirects} messages are sent"
        versions = {
            id(action.mail): action.mail.size
            for action in actions
            if isinstance(action, (Keep, FileInto, Redirect)) and action.mail is not original
        }
        if sum(versions.values()) > self.edited_bytes:
            return f"The edited versions of this message have more than {self.edited_bytes} octets"
        made = (len(action.data) * _copies(action) for action in taken if isinstance(action, Send))
        if sum(made) > self.made_bytes:
            return f"The mail that is made has more than {self.made_bytes} octets"
        return ""


def _copies(action: Send) -> int:
    return len(action.recipients) + (action.copy is not None)
