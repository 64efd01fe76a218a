"""Connection, copy and outbox together, against a gateway over real sockets: nothing is lost, nothing doubled."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import defer

from gatewayd.client import ConnectionGone, Message, ParleyClient, RequestFailed, compose, device, patience
from gatewayd.client.archive import Archive
from gatewayd.client.device import Device
from gatewayd.client.transfer import ignored
from gatewayd.crypto.certificates import make_authority
from gatewayd.message.model import Part
from gatewayd.session import parley_sync
from gatewayd.wire.parley.schema import Mailboxes, Result
from tests.backup import Backup
from tests.house import ALICE, ALPHA, BOB, PASSWORD, House, defer_later, wait_until
from tests.test_client import here, inbox, sign_in


@pytest.fixture
def alpha(reactor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    monkeypatch.setattr(patience, "FIRST_WAIT", 0.05)
    made = House(reactor, tmp_path / "alpha", ALPHA, (ALICE, BOB), {}, make_authority("Test authority"))
    yield made
    made.stop()


@pytest.fixture
def alice(alpha: House, tmp_path: Path) -> Iterator[Device]:
    def make() -> Device:
        parley = ParleyClient(alpha.reactor, str(ALICE), PASSWORD, server=here(alpha), authorities=alpha.authorities)
        archive = Archive(tmp_path / "alice.sqlite", str(ALICE), alpha.reactor.callFromThread)
        return Device(alpha.reactor, parley, archive)

    made = alpha.call(make)
    yield made
    alpha.call(made.close)


def draft(text: str, to: str = str(BOB)) -> Any:
    return compose(str(ALICE), [to], text, now=1.0)


def back(alpha: House, *clients: Device) -> None:
    """The server listens again, at another port."""
    alpha.listen()
    for client in clients:
        client.parley._where = (here(alpha), *client.parley._where[1:])


def until_sent(alpha: House, client: Device) -> None:
    async def run() -> None:
        while await client.outbox.waiting():
            await defer_later(alpha.reactor)

    alpha.wait(run())


def received(alpha: House) -> list[str]:
    return [message.text for message in inbox(alpha, sign_in(alpha, BOB))]


def test_sync_takes_up_where_it_was(alpha: House, alice: Device) -> None:
    bob = sign_in(alpha, BOB)
    for text in ("one", "two"):
        alpha.wait(bob.send([str(ALICE)], text))
    assert [m.text for m in alpha.wait(alice.sync())] == ["one", "two"]
    assert alpha.wait(alice.sync()) == []
    alpha.wait(bob.send([str(ALICE)], "three"))
    assert [m.text for m in alpha.wait(alice.sync())] == ["three"]
    alpha.wait(alice.parley.mark("INBOX", [1], delete=True))
    assert alpha.wait(alice.sync()) == []
    assert [m.text for m in alpha.wait(alice.archive.mailbox("INBOX"))] == ["two", "three"]


def test_what_is_sent_offline_leaves_when_the_server_is_back(alpha: House, alice: Device) -> None:
    alpha.hush()
    for text in ("one", "two"):
        with pytest.raises(OSError, match="refused"):
            alpha.wait(alice.send([str(BOB)], draft(text)))
    assert [w.to for w in alpha.wait(alice.outbox.waiting())] == [(str(BOB),)] * 2
    back(alpha, alice)
    alpha.wait(alice.sync())
    assert alpha.wait(alice.outbox.waiting()) == []
    assert received(alpha) == ["one", "two"]


def test_an_answer_that_is_lost(alpha: House, alice: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server took it; the program was gone before it knew. The next one sends it again."""

    async def killed(*_: Any) -> None:
        raise SystemError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(alice.outbox, "settle", killed)
        with pytest.raises(SystemError):
            alpha.wait(alice.send([str(BOB)], draft("once")))
    assert len(alpha.wait(alice.outbox.waiting())) == 1
    assert received(alpha) == ["once"]
    assert [w[0].code for w in alpha.wait(alice.flush()).values()] == ["2.0.0"]
    assert received(alpha) == ["once"]
    assert len(inbox(alpha, alice.parley, mailbox="Sent")) == 1


def test_who_gets_it_and_who_does_not(alpha: House, alice: Device) -> None:
    to = [str(BOB), "nobody@alpha.test", "carol@nowhere.test"]
    results = alpha.wait(alice.send(to, draft("to many")))
    assert [result.code[0] for result in results][:2] == ["2", "5"]
    assert alpha.wait(alice.outbox.waiting()) == []
    (failed,) = alpha.wait(alice.outbox.refused())
    assert {to: why[:5] for to, why in failed.reasons.items()} == {"nobody@alpha.test": "5.1.1"}


def test_only_who_was_put_off_is_tried_again(alpha: House, alice: Device) -> None:
    made = draft("again")
    alpha.wait(alice.outbox.put(["a@a.test", "b@b.test", "c@c.test"], made))
    (waiting,) = alpha.wait(alice.outbox.waiting())
    codes = (("a@a.test", "2.0.0"), ("b@b.test", "4.4.1"), ("c@c.test", "5.1.1"))
    alpha.wait(alice.outbox.settle(waiting, [Result(to, code, "text") for to, code in codes]))
    (waiting,) = alpha.wait(alice.outbox.waiting())
    assert (waiting.draft, waiting.to, waiting.trouble) == (made, ("b@b.test",), "4.4.1 text")
    alpha.wait(alice.outbox.put(["z@z.test"], made))  # it is there already
    assert alpha.wait(alice.outbox.waiting()) == [waiting]
    assert alpha.wait(alice.outbox.cancel(made.id))
    assert not alpha.wait(alice.outbox.cancel(made.id))


def test_a_draft_that_no_server_takes_holds_up_no_other(alpha: House, alice: Device) -> None:
    alpha.wait(alice.parley.online())
    assert alice.parley._session is not None
    alice.parley._session._engine._peer_frame = 2000
    alpha.wait(alice.outbox.put([str(BOB)], draft("x" * 3000)))
    assert [r.code for r in alpha.wait(alice.send([str(BOB)], draft("short")))] == ["2.0.0"]
    assert received(alpha) == ["short"]
    (failed,) = alpha.wait(alice.outbox.refused())
    assert "too-big" in failed.reasons[str(BOB)]


def test_not_let_in_is_no_reason_to_give_up(alpha: House, alice: Device) -> None:
    alice.parley._password = "wrong"
    with pytest.raises(RequestFailed, match="auth-failed"):
        alpha.wait(alice.send([str(BOB)], draft("kept")))
    assert len(alpha.wait(alice.outbox.waiting())) == 1


def test_running_through_restarts(alpha: House, alice: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opened offline; what is written offline leaves at once when the server is back; what came meanwhile comes."""
    alpha.hush()
    new: list[str] = []
    changes: list[int] = []

    def on_changed(messages: list[Any]) -> None:
        changes.append(len(messages))
        new.extend(message.text for message in messages if message.mailbox == "INBOX")

    alice.on_changed = on_changed
    alpha.call(lambda: alpha.spawn(alice.run()))
    with pytest.raises(OSError, match="refused"):
        alpha.wait(alice.send([str(BOB)], draft("sent offline 0")))
    for turn in range(3):
        back(alpha, alice)
        until_sent(alpha, alice)
        bob = sign_in(alpha, BOB)
        alpha.wait(bob.send([str(ALICE)], f"live {turn}"))
        wait_until(alpha, lambda turn=turn: new[-1:] == [f"live {turn}"])  # type: ignore[misc]
        alpha.hush()
        wait_until(alpha, lambda: not alice.parley.is_online)
        with pytest.raises(OSError, match=r"refused|closed|lost"):
            alpha.wait(alice.send([str(BOB)], draft(f"sent offline {turn + 1}")))
    back(alpha, alice)
    until_sent(alpha, alice)
    assert new == ["live 0", "live 1", "live 2"]
    assert received(alpha) == [f"sent offline {turn}" for turn in range(4)]
    ended: list[Any] = []
    alpha.begun.addErrback(lambda failure: ended.append(failure.trap(ConnectionGone)))
    alpha.call(alice.parley.close)
    wait_until(alpha, lambda: bool(ended))


def test_who_was_put_off_is_tried_now_and_then(alpha: House, alice: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "RETRY", 0.05)
    send, tried = alice.parley.send_draft, []

    async def put_off_twice(to: Any, made: Any, progress: Any) -> Any:
        tried.append(to)
        return tuple(Result(one, "4.3.0", "not now") for one in to) if len(tried) < 3 else await send(to, made)

    monkeypatch.setattr(alice.parley, "send_draft", put_off_twice)
    alpha.call(lambda: alpha.spawn(alice.run()))
    alpha.wait(alice.send([str(BOB)], draft("at last")))
    until_sent(alpha, alice)
    assert received(alpha) == ["at last"]
    assert len(tried) == 3
    alpha.begun.addErrback(lambda failure: failure.trap(ConnectionGone))
    alpha.call(alice.parley.close)


def test_a_server_that_came_back_from_a_backup(alpha: House, alice: Device, tmp_path: Path) -> None:
    """It has given the same numbers to other messages since: nothing is missed, nothing is there twice or is news
    twice, the outbox stays, and what only this device still has is kept."""
    bob = sign_in(alpha, BOB)

    def send(*texts: str) -> None:
        for text in texts:
            alpha.wait(bob.send([str(ALICE)], text))

    send("before")
    alpha.wait(alice.sync())
    backup = Backup(alpha, tmp_path)
    send("lost", "lost as well")
    alpha.wait(alice.sync())
    backup.restore()
    back(alpha, alice)
    bob = sign_in(alpha, BOB)
    send("after", "later", "last")
    alpha.wait(alice.outbox.put([str(BOB)], draft("waits")))
    assert sorted(m.text for m in alpha.wait(alice.sync())) == ["after", "last", "later", "waits"]
    assert [m.text for m in alpha.wait(alice.archive.mailbox("INBOX"))] == ["before", "after", "later", "last"]
    said = [said.message.text for said in alpha.wait(alice.conversation(str(BOB), 99))]
    assert sorted(said) == ["after", "before", "last", "later", "lost", "lost as well", "waits"]
    assert alpha.wait(alice.sync()) == []


def test_two_programs_on_one_file(alpha: House, alice: Device, tmp_path: Path) -> None:
    """Both send what waits and both take the log; each message is there once."""
    other_archive = alpha.call(lambda: Archive(tmp_path / "alice.sqlite", str(ALICE), alpha.reactor.callFromThread))
    other = Device(alpha.reactor, sign_in(alpha, ALICE), other_archive)
    for number in range(5):
        alpha.wait(alice.outbox.put([str(BOB)], draft(str(number))))

    async def both() -> None:
        await defer.gatherResults([defer.Deferred.fromCoroutine(one.sync()) for one in (alice, other)])

    alpha.wait(both())
    assert sorted(received(alpha)) == list("01234")
    assert len(alpha.wait(alice.archive.mailbox("Sent"))) == 5
    alpha.call(other.close)


def test_a_large_file_from_the_outbox(alpha: House, alice: Device, tmp_path: Path) -> None:
    """It is read when it is sent; one that is gone by then is said to be, and holds up nothing."""
    large, gone = tmp_path / "large.bin", tmp_path / "gone.bin"
    for path in (large, gone):
        path.write_bytes(bytes(range(256)) * 1000)
    alpha.hush()
    for path in (gone, large):
        made = compose(str(ALICE), [str(BOB)], files=[path], now=1.0)
        assert len(made.blobs) == 1
        alpha.wait(alice.outbox.put([str(BOB)], made))
    assert alpha.wait(alice.outbox.waiting())[1].draft == made
    gone.unlink()
    back(alpha, alice)
    alpha.wait(alice.sync())
    (failed,) = alpha.wait(alice.outbox.refused())
    assert "gone.bin" in failed.reasons[str(BOB)]
    bob = sign_in(alpha, BOB)
    (got,) = inbox(alpha, bob)
    alpha.wait(bob.download(got.files[0], tmp_path / "got"))
    assert (tmp_path / "got").read_bytes() == large.read_bytes()
    assert [message.files for message in alpha.wait(alice.archive.mailbox("Sent"))] == [got.files]


def test_a_large_file_without_a_server_waits_and_keeps_nobody_from_reading(
    alpha: House, alice: Device, tmp_path: Path
) -> None:
    """Nobody waits for a server that is not there; who only reads does not send it."""
    path = tmp_path / "large.bin"
    path.write_bytes(b"x" * 200_000)
    made = compose(str(ALICE), [str(BOB)], "look", now=1.0, files=[path])
    alpha.hush()
    with pytest.raises(OSError):
        alpha.wait(alice.send([str(BOB)], made))
    back(alpha, alice)
    bob = sign_in(alpha, BOB)
    alpha.wait(bob.send([str(ALICE)], "news"))
    assert [m.text for m in alpha.wait(alice.sync(large=False))] == ["news"]
    assert [waiting.draft.id for waiting in alpha.wait(alice.outbox.waiting())] == [made.id]
    assert [m.text for m in alpha.wait(alice.sync())] == ["look"]
    assert received(alpha) == ["look"]


def test_a_large_file_keeps_no_message_waiting(
    alpha: House, alice: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "large.bin").write_bytes(bytes(100_000))
    upload = alice.parley.upload
    slow: defer.Deferred[None] = defer.Deferred()

    async def slowly(*arguments: Any) -> None:
        await slow
        await upload(*arguments)

    monkeypatch.setattr(alice.parley, "upload", slowly)
    first = compose(str(ALICE), [str(BOB)], "first", files=[tmp_path / "large.bin"], now=1.0)

    second = draft("second")
    settled: list[bytes] = []
    settle = alice.outbox.settle

    async def noting(waiting: Any, results: Any) -> None:
        await settle(waiting, results)
        settled.append(waiting.draft.id)

    monkeypatch.setattr(alice.outbox, "settle", noting)

    async def both() -> None:
        sending = [defer.Deferred.fromCoroutine(alice.send([str(BOB)], one)) for one in (first, second)]
        while second.id not in settled:
            await defer_later(alpha.reactor)
        slow.callback(None)
        await defer.gatherResults(sending)

    alpha.wait(both())
    assert settled == [second.id, first.id]
    assert received(alpha) == ["second", "first"]


def test_what_a_page_of_the_log_leaves_out_is_fetched_once(
    alpha: House, alice: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a new device; another change of their flags does not need them again."""
    monkeypatch.setattr(parley_sync, "PAGE", 10_000)
    made = alpha.fill(ALICE, 10, 4000)
    marking = sign_in(alpha, ALICE)
    alpha.wait(marking.mark("INBOX", list(range(1, 11)), add=["later"]))
    new = alpha.wait(alice.sync())
    assert sorted(message.id for message in new) == sorted(content.id for content in made)
    fetched: list[int] = []
    fetch = alice.parley.fetch
    monkeypatch.setattr(alice.parley, "fetch", lambda ids: fetched.append(len(ids)) or fetch(ids))
    alpha.wait(marking.mark("INBOX", list(range(1, 11)), add=["again"]))
    assert alpha.wait(alice.sync()) == []
    assert not any(fetched)
    there = alpha.wait(alice.archive.mailbox("INBOX"))
    assert [message.text for message in there] == [Message("", 0, 0, (), content).text for content in made]
    assert all({"later", "again"} <= set(message.flags) for message in there)


def test_a_large_file_that_is_not_sent_after_all(alpha: House, alice: Device, tmp_path: Path) -> None:
    """Stopped in the middle; what waits behind it leaves."""
    (tmp_path / "large").write_bytes(bytes(400_000))
    moved: list[int] = []
    drafts = [
        compose(str(ALICE), [str(BOB)], text, now=1.0, files=[tmp_path / "large"]) for text in ("first", "second")
    ]

    def progress(part: Part, octets: int) -> None:
        moved.append(octets)
        if len(moved) == 3:
            alpha.spawn(alice.cancel(drafts[0].id))

    alice.progress = progress
    assert alpha.wait(alice.send([str(BOB)], drafts[0])) == ()
    assert moved[-1] < 400_000
    assert alpha.wait(alice.outbox.waiting()) == []
    alice.progress = ignored
    assert [result.code for result in alpha.wait(alice.send([str(BOB)], drafts[1]))] == ["2.0.0"]
    assert received(alpha) == ["second"]


def test_changes_offline(alpha: House, alice: Device, tmp_path: Path) -> None:
    """An edit, a reaction and a retraction are shown at once, and leave later; one of them does not, after all."""
    (tmp_path / "large").write_bytes(bytes(100_000))
    bob = sign_in(alpha, BOB)
    for text, files in (("helo", [tmp_path / "large"]), ("oops", [])):
        alpha.wait(alice.send([str(BOB)], compose(str(ALICE), [str(BOB)], text, now=1.0, files=files)))
    alpha.wait(bob.send([str(ALICE)], "hi"))
    alpha.wait(alice.sync())
    ids = {
        message.text: message.id for name in ("INBOX", "Sent") for message in alpha.wait(alice.archive.mailbox(name))
    }
    alpha.hush()
    liked = "\N{THUMBS UP SIGN}"
    changes = ("edit", "helo", "hello"), ("reaction", "hi", liked), ("reaction", "hi", "-"), ("retract", "oops", "")
    for type, text, what in changes:
        made = alpha.wait(alice.about(type, ids[text], what))
        with pytest.raises(OSError, match="refused"):
            alpha.wait(alice.send(made.to, made))

    def shown() -> dict[bytes, tuple[str, bool, list[str], int]]:
        found = alpha.wait(alice.conversation(str(BOB), 10))
        return {
            one.message.id: (one.text, one.retracted, [what for _, what in one.reactions], len(one.waiting_changes))
            for one in found
        }

    assert shown() == {
        ids["helo"]: ("hello", False, [], 1),
        ids["oops"]: ("", True, [], 1),
        ids["hi"]: ("hi", False, [liked, "-"], 2),
    }
    (hi,) = [one for one in alpha.wait(alice.conversation(str(BOB), 10)) if one.text == "hi"]
    alpha.wait(alice.cancel(hi.reactions[str(ALICE), "-"][0]))
    back(alpha, alice)
    alpha.wait(alice.sync())
    expected = {
        ids["helo"]: ("hello", False, [], 0),
        ids["oops"]: ("", True, [], 0),
        ids["hi"]: ("hi", False, [liked], 0),
    }
    assert shown() == expected
    got = inbox(alpha, sign_in(alpha, BOB))
    assert [message.type for message in got[2:]] == ["edit", "reaction", "retract"]
    assert [part.name for part in got[2].files] == ["large"]
    with pytest.raises(ValueError, match="is taken back"):
        alpha.wait(alice.about("edit", ids["oops"], "x"))
    with pytest.raises(ValueError, match="not here any more"):
        alpha.wait(alice.about("edit", bytes(32), "x"))


def test_what_was_refused(alpha: House, alice: Device, tmp_path: Path) -> None:
    """It is shown with the reason, though the server has no copy; sent again to who refused it, or given up."""
    gone = tmp_path / "gone"
    gone.write_bytes(bytes(100_000))
    made = compose(str(ALICE), [str(BOB)], "look", now=1.0, files=[gone])
    gone.unlink()
    alpha.wait(alice.send([str(BOB)], made))
    alpha.wait(alice.sync())

    def shown() -> list[tuple[str, bool, str | None]]:
        found = alpha.wait(alice.conversation(str(BOB), 10))
        return [(one.text, str(gone) in one.undelivered.get(str(BOB), ""), one.waiting) for one in found]

    (conversation,) = alpha.wait(alice.conversations())
    assert (conversation.name, conversation.refused) == (str(BOB), True)
    assert shown() == [("look", True, None)]
    assert [result.code for result in alpha.wait(alice.send_again(made.id))] == ["5.0.0"]
    assert shown() == [("look", True, None)]
    gone.write_bytes(bytes(100_000))
    assert [result.code for result in alpha.wait(alice.send_again(made.id))] == ["2.0.0"]
    assert alpha.wait(alice.outbox.refused()) == []
    alpha.wait(alice.sync())
    assert shown() == [("look", False, None)]
    assert received(alpha) == ["look"]
    with pytest.raises(ValueError, match="not here any more"):
        alpha.wait(alice.send_again(made.id))


def test_changes_that_are_refused(alpha: House, alice: Device) -> None:
    """They are told of at what they change, and given up."""
    to = [str(BOB), "nobody@alpha.test"]
    original = compose(str(ALICE), to, "helo", now=1.0)
    alpha.wait(alice.send(to, original))
    alpha.wait(alice.sync())
    made = alpha.wait(alice.about("edit", original.id, "hello"))
    alpha.wait(alice.send(made.to, made))
    alpha.wait(alice.sync())
    name = "\n".join(sorted(to))
    (shown,) = alpha.wait(alice.conversation(name, 10))
    assert [(id, list(reasons)) for id, reasons in shown.refused.items()] == [(original.id, to[1:]), (made.id, to[1:])]
    for id in (original.id, made.id):
        alpha.wait(alice.cancel(id))
    (shown,) = alpha.wait(alice.conversation(name, 10))
    assert (shown.text, shown.refused) == ("hello", {})


def test_who_was_put_off_and_who_refused(alpha: House, alice: Device) -> None:
    """Of one message: both are remembered, each is tried on its own."""
    to = ["a@a.test", "b@b.test"]
    made = draft("both")
    alpha.wait(alice.outbox.put(to, made))
    (waiting,) = alpha.wait(alice.outbox.waiting())
    alpha.wait(alice.outbox.settle(waiting, [Result(to[0], "4.4.1", "later"), Result(to[1], "5.1.1", "never")]))
    (waiting,) = alpha.wait(alice.outbox.waiting())
    assert (waiting.to, alpha.wait(alice.outbox.refused())[0].reasons) == (("a@a.test",), {"b@b.test": "5.1.1 never"})
    alpha.wait(alice.outbox.settle(waiting, [Result(to[0], "2.0.0", "fine")]))
    assert (alpha.wait(alice.outbox.waiting()), alpha.wait(alice.outbox.count())) == ([], 0)
    assert alpha.wait(alice.outbox.again(made.id))
    (waiting,) = alpha.wait(alice.outbox.waiting())
    assert (waiting.draft, waiting.to, alpha.wait(alice.outbox.refused())) == (made, ("b@b.test",), [])


def test_a_conversation_of_drafts_only(alpha: House, alice: Device) -> None:
    alpha.hush()
    with pytest.raises(OSError, match="refused"):
        alpha.wait(alice.send([str(BOB)], draft("first words")))
    assert [one.name for one in alpha.wait(alice.conversations())] == [str(BOB)]


def test_mailboxes_that_are_renamed_or_deleted(alpha: House, alice: Device) -> None:
    """What is in them is there under the new name, though two change names; or gone."""
    parley = sign_in(alpha, ALICE)
    made = alpha.fill(ALICE, 3, 10)

    async def mailbox(action: str, name: str, to: str = "") -> None:
        session = await parley.online()
        await session.request("mailboxes", Mailboxes(action, name, to))  # type: ignore[arg-type]

    def texts(name: str) -> list[bytes]:
        return [message.id for message in alpha.wait(alice.archive.mailbox(name))]

    for uid, name in enumerate(("One", "Two", "Three"), 1):
        alpha.wait(mailbox("create", name))
        alpha.wait(parley.mark("INBOX", [uid], move=name))
    alpha.wait(alice.sync())
    assert [texts(name) for name in ("One", "Two", "Three", "INBOX")] == [[one.id] for one in made] + [[]]
    for name, to in (("One", "Between"), ("Two", "One"), ("Between", "Two")):
        alpha.wait(mailbox("rename", name, to))
    alpha.wait(mailbox("delete", "Three"))
    alpha.wait(alice.sync())
    assert [texts(name) for name in ("One", "Two", "Three")] == [[made[1].id], [made[0].id], []]
    assert alpha.wait(alice.archive.message(made[2].id)) is None
