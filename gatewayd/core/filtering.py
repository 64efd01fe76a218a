"""Content filters: what others' programs say of a client and of its mail, and the one line that tells the user why.

A filter is asked at each step of the client's transaction; rspamd and its like wait for the whole mail. They are asked
one after the other; the first that does not take it ends the round.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Literal, Protocol

import msgspec

from gatewayd.address import Address
from gatewayd.interfaces.queue import Envelope
from gatewayd.interfaces.routes import Origin
from gatewayd.outcome import Deferred, Outcome, Refused

FIELD = "Gatewayd-Verdict"
_LINE = re.compile(r"(\d{3})[ -]?(?:(\d\.\d{1,3}\.\d{1,3})(?: |\Z))?(.*)")
DOWN = Deferred("4.7.1", "A content filter is not available")


class Filtered(msgspec.Struct, frozen=True):
    """`refused`: recipients that the filter does not take. `why` is one line for people."""

    action: Literal["take", "junk", "refuse", "defer", "discard"]
    mail: bytes  # as the filter left it
    why: str = ""
    outcome: Outcome | None = None  # of "refuse" and "defer"
    refused: frozenset[Address] = frozenset()
    envelope: Envelope | None = None  # with the recipients and the sender that the filter wants; None: as it was


class FilterDown(Exception):
    """The filter cannot be asked now. `silent`: it said nothing in time."""

    def __init__(self, why: str, *, silent: bool = False) -> None:
        super().__init__(why)
        self.silent = silent


class Visit(Protocol):
    """One client's connection as one filter sees it. Each step gives None to go on; all raise FilterDown."""

    async def mail(self, sender: Address | None) -> Outcome | None:
        """A transaction begins; one that was under way is over."""

    async def rcpt(self, recipient: Address) -> Outcome | None: ...

    async def data(self) -> Outcome | None: ...

    async def judge(self, mail: bytes, envelope: Envelope) -> Filtered:
        """The whole mail; where nothing was asked before, all of the transaction."""

    def close(self) -> None: ...


Filter = Callable[[Origin, Address | None], Visit]  # where the client is, who signed in


class AfterTheData:
    """The visit of a filter that sees whole mails only."""

    def __init__(
        self, ask: Callable[[bytes, Envelope, Origin, Address | None], Awaitable[Filtered]], origin: Origin,
        submitter: Address | None,
    ) -> None:  # fmt: skip
        self._ask = ask
        self._origin = origin
        self._submitter = submitter

    async def mail(self, sender: Address | None) -> Outcome | None:
        return None

    async def rcpt(self, recipient: Address) -> Outcome | None:
        return None

    async def data(self) -> Outcome | None:
        return None

    async def judge(self, mail: bytes, envelope: Envelope) -> Filtered:
        return await self._ask(mail, envelope, self._origin, self._submitter)

    def close(self) -> None:
        pass


class Filters:
    def __init__(self, filters: Sequence[Filter], *, when_down: Literal["defer", "take"]) -> None:
        self._filters = filters
        self._when_down = when_down

    def visit(self, origin: Origin, submitter: Address | None) -> Visits:
        return Visits([visit(origin, submitter) for visit in self._filters], self._when_down)


class Visits:
    """One client's connection as all filters see it. Raises nothing for what a filter does; one that is down defers the
    mail, or is passed over until the next transaction."""

    def __init__(self, visits: Sequence[Visit], when_down: Literal["defer", "take"]) -> None:
        self._visits = visits
        self._when_down = when_down
        self._down: dict[int, str] = {}  # those passed over, and why

    async def mail(self, sender: Address | None) -> Outcome | None:
        self._down = {}
        return await self._each(lambda visit: visit.mail(sender))

    async def rcpt(self, recipient: Address) -> Outcome | None:
        return await self._each(lambda visit: visit.rcpt(recipient))

    async def data(self) -> Outcome | None:
        return await self._each(lambda visit: visit.data())

    async def judge(self, mail: bytes, envelope: Envelope) -> Filtered:
        said: list[str] = []
        action: Literal["take", "junk"] = "take"
        refused: frozenset[Address] = frozenset()
        changed: Envelope | None = None
        for number, visit in enumerate(self._visits):
            if number not in self._down:
                try:
                    one = await visit.judge(mail, changed or envelope)
                except FilterDown as error:
                    self._down[number] = str(error)
            if number in self._down:
                if self._when_down == "take":
                    said.append(self._down[number])
                    continue
                return Filtered("defer", mail, self._down[number], DOWN)
            if one.why:
                said.append(one.why)
            if one.action in {"refuse", "defer", "discard"}:
                return one
            mail = one.mail
            refused |= one.refused
            changed = one.envelope or changed
            if one.action == "junk":
                action = "junk"
        return Filtered(action, mail, "; ".join(said), None, refused, changed)

    def close(self) -> None:
        for visit in self._visits:
            visit.close()

    async def _each(self, ask: Callable[[Visit], Awaitable[Outcome | None]]) -> Outcome | None:
        for number, visit in enumerate(self._visits):
            if number in self._down:
                continue
            try:
                said = await ask(visit)
            except FilterDown as error:
                if self._when_down == "defer":
                    return DOWN
                self._down[number] = str(error)
                continue
            if said is not None:
                return said
        return None


def refusal(reply: str, fallback: str) -> Outcome:
    """Of a filter's "550 5.7.1 words", however many lines it has; `fallback`: words for one that has none."""
    lines = [line for line in map(_LINE.fullmatch, reply.splitlines()) if line is not None]
    basic, enhanced = lines[0][1], lines[0][2] or ""
    if enhanced[:1] != basic[0]:
        enhanced = f"{basic[0]}.7.1"
    text = "\n".join(line[3] for line in lines).strip() or fallback
    if basic[0] == "5":
        return Refused(enhanced, text, reply=int(basic))
    return Deferred(enhanced, text, reply=int(basic))
