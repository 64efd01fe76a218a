"""A question with one line for the answer, and a text to be read."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.suggester import Suggester
from textual.widgets import Input, Static

CSS = """
{name} {{ align: center middle; }}
{name} > * {{ width: 80%; max-width: 90; height: auto; max-height: 80%; border: round $primary; padding: 0 1; }}
"""


class Ask(ModalScreen[str]):
    """Returns what was written, or "" for nothing."""

    BINDINGS: ClassVar[list[BindingType]] = [("escape", "dismiss('')", "Cancel")]
    DEFAULT_CSS = CSS.format(name="Ask")

    def __init__(self, question: str, suggester: Suggester | None = None) -> None:
        super().__init__()
        self._question = question
        self._suggester = suggester

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Static(self._question, markup=False)
            yield Input(suggester=self._suggester)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        self.dismiss(event.value.strip())


class Sure(ModalScreen[bool]):
    """Whether the user wants that."""

    BINDINGS: ClassVar[list[BindingType]] = [
        ("y,enter", "dismiss(True)", "Yes"),
        ("n,escape", "dismiss(False)", "No"),
    ]
    DEFAULT_CSS = CSS.format(name="Sure")

    def __init__(self, question: str) -> None:
        super().__init__()
        self._question = question

    def compose(self) -> ComposeResult:
        yield Static(f"{self._question}\n\nEnter: yes   Esc: no", markup=False)


class Paths(Suggester):
    """Completes the name of a file."""

    def __init__(self) -> None:
        super().__init__(use_cache=False, case_sensitive=True)

    async def get_suggestion(self, value: str) -> str | None:
        directory, slash, begun = value.rpartition("/")
        found = await asyncio.to_thread(_beginning, directory + slash, begun) if value else None
        return directory + slash + found if found else None


def _beginning(directory: str, begun: str) -> str | None:
    try:
        found = [path for path in Path(directory).expanduser().iterdir() if path.name.startswith(begun)]
        names = sorted(path.name + "/" * path.is_dir() for path in found)
    except (OSError, RuntimeError):  # no such user
        return None
    return names[0] if names else None


class Tell(ModalScreen[None]):
    BINDINGS: ClassVar[list[BindingType]] = [("escape,enter,f1,q", "dismiss", "Close")]
    DEFAULT_CSS = CSS.format(name="Tell") + "Tell > * { width: 100%; }"

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text

    def compose(self) -> ComposeResult:
        with VerticalScroll():
            yield Static(self._text, markup=False)
