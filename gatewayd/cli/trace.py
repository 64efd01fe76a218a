"""gatewayctl trace: the whole story of messages, in plain words."""

from __future__ import annotations

import argparse
import string
from typing import Any

from gatewayd.address import Address, AddressError
from gatewayd.cli.queue import MESSAGE_ID, many, time
from gatewayd.interfaces.story import Event


async def trace(gateway: Any, options: argparse.Namespace) -> None:
    """ID is what stands in the Received field and in the log. For an address: its newest messages, newest last."""
    word: str = options.what
    if "@" in word:
        try:
            about = str(Address.parse(word))
        except AddressError as error:
            raise ValueError(f"{word[:80]!r}: {error}") from None
        events = await gateway.trace.about(about, options.limit * 20)
        names = list(dict.fromkeys(e.trace_id for e in events if e.trace_id))[: options.limit]
        for name in reversed(names):
            _tell(name, await gateway.trace.story(name))
        _tell("not taken", [event for event in reversed(events) if not event.trace_id])
        if not events:
            print(f"nothing is known of {word}")
        return
    if len(word) != MESSAGE_ID or not set(word) <= set(string.hexdigits):
        raise ValueError(f"expected an address or the {MESSAGE_ID} hex digits of an id, got {word[:80]!r}")
    story = await gateway.trace.story(word.lower())
    _tell(word, story)
    if not story:
        print(f"nothing is known of {word}")


def _tell(name: str, story: list[Event]) -> None:
    if not story:
        return
    print(name)
    for event in story:
        about = f"<{event.address}> " if event.address and event.address not in event.text else ""
        text = "".join(c if c.isprintable() else "?" for c in event.text)
        print(f"  {time(event.at)}  {about}{text}")


def add_commands(made: argparse.ArgumentParser) -> None:
    made.add_argument("what", metavar="ID|ADDRESS")
    made.add_argument("--limit", type=many, default=20, help="so many messages of an address")
