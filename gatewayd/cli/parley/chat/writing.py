"""The place to write: what was begun for each conversation stays there until it is sent."""

from __future__ import annotations

from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message as Event
from textual.widgets import TextArea

from gatewayd.cli.parley.chat import lines
from gatewayd.client.conversation import Said

NEW_LINE = {"ctrl+j", "shift+enter", "alt+enter"}


class Writing(TextArea):
    """Enter sends; Ctrl+J begins a new line. `about` is the message that is answered, or edited."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("pageup", "app.scroll_history(-1)", show=False),
        Binding("pagedown", "app.scroll_history(1)", show=False),
        Binding("escape", "leave", show=False),
    ]

    class Done(Event):
        def __init__(self, text: str, about: Said | None, editing: bool) -> None:
            super().__init__()
            self.text = text
            self.about = about
            self.editing = editing

    class Up(Event):
        """Over the first line: to what was said."""

    class Left(Event):
        """Escape, when there is nothing here to be given up."""

    def __init__(self) -> None:
        super().__init__(id="writing", highlight_cursor_line=False)
        self.about: Said | None = None
        self.editing = False
        self._conversation = ""
        self._kept: dict[str, str] = {}  # conversation -> what was begun

    def turn_to(self, name: str) -> None:
        """Another conversation. What was begun before there was one is for the first."""
        if name != self._conversation:
            self._keep()
            begun = self._kept.pop(name, "") or self._kept.pop("", "")
            self._conversation = name
            self.begin(None, text=begun)

    def begin(self, about: Said | None, *, editing: bool = False, text: str | None = None) -> None:
        """An answer, an edit, or (None) neither; `text` instead of what stands there."""
        self.about, self.editing = about, editing
        what = "" if about is None else f"{'edits' if editing else 'answers'} {lines.quote(about)}  (Esc: not)"
        self.border_title = what.replace("[", "\\[")
        if text is not None:
            self.text = text
            self.move_cursor(self.document.end)

    def _keep(self) -> None:
        if self.text.strip() and not self.editing:
            self._kept[self._conversation] = self.text

    async def _on_key(self, event: events.Key) -> None:
        if event.key == "enter":
            event.stop()
            event.prevent_default()
            if self.text.strip():
                self.post_message(self.Done(self.text.strip("\n"), self.about, self.editing))
        elif event.key in NEW_LINE:
            event.stop()
            event.prevent_default()
            self.insert("\n")
        else:
            await super()._on_key(event)

    def action_cursor_up(self, select: bool = False) -> None:
        if self.navigator.is_first_wrapped_line(self.selection.end) and not select:
            self.post_message(self.Up())
        else:
            super().action_cursor_up(select)

    def action_leave(self) -> None:
        if self.about is None:
            self.post_message(self.Left())
        else:
            self.begin(None, text="" if self.editing else None)
