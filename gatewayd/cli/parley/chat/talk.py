"""What the screen asks of the device: on the reactor's thread, and what fails said in words."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from gatewayd.cli.parley.chat.bridge import Bridge
from gatewayd.cli.parley.chat.signals import say
from gatewayd.client import Contact, Draft, Message, RequestFailed, TransferFailed, compose
from gatewayd.client.archive import Conversation, Place
from gatewayd.client.conversation import Said
from gatewayd.client.device import Cancelled, Device
from gatewayd.client.files import save
from gatewayd.client.pages import INTRODUCTIONS
from gatewayd.errors import StoreError
from gatewayd.message.model import EDIT, REACTION, RETRACT, Part
from gatewayd.wire.parley.schema import Action

T = TypeVar("T")

HISTORY = 100  # messages shown at first, and more each time that earlier ones are asked for
FOUND = 100  # of a search
AROUND = 20  # messages shown after one that was jumped to
ASKED = ("delivered", "displayed")  # the receipts that we ask for


class NotNow(Exception):
    """Why something cannot be done, in words for the user."""


@dataclass(frozen=True)
class View:
    """What is to be seen: of the conversation `name` the last messages (`until` a place in the past), or only the
    thread of one message."""

    name: str = ""
    pages: int = 1
    until: Place | None = None
    thread: bytes = b""

    @property
    def last(self) -> int:
        return self.pages * HISTORY

    @property
    def people(self) -> list[str]:
        return self.name.splitlines()

    @property
    def strangers(self) -> bool:
        return self.name == INTRODUCTIONS


@dataclass(frozen=True)
class Seen:
    """What there is of it. `waiting` counts the outbox."""

    conversations: list[Conversation]
    view: View
    said: list[Said]
    waiting: int


class Talk:
    """`tell`: authors who ask learn what was read. `signal`: the others learn that we are there, and writing. All
    methods that wait raise NotNow."""

    def __init__(self, reactor: Any, device: Device, downloads: Path, *, tell: bool, signal: bool) -> None:
        self.device = device
        self.user = device.parley.user
        self._reactor = reactor
        self._bridge = Bridge(reactor)
        self._downloads = downloads
        self._tell = tell
        self._signal = signal
        self._saving: set[bytes] = set()  # blobs on their way here

    async def ask(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        try:
            return await self._bridge.ask(work)
        except (OSError, RequestFailed, TransferFailed, StoreError, ValueError) as error:
            raise NotNow(str(error)) from None

    async def look(self, view: View) -> Seen:
        """`view`, or the first conversation when there is nothing in it to be seen any more."""

        async def work() -> Seen:
            shown, device = view, self.device
            conversations = await device.conversations()
            if not view.name or (view.strangers and all(one.name != INTRODUCTIONS for one in conversations)):
                shown = View(conversations[0].name if conversations else "")
            if shown.thread:
                said = await device.thread(shown.name, shown.thread)
            else:
                said = await device.conversation(shown.name, shown.last, shown.until) if shown.name else []
            if shown.name and all(known.name != shown.name for known in conversations):
                conversations.insert(0, Conversation(shown.name, 0, 0))
            return Seen(conversations, shown, said, await device.outbox.count())

        return await self.ask(work)

    async def around(self, conversation: str, id: bytes) -> View:
        """Where that message is to be seen, with what was said before and after it."""
        return View(conversation, until=await self.ask(lambda: self.device.archive.place_after(id, AROUND)))

    async def search(self, text: str) -> list[tuple[str, Message]]:
        return await self.ask(lambda: self.device.archive.search(text, FOUND))

    async def send(
        self, to: Sequence[str], text: str = "", *, files: Sequence[Path] = (), answers: Message | None = None
    ) -> None:
        try:  # in a thread: to read a large file takes a while
            draft = await asyncio.to_thread(
                compose, self.user, to, text, files=files, answers=answers, receipts=ASKED, now=time.time()
            )
        except (OSError, ValueError) as error:
            raise NotNow(str(error)) from None
        await self._send(draft)

    async def edit(self, said: Said, text: str) -> None:
        await self._send(await self.ask(lambda: self.device.about(EDIT, said.message.id, text)))

    async def take_back(self, id: bytes) -> None:
        await self._send(await self.ask(lambda: self.device.about(RETRACT, id)))

    async def react(self, said: Said, what: str) -> None:
        """The same again takes it back."""
        ours = said.reactions.get((self.user, what), ())
        for id in ours:
            await self.take_back(id)
        if not ours:
            await self._send(await self.ask(lambda: self.device.about(REACTION, said.message.id, what)))

    async def _send(self, draft: Draft) -> None:
        """Into the outbox first: what follows may fail, and is tried again."""
        try:
            to = await self._bridge.ask(lambda: self.device.whom(draft))
            await self._bridge.ask(lambda: self.device.send(to, draft))
        except OSError:
            return  # offline, as the screen says
        except (RequestFailed, StoreError) as error:
            raise NotNow(str(error)) from None

    async def cancel(self, said: Said) -> None:
        """What waits to be sent is not, be it the message or changes of it; what was refused is forgotten; a file of it
        that is on its way is not saved."""
        waiting = said.waiting_changes if said.waiting is None else (said.message.id, *said.waiting_changes)
        for id in dict.fromkeys((*waiting, *said.refused)):
            await self.ask(partial(self.device.cancel, id))
        if said.reports:
            await self.ask(lambda: self.device.forget(said.reports))
        self._saving.difference_update(part.hash for part in said.files)

    async def send_again(self, said: Said) -> None:
        """To those who refused it, or a change of it."""
        for id in dict.fromkeys((*said.refused, *([said.message.id] if said.undelivered else ()))):
            with contextlib.suppress(ConnectionError):  # it waits, as the screen says
                await self.ask(partial(self.device.send_again, id))

    async def save(self, id: bytes, progress: Callable[[Part, int], None]) -> list[Path]:
        """The files of a message."""

        def told(part: Part, octets: int) -> None:
            if part.hash not in self._saving:
                raise Cancelled
            progress(part, octets)

        async def download(part: Part, to: Path) -> None:
            self._saving.add(part.hash)
            try:
                await self.device.parley.download(part, to, told)
            finally:
                self._saving.discard(part.hash)

        async def work() -> list[Path]:
            message = await self.device.archive.message(id)
            files = message.files if message else ()
            with contextlib.suppress(Cancelled):
                return [await save(message, part, self._downloads, download) for part in files if message]
            return []

        return await self.ask(work)

    async def read(self, conversation: str) -> None:
        with contextlib.suppress(NotNow):  # they stay unread until it can be said
            await self.ask(lambda: self.device.read(conversation, displayed=self._tell))

    async def decide(self, introduction: Message, *, accept: bool) -> None:
        await self.ask(lambda: self.device.decide(introduction, accept=accept))

    def try_now(self) -> None:
        """The server may be there again."""
        self._reactor.callFromThread(self.device.parley.try_now)

    async def contacts(self) -> list[Contact]:
        return await self.ask(self.device.archive.contacts)

    async def consent(self, action: Action, address: str) -> Contact:
        return await self.ask(lambda: self.device.parley.consent(action, address))

    async def say(self, view: View, kind: str) -> None:
        if self._signal and not view.strangers:
            await self.ask(lambda: say(self.device.parley, view.people, kind))
