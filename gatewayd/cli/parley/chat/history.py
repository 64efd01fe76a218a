"""What was said in one conversation, and a key for each thing that can be done about a message."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime
from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message as Event
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from gatewayd.cli.parley.chat import lines
from gatewayd.client.conversation import Said

EARLIER, LATER = "earlier", "later"


class History(OptionList):
    """Options: the messages by their ids in hex; EARLIER and LATER where there is more; rules between days, which
    cannot be chosen. It stays where it was scrolled to, or at its end."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("r,enter", "deed('answer')", "Answer", key_display="r"),
        Binding("e", "deed('edit')", "Edit"),
        Binding("plus", "deed('react')", "React", key_display="+"),
        Binding("d", "deed('take_back')", "Take back"),
        Binding("s", "deed('save_files')", "Save files"),
        Binding("t", "deed('thread')", "Thread"),
        Binding("o", "deed('original')", "What it answers", show=False),
        Binding("i", "deed('details')", "Who says so"),
        Binding("x", "deed('cancel')", "Cancel", show=False),
        Binding("w", "deed('send_again')", "Send again", show=False),
        Binding("a", "deed('accept')", "Accept"),
        Binding("x", "deed('refuse')", "Refuse"),
        Binding("k", "cursor_up", show=False),
        Binding("j", "cursor_down", show=False),
        Binding("g", "first", show=False),
        Binding("G", "newest", show=False),
        Binding("end", "newest", show=False),
        Binding("escape", "back", show=False),
    ]

    class Deed(Event):
        """The user wants something done about a message."""

        def __init__(self, kind: str, said: Said) -> None:
            super().__init__()
            self.kind = kind
            self.said = said

    class More(Event):
        """EARLIER or LATER messages are to be shown."""

        def __init__(self, which: str) -> None:
            super().__init__()
            self.which = which

    class Back(Event):
        """To the place to write."""

    def __init__(self, user: str) -> None:
        super().__init__(markup=False, id="said")
        self._user = user
        self._said: dict[str, Said] = {}
        self._filling = False
        self._strangers = False

    # -- what is shown ------------------------------------------------------------------------------------------------

    def fill(
        self, said: Sequence[Said], *, new: bytes = b"", go_to: bytes = b"", earlier: bool = False, later: bool = False,
        strangers: bool = False, none: str = "",
    ) -> None:  # fmt: skip
        """`new`: a rule stands before that message; `go_to`: it is highlighted, and in sight; `none`: what stands there
        instead, if nothing was said; `strangers`: these are introductions."""
        chosen, top, into = self._chosen_id, *self._top()
        follow = self.is_at_end and (not self.has_focus or chosen in {"", *list(self._said)[-1:]})
        if chosen == EARLIER and self._said:  # what was the first
            chosen = top = next(iter(self._said))
        self._said = {one.message.id.hex(): one for one in said}
        self._strangers = strangers
        self._filling = True
        try:
            self.clear_options()
            self.add_options(self._built(said, new, earlier, later))
            if not said:
                self.add_option(Option(none, disabled=True))
                return
            self._update_lines()  # of OptionList: else it knows only with the next frame how long it is
            ids = [option.id for option in self.options]
            if go_to.hex() in self._said:
                self.highlighted = ids.index(go_to.hex())
                self.scroll_to_highlight()
            elif follow:
                self.highlighted = len(ids) - 1 - (ids[-1] == LATER)
                self.scroll_end(animate=False, immediate=True)
            else:
                self.highlighted = ids.index(chosen) if chosen in ids else len(ids) - 1
                if top in ids:
                    self.scroll_to(y=self._index_to_line[ids.index(top)] + into, animate=False, immediate=True)
        finally:
            self._filling = False

    def _built(self, said: Sequence[Said], new: bytes, earlier: bool, later: bool) -> list[Option]:
        found = [Option(lines.rule("earlier"), id=EARLIER)] if earlier else []
        today, day = datetime.now().astimezone().date(), date.min
        before: Said | None = None
        under: Said | None = None  # whose head it is
        for one in said:
            if lines.day(one) != day and not self._strangers:
                day, before, under = lines.day(one), None, None
                found.append(Option(lines.rule(lines.named(day, today)), disabled=True))
            if one.message.id == new:
                found.append(Option(lines.rule("new", "red"), disabled=True))
            head = under is None or not lines.goes_on(one, under, self._user)
            found.append(Option(lines.message(one, self._user, before, head=head), id=one.message.id.hex()))
            before, under = one, one if head else under
        return found + ([Option(lines.rule("later (Enter, or End: to the newest)"), id=LATER)] if later else [])

    @property
    def is_at_end(self) -> bool:
        return self.scroll_offset.y >= self.max_scroll_y - 1

    def _top(self) -> tuple[str, int]:
        """The option that is the first in sight, and how many of its lines are above."""
        try:
            index, into = self._lines[self.scroll_offset.y]
            return self.get_option_at_index(index).id or "", into
        except IndexError:
            return "", 0

    @property
    def _chosen_id(self) -> str:
        option = self.highlighted_option
        return (option.id or "") if option else ""

    @property
    def said(self) -> list[Said]:
        """All that is shown."""
        return list(self._said.values())

    @property
    def chosen(self) -> Said | None:
        """The message that is highlighted."""
        return self._said.get(self._chosen_id)

    # -- what the user does -------------------------------------------------------------------------------------------

    def watch_highlighted(self, highlighted: int | None) -> None:
        super().watch_highlighted(highlighted)
        if not self._filling and self._chosen_id == EARLIER:
            self.post_message(self.More(EARLIER))

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        super().watch_scroll_y(old_value, new_value)
        if not self._filling and new_value <= 0 < old_value and self.options and self.options[0].id == EARLIER:
            self.post_message(self.More(EARLIER))

    async def _on_click(self, event: events.Click) -> None:
        """Highlights; nothing is done by a click alone."""
        event.prevent_default()
        index = event.style.meta.get("option")
        if index is not None and not self.get_option_at_index(index).disabled:
            self.highlighted = index
            if self._chosen_id in {EARLIER, LATER}:
                self.post_message(self.More(self._chosen_id))

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """An introduction is accepted or refused; all else is for conversations."""
        if action == "deed" and parameters[0] not in {"save_files", "details"}:
            return (parameters[0] in {"accept", "refuse"}) is self._strangers
        return True

    def action_deed(self, kind: str) -> None:
        if self._chosen_id in {EARLIER, LATER}:
            self.post_message(self.More(self._chosen_id))
        elif self.chosen is not None:
            self.post_message(self.Deed(kind, self.chosen))

    def action_newest(self) -> None:
        if self.options and self.options[-1].id == LATER:
            self.post_message(self.More(LATER))
        else:
            self.action_last()

    def action_cursor_down(self) -> None:
        """From the last message on to the place to write."""
        if self.highlighted == self.option_count - 1:
            self.post_message(self.Back())
        else:
            super().action_cursor_down()

    def action_back(self) -> None:
        self.post_message(self.Back())
