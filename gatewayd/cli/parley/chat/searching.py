"""Where something was said: a place for words, and below it the messages that have them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import ClassVar

from rich.text import Text
from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from gatewayd.cli.parley.chat import lines
from gatewayd.cli.parley.terminal import when
from gatewayd.client import Message

Found = list[tuple[str, Message]]  # conversations and messages
PAUSE = 0.15  # seconds after a key until it is looked for


class Search(ModalScreen[tuple[str, Message] | None]):
    """Returns what was chosen, and in which conversation it stands."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss(None)", "Close"),
        Binding("down", "move(1)", show=False),
        Binding("up", "move(-1)", show=False),
    ]
    DEFAULT_CSS = """
    Search { align: center middle; }
    Search > Vertical { width: 90%; max-width: 110; height: 80%; border: round $primary; }
    Search OptionList { height: 1fr; border: none; scrollbar-gutter: stable; }
    Search Static { height: 1; padding: 0 1; }
    """

    def __init__(self, search: Callable[[str], Awaitable[Found]]) -> None:
        super().__init__()
        self._search = search
        self._found: Found = []
        self._shown = OptionList(markup=False)
        self._many = Static("words, in any order; Enter goes there", markup=False)

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Input(placeholder="Search in all that was said")
            yield self._many
            yield self._shown

    def on_input_changed(self, event: Input.Changed) -> None:
        self._look(event.value)

    @work(exclusive=True)
    async def _look(self, text: str) -> None:
        await asyncio.sleep(PAUSE)
        self._found = await self._search(text)
        self._shown.clear_options()
        self._shown.add_options([Option(_line(name, message)) for name, message in self._found])
        if self._found:
            self._shown.highlighted = 0
        self._many.update(f"{len(self._found)} found" if text.strip() else "")

    def action_move(self, by: int) -> None:
        if by > 0:
            self._shown.action_cursor_down()
        else:
            self._shown.action_cursor_up()

    def on_input_submitted(self) -> None:
        if self._shown.highlighted is not None:
            self.dismiss(self._found[self._shown.highlighted])

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(self._found[event.option_index])


def _line(name: str, message: Message) -> Text:
    text = Text(f"{when(message):%Y-%m-%d %H:%M}  ", "dim", no_wrap=True, overflow="ellipsis")
    text.append(lines.names(name), "bold cyan")
    return text.append("\n").append(lines.first_words(message.subject, message.text) or lines.files(message))
