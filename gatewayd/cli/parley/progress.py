"""How far a large file is on its way, to the server or from it."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from gatewayd.cli.parley.terminal import plain
from gatewayd.message.model import Part


class Bars:
    """A bar for each file, called as the transfer's progress; nothing where `console` is no terminal."""

    def __init__(self, console: Console | None = None) -> None:
        console = console or Console(stderr=True)
        name = TextColumn("{task.description}", markup=False)
        columns = (name, BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=console, disable=not console.is_terminal)
        self._tasks: dict[bytes, TaskID] = {}

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    def __call__(self, part: Part, octets: int) -> None:
        if part.hash not in self._tasks:
            self._tasks[part.hash] = self._progress.add_task(plain(part.name or part.type), total=part.size)
        self._progress.update(self._tasks[part.hash], completed=octets)
