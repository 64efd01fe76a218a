"""The screen: conversations with what is unread, one conversation, a place to write."""

from __future__ import annotations

import asyncio
import time
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

from textual import work
from textual.app import App, ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical
from textual.message import Message as Event
from textual.widgets import Footer, OptionList, Static, TextArea
from textual.widgets.option_list import Option
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from gatewayd.address import Address
from gatewayd.cli.parley.chat import lines, look
from gatewayd.cli.parley.chat.bridge import Bridge
from gatewayd.cli.parley.chat.dialogs import Ask, Tell
from gatewayd.cli.parley.chat.news import Changed, SignalCame, State
from gatewayd.cli.parley.chat.people import People
from gatewayd.cli.parley.chat.signals import PRESENCE_EVERY, TYPING_EVERY, Heard, say
from gatewayd.cli.parley.chat.writing import Writing
from gatewayd.cli.parley.terminal import plain
from gatewayd.client import ConnectionGone, Draft, RequestFailed, TransferFailed, compose
from gatewayd.client.archive import INTRODUCTIONS, Conversation
from gatewayd.client.conversation import Said
from gatewayd.client.device import Device
from gatewayd.client.files import save
from gatewayd.errors import StoreError
from gatewayd.message.model import EDIT, REACTION, RETRACT

HISTORY = 100  # messages shown at first, and more each time that earlier ones are asked for
EARLIER = "earlier"
CONVERSING = {"send_file", "edit", "react", "take_back"}  # actions that answer
ASKED = ("delivered", "displayed")  # the receipts that we ask for


class ChatApp(App[None]):
    """`first`: an address to begin with, or "". `tell`: authors who ask learn what was read. `signal`: the others learn
    that we are there, and writing."""

    TITLE = "parley"
    ENABLE_COMMAND_PALETTE = False
    CSS = look.CSS
    BINDINGS: ClassVar[list[BindingType]] = look.KEYS

    def __init__(
        self, reactor: Any, device: Device, first: str, *, downloads: Path, tell: bool, signal: bool = True
    ) -> None:
        super().__init__()
        self._reactor = reactor
        self._device = device
        self._ask = Bridge(reactor).ask
        self._user = device.parley.user
        self._open = first  # a conversation's name
        self._last = HISTORY
        self._downloads = downloads
        self._tell = tell
        self._signal = signal
        self._heard = Heard()
        self._status = Static(markup=False, id="status")
        self._list = OptionList(markup=False, id="conversations")
        self._title = Static(markup=False, id="title")
        self._shown = OptionList(markup=False, id="said")
        self._writing = Writing(id="writing")
        self._greeted = ("", 0)  # whom we last told that we are there, and on which connection
        self._typed = 0.0  # when we last said that we are writing
        self._conversations: list[Conversation] = []
        self._said: list[Said] = []
        self._editing: Said | None = None

    def compose(self) -> ComposeResult:
        yield self._status
        with Horizontal():
            yield self._list
            with Vertical():
                yield self._title
                yield self._shown
                yield self._writing
        yield Footer()

    # -- the other thread ---------------------------------------------------------------------------------------------

    def on_mount(self) -> None:
        self._show_state("opening", False)
        self._writing.focus()
        self._refresh()
        device = self._device

        def begin() -> None:
            device.on_changed = lambda new: self._tell_screen(Changed([m.sender for m in new]))
            device.parley.on_state = self._connection_changed
            device.parley.on_signal = lambda signal: self._tell_screen(SignalCame(signal))
            Deferred.fromCoroutine(device.run()).addErrback(self._device_stopped)

        self._reactor.callFromThread(begin)
        self.set_interval(1, self._show_title)
        self.set_interval(PRESENCE_EVERY, self._say_present)

    def _connection_changed(self, why: Exception | None) -> None:
        """On the reactor's thread."""
        text = "online" if why is None else f"offline, trying again: {why}"
        self._tell_screen(State(text, why is None))

    def _device_stopped(self, failure: Failure) -> None:
        if not failure.check(ConnectionGone):
            self._tell_screen(State(f"offline: {failure.value}", False))

    def _tell_screen(self, event: Event) -> None:
        if self.is_running:
            self.post_message(event)

    # -- what is shown ------------------------------------------------------------------------------------------------

    def on_changed(self, event: Changed) -> None:
        for sender in event.senders:
            self._heard.said_something(sender)
        self._refresh()

    def on_state(self, event: State) -> None:
        self._show_state(event.text, event.online)
        self._refresh()

    def on_signal_came(self, event: SignalCame) -> None:
        self._heard.hear(event.signal, time.monotonic())
        self._show_title()

    def _show_state(self, text: str, online: bool) -> None:
        self._status.update(plain(f"{self._user}  {text}"))
        self._status.set_class(not online, "offline")

    @work(exclusive=True, group="refresh")
    async def _refresh(self) -> None:
        """Newer news end this one and begin again: so a burst of them is shown once."""
        device, open_, last = self._device, self._open, self._last
        try:
            conversations = await self._ask(device.conversations)
            if self._gone(open_, conversations):
                open_ = self._open = conversations[0].name if conversations else ""
            said = await self._ask(lambda: device.conversation(open_, last)) if open_ else []
        except StoreError as error:
            self.notify(plain(str(error)), severity="error")
            return
        if not self.is_running:
            return  # the user left meanwhile
        if open_ and all(known.name != open_ for known in conversations):
            conversations.insert(0, Conversation(open_, 0, 0))
        self._show_conversations(conversations)
        self._show_said(said)
        if self._greeted != (open_, device.parley.connections):
            self._greeted = open_, device.parley.connections
            self._say_present()
        unread = any(one.unread for one in conversations if one.name == open_)
        if unread and open_ != INTRODUCTIONS and device.parley.is_online:
            await self._mark_read(open_)

    @staticmethod
    def _gone(name: str, conversations: list[Conversation]) -> bool:
        """There is none yet, or the last stranger was decided upon."""
        return not name or (name == INTRODUCTIONS and all(one.name != name for one in conversations))

    def _show_conversations(self, conversations: list[Conversation]) -> None:
        shown = self._list
        marked = self._open
        if shown.has_focus and shown.highlighted is not None:  # the user is about to choose
            marked = self._conversations[shown.highlighted].name
        if conversations != self._conversations:
            self._conversations = conversations
            shown.clear_options()
            shown.add_options([Option(lines.conversation(one)) for one in conversations])
        names = [one.name for one in conversations]
        if marked in names:
            shown.highlighted = names.index(marked)
        self._writing.disabled = self._open == INTRODUCTIONS
        self.refresh_bindings()
        self._show_title()

    def _show_title(self) -> None:
        people = self._open.splitlines()
        known = self._heard.of(people, time.monotonic())
        self._title.update(plain(", ".join(people) + (f"   {known}" if known else "")))

    def _show_said(self, said: list[Said]) -> None:
        shown = self._shown
        today = datetime.now().astimezone().date()
        chosen = self._highlighted()
        at_end = chosen is None or shown.highlighted == shown.option_count - 1
        self._said = said
        shown.clear_options()
        if len(said) >= self._last:
            shown.add_option(Option("(earlier messages: Enter)", id=EARLIER))
        shown.add_options([Option(lines.message(one, self._user, today), one.message.id.hex()) for one in said])
        ids = [shown.get_option_at_index(index).id for index in range(shown.option_count)]
        if at_end and ids:
            shown.highlighted = len(ids) - 1
            shown.scroll_end(animate=False)
        elif ids:  # what was earlier than all is now the first
            shown.highlighted = ids.index(chosen) if chosen in ids else 0

    def _highlighted(self) -> str | None:
        shown = self._shown
        return None if shown.highlighted is None else shown.get_option_at_index(shown.highlighted).id

    def _chosen(self) -> Said | None:
        """The message that is highlighted."""
        id = self._highlighted()
        return next((one for one in self._said if one.message.id.hex() == id), None)

    async def _mark_read(self, conversation: str) -> None:
        try:
            await self._ask(lambda: self._device.read(conversation, displayed=self._tell))
        except (OSError, RequestFailed, StoreError):
            return  # they stay unread until it can be said

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        if event.option_list.id == "conversations":
            self._turn_to(self._conversations[event.option_index].name)
        elif event.option_id == EARLIER:
            self._last += HISTORY
            self._refresh()
        else:
            self.action_details()

    def _turn_to(self, name: str) -> None:
        self._open, self._last, self._editing = name, HISTORY, None
        self._said = []
        self._shown.clear_options()
        self._writing.focus()
        self._refresh()

    # -- that we are here --------------------------------------------------------------------------------------------

    def on_text_area_changed(self, event: TextArea.Changed) -> None:
        now = time.monotonic()
        if event.text_area.text and len(self._open.splitlines()) == 1 and now > self._typed + TYPING_EVERY:
            self._typed = now
            self._say("typing")

    def _say_present(self) -> None:
        self._say("presence")

    @work(group="signal")
    async def _say(self, kind: str) -> None:
        people = self._open.splitlines()
        if self._signal and self._open != INTRODUCTIONS:
            await self._ask(lambda: say(self._device.parley, people, kind))

    # -- what the user does -------------------------------------------------------------------------------------------

    def on_writing_done(self, event: Writing.Done) -> None:
        text = event.text.strip("\n")
        if not text.strip() or not self._open or self._open == INTRODUCTIONS:
            return
        self._typed = 0.0
        self._writing.clear()
        if self._editing is not None:
            edited, self._editing = self._editing.message, None
            self._send(edited.content.fields.to, text, type=EDIT, replaces=edited.id, subject=edited.subject)
        else:
            self._send(self._open.splitlines(), text, receipts=ASKED)

    def _send(self, to: Any, text: str = "", **what: Any) -> None:
        draft = compose(self._user, to, text, now=time.time(), **what)
        self._put(list(to), draft)

    @work(group="send")
    async def _put(self, to: list[str], draft: Draft) -> None:
        """Into the outbox first; what follows may fail, and is tried again."""
        try:
            await self._ask(lambda: self._device.send(to, draft))
        except OSError:
            pass  # offline, as the screen says
        except (RequestFailed, StoreError) as error:
            self.notify(plain(str(error)), severity="error")

    @work
    async def action_begin(self) -> None:
        text = await self.push_screen_wait(Ask("Write to (addresses, with commas between)"))
        if text:
            try:
                others = {str(Address.parse(one.strip())) for one in text.split(",")} - {self._user}
            except ValueError as error:
                self.notify(plain(str(error)), severity="error")
                return
            self._turn_to("\n".join(sorted(others)) or self._user)

    @work
    async def action_send_file(self) -> None:
        if not self._open:
            return
        text = await self.push_screen_wait(Ask("Send the file"))
        if text:
            to = self._open.splitlines()
            try:
                draft = await asyncio.to_thread(self._with_file, to, text)
            except OSError as error:
                self.notify(plain(str(error)), severity="error")
            else:
                self._put(to, draft)

    def _with_file(self, to: list[str], name: str) -> Draft:
        """In a thread: to read a large one takes a while."""
        return compose(self._user, to, files=[Path(name).expanduser()], now=time.time(), receipts=ASKED)

    @work
    async def action_save_files(self) -> None:
        chosen = self._chosen()
        if chosen is None or not chosen.message.files:
            self.notify("the message has no files")
            return
        try:
            for path in await self._ask(lambda: self._saved(chosen.message.id)):
                self.notify(plain(f"saved as {path}"))
        except (OSError, RequestFailed, TransferFailed, StoreError) as error:
            self.notify(plain(str(error)), severity="error")

    async def _saved(self, id: bytes) -> list[Path]:
        """On the reactor's thread."""
        message = await self._device.archive.message(id)
        files = message.files if message else ()
        download = self._device.parley.download
        return [await save(message, part, self._downloads, download) for part in files if message]

    def action_details(self) -> None:
        chosen = self._chosen()
        if chosen is not None:
            self.push_screen(Tell(lines.details(chosen)))

    def action_edit(self) -> None:
        chosen = self._chosen()
        if chosen is None or not self._mine(chosen):
            self.notify("only messages of yours can be edited")
            return
        self._editing = chosen
        writing = self._writing
        writing.text = chosen.text
        writing.focus()

    @work
    async def action_react(self) -> None:
        chosen = self._chosen()
        if chosen is None:
            return
        text = await self.push_screen_wait(Ask("React with"))
        if text:
            original = chosen.message
            others = [to for to in dict.fromkeys((original.sender, *original.content.fields.to)) if to != self._user]
            self._send(others or [self._user], text, type=REACTION, answers=original)

    def action_take_back(self) -> None:
        chosen = self._chosen()
        if chosen is None or not self._mine(chosen):
            self.notify("only messages of yours can be taken back")
            return
        self._send(chosen.message.content.fields.to, type=RETRACT, replaces=chosen.message.id)

    def _mine(self, said: Said) -> bool:
        return said.message.sender == self._user and not said.retracted and said.waiting is None

    @work
    async def action_decide(self, accept: bool) -> None:
        chosen = self._chosen()
        if chosen is not None:
            try:
                await self._ask(lambda: self._device.decide(chosen.message, accept=accept))
            except (OSError, RequestFailed) as error:
                self.notify(plain(f"not now: {error}"), severity="error")

    @work
    async def action_people(self) -> None:
        contacts = await self._ask(self._device.archive.contacts)
        consent = self._device.parley.consent
        self.push_screen(People(contacts, lambda action, who: self._ask(lambda: consent(action, who))))

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """An introduction is accepted or refused; all else is for conversations."""
        if action == "decide":
            return self._open == INTRODUCTIONS
        return self._open != INTRODUCTIONS or action not in CONVERSING

    def action_keys(self) -> None:
        self.push_screen(Tell(lines.HELP))
