"""The first line: who we are, what is unread elsewhere, what is to be sent, how far files are, and the connection."""

from __future__ import annotations

from collections.abc import Iterable

from textual.message import Message as Event
from textual.widgets import Static

from gatewayd.cli.parley.chat import lines
from gatewayd.cli.parley.chat.news import State
from gatewayd.cli.parley.terminal import plain
from gatewayd.message.model import Part


class Moved(Event):
    """So many octets of a file are there."""

    def __init__(self, part: Part, octets: int, *, up: bool) -> None:
        super().__init__()
        self.part = part
        self.octets = octets
        self.up = up


class Status(Static):
    def __init__(self, user: str) -> None:
        super().__init__(markup=False, id="status")
        self._user = user
        self._state = State("opening", False)
        self._unread = self._waiting = 0
        self._moving: dict[bytes, Moved] = {}  # files on their way

    def on_mount(self) -> None:
        self._show()

    def show_state(self, state: State) -> None:
        self._state = state
        self._show()

    def count(self, *, unread: int, waiting: int) -> None:
        """Messages: in other conversations, in the outbox."""
        self._unread, self._waiting = unread, waiting
        self._show()

    def file_moves(self, part: Part, octets: int, *, up: bool) -> None:
        """On any thread; a hundred times at most it is worth showing."""
        known = self._moving.get(part.hash)
        if self.is_running and (known is None or 100 * known.octets // part.size != 100 * octets // part.size):
            self.post_message(Moved(part, octets, up=up))

    def files_rest(self, parts: Iterable[Part]) -> None:
        """They move no more, whatever became of them. On any thread."""
        for part in parts:
            self.file_moves(part, part.size, up=False)

    def on_moved(self, event: Moved) -> None:
        if event.octets < event.part.size:
            self._moving[event.part.hash] = event
        else:
            self._moving.pop(event.part.hash, None)
        self._show()

    def _show(self) -> None:
        said = [self._user]
        said += [f"{self._unread} unread"] if self._unread else []
        said += [f"{self._waiting} to be sent"] if self._waiting else []
        said += [lines.progress(m.part.name or "", m.octets, m.part.size, up=m.up) for m in self._moving.values()]
        self.update(plain("  ".join((*said, self._state.text))))
        self.set_class(not self._state.online, "offline")
