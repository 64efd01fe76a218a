"""Mail made an object that its taker signs, and the native object taken out of its rendering again (DESIGN §3)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from twisted.logger import Logger

from gatewayd.address import Address, Domain
from gatewayd.message import bridge, object_types
from gatewayd.message.mime import Mail
from gatewayd.message.model import MAIL, Content


class Signer(Protocol):
    async def sign(self, domain: Domain, payload: bytes) -> tuple[bytes, bytes]:
        """(protected header, signature) by the domain's current key. Raises KeyError: no key."""

    async def sign_all(self, payloads: Sequence[tuple[Domain, bytes]]) -> Sequence[tuple[bytes, bytes] | None]:
        """As `sign`, for many at once; None for no key."""

    async def verify(self, content: Content) -> Domain:
        """Who signed. Raises ValueError when the signature does not hold, LookupError when keys cannot be had."""

    async def verify_all(self, contents: Sequence[Content]) -> Sequence[Domain | Exception]:
        """As `verify`, for many at once: what it would raise stands in the list."""


class Bridging:
    """`now` gives seconds since the epoch, `random` n unguessable octets."""

    log = Logger()

    def __init__(self, signer: Signer, now: Callable[[], float], random: Callable[[int], bytes]) -> None:
        self._signer = signer
        self._now = now
        self._random = random

    async def restored(self, mail: Mail) -> Content | None:
        """The native object inside a rendering, if its signature and every body still hold (DESIGN §3)."""
        restored = bridge.restore(mail)
        if restored is None:
            return None
        try:
            signer = await self._signer.verify(restored)
            native = restored.fields.type != MAIL and Address.parse(restored.fields.from_).domain == signer
            object_types.check(restored)
        except (ValueError, LookupError) as error:
            self.log.info("a Parley-Object field was not believed: {error}", error=error)
            return None
        return restored if native else None

    async def bridged(self, mail: Mail, by: Domain, reverse_path: Address | None) -> Content:
        """Raises KeyError: the domain has no key."""
        unsigned = self.unsigned(mail, by, reverse_path)
        return unsigned.sealed(*await self._signer.sign(by, unsigned.payload))

    async def sent_on(self, content: Content, mail: Mail, by: Domain, reverse_path: Address | None) -> Content:
        """The mail that another domain's object has become here, as ours: of a domain that hands something over, peers
        believe what it has signed itself. The same one each time. Raises KeyError: the domain has no key."""
        nonce = hashlib.sha256(content.id + mail.octets).digest()[:16]
        payload = bridge.bridged_payload(
            mail, by=by, nonce=nonce, received_ms=content.fields.date, reverse_path=reverse_path
        )
        unsigned = Content.unsigned(*payload)
        return unsigned.sealed(*await self._signer.sign(by, unsigned.payload))

    def unsigned(
        self, mail: Mail, by: Domain, reverse_path: Address | None, auth: Mapping[str, str] | None = None
    ) -> Content:
        """For `sign_all`."""
        nonce, now_ms = self._random(16), int(self._now() * 1000)
        return Content.unsigned(
            *bridge.bridged_payload(mail, by=by, nonce=nonce, received_ms=now_ms, reverse_path=reverse_path, auth=auth)
        )

    async def sign_all(self, domains: Sequence[Domain], contents: Sequence[Content]) -> list[Content | None]:
        """Each by the domain beside it; None where that has no key."""
        payloads = [(domain, content.payload) for domain, content in zip(domains, contents, strict=True)]
        signed = await self._signer.sign_all(payloads) if payloads else []
        return [None if made is None else content.sealed(*made) for content, made in zip(contents, signed, strict=True)]
