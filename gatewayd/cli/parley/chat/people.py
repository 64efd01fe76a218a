"""Who may write, who may not, and who asks: contacts to grant or revoke (docs/parley.rst, Consent)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import ClassVar

from rich.text import Text
from textual import work
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.screen import ModalScreen
from textual.widgets import Footer, OptionList
from textual.widgets.option_list import Option

from gatewayd.cli.parley.chat.talk import NotNow
from gatewayd.cli.parley.contacts import MEANINGS
from gatewayd.cli.parley.terminal import plain
from gatewayd.client import Contact
from gatewayd.wire.parley.schema import Action

Decide = Callable[[Action, str], Awaitable[Contact]]
FIRST = {"requested": 0, "granted": 1, "revoked": 2}


class People(ModalScreen[None]):
    """`decide` asks the server, and returns what they are now, or raises NotNow."""

    BINDINGS: ClassVar[list[BindingType]] = [
        ("a", "decide('grant')", "May write"),
        ("x", "decide('revoke')", "May not"),
        ("escape", "dismiss", "Close"),
    ]
    DEFAULT_CSS = """
    People { align: center middle; }
    People > OptionList { width: 80%; max-width: 90; height: 60%; border: round $primary; }
    """

    def __init__(self, contacts: Sequence[Contact], decide: Decide) -> None:
        super().__init__()
        self._contacts = sorted(contacts, key=lambda contact: (FIRST.get(contact.state, 3), contact.address))
        self._decide = decide
        self._shown = OptionList(markup=False)

    def compose(self) -> ComposeResult:
        yield self._shown
        yield Footer()

    def on_mount(self) -> None:
        self._shown.add_options([Option(_line(contact)) for contact in self._contacts])
        if self._contacts:
            self._shown.highlighted = 0
        self._shown.focus()

    @work
    async def action_decide(self, action: Action) -> None:
        at = self._shown.highlighted
        if at is None:
            return
        try:
            self._contacts[at] = await self._decide(action, self._contacts[at].address)
        except NotNow as error:
            self.notify(plain(str(error)), severity="error")
        else:
            self._shown.replace_option_prompt_at_index(at, _line(self._contacts[at]))


def _line(contact: Contact) -> Text:
    return Text(plain(f"{contact.address} {MEANINGS[contact.state]}"), "bold" if contact.state == "requested" else "")
