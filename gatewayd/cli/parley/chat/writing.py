"""The place to write."""

from __future__ import annotations

from textual import events
from textual.message import Message as Event
from textual.widgets import TextArea


class Writing(TextArea):
    """Enter sends; Ctrl+J begins a new line."""

    class Done(Event):
        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    async def _on_key(self, event: events.Key) -> None:
        if event.key == "enter":
            event.stop()
            event.prevent_default()
            self.post_message(self.Done(self.text))
        elif event.key == "ctrl+j":
            event.stop()
            event.prevent_default()
            self.insert("\n")
        else:
            await super()._on_key(event)
