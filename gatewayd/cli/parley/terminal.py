"""What a message says is shown on a terminal, and must not command it."""

from __future__ import annotations

from gatewayd.client.message import Message


def plain(text: str) -> str:
    """Without control characters, and without those that turn the direction of what stands beside."""
    return "".join(c if c.isprintable() else " " if c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in text)


def how(message: Message) -> str:
    """Who answers for it, in a few words."""
    results = "".join(f"; {name} {result}" for name, result in message.results.items())
    kind = "" if message.type in {"message", "mail"} else f"{message.type}, "
    return f"mail, taken in by {message.signer}{results}" if message.bridged else f"{kind}signed by {message.signer}"
