"""A question with one line for the answer, and a text to be read."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Input, Static

CSS = """
{name} {{ align: center middle; }}
{name} > * {{ width: 80%; max-width: 90; height: auto; max-height: 80%; border: round $primary; padding: 0 1; }}
"""


class Ask(ModalScreen[str]):
    """Returns what was written, or "" for nothing."""

    BINDINGS: ClassVar[list[BindingType]] = [("escape", "dismiss('')", "Cancel")]
    DEFAULT_CSS = CSS.format(name="Ask")

    def __init__(self, question: str) -> None:
        super().__init__()
        self._question = question

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Static(self._question, markup=False)
            yield Input()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        self.dismiss(event.value.strip())


class Tell(ModalScreen[None]):
    BINDINGS: ClassVar[list[BindingType]] = [("escape,enter,f1,q", "dismiss", "Close")]
    DEFAULT_CSS = CSS.format(name="Tell")

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text

    def compose(self) -> ComposeResult:
        with VerticalScroll():
            yield Static(self._text, markup=False)
