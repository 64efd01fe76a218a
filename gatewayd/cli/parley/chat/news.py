"""What the reactor's thread tells the screen."""

from __future__ import annotations

from collections.abc import Sequence

from textual.message import Message as Event

from gatewayd.wire.parley.schema import Signalled


class Changed(Event):
    """The archive or the outbox; `senders` of what came."""

    def __init__(self, senders: Sequence[str]) -> None:
        super().__init__()
        self.senders = senders


class State(Event):
    """The connection's."""

    def __init__(self, text: str, online: bool) -> None:
        super().__init__()
        self.text = text
        self.online = online


class SignalCame(Event):
    def __init__(self, signal: Signalled) -> None:
        super().__init__()
        self.signal = signal
