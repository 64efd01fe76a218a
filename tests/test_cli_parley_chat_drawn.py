"""The screen as it is drawn, in all scripts, and as it is pointed at with a mouse."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from textual import events
from textual.pilot import Pilot
from textual.widgets import Input, OptionList
from textual.widgets._footer import FooterKey

from gatewayd.cli.parley.chat.app import ChatApp
from gatewayd.cli.parley.chat.dialogs import Tell
from gatewayd.cli.parley.chat.history import History
from gatewayd.cli.parley.chat.writing import Writing
from gatewayd.crypto.certificates import make_authority
from tests.house import ALICE, ALPHA, BOB, House
from tests.test_cli_parley_chat import choose, inbox, on_reactor, options, play, said, shows, sign_in, until, write

SIZES = pytest.mark.parametrize("size", [(80, 24), (40, 12)])
FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466"
WHOLE = {  # each is one thing to be seen, in so many columns
    "joined": (FAMILY, 2),
    "with a colour of skin": ("\U0001f44d\U0001f3fd", 2),
    "a variation": ("\u2764\ufe0f", 2),
    "a flag": ("\U0001f1e9\U0001f1ea", 2),
    "a flag of tags": ("\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f", 2),
    "combined": ("e\u0301", 1),
    "wide": ("\u65e5", 2),
}
HEBREW, ARABIC, PERSIAN = (
    "\u05e9\u05dc\u05d5\u05dd",
    "\u0633\u0644\u0627\u0645",
    "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
)


@pytest.fixture
def alpha(reactor: Any, tmp_path: Path) -> Iterator[House]:
    made = House(reactor, tmp_path / "alpha", ALPHA, (ALICE, BOB), {}, make_authority("Test authority"))
    yield made
    made.stop()


def drawn(app: ChatApp) -> list[str]:
    """The lines of the conversation, all within its columns."""
    history = app.query_one(History)
    found = []
    for top in range(history.max_scroll_y + 1):
        history.scroll_to(y=top, animate=False, immediate=True)
        for y in range(history.size.height if top == history.max_scroll_y else 1):
            strip = history.render_line(y)
            assert strip.cell_length == cell_len(strip.text) == history.scrollable_content_region.width
            found.append(strip.text.strip())
    return found


async def laid_out(pilot: Pilot[None], app: ChatApp) -> History:
    history = app.query_one(History)
    await until(pilot, lambda: history.size.width > 0 and history.virtual_size.height >= len(history.options))
    await pilot.pause()
    return history


@SIZES
@pytest.mark.parametrize("which", WHOLE)
def test_what_is_one_thing_is_never_cut(alpha: House, tmp_path: Path, size: tuple[int, int], which: str) -> None:
    thing, columns = WHOLE[which]
    bob = sign_in(alpha, BOB)
    alpha.wait(bob.send([str(ALICE)], thing * 101, subject=thing * 3))

    async def scene(pilot: Pilot[None], app: ChatApp) -> None:
        await shows(pilot, app, thing)
        history = await laid_out(pilot, app)
        subject, *text = [line for line in drawn(app) if thing in line]
        assert subject == thing * 3
        assert cell_len(subject) == 3 * columns
        assert "".join(text) == thing * 101
        for line in text:
            assert line == thing * (len(line) // len(thing))
            assert cell_len(line) < history.scrollable_content_region.width
        app.query_one(Writing).focus()
        await choose(pilot, app, thing, "r")
        title = str(app.query_one(Writing).border_title)
        assert thing in title
        assert "\ufffd" not in title

    play(alpha, tmp_path, scene, size=size)


@SIZES
def test_from_right_to_left(alpha: House, tmp_path: Path, size: tuple[int, int]) -> None:
    """In the order in which it was written: terminals turn it. It is broken between words; what joins letters stays."""
    spoken = " ".join([HEBREW, ARABIC, PERSIAN] * 9)
    bob = sign_in(alpha, BOB)
    alpha.wait(bob.send([str(ALICE)], f"\u200f{spoken}", subject=PERSIAN))

    async def scene(pilot: Pilot[None], app: ChatApp) -> None:
        await shows(pilot, app, spoken)
        await laid_out(pilot, app)
        subject, *text = [line for line in drawn(app) if any(word in line for word in (HEBREW, ARABIC, PERSIAN))]
        assert subject == PERSIAN
        assert " ".join(text) == spoken
        await write(pilot, app, spoken)
        await until(pilot, lambda: said(app).count(spoken) == 2, lambda: said(app))

    play(alpha, tmp_path, scene, size=size)
    (got,) = inbox(alpha, sign_in(alpha, BOB))
    assert got.text == spoken


@SIZES
def test_a_reaction_of_joined_emoji(alpha: House, tmp_path: Path, size: tuple[int, int]) -> None:
    bob = sign_in(alpha, BOB)
    alpha.wait(bob.send([str(ALICE)], "a photo"))

    async def scene(pilot: Pilot[None], app: ChatApp) -> None:
        await shows(pilot, app, "a photo")
        await choose(pilot, app, "a photo", "plus")
        await until(pilot, lambda: bool(app.screen.query(Input)))
        app.screen.query_one(Input).value = FAMILY
        await pilot.press("enter")
        await shows(pilot, app, f"{FAMILY} you")
        await laid_out(pilot, app)
        assert f"{FAMILY} you" in drawn(app)

    play(alpha, tmp_path, scene, size=size)
    (got,) = inbox(alpha, sign_in(alpha, BOB))
    assert got.reaction == FAMILY


# -- the mouse --------------------------------------------------------------------------------------------------------


@SIZES
def test_a_click_opens_a_conversation(alpha: House, tmp_path: Path, size: tuple[int, int]) -> None:
    bob, alice = sign_in(alpha, BOB), sign_in(alpha, ALICE)
    alpha.wait(bob.send([str(ALICE)], "hello"))
    alpha.wait(alice.send([str(ALICE)], "a note"))

    async def scene(pilot: Pilot[None], app: ChatApp) -> None:
        await shows(pilot, app, "a note")
        listed = app.query_one("#conversations", OptionList)
        if not listed.display:
            await pilot.press("ctrl+t")
            await until(pilot, lambda: listed.region.height > 1)
        await until(pilot, lambda: any("bob" in name for name in options(app, "conversations")))
        await pilot.pause()
        at = next(y for y, name in enumerate(options(app, "conversations")) if "bob" in name)
        await pilot.click("#conversations", offset=(2, at))
        await shows(pilot, app, "hello")
        await until(pilot, lambda: app.query_one(Writing).has_focus)
        assert listed.display == (size[0] == 80)

    play(alpha, tmp_path, scene, first=str(ALICE), size=size)


@SIZES
def test_a_click_chooses_a_message_and_does_nothing_about_it(
    alpha: House, tmp_path: Path, size: tuple[int, int]
) -> None:
    bob = sign_in(alpha, BOB)
    for text in ("one", "two"):
        alpha.wait(bob.send([str(ALICE)], text))

    async def scene(pilot: Pilot[None], app: ChatApp) -> None:
        await shows(pilot, app, "two")
        history = await laid_out(pilot, app)
        lines = [history.render_line(y).text.strip() for y in range(history.size.height)]
        await pilot.click(History, offset=(2, lines.index("one")))
        await until(pilot, lambda: history.has_focus and history.chosen is not None and history.chosen.text == "one")
        assert app.query_one(Writing).about is None
        await pilot.click(Writing)
        await until(pilot, lambda: app.query_one(Writing).has_focus)

    play(alpha, tmp_path, scene, size=size)


@SIZES
def test_the_wheel_scrolls(
    alpha: House, tmp_path: Path, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """To earlier messages, which come by themselves; what is news then does not scroll away what is read."""
    monkeypatch.setattr("gatewayd.cli.parley.chat.talk.HISTORY", 20)
    bob = sign_in(alpha, BOB)
    for number in range(30):
        alpha.wait(bob.send([str(ALICE)], f"number {number}."))

    async def scene(pilot: Pilot[None], app: ChatApp) -> None:
        await shows(pilot, app, "number 29.")
        history = await laid_out(pilot, app)
        await until(pilot, lambda: history.is_at_end and history.max_scroll_y > 0)

        async def wheel(event: type[events.MouseEvent]) -> None:
            await pilot._post_mouse_events([event], widget=History, offset=(3, 3), button=0)

        while len(history.said) < 30:
            await wheel(events.MouseScrollUp)
        await until(pilot, lambda: "number 0." in said(app))
        while history.is_at_end or history.scroll_offset.y > 3:
            await wheel(events.MouseScrollUp)
        await pilot.pause()
        before = [history.render_line(y).text for y in range(history.size.height)]
        await on_reactor(alpha, lambda: bob.send([str(ALICE)], "news"))
        await shows(pilot, app, "news")
        await pilot.pause()
        assert [history.render_line(y).text for y in range(history.size.height)] == before
        while not history.is_at_end:
            await wheel(events.MouseScrollDown)

    play(alpha, tmp_path, scene, size=size)


def test_the_line_of_keys_is_clicked(alpha: House, tmp_path: Path) -> None:
    async def scene(pilot: Pilot[None], app: ChatApp) -> None:
        def key() -> list[FooterKey]:
            return [key for key in app.query(FooterKey) if key.key == "f1" and key.region.width]

        await until(pilot, lambda: bool(key()))
        await pilot.click(key()[0])
        await until(pilot, lambda: isinstance(app.screen, Tell))
        await pilot.press("escape")

    play(alpha, tmp_path, scene, first=str(BOB), size=(80, 24))
