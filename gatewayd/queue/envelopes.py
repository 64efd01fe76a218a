"""A recipient's envelope as it stands in the row."""

from __future__ import annotations

from gatewayd.address import Address
from gatewayd.interfaces.queue import Asked, Envelope

ENVELOPE = "recipient, reverse_path, options, ret, envid, notify, orcpt, found"


def columns(envelope: Envelope, recipient: Address) -> tuple[str, ...]:
    """The values of ENVELOPE."""
    asked = envelope.asked_of(recipient)
    words = " ".join(sorted(envelope.options)), envelope.ret, envelope.envid, " ".join(sorted(asked.notify))
    return str(recipient), str(envelope.reverse_path or ""), *words, asked.orcpt, envelope.found


def envelope(to: str, path: str, options: str, ret: str, envid: str, notify: str, orcpt: str, found: str) -> Envelope:
    recipient = Address.parse(to)
    asked = {recipient: Asked(frozenset(notify.split()), orcpt)} if notify or orcpt else {}
    reverse_path = Address.parse(path) if path else None
    return Envelope(reverse_path, (recipient,), frozenset(options.split()), ret, envid, asked, found=found)
