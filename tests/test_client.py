"""gatewayd/client against a gateway, over real sockets."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import defer
from twisted.internet.task import Clock

from gatewayd.address import AddressError
from gatewayd.client import (
    ConnectionGone,
    Message,
    ParleyClient,
    RequestFailed,
    compose,
    connect,
    connection,
    patience,
    tail,
)
from gatewayd.crypto.certificates import make_authority
from gatewayd.crypto.scram import ScramServer
from gatewayd.interfaces.dns import Endpoint
from gatewayd.interfaces.records import Delivery
from gatewayd.message import bridge
from gatewayd.message.mime import Mail
from gatewayd.message.model import Content, Payload
from gatewayd.session import parley_server, parley_sync
from gatewayd.session.parley_server import ParleyServerSession
from gatewayd.wire.parley.connection import Request
from gatewayd.wire.parley.schema import Body
from tests.backup import Backup
from tests.house import ALICE, ALPHA, BOB, CAROL, PASSWORD, House, signed, wait_until


@pytest.fixture
def alpha(reactor: Any, tmp_path: Path) -> Iterator[House]:
    made = House(reactor, tmp_path / "alpha", ALPHA, (ALICE, BOB), {}, make_authority("Test authority"))
    yield made
    made.stop()


def here(house: House) -> Endpoint:
    return Endpoint("127.0.0.1", house.port)


def sign_in(house: House, user: Any = ALICE, password: str = PASSWORD, **how: Any) -> ParleyClient:
    how = {"server": here(house), "authorities": house.authorities, **how}
    return house.wait(connect(house.reactor, str(user), password, **how))


async def taken(messages: AsyncIterator[Any], count: int) -> list[Any]:
    """The first so many."""
    got = []
    async for message in messages:
        got.append(message)
        if len(got) == count:
            break
    return got


async def all_of(messages: AsyncIterator[Any]) -> list[Any]:
    return [message async for message in messages]


def inbox(house: House, parley: ParleyClient, **how: Any) -> list[Message]:
    return house.wait(all_of(parley.messages(**how)))


# -- signing in -----------------------------------------------------------------------------------------------------


def test_a_wrong_password(alpha: House) -> None:
    for user in (str(ALICE), "nobody@alpha.test"):
        with pytest.raises(RequestFailed, match="auth-failed: invalid-proof"):
            sign_in(alpha, user, "wrong")
    wait_until(alpha, lambda: all(s._link._gone for s in alpha.sessions))  # type: ignore[attr-defined]


def test_a_server_that_is_not_the_domains(alpha: House, tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"does not name beta\.test"):
        sign_in(alpha, CAROL)
    other = tmp_path / "other.pem"
    other.write_bytes(make_authority("Another")[1])
    with pytest.raises(OSError, match="certificate verify failed"):
        sign_in(alpha, authorities=other)
    with pytest.raises(OSError, match="certificate verify failed"):
        sign_in(alpha, authorities=None)  # the system's
    for path, why in ((tmp_path / "none.pem", "No such file"), (tmp_path, "no certificates can be read from it")):
        with pytest.raises(OSError, match=why):
            sign_in(alpha, authorities=path)


def test_a_server_that_does_not_know_the_password_either(alpha: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """It lets anybody in; the client does not let it."""

    def believing(self: Any, message: bytes, stored_key: bytes, server_key: bytes) -> bytes:
        return b"v=" + b"A" * 43 + b"="

    monkeypatch.setattr(ScramServer, "final", believing)
    with pytest.raises(RequestFailed, match="auth-failed: the server does not prove itself"):
        sign_in(alpha)


def test_no_server_and_no_address(alpha: House) -> None:
    alpha.hush()
    with pytest.raises(OSError, match="refused"):
        sign_in(alpha)
    with pytest.raises(AddressError):
        sign_in(alpha, "alice")
    alpha.listen()


def test_what_a_page_of_the_log_leaves_out_is_fetched(alpha: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten messages that took one number, too large together: each is whole, and comes once."""
    monkeypatch.setattr(parley_sync, "PAGE", 10_000)
    made = alpha.fill(ALICE, 10, 4000)
    alice = sign_in(alpha)
    alpha.wait(alice.mark("INBOX", list(range(1, 11)), add=["later"]))
    got = inbox(alpha, alice)
    assert sorted(message.id for message in got) == sorted(content.id for content in made)
    for message in got:
        message.content.check_bodies()
    assert all("later" in message.flags for message in got)


# -- composing and sending ------------------------------------------------------------------------------------------


def test_what_is_composed(tmp_path: Path) -> None:
    picture, unknown = tmp_path / "a.png", tmp_path / "b"
    picture.write_bytes(b"PNG")
    unknown.write_bytes(b"PNG")
    draft = compose(
        "a@a.test", ["b@b.test"], "Grüße", now=1735689600.5, subject="Hi", files=[picture, unknown], parents=[bytes(32)]
    )
    fields = Payload.decode(draft.payload)
    assert (fields.from_, fields.to, fields.subject, fields.date) == ("a@a.test", ("b@b.test",), "Hi", 1735689600500)
    assert fields.parents == (bytes(32),)
    assert [(part.type, part.size, part.name) for part in fields.parts] == [
        ("text/plain; charset=utf-8", 7, None),
        ("image/png", 3, "a.png"),
        ("application/octet-stream", 3, "b"),
    ]
    assert draft.bodies == ("Grüße".encode(), b"PNG")  # the same body once
    assert draft.id == sha256(draft.payload).digest()
    assert compose("a@a.test", ["b@b.test"], "Grüße", now=1735689600.5).id != draft.id
    assert [part.name for part in Payload.decode(compose("a@a.test", [], now=0, files=[picture]).payload).parts] == [
        "a.png"
    ]
    assert len(Payload.decode(compose("a@a.test", [], now=0).payload).parts) == 1  # an empty text
    assert len(Payload.decode(compose("a@a.test", [], now=0).payload).nonce) == 16
    with pytest.raises(OSError, match="No such file"):
        compose("a@a.test", [], now=0, files=[tmp_path / "none"])


def test_a_message_and_its_answer(alpha: House, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_bytes(b"attached")
    alice, bob = sign_in(alpha, ALICE), sign_in(alpha, BOB)
    results = alpha.wait(
        alice.send([str(BOB), "nobody@alpha.test"], "Grüße", subject="Hello", files=[tmp_path / "notes.txt"])
    )
    assert [(result.to, result.code) for result in results] == [(str(BOB), "2.0.0"), ("nobody@alpha.test", "5.1.1")]
    (got,) = inbox(alpha, bob)
    assert (got.sender, got.subject, got.text, got.mailbox, got.flags) == (str(ALICE), "Hello", "Grüße", "INBOX", ())
    assert (got.bridged, got.signer, got.mail) == (False, ALPHA, None)
    assert b"attached" in got.content.bodies.values()
    alpha.wait(bob.send([got.sender], "Yes", parents=[got.id]))
    (answer,) = inbox(alpha, alice)
    assert answer.content.fields.parents == (got.id,)
    (kept,) = inbox(alpha, alice, mailbox="Sent")
    assert (kept.id, kept.flags) == (got.id, ("\\Seen",))


def test_a_draft_sent_twice_arrives_once(alpha: House) -> None:
    draft = compose(str(ALICE), [str(BOB)], "once", now=0)
    for _ in range(2):
        alice = sign_in(alpha)
        assert alpha.wait(alice.send_draft([str(BOB)], draft))[0].code == "2.0.0"
    assert [message.id for message in inbox(alpha, sign_in(alpha, BOB))] == [draft.id]


def test_a_message_that_was_born_as_mail(alpha: House) -> None:
    mail = b"From: Eve <eve@elsewhere.test>\r\nTo: bob@alpha.test\r\nSubject: Old\r\n\r\nplain words\r\n"
    payload, bodies = bridge.bridged_payload(
        Mail(mail), by=ALPHA, nonce=bytes(16), received_ms=0, reverse_path=None, auth={"spf": "pass"}
    )
    content = signed(Content(b"", payload.encode(), b"", bodies), alpha.key)

    async def arrive() -> None:
        account = await alpha.store.account(BOB)
        assert account is not None
        await alpha.store.deliver([Delivery(account.account_id, content)])

    alpha.wait(arrive())
    (got,) = inbox(alpha, sign_in(alpha, BOB))
    assert (got.bridged, got.sender, got.signer, got.mail) == (True, "eve@elsewhere.test", ALPHA, mail)
    assert got.subject == "Old"


# -- the log --------------------------------------------------------------------------------------------------------


def test_the_whole_log_page_by_page(alpha: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "PAGE", 3)
    made = alpha.fill(BOB, 10)
    bob = sign_in(alpha, BOB)
    assert [message.id for message in inbox(alpha, bob)] == [content.id for content in made]
    (*_, last) = alpha.wait(all_of(bob.changes()))
    assert inbox(alpha, bob, since=last.modseq) == []
    assert [message.uid for message in inbox(alpha, bob, since=last.modseq - 4)] == [7, 8, 9, 10]


def test_mark_and_what_is_gone(alpha: House) -> None:
    alpha.fill(BOB, 3)
    bob = sign_in(alpha, BOB)
    alpha.wait(bob.mark("INBOX", [1, 2], add=["\\Seen", "x"]))
    alpha.wait(bob.mark("INBOX", [2], remove=["x"], move="Archive"))
    alpha.wait(bob.mark("INBOX", [3], delete=True))
    assert [(message.uid, message.flags) for message in inbox(alpha, bob)] == [(1, ("\\Seen", "x"))]
    assert [message.flags for message in inbox(alpha, bob, mailbox="Archive")] == [("\\Seen",)]
    with pytest.raises(RequestFailed, match="not-found"):
        alpha.wait(bob.mark("Nowhere", [1], delete=True))


def test_the_live_tail(alpha: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was there, and what comes afterwards, each once and in order."""
    monkeypatch.setattr(connection, "PAGE", 2)
    before = alpha.fill(BOB, 5)
    alice, bob = sign_in(alpha, ALICE), sign_in(alpha, BOB)

    async def talk() -> list[Message]:
        reading = defer.Deferred.fromCoroutine(taken(bob.messages(live=True), 8))
        for text in ("one", "two", "three"):
            await alice.send([str(BOB)], text)
        return await reading

    got = alpha.wait(talk())
    assert [message.id for message in got[:5]] == [content.id for content in before]
    assert [message.text for message in got[5:]] == ["one", "two", "three"]


def test_a_bot_answers(alpha: House) -> None:
    """The ten lines of the module's docstring."""
    alice, bob = sign_in(alpha, ALICE), sign_in(alpha, BOB)

    async def bot() -> None:
        async for message in bob.messages(live=True):
            await bob.send([message.sender], f"You said: {message.text}")

    async def talk() -> list[Message]:
        running = defer.Deferred.fromCoroutine(bot())
        running.addErrback(lambda failure: failure.trap(ConnectionGone))
        reading = defer.Deferred.fromCoroutine(taken(alice.messages(live=True), 3))
        for text in ("a", "b", "c"):
            await alice.send([str(BOB)], text)
        got = await reading
        bob.close()
        await running
        return got

    assert [message.text for message in alpha.wait(talk())] == ["You said: a", "You said: b", "You said: c"]


def test_a_mark_tells_where_it_stands_in_the_log(alpha: House) -> None:
    alpha.fill(BOB, 2)
    bob = sign_in(alpha, BOB)
    for mark in ({"add": ["\\Seen"]}, {"move": "Archive"}):
        modseq = alpha.wait(bob.mark("INBOX", [1], **mark))
        (*_, last) = alpha.wait(all_of(bob.changes()))
        assert modseq == last.modseq


def test_two_live_loops_on_one_connection(alpha: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each sees all, whichever of them had the tail pushed."""
    monkeypatch.setattr(connection, "PAGE", 2)
    alpha.fill(BOB, 5)
    alice, bob = sign_in(alpha, ALICE), sign_in(alpha, BOB)

    async def talk() -> list[list[Message]]:
        readers = [taken(bob.messages(live=True), 8) for _ in range(3)]
        reading = [defer.Deferred.fromCoroutine(reader) for reader in readers[:2]]
        await alice.send([str(BOB)], "one")
        await alice.send([str(BOB)], "two")
        reading.append(defer.Deferred.fromCoroutine(readers[2]))
        await alice.send([str(BOB)], "three")
        return [await reader for reader in reading]

    for got in alpha.wait(talk()):
        assert [message.uid for message in got] == list(range(1, 9))
        assert [message.text for message in got[5:]] == ["one", "two", "three"]
    assert bob._tails == set()
    assert len(alpha.sessions) == 2


def test_a_reader_that_is_slow_is_pushed_no_heap(alpha: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit is dropped and asked for again: nothing is missing, nothing comes twice."""
    monkeypatch.setattr(tail, "TAIL", 1000)
    alice, bob = sign_in(alpha, ALICE), sign_in(alpha, BOB)
    heaps = []

    async def talk() -> list[int]:
        pages = bob.changes(live=True)
        await anext(pages)
        for _ in range(20):
            await alice.send([str(BOB)], "x" * 100)
        await bob.mark("INBOX", [], add=["x"])  # what was pushed came before this
        (reader,) = bob._tails
        heaps.append(reader._octets)
        got: list[int] = []
        while len(got) < 20:
            got += [change.uid for change in (await anext(pages)).changes]
        return got

    assert alpha.wait(talk()) == list(range(1, 21))
    assert heaps[0] <= 1000


def test_an_idle_connection_says_a_word_now_and_then(alpha: House) -> None:
    """On a clock of our own, so that nothing waits."""
    asked: list[str] = []

    class Session:
        usable = idle = True

        async def request(self, method: str, body: Any) -> dict[str, Any]:
            asked.append(method)
            return {"keys": b""}

        def close(self) -> None:
            self.usable = False

    clock = Clock()
    parley = ParleyClient(clock, str(ALICE), PASSWORD)
    session: Any = Session()
    parley._session = session
    parley._keeping_alive.start(connection.KEEP_ALIVE, now=False)
    clock.pump([connection.KEEP_ALIVE] * 3)
    assert asked == ["keys"] * 3
    session.idle = False
    clock.advance(connection.KEEP_ALIVE)
    assert asked == ["keys"] * 3
    parley.close()
    assert not clock.getDelayedCalls()
    assert (connection.KEEP_ALIVE + 120) * 2 < parley_server.IDLE


def test_the_word_is_one_that_the_server_takes(alpha: House) -> None:
    bob = sign_in(alpha, BOB)
    alpha.wait(bob._keep_alive())
    assert bob._session is not None
    alpha.hush()
    wait_until(alpha, lambda: bob._session is None)
    alpha.wait(bob._keep_alive())  # nothing to keep
    alpha.listen()


# -- lost and found again -------------------------------------------------------------------------------------------


def moved(house: House, parley: ParleyClient) -> None:
    """The server listens again, at another port."""
    house.listen()
    parley._where = (here(house), *parley._where[1:])


def test_the_live_tail_goes_on_where_it_was(alpha: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server goes away and comes back, twice; what came meanwhile is read, each once."""
    monkeypatch.setattr(patience, "FIRST_WAIT", 0.05)
    alice, bob = sign_in(alpha, ALICE), sign_in(alpha, BOB)
    states: list[bool] = []
    bob.on_state = lambda why: states.append(why is None)
    got: list[str] = []

    async def read() -> None:
        async for message in bob.messages(live=True):
            got.append(message.text)

    def say(text: str) -> None:
        (result,) = alpha.wait(alice.send([str(BOB)], text))
        assert result.code == "2.0.0"

    alpha.call(lambda: alpha.spawn(read()))
    for name in ("a", "b", "c"):
        say(name)
        wait_until(alpha, lambda name=name: got[-1:] == [name])  # type: ignore[misc]
        alpha.hush()
        wait_until(alpha, lambda: bob._session is None)
        alpha.listen()
        alice._where = (here(alpha), *alice._where[1:])
        say(f"while away {name}")
        bob._where = alice._where
        wait_until(alpha, lambda name=name: got[-1:] == [f"while away {name}"])  # type: ignore[misc]
    assert got == ["a", "while away a", "b", "while away b", "c", "while away c"]
    assert states == [False, True] * 3
    ended: list[Any] = []
    alpha.begun.addErrback(lambda failure: ended.append(failure.trap(ConnectionGone)))
    alpha.call(bob.close)
    wait_until(alpha, lambda: bool(ended))


@pytest.mark.parametrize("begins", ["from the first", "from here on"])
def test_a_live_loop_goes_on_with_a_server_that_came_back_from_a_backup(
    begins: str, alpha: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is missed, and nothing is there twice: not what was marked as answered and is not any more, nor what
    stood there before the loop began."""
    monkeypatch.setattr(patience, "FIRST_WAIT", 0.05)
    monkeypatch.setattr(connection, "PAGE", 2)
    alice, bob = sign_in(alpha, ALICE), sign_in(alpha, BOB)
    got: list[str] = []

    def say(*texts: str) -> None:
        for text in texts:
            alpha.wait(alice.send([str(BOB)], text))

    async def read(since: int) -> None:
        async for message in bob.messages(since, live=True):
            got.append(message.text)

    def until(*texts: str) -> None:
        wait_until(alpha, lambda: got == [*texts])

    say("a", "b", "c")
    (inbox,) = (mailbox for mailbox in alpha.wait(bob.mailboxes()) if mailbox.name == "INBOX")
    assert inbox.messages == 3
    first = 0 if begins == "from the first" else alpha.wait(bob.mark("INBOX", []))
    alpha.call(lambda: alpha.spawn(read(first)))
    before = [] if first else ["a", "b", "c"]
    say("d")
    until(*before, "d")
    backup = Backup(alpha, tmp_path)
    say("lost")
    until(*before, "d", "lost")
    alpha.wait(bob.mark("INBOX", [1, 4], add=["\\Answered"]))
    until(*before, "d", "lost", "a", "d")
    backup.restore()
    alpha.listen()
    alice._where = (here(alpha), *alice._where[1:])
    say("e", "f", "g")
    bob._where = alice._where
    until(*before, "d", "lost", "a", "d", "e", "f", "g")
    say("h")
    until(*before, "d", "lost", "a", "d", "e", "f", "g", "h")
    alpha.wait(bob.mark("INBOX", [4], add=["\\Flagged"]))  # and changes are told again
    until(*before, "d", "lost", "a", "d", "e", "f", "g", "h", "d")
    alpha.begun.addErrback(lambda failure: failure.trap(ConnectionGone))
    alpha.call(bob.close)


def test_a_place_of_another_log_is_no_place_to_begin_at(alpha: House) -> None:
    bob = sign_in(alpha, BOB)
    with pytest.raises(RequestFailed, match="resync"):
        alpha.wait(taken(bob.messages(1, epoch=b"of another log", live=True), 1))


def test_two_live_loops_through_lost_connections(alpha: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """They share each new connection, and what is left of them goes on when one of them ends; each sees all once."""
    monkeypatch.setattr(patience, "FIRST_WAIT", 0.05)
    alice, bob = sign_in(alpha, ALICE), sign_in(alpha, BOB)
    got: list[list[str]] = [[], []]

    async def read(into: list[str], last: str) -> None:
        async for message in bob.messages(live=True):
            into.append(message.text)
            if message.text == last:
                return

    alpha.call(lambda: alpha.spawn(read(got[0], "b")))
    alpha.call(lambda: alpha.spawn(read(got[1], "c")))
    for name in ("a", "b", "c"):
        alpha.wait(alice.send([str(BOB)], name))
        wait_until(alpha, lambda name=name: all(each[-1:] == [name] for each in got[name == "c" :]))  # type: ignore[misc]
        alpha.hush()
        wait_until(alpha, lambda: bob._session is None)
        moved(alpha, alice)
        bob._where = alice._where
    assert got == [["a", "b"], ["a", "b", "c"]]
    wait_until(alpha, lambda: bob._tails == set())


def test_a_request_is_asked_again_on_a_new_connection(alpha: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server did it and was gone before the answer: it arrives once."""
    alice, bob = sign_in(alpha, ALICE), sign_in(alpha, BOB)
    (session,) = (s for s in alpha.sessions if s._log is not None and s._log.account.address == ALICE)
    reply = ParleyServerSession._reply

    def gone(self: ParleyServerSession, request: Request, body: Body) -> None:
        if self is session:
            self._link.abort()
        else:
            reply(self, request, body)

    monkeypatch.setattr(ParleyServerSession, "_reply", gone)
    assert alpha.wait(alice.send([str(BOB)], "once"))[0].code == "2.0.0"
    assert [message.text for message in inbox(alpha, bob)] == ["once"]
    assert len(alpha.sessions) == 3


def test_a_request_without_a_server(alpha: House) -> None:
    alice = sign_in(alpha)
    alpha.hush()
    with pytest.raises(OSError, match=r"refused|closed|lost"):
        alpha.wait(alice.send([str(BOB)], "nobody hears"))
    moved(alpha, alice)
    assert alpha.wait(alice.send([str(BOB)], "heard"))[0].code == "2.0.0"


def test_a_password_that_is_good_no_more_ends_the_tail(alpha: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "FIRST_WAIT", 0.05)
    bob = sign_in(alpha, BOB)
    bob._password = "changed"

    async def read() -> None:
        pages = bob.changes(live=True)
        await anext(pages)
        alpha.sessions[-1]._link.abort()
        await anext(pages)

    with pytest.raises(RequestFailed, match="auth-failed"):
        alpha.wait(read())


def test_a_frame_that_the_server_does_not_take(alpha: House) -> None:
    alice = sign_in(alpha)
    assert alice._session is not None
    alice._session._engine._peer_frame = 2000
    with pytest.raises(RequestFailed, match="too-big"):
        alpha.wait(alice.send([str(BOB)], "x" * 3000))
    assert alpha.wait(alice.send([str(BOB)], "short"))[0].code == "2.0.0"


def test_more_recipients_than_one_send_takes(alpha: House) -> None:
    alice = sign_in(alpha)
    assert alice._session is not None
    alice._session.recipients = 2
    to = [str(BOB), "no1@alpha.test", "no2@alpha.test", str(ALICE), "no3@alpha.test"]
    results = alpha.wait(alice.send(to, "Hello"))
    assert [(result.to, result.code[0]) for result in results] == list(zip(to, "25525", strict=True))
    assert len(inbox(alpha, alice, mailbox="Sent")) == 1


def test_leaving_the_block_signs_out(alpha: House) -> None:
    async def run() -> None:
        how: dict[str, Any] = {"server": here(alpha), "authorities": alpha.authorities}
        async with await connect(alpha.reactor, str(ALICE), PASSWORD, **how) as parley:
            await parley.send([str(BOB)], secrets.token_hex(4))
        with pytest.raises(ConnectionGone, match="closed by us"):
            await parley.mark("INBOX", [1], delete=True)
        parley.close()  # twice does no harm

    alpha.wait(run())
    wait_until(alpha, lambda: alpha.sessions[0]._link._gone)  # type: ignore[attr-defined]


def test_trying_now(alpha: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits until he dials again need not; who leaves does not wait either."""
    monkeypatch.setattr(patience._random, "uniform", lambda least, most: 3600.0)
    alice = sign_in(alpha, patient=True)
    answers: list[object] = []

    async def ask() -> None:
        try:
            answers.append(await alice.contacts())
        except ConnectionGone as gone:
            answers.append(str(gone))

    def asked_in_vain() -> None:
        alpha.hush()
        wait_until(alpha, lambda: not alice.is_online)
        alpha.call(lambda: alpha.spawn(ask()))
        wait_until(alpha, lambda: alice._patience.waits)

    asked_in_vain()
    alpha.listen()
    alice._where = (here(alpha), *alice._where[1:])
    alpha.call(alice.try_now)
    wait_until(alpha, lambda: answers == [()])
    asked_in_vain()
    alpha.call(alice.close)
    wait_until(alpha, lambda: answers == [(), "closed by us"])
    alpha.listen()
