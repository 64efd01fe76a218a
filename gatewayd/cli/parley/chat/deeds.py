"""What can be done about one message: a method for each key of `history.py`."""

from __future__ import annotations

from collections.abc import Callable

from textual.app import App

from gatewayd.cli.parley.chat import lines
from gatewayd.cli.parley.chat.dialogs import Ask, Sure, Tell
from gatewayd.cli.parley.chat.status import Status
from gatewayd.cli.parley.chat.talk import NotNow, Talk, View
from gatewayd.cli.parley.chat.writing import Writing
from gatewayd.cli.parley.terminal import plain
from gatewayd.client.conversation import Said, conversation_of
from gatewayd.client.message import about
from gatewayd.message.model import EDIT, RETRACT, Part

REACTIONS = ("\N{THUMBS UP SIGN}", "\N{HEAVY BLACK HEART}\ufe0f", "\N{FACE WITH TEARS OF JOY}",
    "\N{FACE WITH OPEN MOUTH}", "\N{CRYING FACE}", "\N{PERSON WITH FOLDED HANDS}")  # fmt: skip


class Deeds:
    """`turn_to` shows something else, and highlights the message of that id. All methods raise NotNow."""

    def __init__(
        self, app: App[None], talk: Talk, writing: Writing, status: Status, turn_to: Callable[[View, bytes], None]
    ) -> None:
        self._app = app
        self._talk = talk
        self._writing = writing
        self._status = status
        self._turn_to = turn_to

    async def answer(self, said: Said) -> None:
        self._must_be_sent(said)
        self._writing.begin(said)
        self._writing.focus()

    async def edit(self, said: Said) -> None:
        self._must_be_ours(said, EDIT)
        self._writing.begin(said, editing=True, text=said.text)
        self._writing.focus()

    async def react(self, said: Said) -> None:
        self._must_be_sent(said)
        picks = "  ".join(f"{number} {one}" for number, one in enumerate(REACTIONS, 1))
        text = await self._app.push_screen_wait(Ask(f"React with (an emoji, or a number: {picks})"))
        if text:
            text = REACTIONS[int(text) - 1] if text in map(str, range(1, len(REACTIONS) + 1)) else text
            await self._talk.react(said, text)

    async def take_back(self, said: Said) -> None:
        self._must_be_ours(said, RETRACT)
        sure = Sure(f"Take back, as far as the others' programs obey: {lines.quote(said)}")
        if await self._app.push_screen_wait(sure):
            await self._talk.take_back(said.message.id)

    async def save_files(self, said: Said) -> None:
        if not said.files:
            raise NotNow("the message has no files")

        def told(part: Part, octets: int) -> None:
            self._status.file_moves(part, octets, up=False)

        try:
            for path in await self._talk.save(said.version.id, told):
                self._app.notify(plain(f"saved as {path}"), markup=False)
        finally:
            self._status.files_rest(said.files)

    async def cancel(self, said: Said) -> None:
        await self._talk.cancel(said)
        self._status.files_rest(said.files)

    async def send_again(self, said: Said) -> None:
        if not (said.refused or said.undelivered):
            raise NotNow("nobody has refused it")
        await self._talk.send_again(said)

    async def thread(self, said: Said) -> None:
        if said.waiting is None:
            self._turn_to(View(self._conversation(said), thread=said.message.id), said.message.id)

    async def original(self, said: Said) -> None:
        if said.answers is None:
            raise NotNow("it answers nothing that is here")
        id = said.answers.message.id
        self._turn_to(await self._talk.around(self._conversation(said), id), id)

    async def details(self, said: Said) -> None:
        self._app.push_screen(Tell(lines.details(said, self._talk.user)))

    async def accept(self, said: Said) -> None:
        await self._talk.decide(said.message, accept=True)

    async def refuse(self, said: Said) -> None:
        await self._talk.decide(said.message, accept=False)

    def _must_be_sent(self, said: Said) -> None:
        if not said.message.content.signature:
            raise NotNow("it was not sent yet")
        if said.retracted:
            raise NotNow("it is taken back")

    def _must_be_ours(self, said: Said, type: str) -> None:
        self._must_be_sent(said)
        try:
            about(type, said.message, self._talk.user)
        except ValueError as error:
            raise NotNow(str(error)) from None

    def _conversation(self, said: Said) -> str:
        return conversation_of(self._talk.user, said.message.content.fields)
