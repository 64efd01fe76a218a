"""Content filters: what others' programs say of a message, and the one line that tells the user why.

Asked after the data and before anything is kept, one after the other; the first that does not take it ends the round.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from gatewayd.address import Address
from gatewayd.interfaces.queue import Envelope
from gatewayd.interfaces.routes import Origin
from gatewayd.outcome import Deferred, Outcome, Refused

FIELD = "Gatewayd-Verdict"


@dataclass(frozen=True, slots=True)
class Filtered:
    """`refused`: recipients that the filter does not take. `why` is one line for people."""

    action: Literal["take", "junk", "refuse", "defer", "discard"]
    mail: bytes  # as the filter left it
    why: str = ""
    outcome: Outcome | None = None  # of "refuse" and "defer"
    refused: frozenset[Address] = frozenset()


class FilterDown(Exception):
    """The filter cannot be asked now."""


# the mail, its envelope, where it came from, who submitted it
Filter = Callable[[bytes, Envelope, Origin, Address | None], Awaitable[Filtered]]


class Filters:
    def __init__(self, filters: Sequence[Filter], *, when_down: Literal["defer", "take"]) -> None:
        self._filters = filters
        self._when_down = when_down

    async def judge(self, mail: bytes, envelope: Envelope, origin: Origin, submitter: Address | None) -> Filtered:
        """Raises nothing for what a filter does; one that is down defers the mail, or is passed over."""
        said: list[str] = []
        action: Literal["take", "junk"] = "take"
        refused: frozenset[Address] = frozenset()
        for ask in self._filters:
            try:
                one = await ask(mail, envelope, origin, submitter)
            except FilterDown as error:
                if self._when_down == "take":
                    said.append(str(error))
                    continue
                return Filtered("defer", mail, str(error), Deferred("4.7.1", "A content filter is not available"))
            if one.why:
                said.append(one.why)
            if one.action in {"refuse", "defer", "discard"}:
                return one
            mail = one.mail
            refused |= one.refused
            if one.action == "junk":
                action = "junk"
        return Filtered(action, mail, "; ".join(said), None, refused)


def refusal(reply: str, fallback: str) -> Outcome:
    """Of a filter's "550 5.7.1 words", or of nothing."""
    code, _, rest = reply.partition(" ")
    enhanced, _, words = rest.partition(" ")
    if enhanced.count(".") != 2 or enhanced[:1] != code[:1]:
        enhanced, words = f"{code[:1] or '5'}.7.1", rest
    text = words or fallback
    return Refused(enhanced, text) if enhanced[0] == "5" else Deferred(enhanced, text)
