"""The smarthost: where all mail that leaves goes, by SMTP.

What fails before MAIL is the smarthost's failure (`SmarthostDown`): nobody's mail is at fault, and nothing is tried
again before the `Breaker` lets it. From MAIL on it is the mail's: an `Outcome`.

A connection is used for several mails, one after the other; after anything that was not expected it is closed. A reply
that is lost after the end of data cannot be had again: such a mail is sent once more, SMTP knows no better (RFC 5321
§4.5.3.2.6, RFC 1047).
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from typing import TYPE_CHECKING, Final, Literal

import aiosmtplib
from msgspec import Struct

from sora import log, metrics
from sora.errors import Unavailable
from sora.net.tls import client_context

if TYPE_CHECKING:
    from collections.abc import Callable

    from sora.store.outbound import Params
    from sora.tables import OutboundTable

_log = log.get(__name__)

IDLE_S: Final = 15.0
"""A connection that is not used for so long is closed: it costs the smarthost more than a new one costs us."""
MAILS: Final = 100
"""Mails by one connection; smarthosts have their limits, and say so by an error."""
DATA_TIMEOUTS: Final = 5
"""So many times as long as any other reply the one to the end of data may take (RFC 5321 §4.5.3.2.6: 10 minutes)."""
QUIT_S: Final = 2.0
FIRST_PAUSE_S: Final = 1.0
LAST_PAUSE_S: Final = 60.0
PORTS: Final = {"none": 25, "starttls": 587, "tls": 465}
_NOT_THE_MAIL: Final = frozenset({421, 530, 534, 535, 538})
"""Replies that say nothing of a mail: the server goes down, or does not like our login."""
_STATUS: Final = re.compile(r"[245]\.(\d{1,3}\.\d{1,3})(?= |$)", re.ASCII)
_NOT_TEXT: Final = re.compile(r"[\x00-\x20\x7f]+")
_BROKEN: Final = (aiosmtplib.SMTPException, OSError, TimeoutError, EOFError)


class SmarthostDown(Unavailable):
    """No connection with the smarthost, or it does not let us send."""

    default_text = "The smarthost cannot be reached"


class Parcel(Struct, frozen=True):
    """A mail as it is sent.

    Attributes:
        data: All octets.
        smtputf8: It needs SMTPUTF8 (RFC 6531).
        by_s: Seconds that are left for its delivery; None: no matter.
    """

    sender: str
    recipient: str
    data: bytes
    smtputf8: bool
    params: Params
    by_s: int | None = None


class Outcome(Struct, frozen=True):
    """What became of an attempt.

    Attributes:
        result: `sent`; `refused`: it will never be taken; `deferred`: try again.
        status: Enhanced status code (RFC 3463).
        text: The reply, or what went wrong.
        stage: What was being done then, and why that was the last time; empty: nothing was asked.
        remote: The reply is the smarthost's.
        relayed: It was sent, and the smarthost will not report about it (no DSN extension).
    """

    result: Literal["sent", "refused", "deferred"]
    status: str
    text: str
    remote: bool = True
    relayed: bool = False
    stage: str = ""

    @property
    def told(self) -> str:
        """All of it, for people."""
        return f"{self.stage}: {self.text}" if self.stage else self.text


class Breaker:
    """Says when a smarthost that was down is asked again: by one, after a pause that grows.

    Args:
        clock: Monotonic seconds.

    Attributes:
        error: Why it is down; empty: it is not, as far as we know.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._pause_s = 0.0
        self._until = 0.0
        self.error = ""

    @property
    def open(self) -> bool:
        """True after a failure, until something worked."""
        return self._pause_s > 0

    @property
    def wait_s(self) -> float:
        """Seconds until the next try is allowed."""
        return max(0.0, self._until - self._clock())

    def failed(self, error: str) -> None:
        """It is down; of several who find that out together one counts."""
        self.error = error
        if self.wait_s:
            return
        self._pause_s = min(LAST_PAUSE_S, 2 * self._pause_s) if self._pause_s else FIRST_PAUSE_S
        self._until = self._clock() + self._pause_s
        metrics.outbound_smarthost_down.set(1)

    def worked(self) -> None:
        """It is there."""
        self._pause_s = self._until = 0.0
        self.error = ""
        metrics.outbound_smarthost_down.set(0)


class Smarthost:
    """Sends mail to the host that the configuration names.

    Args:
        hello: What we call ourselves.

    Raises:
        ConfigError: A certificate that cannot be read.
    """

    def __init__(self, table: OutboundTable, hello: str) -> None:
        self.breaker = Breaker()
        self.name = table.host
        self._table = table
        self._hello = hello
        self._port = table.port or PORTS[table.tls]
        self._context = None if table.tls == "none" else client_context(table.tls_ca, table.tls_cert, table.tls_key)
        self._idle: list[_Line] = []

    async def probe(self) -> None:
        """Connect, and keep the connection for the next mail.

        Raises:
            SmarthostDown: It is still down.
        """
        self._idle.append(await self._connect())

    async def send(self, parcel: Parcel) -> Outcome:
        """Try to send a mail once.

        Raises:
            SmarthostDown: Nothing was tried.
        """
        began = time.monotonic()
        line = await self._take()
        try:
            outcome = await line.send(parcel)
            if outcome is None:  # it had been closed while it was not used
                line.close()
                line = await self._connect()
                outcome = await line.send(parcel) or _NO_REPLY
        except BaseException:
            line.close()
            raise
        metrics.outbound_seconds.observe(time.monotonic() - began)
        if line.usable:
            self._idle.append(line)
        else:
            line.close()
        return outcome

    async def tidy(self) -> None:
        """Close connections that were not used for a while."""
        now = time.monotonic()
        old = [line for line in self._idle if now - line.used_mono >= IDLE_S]
        self._idle = [line for line in self._idle if line not in old]
        for line in old:
            await line.quit()

    async def close(self) -> None:
        """Say good-bye."""
        lines, self._idle = self._idle, []
        await asyncio.gather(*(line.quit() for line in lines))

    async def _take(self) -> _Line:
        return self._idle.pop() if self._idle else await self._connect()

    async def _connect(self) -> _Line:
        table = self._table
        client = aiosmtplib.SMTP(
            hostname=table.host,
            port=self._port,
            local_hostname=self._hello,
            timeout=table.timeout,
            use_tls=table.tls == "tls",
            start_tls=False,
            tls_context=self._context,
        )
        try:
            await client.connect()
            if table.tls == "starttls":
                await client.starttls()
            await _greet(client)
            if table.user:
                await client.login(table.user, table.password)
        except (*_BROKEN, ValueError) as error:  # ValueError: of STARTTLS, what ssl says of a name
            client.close()
            if not self.breaker.open:
                _log.error("smarthost is down", extra={"host": table.host, "port": self._port, "detail": _said(error)})
            self.breaker.failed(_said(error))
            raise SmarthostDown(detail=_said(error)) from error
        except BaseException:
            client.close()
            raise
        if self.breaker.open:
            _log.info("smarthost is back", extra={"host": table.host, "port": self._port})
        self.breaker.worked()
        return _Line(client, table.timeout)


async def _greet(client: aiosmtplib.SMTP) -> None:
    """EHLO, unless that is done; HELO for a server that does not know it."""
    if client.is_ehlo_or_helo_needed:
        try:
            await client.ehlo()
        except aiosmtplib.SMTPHeloError:
            await client.helo()


class _Line:
    """One connection."""

    def __init__(self, client: aiosmtplib.SMTP, timeout_s: float) -> None:
        self._client = client
        self._timeout_s = timeout_s
        self._mails = 0
        self.used_mono = time.monotonic()

    @property
    def usable(self) -> bool:
        """True if another mail may be sent by it."""
        return self._client.is_connected and self._mails < MAILS

    def close(self) -> None:
        """At once, whatever the peer thinks of it."""
        self._client.close()

    async def quit(self) -> None:
        """In order, if that is quick."""
        with contextlib.suppress(*_BROKEN):
            await self._client.quit(timeout=QUIT_S)
        self._client.close()

    async def send(self, parcel: Parcel) -> Outcome | None:
        """Try to send a mail; None: the connection was gone before that began, and had been used before."""
        unable = self._unable(parcel)
        if unable is not None:
            return unable
        try:
            mail, rcpt = self._commands(parcel)
        except UnicodeEncodeError:
            return Outcome("refused", "5.1.3", "An address cannot be written", remote=False)
        used = self._mails > 0
        self._mails += 1
        stage = "MAIL"
        try:
            for stage, command in (("MAIL", mail), ("RCPT", rcpt)):
                code, text = await self._client.execute_command(*command)
                if code not in (250, 251):
                    return await self._refused(stage, code, text)
            stage = "DATA"
            _, text = await self._client.data(parcel.data, timeout=DATA_TIMEOUTS * self._timeout_s)
        except aiosmtplib.SMTPDataError as error:
            return await self._refused(stage, error.code, error.message)
        except ValueError:  # a control character: aiosmtplib lets none into a command
            self._client.close()
            return Outcome("refused", "5.1.3", "An address has control characters", remote=False)
        except _BROKEN as error:
            self._client.close()
            if used and stage == "MAIL" and not isinstance(error, TimeoutError | aiosmtplib.SMTPTimeoutError):
                return None
            return Outcome("deferred", "4.4.2", _said(error), remote=False, stage=stage)
        self.used_mono = time.monotonic()
        return Outcome("sent", "2.0.0", _readable(text), relayed=not self._client.supports_extension("dsn"))

    def _unable(self, parcel: Parcel) -> Outcome | None:
        """Why this smarthost cannot take it, by what it offers; it need not be asked."""
        offers = self._client.supports_extension
        if parcel.smtputf8 and not offers("smtputf8"):
            return Outcome("refused", "5.6.7", "The smarthost takes no mail with addresses in UTF-8", remote=False)
        if not parcel.data.isascii() and not offers("8bitmime"):
            return Outcome("refused", "5.6.3", "The smarthost takes no mail of eight bits", remote=False)
        largest = self._client.esmtp_extensions.get("size", "")
        if largest.isascii() and largest.isdigit() and 0 < int(largest) < len(parcel.data):
            text = f"The mail is larger than the smarthost takes, {largest} octets"
            return Outcome("refused", "5.3.4", text, remote=False)
        if parcel.by_s is not None and "R" in parcel.params.by_mode:
            if parcel.by_s <= 0:
                return Outcome("refused", "5.4.7", "The time for its delivery is over", remote=False)
            if not offers("deliverby"):
                return Outcome("refused", "5.3.3", "The smarthost knows no time of delivery", remote=False)
        return None

    def _commands(self, parcel: Parcel) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
        """MAIL and RCPT with what the smarthost offers."""
        offers, params = self._client.supports_extension, parcel.params
        mail, rcpt = [], []
        if offers("size"):
            mail.append(f"SIZE={len(parcel.data)}")
        if offers("8bitmime") and not parcel.data.isascii():
            mail.append("BODY=8BITMIME")
        if parcel.smtputf8:
            mail.append("SMTPUTF8")
        if parcel.by_s is not None and offers("deliverby"):
            mail.append(f"BY={parcel.by_s};{params.by_mode}")
        if offers("dsn"):
            mail += [f"RET={params.ret}"] if params.ret else []
            mail += [f"ENVID={xtext(params.envid)}"] if params.envid else []
            rcpt += [f"NOTIFY={params.notify}"] if params.notify else []
            rcpt += [f"ORCPT={_orcpt(params.orcpt)}"] if params.orcpt else []
        encoding = "utf-8" if parcel.smtputf8 else "ascii"
        return (
            (b"MAIL", f"FROM:<{parcel.sender}>".encode(encoding), *(word.encode("ascii") for word in mail)),
            (b"RCPT", f"TO:<{parcel.recipient}>".encode(encoding), *(word.encode("ascii") for word in rcpt)),
        )

    async def _refused(self, stage: str, code: int, text: str) -> Outcome:
        """The smarthost said no; afterwards the connection is as new, or closed."""
        try:
            if code == 421:
                self._client.close()
            else:
                await self._client.rset()
        except _BROKEN:
            self._client.close()
        self.used_mono = time.monotonic()
        permanent = 500 <= code < 600 and code not in _NOT_THE_MAIL
        result: Literal["refused", "deferred"] = "refused" if permanent else "deferred"
        return Outcome(result, _enhanced(code, text), f"{code} {_readable(text)}", stage=stage)


_NO_REPLY: Final = Outcome("deferred", "4.4.2", "The smarthost closed the connection", remote=False)


def xtext(text: str) -> str:
    """RFC 3461 §4: what is not printable, and `+` and `=`, as `+XX`."""
    return "".join(
        chr(octet) if 0x21 <= octet <= 0x7E and octet not in b"+=" else f"+{octet:02X}" for octet in text.encode()
    )


def _orcpt(address: str) -> str:
    kind, _, name = address.partition(";")
    return f"{kind};{xtext(name)}"


def _enhanced(code: int, text: str) -> str:
    """The status code that a reply begins with (RFC 2034), or the general one of its class."""
    given = _STATUS.match(text)
    return f"{code // 100}.{given[1]}" if given else f"{code // 100}.0.0"


def _said(error: BaseException) -> str:
    return _readable(f"{type(error).__name__}: {error}")[:400]


def _readable(text: str) -> str:
    """What a server said, for log, database and report: in one line, and `?` for octets that are no UTF-8."""
    return _NOT_TEXT.sub(" ", text).encode("utf-8", "replace").decode().strip()
