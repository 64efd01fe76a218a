"""The Received field that a message is given on its way in (RFC 5321 §4.4)."""

from __future__ import annotations

import re

from gatewayd.address import Domain
from gatewayd.interfaces.queue import Envelope
from gatewayd.message.dates import internet_date
from gatewayd.message.mime import Mail
from gatewayd.session.link import TLSInfo

MAX_HOPS = 50  # Received fields: beyond is a loop (RFC 5321 §6.3)


def goes_round(mail: Mail) -> bool:
    """Whether the message has come through so many servers that it must be going round in a loop."""
    return len(mail.root.all(b"received")) > MAX_HOPS


def received(
    trace_id: str,
    *,
    helo: str,
    peer: str,
    by: Domain,
    tls: TLSInfo | None,
    protocol: str,
    envelope: Envelope,
    now: float,
) -> bytes:  # fmt: skip
    """`protocol` is one of RFC 3848's names. `trace_id` is what the operator finds the message by."""
    name = re.sub(r"[^A-Za-z0-9.:\[\]_-]", "?", helo)
    literal = f"[IPv6:{peer}]" if ":" in peer else f"[{peer}]"
    lines = [f"Received: from {name} ({literal})"]
    if tls:
        lines.append(f"\t({tls.version} {tls.cipher})")
    lines.append(f"\tby {by} with {protocol} id {trace_id}")
    if len(envelope.recipients) == 1:
        lines.append(f"\tfor <{envelope.recipients[0]}>")
    lines[-1] += ";"
    lines.append(f"\t{internet_date(now)}")
    return ("\r\n".join(lines) + "\r\n").encode("utf-8")
