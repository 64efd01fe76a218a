"""Mail made an object that its taker signs, and the native object taken out of its rendering again (DESIGN §3)."""

from __future__ import annotations

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

    async def bridged(
        self, mail: Mail, by: Domain, reverse_path: Address | None, auth: Mapping[str, str] | None = None
    ) -> Content:
        payload, bodies = bridge.bridged_payload(
            mail,
            by=by,
            nonce=self._random(16),
            received_ms=int(self._now() * 1000),
            reverse_path=reverse_path,
            auth=auth,
        )
        unsigned = Content.unsigned(payload, bodies)
        return unsigned.sealed(*await self._signer.sign(by, unsigned.payload))
