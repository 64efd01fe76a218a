"""The Sender Rewriting Scheme: mail that is sent on keeps a way back that is ours, so that SPF holds for it.

SRS0=HHHH=TT=domain=local@ours stands for local@domain; SRS1=HHHH=domain==rest@ours for another forwarder's SRS0
address. HHHH is a keyed hash, so nobody makes us relay; TT is the day, so it does not work for ever.
(Meng Weng Wong, https://www.libsrs2.net/srs/srs.pdf)
"""

from __future__ import annotations

import base64
import hmac
import re
from collections.abc import Callable

from gatewayd.address import MAX_LOCAL, Address, AddressError, Domain

DAYS = 21  # that an address works; bounces come within a week
HASH = 6  # characters
_DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_SRS0 = re.compile(r"srs0[=+-]([^=]+)=([a-z2-7]{2})=([^=]+)=(.+)\Z", re.IGNORECASE | re.DOTALL)
_SRS1 = re.compile(r"srs1[=+-]([^=]+)=([^=]+)=([=+-].+)\Z", re.IGNORECASE | re.DOTALL)


class SRS:
    """`secret` is kept as long as the state directory; `now` gives seconds since the epoch."""

    def __init__(self, secret: bytes, now: Callable[[], float]) -> None:
        self._secret = secret
        self._now = now

    def forward(self, sender: Address, ours: Domain) -> Address:
        """What stands for `sender` in mail that we send on; `sender` itself where that would be too long."""
        again, once = _SRS1.match(sender.local), _SRS0.match(sender.local)
        if again:
            local = f"SRS1={self._hash(again[2], again[3])}={again[2]}={again[3]}"
        elif once:
            rest = sender.local[4:]
            local = f"SRS1={self._hash(sender.domain.name, rest)}={sender.domain}={rest}"
        else:
            day = self._day()
            stamp = _DIGITS[day >> 5] + _DIGITS[day & 31]
            hashed = self._hash(stamp, sender.domain.name, sender.local)
            local = f"SRS0={hashed}={stamp}={sender.domain}={sender.local}"
        try:
            return Address.parse(f"{local}@{ours}") if len(local.encode()) <= MAX_LOCAL else sender
        except AddressError:  # a quoted local part
            return sender

    def reverse(self, address: Address) -> Address | None:
        """Whom one of our SRS addresses stands for; None where it is none, is forged, or too old."""
        try:
            if found := _SRS0.match(address.local):
                hashed, stamp, domain, local = found.groups()
                stamp = stamp.upper()
                day = _DIGITS.index(stamp[0]) << 5 | _DIGITS.index(stamp[1])
                if self._is(hashed, stamp, domain, local) and (self._day() - day) % 1024 <= DAYS:
                    return Address.parse(f"{local}@{domain}")
            elif found := _SRS1.match(address.local):
                hashed, domain, rest = found.groups()
                if self._is(hashed, domain, rest):
                    return Address.parse(f"SRS0{rest}@{domain}")
        except AddressError:
            pass
        return None

    def _day(self) -> int:
        return int(self._now()) // 86400 % 1024

    def _is(self, hashed: str, *parts: str) -> bool:
        """Others may have changed the case."""
        return hmac.compare_digest(hashed.lower().encode(), self._hash(*parts).lower().encode())

    def _hash(self, *parts: str) -> str:
        digest = hmac.digest(self._secret, "=".join(parts).lower().encode(), "sha256")
        return base64.b32encode(digest).decode()[:HASH]
