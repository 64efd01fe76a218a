"""The screen: conversations with what is unread, one conversation, a place to write."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from functools import partial
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
from gatewayd.cli.parley.chat.deeds import Deeds
from gatewayd.cli.parley.chat.dialogs import Ask, Paths, Tell
from gatewayd.cli.parley.chat.history import EARLIER, History
from gatewayd.cli.parley.chat.news import Changed, SignalCame, State
from gatewayd.cli.parley.chat.people import People
from gatewayd.cli.parley.chat.searching import Search
from gatewayd.cli.parley.chat.signals import PRESENCE_EVERY, TYPING_EVERY, Heard
from gatewayd.cli.parley.chat.status import Status
from gatewayd.cli.parley.chat.talk import NotNow, Seen, Talk, View
from gatewayd.cli.parley.chat.writing import Writing
from gatewayd.cli.parley.terminal import plain
from gatewayd.client import ConnectionGone
from gatewayd.client.archive import Conversation
from gatewayd.client.conversation import Said
from gatewayd.client.device import Device

BELL_EVERY = 5.0  # seconds


class ChatApp(App[None]):
    """`first`: an address to begin with, or "". `tell`: authors who ask learn what was read. `signal`: the others learn
    that we are there, and writing."""

    TITLE = "parley"
    ENABLE_COMMAND_PALETTE = False
    CSS = look.CSS
    BINDINGS: ClassVar[list[BindingType]] = look.KEYS
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (look.NARROW, "-wide")]
    VERTICAL_BREAKPOINTS = [(0, "-short"), (look.SHORT, "-tall")]

    def __init__(
        self, reactor: Any, device: Device, first: str, *, downloads: Path, tell: bool, signal: bool = True
    ) -> None:
        super().__init__()
        self._reactor = reactor
        self._device = device
        self._talk = Talk(reactor, device, downloads, tell=tell, signal=signal)
        self._user = self._talk.user
        self._view = View(first)
        self._heard = Heard()
        self._status = Status(self._user)
        self._list = OptionList(markup=False, id="conversations")
        self._title = Static(markup=False, id="title")
        self._shown = History(self._user)
        self._writing = Writing()
        self._deeds = Deeds(self, self._talk, self._writing, self._status, self._turn_to)
        self._go_to = b""  # a message that is to be highlighted when it is there
        self._new = b""  # the first one that was not read when it came in sight
        self._greeted = ("", 0)  # whom we last told that we are there, and on which connection
        self._typed = 0.0  # when we last said that we are writing
        self._titled = ""
        self._rang = 0.0
        self._conversations: list[Conversation] = []

    def compose(self) -> ComposeResult:
        yield self._status
        with Horizontal():
            yield self._list
            with Vertical(id="talk"):
                yield self._title
                yield self._shown
                yield self._writing
        yield Footer()

    # -- the other thread ---------------------------------------------------------------------------------------------

    def on_mount(self) -> None:
        self._writing.focus()
        self._refresh()
        device = self._device

        def begin() -> None:
            device.on_changed = lambda new: self._tell_screen(Changed([m.sender for m in new]))
            device.parley.on_state = self._connection_changed
            device.parley.on_signal = lambda signal: self._tell_screen(SignalCame(signal))
            device.progress = partial(self._status.file_moves, up=True)
            device.at_rest = self._status.files_rest
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
        if any(sender != self._user and (not self.app_focus or sender != self._view.name) for sender in event.senders):
            self._ring()
        self._refresh()

    def _ring(self) -> None:
        if time.monotonic() > self._rang + BELL_EVERY:
            self._rang = time.monotonic()
            self.bell()

    def on_state(self, event: State) -> None:
        self._status.show_state(event)
        self._refresh()

    def on_signal_came(self, event: SignalCame) -> None:
        self._heard.hear(event.signal, time.monotonic())
        self._show_title()

    def on_app_focus(self) -> None:
        self._refresh()  # now it is read
        self._talk.try_now()

    def action_try_now(self) -> None:
        self._talk.try_now()

    @work(exclusive=True, group="refresh")
    async def _refresh(self) -> None:
        """Newer news end this one and begin again: so a burst of them is shown once."""
        view = self._view
        try:
            seen = await self._talk.look(view)
        except NotNow as error:
            self._complain(error)
            return
        if not self.is_running or view != self._view:
            return  # the user left, or wants to see something else meanwhile
        self._view = seen.view
        self._show_conversations(seen.conversations)
        self._show_said(seen)
        elsewhere = sum(one.unread for one in seen.conversations if one.name != self._view.name)
        self._status.count(unread=elsewhere, waiting=seen.waiting)
        if self._greeted != (self._view.name, self._device.parley.connections):
            self._greeted = self._view.name, self._device.parley.connections
            self._say_present()
        here = any(one.unread for one in seen.conversations if one.name == self._view.name)
        if here and self.app_focus and not self._view.strangers and self._device.parley.is_online:
            await self._talk.read(self._view.name)

    def _show_conversations(self, conversations: list[Conversation]) -> None:
        shown = self._list
        marked = self._view.name
        if shown.has_focus and shown.highlighted is not None:  # the user is about to choose
            marked = self._conversations[shown.highlighted].name
        if conversations != self._conversations:
            self._conversations = conversations
            shown.clear_options()
            shown.add_options([Option(lines.conversation(one)) for one in conversations])
        names = [one.name for one in conversations]
        if marked in names:
            shown.highlighted = names.index(marked)
        self._writing.turn_to(self._view.name)
        self._writing.disabled = self._view.strangers
        if self.focused is None:  # there were strangers, or too narrow a screen
            self._writing.focus()
        self.refresh_bindings()
        self._show_title()

    def _show_title(self) -> None:
        known = self._heard.of(self._view.people, time.monotonic())
        which = "a thread (Esc: all)" if self._view.thread else "the past (Esc: the newest)" if self._view.until else ""
        title = plain("   ".join(filter(None, (lines.names(self._view.name), which, known))))
        if title != self._titled:  # a screen that does not change is not drawn each second
            self._titled = title
            self._title.update(title)

    def _show_said(self, seen: Seen) -> None:
        view, said = seen.view, seen.said
        unread = next((one for one in said if self._is_unread(one)), None)
        if unread and (not self._new or not self.app_focus):
            self._new = unread.message.id
        go_to, self._go_to = self._go_to, b""
        full = (
            not view.thread and len(said) > view.last // 2
        )  # reactions and edits were among those that were asked for
        none = "Nothing was said yet." if view.name else "Nobody to talk with yet: Ctrl+N begins, F1 shows the keys."
        self._shown.fill(
            said, new=self._new, go_to=go_to, earlier=full, later=view.until is not None, strangers=view.strangers,
            none=none,
        )  # fmt: skip

    def _is_unread(self, said: Said) -> bool:
        message = said.message
        return message.sender != self._user and "\\Seen" not in message.flags and not self._view.strangers

    def _complain(self, error: Exception | str) -> None:
        self.notify(plain(str(error)), severity="error", markup=False)

    # -- where to look ------------------------------------------------------------------------------------------------

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        if event.option_list is self._list:
            self._turn_to(View(self._conversations[event.option_index].name))

    def _turn_to(self, view: View, go_to: bytes = b"") -> None:
        if view.name != self._view.name:
            self._new = b""
        self._view, self._go_to = view, go_to
        self.screen.remove_class("-choosing")
        self._shown.fill([])
        (self._shown if go_to or view.strangers else self._writing).focus()
        self._refresh()

    def on_history_more(self, event: History.More) -> None:
        if event.which == EARLIER:
            self._view = replace(self._view, pages=self._view.pages + 1)
            self._refresh()
        else:
            self._turn_to(View(self._view.name))

    def on_history_back(self) -> None:
        self._writing.focus()

    def on_writing_up(self) -> None:
        self._shown.focus()

    def on_writing_left(self) -> None:
        if self._view.thread or self._view.until:
            self._turn_to(View(self._view.name))

    def action_scroll_history(self, pages: int) -> None:
        if pages < 0:
            self._shown.scroll_page_up(animate=False)
        else:
            self._shown.scroll_page_down(animate=False)

    def action_conversations(self) -> None:
        self.screen.add_class("-choosing")
        self._list.focus()

    def action_turn(self, by: int) -> None:
        names = [one.name for one in self._conversations]
        if self._view.name in names:
            at = names.index(self._view.name) + by
            if 0 <= at < len(names):
                self._turn_to(View(names[at]))

    def action_unread(self) -> None:
        unread = [one.name for one in self._conversations if one.unread and one.name != self._view.name]
        if unread:
            self._turn_to(View(unread[-1]))  # who waits longest

    def action_search(self) -> None:
        self._do(self._search)

    async def _search(self) -> None:
        found = await self.push_screen_wait(Search(self._talk.search))
        if found:
            conversation, message = found
            self._turn_to(await self._talk.around(conversation, message.id), message.id)

    # -- that we are here --------------------------------------------------------------------------------------------

    def on_text_area_changed(self, event: TextArea.Changed) -> None:
        now = time.monotonic()
        if event.text_area.text and len(self._view.people) == 1 and now > self._typed + TYPING_EVERY:
            self._typed = now
            self._do(lambda: self._talk.say(self._view, "typing"))

    def _say_present(self) -> None:
        if self.app_focus:
            self._do(lambda: self._talk.say(self._view, "presence"))

    # -- what the user does -------------------------------------------------------------------------------------------

    def _do(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Beside what else happens."""

        async def run() -> None:
            try:
                await work()
            except NotNow as error:
                self._complain(error)

        self.run_worker(run())

    def on_writing_done(self, event: Writing.Done) -> None:
        view, about = self._view, event.about
        if not view.name or view.strangers:
            return
        self._typed, self._new = 0.0, b""
        self._writing.begin(None, text="")
        if event.editing and about is not None:
            self._do(partial(self._talk.edit, about, event.text))
            return
        if about is None and view.thread and self._shown.said:
            about = self._shown.said[-1]
        answers = about.message if about else None
        self._do(lambda: self._talk.send(view.people, event.text, answers=answers))
        if view.until:
            self._turn_to(View(view.name))

    def action_begin(self) -> None:
        self._do(self._begin)

    async def _begin(self) -> None:
        text = await self.push_screen_wait(Ask("Write to (addresses, with commas between)"))
        if text:
            try:
                others = {str(Address.parse(one.strip())) for one in text.split(",")} - {self._user}
            except ValueError as error:
                raise NotNow(str(error)) from None
            self._turn_to(View("\n".join(sorted(others)) or self._user))

    def action_send_file(self) -> None:
        if self._view.name and not self._view.strangers:
            self._do(self._send_file)

    async def _send_file(self) -> None:
        people = self._view.people
        text = await self.push_screen_wait(Ask(f"Send the file (Right: completes) to {', '.join(people)}", Paths()))
        if text:
            await self._talk.send(people, files=[_path(text)])

    def action_people(self) -> None:
        self._do(self._people)

    async def _people(self) -> None:
        self.push_screen(People(await self._talk.contacts(), self._talk.consent))

    def action_keys(self) -> None:
        self.push_screen(Tell(look.HELP))

    # -- about one message --------------------------------------------------------------------------------------------

    def on_history_deed(self, event: History.Deed) -> None:
        deed: Callable[[Said], Coroutine[Any, Any, None]] = getattr(self._deeds, event.kind)
        self._do(lambda: deed(event.said))


def _path(text: str) -> Path:
    """As typed, or as a terminal writes what is dropped on it."""
    return Path(text.strip("'\"")).expanduser()
