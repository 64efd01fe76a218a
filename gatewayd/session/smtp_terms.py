"""What an SMTP listener offers its clients and holds them to: EHLO's keywords and the parameters that go with them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum

from gatewayd.session import sasl
from gatewayd.session.link import TLSInfo

_PARAMETERS = frozenset({"SIZE", "BODY", "SMTPUTF8", "AUTH", "RET", "ENVID"})


class Role(Enum):
    MX = "SMTP"  # the world: local recipients only, and no AUTH
    SUBMISSION = "submission"  # our users: sign in first, under TLS; then anywhere (RFC 6409)
    LMTP = "LMTP"  # a mail server in front of this one: local recipients, an answer for each (RFC 2033)


@dataclass(frozen=True, slots=True)
class Terms:
    role: Role
    starttls: bool
    max_size: int  # octets
    max_recipients: int = 1000  # RCPT commands of a transaction
    max_transactions: int = 10_000  # MAIL commands of a connection
    max_hold: int = 0  # seconds that a submitted message may be held (RFC 4865); 0: not offered

    def keywords(self, tls: TLSInfo | None, *, signed_in: bool, now: float) -> list[str]:
        lines = [
            "PIPELINING", f"SIZE {self.max_size}", "8BITMIME", "BINARYMIME", "CHUNKING", "SMTPUTF8", "DSN",
            "ENHANCEDSTATUSCODES",
            f"LIMITS RCPTMAX={self.max_recipients} MAILMAX={self.max_transactions}",  # RFC 9422
        ]  # fmt: skip
        if tls is not None:
            lines.append("REQUIRETLS")  # RFC 8689 §2: under TLS only
        elif self.starttls:
            lines.append("STARTTLS")
        if self._holds:
            latest = datetime.fromtimestamp(now + self.max_hold, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            lines.append(f"FUTURERELEASE {self.max_hold} {latest}")
        if self.role is Role.SUBMISSION and tls is not None and not signed_in:
            lines.append(f"AUTH {' '.join(sasl.offered(tls))} LOGIN")  # in the clear not even offered (RFC 4954 §4)
        return lines

    def parameters(self, tls: TLSInfo | None) -> frozenset[str]:
        """Of MAIL, known here and now."""
        held = {"HOLDFOR", "HOLDUNTIL"} if self._holds else set()
        return _PARAMETERS | held | ({"REQUIRETLS"} if tls is not None else set())

    @property
    def _holds(self) -> bool:
        return self.role is Role.SUBMISSION and self.max_hold > 0
