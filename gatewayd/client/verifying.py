"""Whether a message is what its signature says: checked here, with the keys that the signing domain itself shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from gatewayd.address import Address, AddressError, Domain
from gatewayd.client.dialling import dial
from gatewayd.client.message import Message
from gatewayd.crypto import cose
from gatewayd.crypto.cose import SignatureError
from gatewayd.crypto.domain_keys import KeySet
from gatewayd.interfaces.dns import Endpoint
from gatewayd.message.model import Content, ObjectError
from gatewayd.session.parley_client import RequestFailed
from gatewayd.wire.parley.connection import ParleyConnection


@dataclass(frozen=True)
class Verdict:
    """`holds` None: it cannot be told now."""

    holds: bool | None
    said: tuple[str, ...]  # in plain words, a line each


async def fetch_keys(
    reactor: Any, domain: Domain, *, server: Endpoint | None = None, authorities: Path | None = None,
    engine: Callable[[], ParleyConnection] = ParleyConnection,
) -> bytes:  # fmt: skip
    """The domain's encoded key set, from its own listener; no sign-in. Raises OSError."""
    session = await dial(reactor, domain, server, authorities, engine)
    try:
        return await session.keys(domain)
    except RequestFailed as failed:
        raise ConnectionError(f"{domain}: {failed}") from None
    finally:
        session.close()


def verify(message: Message, key_set: KeySet, now: float) -> Verdict:
    """`now` in seconds since the epoch: the key must be good then."""
    said: list[str] = []
    try:
        signer = cose.verify(
            message.content.protected, message.content.payload, message.content.signature, key_set, now
        )
        _check_bodies(message.content)
        _check_author(message, signer)
    except (SignatureError, ObjectError) as error:
        unknown = not key_set.knows(cose.signer(message.content.protected)[1])
        if unknown:  # rotated away, or never there
            return Verdict(None, (f"{message.signer} does not show the key that signed: {error}",))
        return Verdict(False, (f"Not what it says: {error}.",))
    if message.bridged:
        said.append(f"Born as mail. {signer} took it in, and signs for that and for nothing else.")
        said.append(f"Who wrote it is what the mail says: {message.sender}.")
        results = ", ".join(f"{name.upper()} {result}" for name, result in message.results.items())
        said.append(f"What {signer} found: {results or 'it did not look'}.")
        if message.why:
            said.append(f"In short: {message.why}.")
    else:
        said.append(f"Signed by {signer}, the domain of its author {message.sender}.")
    parts = message.content.fields.parts
    here = sum(part.hash in message.content.bodies for part in parts)
    said.append(f"{here} of {len(parts)} parts are here, and are what was signed.")
    return Verdict(True, tuple(said))


def _check_bodies(content: Content) -> None:
    """Those that are here, blobs too. Raises ObjectError."""
    parts = {part.hash: part for part in content.fields.parts}
    for digest, body in content.bodies.items():
        if digest not in parts or parts[digest].size != len(body) or sha256(body).digest() != digest:
            raise ObjectError("a body does not match its part")


def _check_author(message: Message, signer: Domain) -> None:
    """A domain signs for its own users, or, bridged, for the mail that it took in. Raises SignatureError."""
    found = message.content.fields.ext.get("bridged")
    if message.bridged:
        if not isinstance(found, dict) or found.get("by") != signer.name:
            raise SignatureError(f"the mail was taken in by another than {signer}, which signed")
        return
    try:
        author = Address.parse(message.sender).domain
    except AddressError as error:
        raise SignatureError(f"the author is no address: {error}") from None
    if author != signer:
        raise SignatureError(f"{signer} signed for {message.sender}, who is not of that domain")
