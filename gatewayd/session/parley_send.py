"""The method `send`: an object of a user, to be signed, or of a peer, signed (docs/parley.rst §7.3)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from hashlib import sha256
from typing import Protocol

from msgspec import UNSET

from gatewayd.address import Address, AddressError, Domain
from gatewayd.core.accepting import Handover
from gatewayd.core.posting import Answers
from gatewayd.core.pulling import Source
from gatewayd.core.submitting import Submission
from gatewayd.interfaces.records import Account
from gatewayd.message.model import Content, ObjectError
from gatewayd.outcome import BAD_ADDRESS, Deferred, Outcome, Refused
from gatewayd.session.parley_failed import Failed
from gatewayd.wire.parley.schema import Result, Send, SendReply

MAX_RECIPIENTS = 1000


Submit = Callable[[Submission, Callable[[Answers | Exception], None]], None]
Accept = Callable[[Handover, Callable[[Answers | Exception], None]], None]
Done = Callable[[SendReply | Exception], None]


class ParleyAcceptor(Protocol):
    async def acknowledge(self, account: Account, contents: Collection[Content], status: str) -> None: ...

    def peer_contact(self, domain: Domain) -> None: ...


class Sending:
    """`done` is told when it is durable. All raise Failed."""

    __slots__ = ("_accept", "_submit")

    def __init__(self, submit: Submit, accept: Accept | None) -> None:
        """`accept` of a domain only."""
        self._submit = submit
        self._accept = accept

    def from_user(self, account: Account, body: Send, done: Done) -> None:
        addresses, recipients, bodies = _read(body)
        content = Content(b"", body.payload, b"", bodies)
        self._submit(Submission(account, content, recipients), _answered(body, addresses, done))

    def from_peer(self, peer: Domain, body: Send, source: Source, done: Done) -> None:
        assert self._accept is not None
        addresses, recipients, bodies = _read(body)
        answered = _answered(body, addresses, done)
        try:
            content = Content.from_signed(body.signed, bodies)
            reverse_path = Address.parse(body.from_) if body.from_ else None
        except (ObjectError, AddressError) as error:
            answered(dict.fromkeys(recipients, Refused("5.6.0", str(error))))
            return
        self._accept(Handover(peer, content, reverse_path, recipients, source), answered)


def _read(body: Send) -> tuple[dict[str, Address], tuple[Address, ...], dict[bytes, bytes]]:
    addresses = _recipients(body)
    bodies = {sha256(octets).digest(): octets for octets in body.bodies}
    return addresses, tuple(dict.fromkeys(addresses.values())), bodies


def _answered(body: Send, addresses: Mapping[str, Address], done: Done) -> Callable[[Answers | Exception], None]:
    def answered(answers: Answers | Exception) -> None:
        done(answers if isinstance(answers, Exception) else _reply(body, addresses, answers))

    return answered


def _recipients(body: Send) -> dict[str, Address]:
    """By their text; what is no address is left out."""
    if not 0 < len(body.to) <= MAX_RECIPIENTS:
        raise Failed("bad-request", f"1 to {MAX_RECIPIENTS} recipients")
    addresses: dict[str, Address] = {}
    for text in body.to:
        try:
            addresses[text] = Address.parse(text)
        except AddressError:
            continue
    return addresses


def _reply(body: Send, addresses: Mapping[str, Address], outcomes: Mapping[Address, Outcome]) -> SendReply:
    return SendReply(tuple(_result(text, outcomes, addresses.get(text)) for text in body.to))


def _result(text: str, outcomes: Mapping[Address, Outcome], address: Address | None) -> Result:
    outcome = BAD_ADDRESS if address is None else outcomes[address]
    retry = outcome.retry_after if isinstance(outcome, Deferred) else None
    return Result(text, outcome.code, outcome.text, UNSET if retry is None else int(retry))
