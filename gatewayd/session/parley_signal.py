"""The method `signal`, from a user or from a peer, and its push to who is connected (docs/parley.rst §7.6)."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from gatewayd.address import Address, AddressError, Domain
from gatewayd.core.presence import Presence, TooOften
from gatewayd.core.presence import Signal as Passed
from gatewayd.interfaces.records import Account
from gatewayd.session.link import Link
from gatewayd.session.parley_failed import Failed
from gatewayd.wire.parley.schema import Signal, Signalled, SignalReply

STATES = {"presence": {"online", "away", "offline"}, "typing": {"composing", "paused"}}
LEASES = {"presence": 120, "typing": 10}  # seconds at most
MAX_RECIPIENTS = 20  # of one signal


class Signals:
    """Of one connection."""

    __slots__ = ("_end", "_link", "_presence", "_push_signal")

    def __init__(self, presence: Presence, link: Link, push: Callable[[Signalled], None]) -> None:
        self._presence = presence
        self._link = link
        self._push_signal = push
        self._end: Callable[[], None] | None = None

    def listen(self, account: Account) -> None:
        """From now on the client is told."""
        if self._end is None:
            self._end = self._presence.connect(account.account_id, self._push)

    def close(self) -> None:
        if self._end is not None:
            self._end()
            self._end = None

    async def from_user(self, account: Account, body: Signal) -> SignalReply:
        to = _recipients(body)
        signal = _checked(body, account.address)
        skipped = await _unless_too_often(self._presence.from_user(account.account_id, signal, to))
        return SignalReply(tuple(str(address) for address in skipped))

    async def from_peer(self, peer: Domain, body: Signal) -> SignalReply:
        to = _recipients(body)
        try:
            sender = Address.parse(body.from_)
        except AddressError as error:
            raise Failed("bad-request", str(error)) from None
        if sender.domain != peer:
            raise Failed("bad-request", "the sender is not of your domain")
        await _unless_too_often(self._presence.from_peer(_checked(body, sender), to))
        return SignalReply()

    def _push(self, signal: Passed) -> None:
        if not self._link.full:  # else dropped: who does not read learns nothing of the moment
            self._push_signal(Signalled(str(signal.sender), signal.kind, signal.state, signal.lease, signal.about))


async def _unless_too_often(passing: Coroutine[Any, Any, Any]) -> Any:
    try:
        return await passing
    except TooOften:
        raise Failed("too-often", "more signals than are passed on; this one is dropped") from None


def _checked(body: Signal, sender: Address) -> Passed:
    if body.state not in STATES.get(body.kind, ()):
        raise Failed("bad-request", f"no such signal: {body.kind[:20]} {body.state[:20]}")
    if body.lease > LEASES[body.kind]:
        raise Failed("bad-request", f"a lease of at most {LEASES[body.kind]} seconds")
    if body.about and len(body.about) != 32:
        raise Failed("bad-request", "`about` is an object id, of 32 octets")
    return Passed(sender, body.kind, body.state, body.lease, body.about)


def _recipients(body: Signal) -> list[Address]:
    if not 0 < len(body.to) <= MAX_RECIPIENTS:
        raise Failed("bad-request", f"1 to {MAX_RECIPIENTS} recipients")
    try:
        return list(dict.fromkeys(Address.parse(text) for text in body.to))
    except AddressError as error:
        raise Failed("bad-request", str(error)) from None
