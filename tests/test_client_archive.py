"""The copy of the log on a device: what it holds after any pages, and that a killed program goes on where it was."""

from __future__ import annotations

import contextlib
import sqlite3
import tempfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatewayd.address import Domain
from gatewayd.client import pages
from gatewayd.client.archive import Archive
from gatewayd.client.conversation import conversation_of
from gatewayd.client.message import Message
from gatewayd.client.pages import KEPT
from gatewayd.crypto import cose
from gatewayd.crypto.domain_keys import SigningKey
from gatewayd.errors import StoreError
from gatewayd.message.model import Content, Part, Payload
from gatewayd.wire.parley.schema import Change, Changes, Contact, ContactState, Mailbox
from tests.loop import Loop

KEY = SigningKey.generate(Domain.parse("alpha.test"))
BOB = "bob@alpha.test"


@pytest.fixture
def loop() -> Loop:
    return Loop()


@pytest.fixture
def archive(tmp_path: Path, loop: Loop) -> Iterator[Archive]:
    made = Archive(tmp_path / "data" / "bob.sqlite", BOB, loop.post)
    yield made
    made.close()


def change(
    modseq: int, text: str = "", *, sender: str = "alice@alpha.test", to: tuple[str, ...] = (BOB,), date: int = 0,
    mailbox: str = "INBOX", uid: int = 0, flags: tuple[str, ...] = (), files: dict[str, bytes] | None = None,
    **fields: Any,
) -> Change:  # fmt: skip
    bodies = [text.encode(), *(files or {}).values()]
    names = [None, *(files or {})]
    types = ["text/plain"] + ["application/octet-stream"] * (len(bodies) - 1)
    parts = tuple(
        Part(sha256(body).digest(), kind, len(body), name)
        for body, kind, name in zip(bodies, types, names, strict=True)
    )
    nonce = sha256(text.encode()).digest()[:16]
    payload = Payload(sender, to, date or modseq, nonce, parts=parts, **fields).encode()
    protected, signature = cose.sign(payload, KEY)
    content = Content(protected, payload, signature, {})
    return Change(mailbox, uid or modseq, modseq, False, flags, content.id, content.signed, tuple(bodies))


def gone(modseq: int, uid: int, mailbox: str = "INBOX") -> Change:
    return Change(mailbox, uid, modseq, gone=True)


def take(loop: Loop, archive: Archive, *changes: Change, modseq: int = 0) -> list[Message]:
    (new,) = loop.all(archive.take(Changes(changes, modseq or changes[-1].modseq)))
    if isinstance(new, Exception):
        raise new
    taken: list[Message] = new
    return taken


def texts(messages: list[Message]) -> list[str]:
    return [message.text for message in messages]


def test_what_came_is_there_again(archive: Archive, loop: Loop, tmp_path: Path) -> None:
    new = take(loop, archive, change(1, "one"), change(2, "two", flags=("\\Seen",), files={"a.bin": b"file"}))
    assert texts(new) == ["one", "two"]
    assert take(loop, archive, change(3, "one", uid=1, flags=("\\Flagged",))) == []  # not new
    archive.close()
    again = Archive(tmp_path / "data" / "bob.sqlite", BOB, loop.post)
    assert loop.all(again.place()) == [(3, b"")]
    (found,) = loop.all(again.mailbox("INBOX"))
    assert [(m.uid, m.modseq, m.text, m.flags) for m in found] == [
        (1, 3, "one", ("\\Flagged",)), (2, 2, "two", ("\\Seen",)),
    ]  # fmt: skip
    assert found[1].content.bodies.keys() == {sha256(b"two").digest()}  # a list shows no files
    (whole,) = loop.all(again.message(found[1].id))
    assert set(whole.content.bodies.values()) == {b"two", b"file"}
    whole.content.check_bodies()
    assert loop.all(again.mailbox("INBOX", 1), again.mailbox("Sent"), again.ids("INBOX", 2)) == [
        [found[1]], [], [(found[0].id, 3)],
    ]  # fmt: skip
    again.close()


def test_a_page_is_kept_whole_or_not_at_all(archive: Archive, loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = pages._keep
    calls: list[bytes] = []

    def breaking(db: sqlite3.Connection, user: str, message: Message) -> None:
        calls.append(message.id)
        if len(calls) == 2:
            raise sqlite3.OperationalError("disk I/O error")
        kept(db, user, message)

    monkeypatch.setattr(pages, "_keep", breaking)
    with pytest.raises(StoreError, match="disk I/O error"):
        take(loop, archive, change(1, "one"), change(2, "two"))
    assert loop.all(archive.place(), archive.mailbox("INBOX")) == [(0, b""), []]
    assert texts(take(loop, archive, change(1, "one"), change(2, "two"))) == ["one", "two"]


def test_what_another_program_took_is_not_taken_back(archive: Archive, loop: Loop) -> None:
    """Two programs on one file: an old page changes nothing."""
    take(loop, archive, change(1, "one"), change(5, "one", uid=1, flags=("\\Seen",)))
    assert take(loop, archive, change(2, "one", uid=1)) == []
    ((found,),) = loop.all(archive.mailbox("INBOX"))
    assert (found.flags, found.modseq) == (("\\Seen",), 5)
    assert loop.all(archive.place()) == [(5, b"")]


@settings(max_examples=30)  # each makes a file
@given(
    st.lists(
        st.tuples(st.sampled_from(["INBOX", "Sent"]), st.integers(1, 4), st.sampled_from(["", "\\Seen", None])),
        min_size=1, max_size=25,
    ),
    st.lists(st.integers(1, 4), min_size=25, max_size=25),
    st.integers(0, 20),
)  # fmt: skip
def test_any_pages_of_any_log(steps: list[tuple[str, int, str | None]], sizes: list[int], again: int) -> None:
    """Against a model of the server: whatever happened to messages, however it is cut into pages, asked for twice or by
    two programs, the copy is what the server has."""
    loop = Loop()
    there: dict[tuple[str, int], Change] = {}
    with tempfile.TemporaryDirectory() as root:
        archive = Archive(Path(root) / "bob.sqlite", BOB, loop.post)
        pages = []
        since, left = 0, list(enumerate(steps, 1))
        for size in sizes:  # the server says what changed since the last page, each message at its latest number only
            now, left = left[:size], left[size:]
            latest: dict[tuple[str, int], Change] = {}
            for modseq, (mailbox, uid, flags) in now:
                key = mailbox, uid
                if flags is None:
                    if there.pop(key, None) is not None:
                        latest[key] = gone(modseq, uid, mailbox)
                else:
                    text = f"{mailbox} {uid}"
                    there[key] = change(modseq, text, date=7, mailbox=mailbox, uid=uid, flags=tuple(flags.split()))
                    latest[key] = there[key]
                since = modseq
            pages.append(Changes(tuple(sorted(latest.values(), key=lambda c: c.modseq)), since))
        for at, page in enumerate(pages):
            loop.all(archive.take(page))
            if again and at % again == 0:
                loop.all(archive.take(pages[max(0, at - 1)]))
        found = [message for name in ("INBOX", "Sent") for message in loop.all(archive.mailbox(name))[0]]
        kept = loop.all(archive.database.read(lambda db: db.execute("SELECT count(*) FROM body").fetchone()[0]))
        archive.close()
    assert {(m.mailbox, m.uid): (m.flags, m.text) for m in found} == {
        key: (each.flags, f"{key[0]} {key[1]}") for key, each in there.items()
    }
    assert kept == [len({each.bodies for each in there.values()})]


def test_what_is_gone_leaves_nothing_behind(archive: Archive, loop: Loop, tmp_path: Path) -> None:
    take(
        loop,
        archive,
        change(1, "same"),
        change(2, "other", parents=(bytes(32),)),
        change(3, "same", date=1, uid=7, mailbox="Archive"),
    )
    take(loop, archive, gone(4, 1), gone(5, 2), gone(6, 99))
    db = sqlite3.connect(tmp_path / "data" / "bob.sqlite")
    assert db.execute("SELECT octets FROM body").fetchall() == [(b"same",)]  # it stands in Archive still
    take(loop, archive, gone(7, 7, "Archive"))
    for table in ("entry", "object", "part", "body", "link", "words"):
        assert db.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,), table
    db.close()


def page(epoch: bytes, *changes: Change, more: bool = False) -> Changes:
    return Changes(changes, changes[-1].modseq, more, epoch=epoch)


def test_a_log_that_began_anew(archive: Archive, loop: Loop) -> None:
    """What comes again is there once and is no news; what the server has lost is kept, but for what was put away."""
    before = [change(1, "first"), change(2, "also in Archive"), change(3, "lost"), change(4, "spam", mailbox="Junk")]
    loop.all(archive.take(page(b"one", *before, change(5, "also in Archive", date=2, mailbox="Archive", uid=1))))
    loop.all(archive.begin_anew(b"another"))  # not ours
    assert loop.all(archive.place()) == [(5, b"one")]
    loop.all(archive.begin_anew(b"one"))
    assert loop.all(archive.place(), archive.unseen("alice@alpha.test")) == [(0, b""), {}]
    (new,) = loop.all(archive.take(page(b"two", change(1, "first", flags=("\\Seen",)), more=True)))
    assert (texts(new), loop.all(archive.place())) == ([], [(1, b"two")])
    (new,) = loop.all(archive.take(page(b"two", change(2, "also in Archive", uid=7), change(3, "new"))))
    assert texts(new) == ["new"]
    loop.all(archive.take(page(b"", change(4, "pushed"))))
    assert loop.all(archive.place()) == [(4, b"two")]
    found, kept = loop.all(archive.conversation("alice@alpha.test"), archive.mailbox(KEPT))
    assert sorted(texts(found)) == ["also in Archive", "first", "lost", "new", "pushed"]
    assert texts(kept) == ["lost"]
    loop.all(archive.begin_anew(b"two"))
    loop.all(archive.take(page(b"three", change(1, "first"))))
    (found,) = loop.all(archive.conversation("alice@alpha.test"))
    assert sorted(texts(found)) == ["also in Archive", "first", "lost", "new", "pushed"]
    assert loop.all(archive.search("spam", 9)) == [[]]


def everything(loop: Loop, archive: Archive) -> dict[str, set[Any]]:
    """What the server said, row by row; not what it has lost."""
    of = {
        "entry": "WHERE mailbox != '\\Kept'",
        "object": f"WHERE id NOT IN (SELECT id FROM entry WHERE mailbox='{KEPT}')",
    }
    query = "SELECT * FROM {} {}"
    names = "entry", "object", "contact", "mailbox", "log"
    return {
        name: set(
            loop.one(archive.database.read(lambda db, n=name: db.execute(query.format(n, of.get(n, ""))).fetchall()))
        )
        for name in names
    }


def test_after_a_log_that_began_anew_the_copy_is_what_the_server_has(
    archive: Archive, loop: Loop, tmp_path: Path
) -> None:
    """Who asks, who may write, mailboxes and messages, strangers' too: all as in a copy that never saw the other."""
    stranger = change(2, "let me in", sender="eve@x.test", mailbox="Introductions")
    boxes = (Mailbox("INBOX", 7, 1), Mailbox("Introductions", 8, 1), Mailbox("Old", 9, 1))
    asks, granted = Contact("eve@x.test", "requested", 7, 3), Contact("carol@x.test", "granted", 7, 4)
    loop.one(archive.take(Changes((change(1, "both"), stranger), 4, False, (asks, granted), boxes, b"one")))
    loop.one(archive.begin_anew(b"one"))
    other = Archive(tmp_path / "other.sqlite", BOB, loop.post)
    changes = change(1, "both", uid=5), change(2, "new", uid=6)
    news = Changes(changes, 3, False, (Contact("dan@x.test", "requested", 9, 3),), (Mailbox("INBOX", 11, 1),), b"two")
    for one in (archive, other):
        loop.one(one.take(news))
    assert everything(loop, archive) == everything(loop, other)
    other.close()


def test_a_copy_from_before_there_were_epochs_begins_anew(archive: Archive, loop: Loop, tmp_path: Path) -> None:
    asks = Contact("eve@x.test", "requested", 7, 3)
    stranger = change(2, "let me in", sender="eve@x.test", mailbox="Introductions")
    loop.one(archive.take(Changes((change(1, "one"), stranger), 3, contacts=(asks,))))
    archive.close()
    path = tmp_path / "data" / "bob.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("ALTER TABLE undelivered DROP COLUMN at")
        db.execute("UPDATE schema SET version=5")
    again = Archive(path, BOB, loop.post)
    assert loop.all(again.place(), again.contacts(), again.mailbox("Introductions")) == [(0, b""), [], []]
    assert texts(loop.one(again.conversation("alice@alpha.test"))) == ["one"]
    assert loop.one(again.take(page(b"one", change(1, "one")))) == []
    again.close()


def test_conversations(archive: Archive, loop: Loop) -> None:
    carol = "carol@beta.test"
    take(
        loop, archive,
        change(1, "from alice"),
        change(2, "to alice", sender=BOB, to=("alice@ALPHA.test",), flags=("\\Seen",), mailbox="Sent"),
        change(3, "all of us", sender=carol, to=("alice@alpha.test", BOB)),
        change(4, "mine", sender=BOB, to=(BOB,), flags=("\\Seen",)),
        change(5, "spam", sender="eve@gamma.test", mailbox="Junk"),
        change(6, "from alice again"),
    )  # fmt: skip
    (found,) = loop.all(archive.conversations())
    assert [(c.addresses, c.last, c.unread) for c in found] == [
        (("alice@alpha.test",), 6, 2),
        ((BOB,), 4, 0),
        (("alice@alpha.test", carol), 3, 1),
    ]
    (said,) = loop.all(archive.conversation("alice@alpha.test"))
    assert texts(said) == ["from alice", "to alice", "from alice again"]
    assert texts(loop.all(archive.conversation("alice@alpha.test", 2))[0]) == ["to alice", "from alice again"]
    assert loop.all(archive.unseen("alice@alpha.test")) == [{"INBOX": [1, 6]}]
    take(loop, archive, change(7, "from alice", uid=1, date=1, flags=("\\Seen",)))
    assert loop.all(archive.unseen("alice@alpha.test")) == [{"INBOX": [6]}]


def test_one_message_in_two_mailboxes_is_said_once(archive: Archive, loop: Loop) -> None:
    take(loop, archive, change(1, "to me", sender=BOB, date=1), change(2, "to me", sender=BOB, date=1, mailbox="Sent"))
    assert texts(loop.all(archive.conversation(BOB))[0]) == ["to me"]


def test_searching(archive: Archive, loop: Loop) -> None:
    """All the words, in any case and any script, in what is said, subject, addresses or names of files; the newest
    first, wherever it is said."""
    first = change(1, "Lunch at NOON, Stra\N{LATIN SMALL LETTER SHARP S}e 7")
    take(
        loop, archive,
        first,
        change(2, "no", subject="Lunch"),
        change(3, "see there", files={"lunch.pdf": b"%PDF lunch noon"}),
        change(4, "lunch", mailbox="Junk"),
        change(5, "\N{CJK UNIFIED IDEOGRAPH-663C}\N{CJK UNIFIED IDEOGRAPH-98DF}", sender="carol@beta.test"),
        change(6, "Dinner at noon", type="edit", replaces=first.id),
    )  # fmt: skip

    def found(text: str, most: int = 9) -> list[int]:
        return [message.uid for _, message in loop.one(archive.search(text, most))]

    assert found("lunch") == [3, 2]  # the first one says so no more
    assert found("LUNCH", 1) == [3]
    assert found("noon dinner") == [6]
    assert found("lunch alice") == [3, 2]
    assert found("\N{CJK UNIFIED IDEOGRAPH-98DF}") == [5]
    assert found("%") == found("") == found("pdf noon") == []
    assert loop.one(archive.search("carol", 9))[0][0] == "carol@beta.test"
    take(loop, archive, change(7, "", type="retract", replaces=change(2, "no", subject="Lunch").id))
    assert found("lunch") == [3]


def test_a_thread(archive: Archive, loop: Loop) -> None:
    """What a message answers and what answers it, through several, in its own conversation only."""
    root = change(1, "root")
    answer = change(2, "answer", parents=(root.id,))
    deeper = change(3, "deeper", parents=(answer.id,))
    beside = change(4, "beside", parents=(root.id,))
    alone = change(5, "alone")
    elsewhere = change(6, "elsewhere", parents=(root.id,), sender="carol@beta.test")
    loose = change(7, "loose", parents=(bytes(32),))
    take(loop, archive, root, answer, deeper, beside, alone, elsewhere, loose)
    for one in (root, answer, deeper, beside):
        assert texts(loop.one(archive.thread("alice@alpha.test", one.id))) == ["root", "answer", "deeper", "beside"]
    for one in (alone, loose):
        assert len(loop.one(archive.thread("alice@alpha.test", one.id))) == 1


def test_a_place_in_the_past(archive: Archive, loop: Loop) -> None:
    changes = [change(n, f"number {n}") for n in range(1, 8)]
    take(loop, archive, *changes)
    place = loop.one(archive.place_after(changes[2].id, 2))
    assert place == (5, changes[4].id)
    assert texts(loop.one(archive.conversation("alice@alpha.test", 3, place))) == [f"number {n}" for n in (3, 4, 5)]
    assert loop.one(archive.place_after(changes[5].id, 2)) is None  # there are not so many


def test_what_is_needed_to_show_a_few(archive: Archive, loop: Loop) -> None:
    """What they answer and react to, and what was made of it and of them, though it stands far away."""
    first, other = change(1, "first"), change(2, "other")
    edit = change(3, "first, better", type="edit", replaces=first.id)
    answer = change(4, "answer", parents=(first.id,))
    later = change(5, "answer, better", type="edit", replaces=answer.id)
    unrelated = change(6, "also an answer", parents=(answer.id,))
    take(loop, archive, first, other, edit, answer, later, unrelated)
    shown = loop.one(archive.conversation("alice@alpha.test", 1, (4, answer.id)))
    assert texts(shown) == ["answer"]
    assert texts(loop.one(archive.beside(shown))) == ["first", "first, better", "answer, better"]
    assert loop.one(archive.beside([])) == []


def test_what_takes_back_a_change_is_needed_too(archive: Archive, loop: Loop) -> None:
    root = change(1, "root")
    edit = change(2, "edit", type="edit", replaces=root.id)
    liked = change(3, "+1", type="reaction", parents=(root.id,))
    back = [change(n, f"{n}", type="retract", replaces=one.id) for n, one in ((4, edit), (5, liked))]
    take(loop, archive, root, edit, liked, *back)
    (message,) = [one for one in loop.one(archive.mailbox("INBOX")) if one.id == root.id]
    assert {one.id for one in loop.one(archive.beside([message]))} == {edit.id, liked.id, *(one.id for one in back)}


def test_who_talks() -> None:
    def of(sender: str, *to: str) -> str:
        return conversation_of(BOB, Payload(sender, to, 0, b""))

    assert of(BOB, "a@ALPHA.test") == of("a@alpha.test", BOB) == "a@alpha.test"
    assert of("x@x.test", "a@a.test", BOB) == of(BOB, "x@x.test", "a@a.test") == "a@a.test\nx@x.test"
    assert of(BOB) == of(BOB, BOB) == BOB
    assert of("not an address", BOB) == "not an address"


def test_contacts(archive: Archive, loop: Loop) -> None:
    def told(modseq: int, **states: ContactState) -> None:
        contacts = tuple(Contact(f"{name}@x.test", state, 7, modseq) for name, state in states.items())
        loop.all(archive.take(Changes((), modseq, contacts=contacts)))

    told(1, a="requested", b="granted")
    told(2, a="granted", b="none", c="revoked")
    assert loop.all(archive.contacts()) == [
        [Contact("a@x.test", "granted", 7, 2), Contact("c@x.test", "revoked", 7, 2)]
    ]


def test_what_no_reader_could_show(archive: Archive, loop: Loop) -> None:
    broken = Change("INBOX", 1, 1, id=bytes(32), signed=b"\x80")
    assert take(loop, archive, broken, change(2, "good"))[0].text == "good"
    only_named = Change("INBOX", 3, 3, id=bytes(32))  # of a group too large for a page
    take(loop, archive, only_named)
    assert texts(loop.all(archive.mailbox("INBOX"))[0]) == ["good"]


def test_finding_one(archive: Archive, loop: Loop) -> None:
    (message,) = take(loop, archive, change(1, "one"))
    assert loop.all(archive.named(message.id.hex()[:6].upper()), archive.named("00" * 20)) == [[message.id], []]
    assert loop.all(archive.at("INBOX", 1), archive.at("INBOX", 2), archive.message(bytes(32))) == [
        message.id, None, None,
    ]  # fmt: skip


def test_keys_for_later(archive: Archive, loop: Loop) -> None:
    loop.all(archive.keep_key_set("alpha.test", b"1", 5.0))
    loop.all(archive.keep_key_set("alpha.test", b"2", 6.0))
    assert loop.all(archive.key_set("alpha.test"), archive.key_set("beta.test")) == [(b"2", 6.0), None]


def test_nobody_else_reads_it(archive: Archive, tmp_path: Path, loop: Loop) -> None:
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "data" / "bob.sqlite").stat().st_mode & 0o777 == 0o600
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="file"):
        Archive(tmp_path / "file" / "bob.sqlite", BOB, loop.post)
