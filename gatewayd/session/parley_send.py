"""The method `send`: an object of a user, to be signed, or of a peer, signed (docs/parley.rst §7.3)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from hashlib import sha256
from typing import Protocol

from gatewayd.address import Address, AddressError, Domain
from gatewayd.core.posting import Answers
from gatewayd.core.pulling import Source
from gatewayd.core.submitting import Submission
from gatewayd.interfaces.records import Account
from gatewayd.message.model import MAIL, Content, ObjectError
from gatewayd.outcome import BAD_ADDRESS, Deferred, Outcome, Refused
from gatewayd.session.parley_failed import Failed
from gatewayd.wire.parley.schema import Result, Send, SendReply

MAX_RECIPIENTS = 1000


Submit = Callable[[Submission, Callable[[Answers | Exception], None]], None]


class ParleyAcceptor(Protocol):
    async def accept_object(
        self, peer: Domain, content: Content, reverse_path: Address | None, recipients: Sequence[Address],
        source: Source,
    ) -> dict[Address, Outcome]: ...  # fmt: skip

    async def acknowledge(self, account: Account, contents: Collection[Content], status: str) -> None: ...

    def peer_contact(self, domain: Domain) -> None: ...


class Verifier(Protocol):
    async def verify(self, content: Content) -> Domain: ...


class Sending:
    def __init__(self, submit: Submit, acceptor: ParleyAcceptor, verifier: Verifier) -> None:
        self._submit = submit
        self._acceptor = acceptor
        self._verifier = verifier

    def from_user(self, account: Account, body: Send, done: Callable[[SendReply | Exception], None]) -> None:
        """`done` is told when it is durable. Raises Failed."""
        addresses = _recipients(body)
        recipients = tuple(dict.fromkeys(addresses.values()))

        def answered(answers: Answers | Exception) -> None:
            done(answers if isinstance(answers, Exception) else _reply(body, addresses, answers))

        self._submit(Submission(account, body.payload, _bodies(body), recipients), answered)

    async def from_peer(self, peer: Domain, body: Send, source: Source) -> SendReply:
        addresses, bodies = _recipients(body), _bodies(body)
        outcomes = await self._from_peer(peer, body, bodies, list(dict.fromkeys(addresses.values())), source)
        return _reply(body, addresses, outcomes)

    async def _from_peer(
        self, peer: Domain, body: Send, bodies: Mapping[bytes, bytes], recipients: Sequence[Address], source: Source
    ) -> dict[Address, Outcome]:
        """One place checks that the sender is who signed in: the reverse-path, the author and the signer agree."""
        try:
            content = Content.from_signed(body.signed, bodies)
            fields = content.fields
            reverse_path = Address.parse(body.from_) if body.from_ else None
            if reverse_path is not None and reverse_path.domain != peer:
                return dict.fromkeys(recipients, Refused("5.7.1", "The reverse-path is not of your domain"))
            if fields.type != MAIL and Address.parse(fields.from_).domain != peer:
                return dict.fromkeys(recipients, Refused("5.7.1", "The author is not of your domain"))
        except (ObjectError, AddressError) as error:
            return dict.fromkeys(recipients, Refused("5.6.0", str(error)))
        try:
            signer = await self._verifier.verify(content)
        except LookupError as error:
            return dict.fromkeys(recipients, Deferred("4.7.5", str(error)))
        except ValueError as error:
            return dict.fromkeys(recipients, Refused("5.7.7", f"The signature does not hold: {error}"))
        if signer != peer:
            return dict.fromkeys(recipients, Refused("5.7.7", "Signed by another domain than yours"))
        return await self._acceptor.accept_object(peer, content, reverse_path, recipients, source)


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


def _bodies(body: Send) -> dict[bytes, bytes]:
    return {sha256(octets).digest(): octets for octets in body.bodies}


def _reply(body: Send, addresses: Mapping[str, Address], outcomes: Mapping[Address, Outcome]) -> SendReply:
    return SendReply(tuple(_result(text, outcomes, addresses.get(text)) for text in body.to))


def _result(text: str, outcomes: Mapping[Address, Outcome], address: Address | None) -> Result:
    outcome = BAD_ADDRESS if address is None else outcomes[address]
    retry = outcome.retry_after if isinstance(outcome, Deferred) else None
    return Result(text, outcome.code, outcome.text, None if retry is None else int(retry))
