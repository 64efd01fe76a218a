"""The whole screen, driven by textual's Pilot, against a gateway over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.text import Text
from textual.pilot import Pilot
from textual.widgets import OptionList, Static

from gatewayd.cli.parley.chat.app import ChatApp
from gatewayd.cli.parley.chat.dialogs import Tell
from gatewayd.cli.parley.chat.history import LATER, History
from gatewayd.cli.parley.chat.people import People
from gatewayd.cli.parley.chat.searching import Search
from gatewayd.cli.parley.chat.signals import Heard
from gatewayd.cli.parley.chat.writing import Writing
from gatewayd.client import ConnectionGone, ParleyClient, TransferFailed, patience, transfer
from gatewayd.client.archive import Archive
from gatewayd.client.device import Device
from gatewayd.crypto.certificates import make_authority
from gatewayd.interfaces.records import Delivery
from gatewayd.message.model import Content, Payload
from gatewayd.wire.parley.schema import Signalled
from tests.house import ALICE, ALPHA, BOB, CAROL, PASSWORD, House, signed
from tests.test_client import here, inbox, sign_in, taken

PATIENCE = 15  # seconds until a screen that does not come fails the test
Play = Callable[[Pilot[None], ChatApp], Coroutine[Any, Any, None]]


@pytest.fixture
def alpha(reactor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    monkeypatch.setattr(patience, "FIRST_WAIT", 0.05)
    made = House(reactor, tmp_path / "alpha", ALPHA, (ALICE, BOB), {}, make_authority("Test authority"))
    yield made
    made.stop()


def play(
    alpha: House, tmp_path: Path, scene: Play, *, first: str = "", tell: bool = False, size: tuple[int, int] = (110, 40)
) -> None:  # fmt: skip
    """alice at her screen."""

    def make() -> Device:
        parley = ParleyClient(alpha.reactor, str(ALICE), PASSWORD, server=here(alpha), authorities=alpha.authorities)
        archive = Archive(tmp_path / "alice.sqlite", str(ALICE), alpha.reactor.callFromThread)
        return Device(alpha.reactor, parley, archive)

    device = alpha.call(make)
    app = ChatApp(alpha.reactor, device, first, downloads=tmp_path, tell=tell)

    async def run() -> None:
        async with app.run_test(size=size, notifications=True) as pilot:
            await scene(pilot, app)

    try:
        asyncio.run(run())
    finally:
        alpha.call(device.close)


def options(app: ChatApp, name: str) -> list[str]:
    shown = app.query_one(f"#{name}", OptionList)
    prompts = [shown.get_option_at_index(index).prompt for index in range(shown.option_count)]
    return [prompt.plain if isinstance(prompt, Text) else str(prompt) for prompt in prompts]


def said(app: ChatApp) -> str:
    return "\n".join(options(app, "said"))


def status(app: ChatApp) -> str:
    return str(app.query_one("#status", Static).render())


def recorded(app: ChatApp, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the status line says from now on."""
    seen: list[str] = []
    shown = app._status._show

    def show() -> None:
        shown()
        seen.append(status(app))

    monkeypatch.setattr(app._status, "_show", show)
    return seen


async def until(pilot: Pilot[None], condition: Callable[[], bool], what: Callable[[], object] = lambda: "") -> None:
    for _ in range(PATIENCE * 50):
        if condition():
            return
        await pilot.pause(0.02)
    raise AssertionError(f"it did not come; there is: {what()}")


async def shows(pilot: Pilot[None], app: ChatApp, text: str) -> None:
    await until(pilot, lambda: text in said(app), lambda: said(app))


async def choose(pilot: Pilot[None], app: ChatApp, text: str, *keys: str) -> None:
    """Highlights the last message that says so, and presses keys."""
    history = app.query_one(History)
    history.focus()
    history.highlighted = max(i for i, shown in enumerate(options(app, "said")) if text in shown)
    await pilot.pause()
    await pilot.press(*keys)


async def write(pilot: Pilot[None], app: ChatApp, text: str) -> None:
    app.query_one(Writing).focus()
    app.query_one(Writing).text = text
    await pilot.press("enter")


async def on_reactor(alpha: House, work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    return await asyncio.to_thread(lambda: alpha.wait(work()))


def test_a_conversation(alpha: House, tmp_path: Path) -> None:
    """What was there, what comes, what is written, and what is known of it."""
    bob = sign_in(alpha, BOB)
    alpha.wait(bob.send([str(ALICE)], "before", subject="Old"))

    async def scene(pilot: Pilot[None], app: ChatApp) -> None:
        await shows(pilot, app, "before")
        assert "bob@alpha.test\nOld\nbefore" in said(app)
        await until(pilot, lambda: "online" in status(app))
        await on_reactor(alpha, lambda: bob.send([str(ALICE)], "live"))
        await shows(pilot, app, "live")
        await write(pilot, app, "an answer")
        await shows(pilot, app, "an answer")
        await until(pilot, lambda: "you  on the server\nan answer" in said(app), lambda: said(app))
        assert options(app, "conversations") == ["bob@alpha.test"]
        await until(pilot, lambda: app._conversations[0].unread == 0)
        assert app.query_one(Writing).text == ""

    play(alpha, tmp_path, scene)
    assert [message.text for message in inbox(alpha, bob)] == ["an answer"]
    assert all("\\Seen" in message.flags for message in inbox(alpha, sign_in(alpha, ALICE)))


def test_offline_and_back(alpha: House, tmp_path: Path) -> None:
    """Opened without a server: the history is there; what is written waits, and leaves by itself."""
    bob = sign_in(alpha, BOB)
    alpha.wait(bob.send([str(ALICE)], "before"))

    async def first(pilot: Pilot[None], app: ChatApp) -> None:
        await shows(pilot, app, "before")

    play(alpha, tmp_path, first)
    alpha.hush()

    async def second(pilot: Pilot[None], app: ChatApp) -> None:
        await shows(pilot, app, "before")
        await until(pilot, lambda: "offline, trying again" in status(app), lambda: status(app))
        await write(pilot, app, "written offline")
        await until(pilot, lambda: "you  waits to be sent\nwritten offline" in said(app), lambda: said(app))
        await asyncio.to_thread(alpha.listen)
        app._device.parley._where = (here(alpha), *app._device.parley._where[1:])
        await until(pilot, lambda: "you  on the server\nwritten offline" in said(app), lambda: said(app))
        await until(pilot, lambda: "online" in status(app))
        assert said(app).count("written offline") == 1
        await asyncio.to_thread(alpha.hush)
        await until(pilot, lambda: "offline, trying again" in status(app), lambda: status(app))

    play(alpha, tmp_path, second)
    alpha.listen()
    assert [message.text for message in inbox(alpha, sign_in(alpha, BOB))] == ["written offline"]


def test_a_wrong_password_is_said(alpha: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(pilot: Pilot[None], app: ChatApp) -> None:
        await until(pilot, lambda: "auth-failed" in status(app), lambda: status(app))

    monkeypatch.setattr("tests.test_cli_parley_chat.PASSWORD", "wrong")
    play(alpha, tmp_path, scene)


def test_who_else_and_back(alpha: House, tmp_path: Path) -> None:
    """Two conversations; the other one's unread messages are counted until it is opened."""
    bob, alice = sign_in(alpha, BOB), sign_in(alpha, ALICE)
    alpha.wait(alice.send([str(ALICE)], "a note to myself"))
    for text in ("one", "two"):
        alpha.wait(bob.send([str(ALICE)], text))

    async def scene(pilot: Pilot[None], app: ChatApp) -> None:
        await until(pilot, lambda: "bob@alpha.test (2)" in options(app, "conversations"))
        await shows(pilot, app, "a note to myself")
        shown = app.query_one("#conversations", OptionList)
        shown.focus()
        await until(pilot, lambda: shown.has_focus)  # from now on the list keeps what is highlighted
        shown.highlighted = options(app, "conversations").index("bob@alpha.test (2)")
        await pilot.press("enter")
        await shows(pilot, app, "two")
        assert "a note" not in said(app)
        await until(pilot, lambda: sorted(options(app, "conversations")) == ["alice@alpha.test", "bob@alpha.test"])

    play(alpha, tmp_path, scene, first=str(ALICE))


def test_a_new_conversation_with_several(alpha: House, tmp_path: Path) -> None:
    """Of each it is seen at a glance what became of the message for him."""
    bob = sign_in(alpha, BOB)

    async def scene(pilot: Pilot[None], app: ChatApp) -> None:
        await until(pilot, lambda: "online" in status(app))
        await pilot.press("ctrl+n")
        await pilot.press(*"no address", "enter")
        await pilot.press("ctrl+n")
        await pilot.press(*"bob@ALPHA.test, nobody@alpha.test", "enter")
        names = ("bob@alpha.test", "nobody@alpha.test")
        await until(pilot, lambda: [c.addresses for c in app._conversations] == [names])
        await write(pilot, app, "to both")
        await shows(pilot, app, "not delivered to nobody@alpha.test: 5.1.1")
        assert options(app, "conversations") == ["bob@alpha.test, nobody@a… !"]
        assert "you  on the server for bob\nto both\nnot delivered to nobody@alpha.test: 5.1.1" in said(app)
        alpha.wait(taken(bob.messages(), 1))
        await shows(pilot, app, "you  delivered to bob\nto both\nnot delivered to nobody")
        alpha.wait(bob.mark("INBOX", [1], displayed=True))
        await shows(pilot, app, "you  read by bob\nto both\nnot delivered to nobody")
        await choose(pilot, app, "to both", "i")
        await until(pilot, lambda: isinstance(app.screen, Tell))
        told = str(app.screen.query_one(Static).render())
        assert "\nbob@alpha.test: read\nnot delivered to nobody@alpha.test: 5.1.1 " in told
        await pilot.press("escape")
        await choose(pilot, app, "to both", "w")  # no better
        await until(pilot, lambda: "w: send it again" in said(app))
        await choose(pilot, app, "to both", "x")
        await until(pilot, lambda: "not delivered" not in said(app) and "w: send" not in said(app), lambda: said(app))

    play(alpha, tmp_path, scene)
    assert [message.text for message in inbox(alpha, sign_in(alpha, BOB))] == ["to both"]


def test_files_both_ways(alpha: House, tmp_path: Path) -> None:
    bob = sign_in(alpha, BOB)
    (tmp_path / "picture.png").write_bytes(b"from bob")
    alpha.wait(bob.send([str(ALICE)], "look", files=[tmp_path / "picture.png"]))
    (tmp_path / "answer.txt").write_bytes(b"from alice")

    async def scene(pilot: Pilot[None], app: ChatApp) -> None:
        await shows(pilot, app, "[picture.png, 8 octets]")
        await choose(pilot, app, "picture.png", "s")
        await until(pilot, (tmp_path / "picture-1.png").exists)
        await pilot.press("ctrl+o")
        await pilot.press(*str(tmp_path / "answer.txt"), "enter")
        await until(pilot, lambda: "you  on the server\n[answer.txt, 10 octets]" in said(app), lambda: said(app))
        await pilot.press("ctrl+o")
        await pilot.press(*"/no/such/file", "enter")
        await until(pilot, lambda: any("No such file" in note.message for note in app._notifications))

    play(alpha, tmp_path, scene)
    assert (tmp_path / "picture-1.png").read_bytes() == b"from bob"
    (got,) = inbox(alpha, sign_in(alpha, BOB))
    assert [part.name for part in got.files] == ["answer.txt"]


def test_edits_reactions_and_taking_back(alpha: House, tmp_path: Path) -> None:
    bob = sign_in(alpha, BOB)
    alpha.wait(bob.send([str(ALICE)], "mist"))
    (original,) = inbox(alpha, sign_in(alpha, ALICE))

    async def scene(pilot: Pilot[None], app: ChatApp) -> None:
        await shows(pilot, app, "mist")
        await choose(pilot, app, "mist", "e")  # not ours
        assert app.query_one(Writing).text == ""
        await choose(pilot, app, "mist", "plus")
        await pilot.press(*"+1", "enter")
        await shows(pilot, app, "+1 you")
        await choose(pilot, app, "mist", "plus")
        await pilot.press("1", "enter")
        await shows(pilot, app, "\N{THUMBS UP SIGN} you")
        await choose(pilot, app, "mist", "plus")
        await pilot.press(*"+1", "enter")  # the same again takes it back
        await until(pilot, lambda: "+1 you" not in said(app), lambda: said(app))
        await write(pilot, app, "my mistale")
        await shows(pilot, app, "you  on the server\nmy mistale")
        await choose(pilot, app, "mistale", "e")
        await until(pilot, lambda: app.query_one(Writing).text == "my mistale")
        await pilot.press("escape")  # not after all
        assert (app.query_one(Writing).text, app.query_one(Writing).about) == ("", None)
        await choose(pilot, app, "mistale", "e")
        await until(pilot, lambda: app.query_one(Writing).text == "my mistale")
        assert "edits alice@alpha.test: my mistale" in str(app.query_one(Writing).border_title)
        await write(pilot, app, "my mistake")
        await shows(pilot, app, "edited\nmy mistake")
        assert "mistale" not in said(app)
        await choose(pilot, app, "my mistake", "d", "escape")
        await choose(pilot, app, "my mistake", "d", "enter")
        await shows(pilot, app, "taken back by its author")
        assert "mistake" not in said(app)
        await on_reactor(alpha, lambda: bob.edit(original, "missed"))
        await shows(pilot, app, "edited\nmissed")

    play(alpha, tmp_path, scene)
    assert [m.type for m in inbox(alpha, sign_in(alpha, BOB))] == [
        "reaction", "reaction", "retract", "message", "edit", "retract",
    ]  # fmt: skip


def test_changes_offline(alpha: House, tmp_path: Path) -> None:
    """They are shown, and that they wait; one is given up."""
    alice, bob = sign_in(alpha, ALICE), sign_in(alpha, BOB)
    alpha.wait(alice.send([str(BOB)], "mistale"))
    alpha.wait(bob.send([str(ALICE)], "hello"))

    async def first(pilot: Pilot[None], app: ChatApp) -> None:
        await shows(pilot, app, "hello")

    play(alpha, tmp_path, first)
    alpha.hush()

    async def second(pilot: Pilot[None], app: ChatApp) -> None:
        await shows(pilot, app, "hello")
        await choose(pilot, app, "mistale", "e")
        await until(pilot, lambda: app.query_one(Writing).text == "mistale")
        await write(pilot, app, "mistake")
        await shows(pilot, app, "edited  a change waits to be sent\nmistake")
        await choose(pilot, app, "hello", "plus")
        await pilot.press(*"+1", "enter")
        await shows(pilot, app, "a change waits to be sent\nhello\n+1 you")
        await until(pilot, lambda: "2 to be sent" in status(app))
        await choose(pilot, app, "hello", "x")
        await until(pilot, lambda: "+1" not in said(app), lambda: said(app))
        await asyncio.to_thread(alpha.listen)
        app._device.parley._where = (here(alpha), *app._device.parley._where[1:])
        await until(pilot, lambda: "waits to be sent" not in said(app), lambda: said(app))
        assert "edited\nmistake" in said(app)

    play(alpha, tmp_path, second)
    assert [m.type for m in inbox(alpha, sign_in(alpha, BOB))] == ["message", "edit"]


def test_strangers_wait_and_are_decided_upon(alpha: House, tmp_path: Path) -> None:
    """One is accepted and one refused; nobody can be answered before."""

    async def wait_there() -> None:
        account = await alpha.store.account(ALICE)
        assert account is not None
        for name in ("nice", "nasty"):
            payload = Payload(f"{name}@beta.test", (str(ALICE),), 1000, name.encode(), subject=f"I am {name}")
            content = signed(Content(b"", payload.encode(), b"", {}), alpha.key)
            await alpha.store.deliver([Delivery(account.account_id, content, mailbox="\\Introductions")])

    alpha.wait(wait_there())

    async def scene(pilot: Pilot[None], app: ChatApp) -> None:
        await until(pilot, lambda: "Introductions (2)" in options(app, "conversations"))
        await shows(pilot, app, "I am nice")
        assert app.query_one(Writing).disabled
        history = app.query_one(History)
        assert [history.check_action("deed", (deed,)) for deed in ("answer", "accept", "details")] == [
            False,
            True,
            True,
        ]
        await until(pilot, lambda: app._device.parley.is_online)
        for name, key in (("nice", "a"), ("nasty", "x")):
            await choose(pilot, app, f"I am {name}", key)
            await until(pilot, lambda name=name: f"I am {name}" not in said(app) or not app._view.strangers)  # type: ignore[misc]
        await until(pilot, lambda: options(app, "conversations") == ["nice@beta.test"])
        assert not app.query_one(Writing).disabled
        assert not history.check_action("deed", ("accept",))

    play(alpha, tmp_path, scene)
    alice = sign_in(alpha, ALICE)
    assert [message.subject for message in inbox(alpha, alice)] == ["I am nice"]
    assert [message.subject for message in inbox(alpha, alice, mailbox="Junk")] == ["I am nasty"]


def test_who_may_write(alpha: House, tmp_path: Path) -> None:
    """Who asks stands first, and is granted or revoked."""

    async def ask() -> None:
        account = await alpha.store.account(ALICE)
        assert account is not None
        await alpha.store.set_contact(account.account_id, BOB, "granted")
        await alpha.store.set_contact(account.account_id, CAROL, "requested")

    alpha.wait(ask())

    async def scene(pilot: Pilot[None], app: ChatApp) -> None:
        await until(pilot, lambda: app._device.parley.is_online)
        while len(await app._talk.contacts()) < 2:
            await pilot.pause(0.02)
        await pilot.press("ctrl+p")
        await until(pilot, lambda: isinstance(app.screen, People))
        people = app.screen
        assert isinstance(people, People)
        assert [contact.address for contact in people._contacts] == [str(CAROL), str(BOB)]
        for key, state in (("a", "granted"), ("x", "revoked")):
            await pilot.press(key)
            await until(pilot, lambda state=state: people._contacts[0].state == state)  # type: ignore[misc]
        await pilot.press("escape")

    play(alpha, tmp_path, scene)
    contacts = alpha.wait(sign_in(alpha, ALICE).contacts())
    assert {contact.address: contact.state for contact in contacts} == {str(CAROL): "revoked", str(BOB): "granted"}


def test_what_became_of_it(alpha: House, tmp_path: Path) -> None:
    """Receipts of the other's server: delivered when a program of his has it, read when he says so."""
    bob = sign_in(alpha, BOB)
    alpha.wait(bob.send([str(ALICE)], "before"))

    async def scene(pilot: Pilot[None], app: ChatApp) -> None:
        await shows(pilot, app, "before")
        await write(pilot, app, "how far?")
        await shows(pilot, app, "you  on the server\nhow far?")
        (got,) = await asyncio.to_thread(inbox, alpha, bob)
        await shows(pilot, app, "you  delivered\nhow far?")
        await on_reactor(alpha, lambda: bob.mark("INBOX", [got.uid], displayed=True))
        await shows(pilot, app, "you  read\nhow far?")

    play(alpha, tmp_path, scene)


def test_who_is_there_and_writing(alpha: House, tmp_path: Path) -> None:
    bob = sign_in(alpha, BOB)
    heard: list[tuple[str, str]] = []
    bob.on_signal = lambda signal: heard.append((signal.from_, signal.state))
    alpha.wait(bob.send([str(ALICE)], "before"))

    async def grant() -> None:
        for who, whom in ((ALICE, BOB), (BOB, ALICE)):
            account = await alpha.store.account(who)
            assert account is not None
            await alpha.store.set_contact(account.account_id, whom, "granted")

    alpha.wait(grant())

    async def listen() -> None:
        async for _ in bob.changes(live=True):
            pass

    alpha.call(lambda: alpha.spawn(listen()))

    async def scene(pilot: Pilot[None], app: ChatApp) -> None:
        await shows(pilot, app, "before")
        await until(pilot, lambda: app._device.parley.is_online)
        title = app.query_one("#title", Static)
        await on_reactor(alpha, lambda: bob.signal([str(ALICE)], "presence", "online", lease=60))
        await until(pilot, lambda: "is there" in str(title.render()))
        await on_reactor(alpha, lambda: bob.signal([str(ALICE)], "typing", "composing", lease=10))
        await until(pilot, lambda: "is writing" in str(title.render()))
        await on_reactor(alpha, lambda: bob.send([str(ALICE)], "written"))
        await shows(pilot, app, "written")
        await until(pilot, lambda: "is writing" not in str(title.render()))
        await pilot.press("H", "i")
        await until(pilot, lambda: (str(ALICE), "composing") in heard, lambda: heard)
        await until(pilot, lambda: (str(ALICE), "online") in heard, lambda: heard)

    play(alpha, tmp_path, scene)
    alpha.begun.addErrback(lambda failure: failure.trap(ConnectionGone))
    alpha.call(bob.close)


def test_what_was_heard_holds_as_long_as_was_said() -> None:
    heard = Heard()
    heard.hear(Signalled("a@a", "presence", "online", 100), 0)
    heard.hear(Signalled("b@b", "typing", "composing", 10), 0)
    heard.hear(Signalled("c@c", "presence", "invented", 100), 0)
    assert heard.of(["a@a"], 1) == "is there"
    assert heard.of(["a@a", "b@b", "c@c", "d@d"], 1) == "a@a is there, b@b is writing"
    assert heard.of(["b@b"], 11) == ""
    heard.hear(Signalled("a@a", "presence", "offline", 100), 12)
    assert heard.of(["a@a"], 13) == ""


def test_what_a_message_says_does_not_command_the_terminal(alpha: House, tmp_path: Path) -> None:
    bob = sign_in(alpha, BOB)
    alpha.wait(bob.send([str(ALICE)], "\x1b[2J\u202eevil [bold]markup[/bold]", subject="\x1b]0;x\x07"))

    async def scene(pilot: Pilot[None], app: ChatApp) -> None:
        await shows(pilot, app, "\ufffd[2J\ufffdevil [bold]markup[/bold]")
        await choose(pilot, app, "evil", "i")
        await pilot.pause()
        assert not set(said(app)) & set("\x1b\x07\u202e")

    play(alpha, tmp_path, scene)


def test_more_history_when_asked_for(alpha: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gatewayd.cli.parley.chat.talk.HISTORY", 5)
    bob = sign_in(alpha, BOB)
    for number in range(12):
        alpha.wait(bob.send([str(ALICE)], f"number {number}."))

    async def scene(pilot: Pilot[None], app: ChatApp) -> None:
        await shows(pilot, app, "number 11.")
        history = app.query_one(History)
        await until(pilot, lambda: len(history.said) == 5, lambda: said(app))
        for there in (10, 12):
            first = history.said[0].message.id
            history.focus()
            history.highlighted = 0
            await until(pilot, lambda there=there: len(history.said) == there)  # type: ignore[misc]
            assert history.chosen is not None
            assert history.chosen.message.id == first
        assert "number 0." in said(app)

    play(alpha, tmp_path, scene)


def test_an_answer_and_its_thread(alpha: House, tmp_path: Path) -> None:
    """It says what it answers, unless that stands right above; its thread is shown alone; who answers in it answers the
    last message of it."""
    bob = sign_in(alpha, BOB)
    for text in ("tea or coffee?", "something else"):
        alpha.wait(bob.send([str(ALICE)], text))

    async def scene(pilot: Pilot[None], app: ChatApp) -> None:
        await shows(pilot, app, "something else")
        await choose(pilot, app, "tea or coffee?", "r")
        assert "answers bob@alpha.test: tea or coffee?" in str(app.query_one(Writing).border_title)
        await write(pilot, app, "tea")
        await shows(pilot, app, "bob@alpha.test: tea or coffee?\ntea")
        (answer,) = await asyncio.to_thread(inbox, alpha, bob)
        await on_reactor(alpha, lambda: bob.send([str(ALICE)], "with milk?", answers=answer))
        await shows(pilot, app, "with milk?")
        assert "you: tea" not in said(app)  # it stands right above
        await choose(pilot, app, "with milk?", "t")
        await until(pilot, lambda: "something else" not in said(app) and "tea or coffee?" in said(app))
        await write(pilot, app, "yes")
        await shows(pilot, app, "yes")
        await pilot.press("escape")
        await shows(pilot, app, "something else")
        await choose(pilot, app, "tea", "o")

    play(alpha, tmp_path, scene)
    first, _ = inbox(alpha, sign_in(alpha, ALICE))[:2]
    tea, yes = inbox(alpha, bob)
    assert tea.content.fields.parents == (first.id,)
    assert [tea.id, first.id] == [yes.content.fields.parents[1], yes.content.fields.parents[2]]


def test_searching_and_going_there(alpha: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of another conversation, into the past, and back to the newest."""
    monkeypatch.setattr("gatewayd.cli.parley.chat.talk.AROUND", 3)
    bob, alice = sign_in(alpha, BOB), sign_in(alpha, ALICE)
    for number in range(12):
        alpha.wait(bob.send([str(ALICE)], f"number {number}."))
    alpha.wait(alice.send([str(ALICE)], "a note"))

    async def scene(pilot: Pilot[None], app: ChatApp) -> None:
        await shows(pilot, app, "a note")
        await pilot.press("ctrl+f", *"BER bob 4.")
        await until(pilot, lambda: isinstance(app.screen, Search) and len(app.screen._found) == 1)
        await pilot.press("enter")
        await shows(pilot, app, "number 7.")
        history = app.query_one(History)
        assert history.chosen is not None
        assert history.chosen.text == "number 4."
        assert "number 8." not in said(app)
        assert history.options[-1].id == LATER
        await pilot.press("end")
        await shows(pilot, app, "number 11.")
        await pilot.press("ctrl+f", *"nowhere", "enter", "escape")

    play(alpha, tmp_path, scene, first=str(ALICE))


def test_what_was_begun_before_the_screen_was_filled(alpha: House, tmp_path: Path) -> None:
    async def scene(pilot: Pilot[None], app: ChatApp) -> None:
        app.query_one(Writing).text = "quick"
        await shows(pilot, app, "Nothing was said yet.")
        await pilot.press("enter")
        await shows(pilot, app, "quick")

    play(alpha, tmp_path, scene, first=str(BOB))


def test_what_was_begun_stays_with_its_conversation(alpha: House, tmp_path: Path) -> None:
    """So that nothing is said to the wrong one."""
    bob, alice = sign_in(alpha, BOB), sign_in(alpha, ALICE)
    alpha.wait(alice.send([str(ALICE)], "a note"))
    alpha.wait(bob.send([str(ALICE)], "hello"))

    async def scene(pilot: Pilot[None], app: ChatApp) -> None:
        await shows(pilot, app, "a note")
        writing = app.query_one(Writing)
        await pilot.press(*"to me")
        await pilot.press("alt+a")  # somebody else has written
        await shows(pilot, app, "hello")
        await until(pilot, lambda: writing.text == "")
        await pilot.press(*"to bob", "ctrl+j", *"!")
        names = [one.name for one in app._conversations]
        await pilot.press("alt+up" if names.index(str(ALICE)) < names.index(str(BOB)) else "alt+down")
        await until(pilot, lambda: writing.text == "to me")
        await pilot.press("ctrl+t")
        app.query_one("#conversations", OptionList).highlighted = names.index(str(BOB))
        await pilot.press("enter")
        await until(pilot, lambda: writing.text == "to bob\n!")

    play(alpha, tmp_path, scene, first=str(ALICE))


def test_a_small_terminal(alpha: House, tmp_path: Path) -> None:
    """One part at a time; every line of what is said is in sight when scrolled to."""
    bob = sign_in(alpha, BOB)
    alpha.wait(bob.send([str(ALICE)], " ".join(f"word{number}" for number in range(40)) + " end"))

    async def scene(pilot: Pilot[None], app: ChatApp) -> None:
        await shows(pilot, app, "end")
        conversations, history = app.query_one("#conversations", OptionList), app.query_one(History)
        await until(pilot, lambda: not conversations.display and history.region.width == 40)
        await pilot.pause()
        drawn = "".join(history.render_line(y).text for y in range(history.size.height))
        assert "end" in drawn
        await pilot.press("ctrl+t")
        await until(pilot, lambda: conversations.display and conversations.region.width == 40)
        await pilot.press("enter")
        await until(pilot, lambda: not conversations.display)
        await pilot.press("pageup")
        await until(pilot, lambda: "word0" in "".join(history.render_line(y).text for y in range(history.size.height)))

    play(alpha, tmp_path, scene, size=(40, 12))


def test_what_waits_is_not_sent_after_all(alpha: House, tmp_path: Path) -> None:
    alpha.hush()

    async def scene(pilot: Pilot[None], app: ChatApp) -> None:
        await until(pilot, lambda: app._view.name == str(BOB) and not app.query_one(Writing).disabled)
        await write(pilot, app, "in anger")
        await until(pilot, lambda: "1 to be sent" in status(app), lambda: status(app))
        await choose(pilot, app, "in anger", "x")
        await until(pilot, lambda: "in anger" not in said(app) and "to be sent" not in status(app))

    play(alpha, tmp_path, scene, first=str(BOB))
    alpha.listen()


def test_a_large_file_shows_how_far_it_is_and_can_be_stopped(
    alpha: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "large.bin").write_bytes(bytes(1024 * 1024))
    bob = sign_in(alpha, BOB)
    alpha.wait(bob.send([str(ALICE)], "look", files=[tmp_path / "large.bin"]))

    async def scene(pilot: Pilot[None], app: ChatApp) -> None:
        await shows(pilot, app, "[large.bin, 1.0 MB]")
        seen = recorded(app, monkeypatch)
        await choose(pilot, app, "large.bin", "s")
        await until(pilot, lambda: any("saved as" in note.message for note in app._notifications))
        assert any("\N{DOWNWARDS ARROW} large.bin" in text for text in seen), seen
        seen.clear()
        await pilot.press("ctrl+o", *str(tmp_path / "large.bin"), "enter")
        await until(pilot, lambda: "you  on the server\n[large.bin" in said(app), lambda: said(app))
        assert any("\N{UPWARDS ARROW} large.bin" in text for text in seen), seen
        assert "%" not in status(app)

    play(alpha, tmp_path, scene)
    assert (tmp_path / "large-1.bin").stat().st_size == 1024 * 1024


@pytest.mark.parametrize(
    ("error", "says"),
    [(ConnectionError("cut"), "waits to be sent"), (TransferFailed("other octets"), "not delivered to bob@alpha.test")],
)
def test_a_file_that_does_not_arrive_is_on_its_way_no_more(
    alpha: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, says: str
) -> None:
    (tmp_path / "large.bin").write_bytes(bytes(1024 * 1024))

    async def push(put: Any, chunk: Any, size: int, told: Callable[[int], None]) -> None:
        told(size // 2)
        raise error

    monkeypatch.setattr(transfer, "push", push)
    monkeypatch.setattr(transfer, "WAITS", ())

    async def scene(pilot: Pilot[None], app: ChatApp) -> None:
        await until(pilot, lambda: "online" in status(app))
        seen = recorded(app, monkeypatch)
        await pilot.press("ctrl+o", *str(tmp_path / "large.bin"), "enter")
        await shows(pilot, app, says)
        await until(pilot, lambda: any("large.bin 50 %" in text for text in seen), lambda: seen)
        await until(pilot, lambda: "%" not in status(app), lambda: status(app))

    play(alpha, tmp_path, scene, first=str(BOB))
