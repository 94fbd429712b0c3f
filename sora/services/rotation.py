"""Master keys: whether those of the keyring fit the database, and wrapping data keys anew with the newest.

A rotation touches no body: data keys stay what they are, and are only wrapped by another master key.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from sora import log
from sora.crashpoints import crash_point
from sora.errors import ConfigError, KeyUnavailable, NotFound

if TYPE_CHECKING:
    from sora.store.account_keys import StoredKey, WrappedKeys
    from sora.store.keyring import Keyring, MasterKey

BATCH: Final = 500

_log = log.get(__name__)


class Rewrapped(Struct, frozen=True):
    """What a rotation did.

    Attributes:
        rewrapped: Accounts whose key was wrapped anew.
        failed: Accounts whose key could not be unwrapped.
    """

    rewrapped: int = 0
    failed: int = 0


async def check(wrapped: WrappedKeys, keyring: Keyring | None) -> None:
    """See whether the keyring and the database belong together.

    A master key that only some accounts need may be missing: they have errors, the others have mail.

    Args:
        keyring: None: encryption is off.

    Raises:
        ConfigError: They do not.
        Unavailable: The database is away.
    """
    needed = {use.key_id: use.accounts for use in await wrapped.uses()}
    if keyring is None:
        if needed:
            raise ConfigError(
                f"encryption.keyring_file is not set, but {sum(needed.values())} accounts have encrypted mail"
            )
        return
    wrong = await wrapped.register(keyring.keys)
    if wrong:
        raise ConfigError(
            f"encryption.keyring_file: the octets of {', '.join(wrong)} are not those that this database knows"
        )
    missing = needed.keys() - {key.id for key in keyring.keys}
    if missing and missing == needed.keys():
        raise ConfigError(f"encryption.keyring_file: no key that is in use is in it; missing: {_names(missing)}")
    if missing:
        _log.error(
            "master keys are missing in the keyring",
            extra={"keys": _names(missing), "accounts": sum(needed[key_id] for key_id in missing)},
        )


async def rewrap(wrapped: WrappedKeys, keyring: Keyring, *, batch: int = BATCH) -> Rewrapped:
    """Wrap every data key by the newest master key that is not yet, in batches; a second run goes on where one ended.

    Raises:
        ConfigError: The keyring cannot be used, or not for this database.
        Unavailable: The database is away; what was done stays done.
    """
    newest = keyring.newest()
    await check(wrapped, keyring)
    done = failed = 0
    for use in await wrapped.uses():
        if use.key_id == newest.id:
            continue
        after = 0
        while keys := await wrapped.wrapped_by(use.key_id, after, batch):
            after = keys[-1].account_id
            fresh = await asyncio.to_thread(_wrap_anew, keyring, newest, keys)
            failed += len(keys) - len(fresh)
            if fresh:
                done += await wrapped.rewrap(fresh, newest.id)
            crash_point("rotate.rewrapped")
    return Rewrapped(done, failed)


def _wrap_anew(keyring: Keyring, newest: MasterKey, keys: list[StoredKey]) -> list[tuple[StoredKey, bytes]]:
    """Those keys that can be unwrapped, with their new wrapping."""
    fresh = []
    for key in keys:
        try:
            secret = keyring.get(key.key_id).unwrap(key.account_id, key.wrapped)
        except (KeyUnavailable, NotFound) as error:
            _log.error(
                "the key of an account is left as it is", extra={"account_id": key.account_id, "error": str(error)}
            )
            continue
        fresh.append((key, newest.wrap(key.account_id, secret)))
    return fresh


def _names(key_ids: set[str]) -> str:
    return ", ".join(sorted(key_ids))
