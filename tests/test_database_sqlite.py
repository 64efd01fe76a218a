"""Group commit: what is acknowledged is on disk, what fails changes nothing, and nothing is left waiting."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.logger import formatEvent, globalLogPublisher

from gatewayd.database import sqlite
from gatewayd.database.sqlite import QUIET, Database, Together
from gatewayd.errors import StoreError, StoreFull
from tests.loop import Loop

STEPS = ["CREATE TABLE word (word TEXT PRIMARY KEY)"]
Work = Callable[[sqlite3.Connection], Any]


@pytest.fixture
def loop() -> Loop:
    return Loop()


@pytest.fixture
def database(tmp_path: Path, loop: Loop) -> Iterator[Database]:
    made = Database(tmp_path / "state" / "test.sqlite", loop.post)
    made.migrate("words", STEPS)
    yield made
    made.close()


def insert(word: str) -> Work:
    return lambda db: db.execute("INSERT INTO word VALUES (?)", (word,)).lastrowid


def words(db: sqlite3.Connection) -> set[str]:
    return {word for (word,) in db.execute("SELECT word FROM word")}


def begin_together(database: Database, works: list[Work]) -> list[Deferred[Any]]:
    """Holds the writer until all of them wait, so that they are one group; the first answer is the holder's."""
    inside, held = threading.Event(), threading.Event()

    def hold(db: sqlite3.Connection) -> None:
        inside.set()
        assert held.wait(60)

    first = Deferred.fromCoroutine(database.write(hold))
    assert inside.wait(60)
    rest = [Deferred.fromCoroutine(database.write(work)) for work in works]
    held.set()
    return [first, *rest]


def test_what_waits_together_is_one_commit(database: Database, loop: Loop) -> None:
    before = database.commits
    given = [f"word {n}" for n in range(100)]
    loop.wait(begin_together(database, [insert(word) for word in given]))
    assert database.commits == before + 2
    assert loop.one(database.read(words)) == set(given)


def test_a_group_has_a_bound(database: Database, loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "BATCH", 10)
    before = database.commits
    loop.wait(begin_together(database, [insert(str(n)) for n in range(35)]))
    assert database.commits == before + 5
    assert len(loop.one(database.read(words))) == 35


def test_one_failing_write_does_not_take_its_neighbours(database: Database, loop: Loop) -> None:
    def half(db: sqlite3.Connection) -> None:
        insert("half")(db)
        raise LookupError("changed its mind")

    def rude(db: sqlite3.Connection) -> None:
        insert("rude")(db)
        db.execute("SELECT * FROM nowhere")

    before = database.commits
    answers = loop.wait(begin_together(database, [insert("a"), half, insert("b"), rude, insert("a"), insert("c")]))
    assert isinstance(answers[2], LookupError)
    assert type(answers[4]) is StoreError
    assert type(answers[5]) is StoreError  # "a" is there already
    assert not any(isinstance(answers[n], Exception) for n in (0, 1, 3, 6))
    assert database.commits == before + 2
    assert loop.one(database.read(words)) == {"a", "b", "c"}


def test_an_error_that_takes_the_transaction_does_not_take_the_neighbours(database: Database, loop: Loop) -> None:
    def ends(db: sqlite3.Connection) -> None:
        db.execute("ROLLBACK")  # as SQLite does itself after some errors of the disk
        raise sqlite3.OperationalError("disk I/O error")

    answers = loop.wait(begin_together(database, [insert("a"), ends, insert("b")]))
    assert [type(answer) for answer in answers[1:]] == [int, StoreError, int]
    assert loop.one(database.read(words)) == {"a", "b"}


def test_nothing_is_answered_before_its_commit(database: Database, loop: Loop) -> None:
    """Seen from a connection of its own, at the moment of the answer."""
    seen: list[set[str]] = []
    other = sqlite3.connect(database.path)
    asked = Deferred.fromCoroutine(database.write(insert("a")))
    asked.addCallback(lambda _: seen.append(words(other)))
    loop.wait([asked])
    other.close()
    assert seen == [{"a"}]


def test_readers_see_commits_and_write_nothing(database: Database, loop: Loop) -> None:
    for number in range(20):
        loop.one(database.write(insert(str(number))))
        assert str(number) in loop.one(database.read(words))
    with pytest.raises(StoreError, match="readonly"):
        loop.one(database.read(insert("by a reader")))
    with pytest.raises(LookupError):
        loop.one(database.read(lambda db: {}[1]))
    assert len(loop.one(database.read(words))) == 20


def test_readers_do_not_wait_for_the_writer(database: Database, loop: Loop) -> None:
    loop.one(database.write(insert("before")))
    inside, held = threading.Event(), threading.Event()

    def slow(db: sqlite3.Connection) -> None:
        insert("during")(db)
        inside.set()
        assert held.wait(60)

    writing = Deferred.fromCoroutine(database.write(slow))
    assert inside.wait(60)
    assert loop.one(database.read(words)) == {"before"}
    held.set()
    loop.wait([writing])
    assert loop.one(database.read(words)) == {"before", "during"}


def test_commits_of_others_move_the_data_version(database: Database, loop: Loop) -> None:
    other = Database(database.path, loop.post)
    try:
        version = loop.one(database.data_version())
        loop.one(database.write(insert("ours")))
        assert loop.one(database.data_version()) == version
        loop.one(other.write(insert("theirs")))
        assert loop.one(database.data_version()) != version
        assert loop.one(database.read(words)) == {"ours", "theirs"}
    finally:
        other.close()


def test_a_question_is_no_commit(database: Database, loop: Loop) -> None:
    before = database.commits
    loop.one(database.data_version())
    assert database.commits == before


def test_migration_goes_on_from_where_it_was(database: Database, loop: Loop) -> None:
    loop.one(database.write(insert("kept")))
    more = [*STEPS, "ALTER TABLE word ADD COLUMN length INTEGER; UPDATE word SET length=length(word)"]
    database.migrate("words", more)
    database.migrate("words", more)
    database.migrate("others", STEPS[:0])
    assert loop.one(database.read(lambda db: db.execute("SELECT * FROM word").fetchall())) == [("kept", 4)]
    with pytest.raises(StoreError, match="newer"):
        database.migrate("words", STEPS)


def test_a_failing_migration_changes_nothing(database: Database, loop: Loop) -> None:
    with pytest.raises(StoreError):
        database.migrate("words", [*STEPS, "ALTER TABLE word ADD COLUMN a INTEGER; SELECT * FROM nowhere"])
    assert loop.one(database.read(lambda db: db.execute("SELECT * FROM word").description)) == (
        ("word", *[None] * 6),
    )  # fmt: skip
    database.migrate("words", [*STEPS, "ALTER TABLE word ADD COLUMN b INTEGER"])


def test_a_file_that_is_no_database(tmp_path: Path, loop: Loop) -> None:
    path = tmp_path / "test.sqlite"
    path.write_bytes(b"this was never a database\n" * 400)
    with pytest.raises(StoreError, match="not a database"):
        Database(path, loop.post)


@pytest.mark.parametrize("path", ["file/test.sqlite", "directory"])
def test_a_file_that_cannot_be(tmp_path: Path, loop: Loop, path: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "directory").mkdir()
    with pytest.raises(StoreError, match=path):
        Database(tmp_path / path, loop.post)


def test_a_damaged_page(database: Database, loop: Loop) -> None:
    """Reads and writes that meet it fail, those that do not go on."""
    loop.wait([Deferred.fromCoroutine(database.write(insert(f"{n:0900}"))) for n in range(200)])
    database.migrate("others", ["CREATE TABLE other (word TEXT)"])
    page = loop.one(database.read(lambda db: db.execute("SELECT rootpage FROM sqlite_schema WHERE name='word'")
                                  .fetchone()[0]))  # fmt: skip
    database.close()
    with database.path.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xff" * 4096)
    damaged = Database(database.path, loop.post)
    try:
        answers = loop.all(
            damaged.read(words),
            damaged.write(lambda db: db.execute("INSERT INTO other VALUES ('a')").rowcount),
            damaged.write(insert("b")),
            damaged.read(lambda db: db.execute("SELECT count(*) FROM other").fetchone()),
            damaged.data_version(),
        )
        assert [type(answer) for answer in answers] == [StoreError, int, StoreError, tuple, int]
    finally:
        damaged.close()


def test_a_question_that_fails_is_answered(
    database: Database, loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    def failing(db: sqlite3.Connection) -> int:
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as patch:
        patch.setattr(sqlite, "_data_version", failing)
        with pytest.raises(StoreError):
            loop.one(database.data_version())
    loop.one(database.write(insert("after")))
    assert loop.one(database.read(words)) == {"after"}


def test_no_more_pages(database: Database, loop: Loop) -> None:
    """Full is told apart, a group that meets it is whole or not there, and with room it goes on."""
    pages = "PRAGMA max_page_count={}"
    limit = loop.one(database.read(lambda db: db.execute("PRAGMA page_count").fetchone()[0])) + 20
    loop.one(database.write(lambda db: db.execute(pages.format(limit)).fetchone()))
    acknowledged: set[str] = set()
    failed: list[Exception] = []
    while not failed:
        some = [f"{len(acknowledged) + n:01000}" for n in range(10)]
        answers = loop.wait(begin_together(database, [insert(word) for word in some]))[1:]
        acknowledged |= {w for w, answer in zip(some, answers, strict=True) if not isinstance(answer, Exception)}
        failed = [answer for answer in answers if isinstance(answer, Exception)]
    assert {type(error) for error in failed} == {StoreFull}
    assert loop.one(database.read(words)) == acknowledged
    loop.one(database.write(lambda db: db.execute(pages.format(10 * limit)).fetchone()))
    loop.one(database.write(insert("room again")))
    assert loop.one(database.read(words)) == {*acknowledged, "room again"}
    assert loop.one(database.read(lambda db: db.execute("PRAGMA integrity_check").fetchall())) == [("ok",)]


def test_what_is_wrong_with_the_file_is_said_once(tmp_path: Path, loop: Loop) -> None:
    now = [1000.0]
    database = Database(tmp_path / "test.sqlite", loop.post, lambda: now[0])
    database.migrate("words", STEPS)
    said: list[str] = []
    observer = lambda event: said.append(formatEvent(event).rpartition("test.sqlite")[2])  # noqa: E731
    globalLogPublisher.addObserver(observer)
    try:
        assert loop.one(database.check()) == ""
        for _ in range(3):
            with pytest.raises(StoreError):
                loop.one(database.read(lambda db: db.execute("SELECT * FROM away").fetchall()))
        assert loop.all(database.write(insert("a")), database.write(insert("a")))[1].__class__ is StoreError
        now[0] += QUIET - 1
        assert loop.one(database.check()) == "no such table: away"
        now[0] += 1
        assert loop.one(database.check()) == ""
    finally:
        globalLogPublisher.removeObserver(observer)
        database.close()
    assert said == [": no such table: away", " can be used again"]


FILL = """
import resource, sys
from pathlib import Path
from gatewayd.database.sqlite import *
from tests.test_database_sqlite import *

path = Path(sys.argv[1])
loop = Loop()
database = Database(path, loop.post)
database.migrate("words", STEPS)
{less_room}
acknowledged, n, failed = set(), 0, None
while failed is None:
    n += 1
    try:
        loop.one(database.write(insert(f"{{n:020000}}")))
        acknowledged.add(f"{{n:020000}}")
    except StoreError as error:
        failed = error
assert acknowledged, "no room for anything"
assert loop.one(database.read(words)) == acknowledged
{more_room}
loop.one(database.write(insert("room again")))
assert loop.one(database.read(words)) == acknowledged | {{"room again"}}
assert loop.one(database.read(lambda db: db.execute("PRAGMA integrity_check").fetchall())) == [("ok",)]
database.close()
print(type(failed).__name__)
"""
LIMIT = "resource.setrlimit(resource.RLIMIT_FSIZE, ({}, resource.RLIM_INFINITY))"


def run(command: list[str], script: str, path: Path) -> str:
    root = Path(__file__).parent.parent
    ended = subprocess.run(
        [*command, sys.executable, "-c", script, str(path)],
        cwd=root, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


def small_disk(path: Path) -> list[str]:
    """Words that run a command with a disk of 2 MB at that path, where a user may mount one."""
    words = ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o size=2m tmpfs "$0" && exec "$@"', str(path)]
    try:
        possible = subprocess.run([*words, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        possible = False
    if not possible:
        pytest.skip("a disk of its own cannot be mounted here")
    return words


def test_files_that_may_not_grow(tmp_path: Path) -> None:
    script = FILL.format(less_room=LIMIT.format(500_000), more_room=LIMIT.format("resource.RLIM_INFINITY"))
    assert run([], script, tmp_path / "test.sqlite") in {"StoreError", "StoreFull"}


def test_a_full_disk(tmp_path: Path) -> None:
    ballast = 'path.with_name("ballast")'
    script = FILL.format(less_room=f"{ballast}.write_bytes(bytes(1_000_000))", more_room=f"{ballast}.unlink()")
    assert run(small_disk(tmp_path), script, tmp_path / "test.sqlite") == "StoreFull"


READ_ONLY = """
import os, sys
from gatewayd.database.sqlite import *
from tests.test_database_sqlite import *

if os.geteuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
path, loop = Path(sys.argv[1]), Loop()
try:
    database = Database(path, loop.post)
    try:
        database.migrate("words", [*STEPS, "CREATE TABLE more (word TEXT)"])
    except StoreError:
        print("not migrated")
    print(sorted(loop.one(database.read(words))))
    loop.one(database.write(insert("b")))
except StoreError as error:
    print(error)
"""


def test_a_file_that_may_only_be_read(database: Database, loop: Loop, tmp_path: Path) -> None:
    loop.one(database.write(insert("a")))
    for path in (database.path, *database.path.parent.glob("*-???")):
        path.chmod(0o444)
    parents = [p for p in database.path.parents if p.is_relative_to(tmp_path.parent.parent.parent)]
    modes = [(p, p.stat().st_mode) for p in parents]
    try:
        for path in parents:
            path.chmod(0o555)
        printed = run([], READ_ONLY, database.path)
    finally:
        for path, mode in modes:
            path.chmod(mode)
    assert "readonly" in printed.splitlines()[-1]
    assert loop.one(database.read(words)) == {"a"}


def test_close_commits_what_waits(database: Database, loop: Loop) -> None:
    waiting = begin_together(database, [insert(str(n)) for n in range(1200)])
    waiting += [Deferred.fromCoroutine(database.read(lambda db: 1)) for n in range(5)]
    database.close()
    database.close()
    assert not any(isinstance(answer, Exception) for answer in loop.wait(waiting))
    reopened = Database(database.path, loop.post)
    assert len(loop.one(reopened.read(words))) == 1200
    reopened.close()
    late = loop.all(database.write(insert("late")), database.read(words), database.data_version())
    assert [type(answer) for answer in late] == [StoreError] * 3


def test_every_write_beside_a_close_is_answered(tmp_path: Path, loop: Loop) -> None:
    """Committed and answered, or told that the database is closed: none is left waiting."""
    for attempt in range(20):
        database = Database(tmp_path / f"{attempt}.sqlite", loop.post)
        database.migrate("words", STEPS)
        closing = threading.Thread(target=database.close)
        begun = [Deferred.fromCoroutine(database.write(insert(str(n)))) for n in range(10)]
        closing.start()
        begun += [Deferred.fromCoroutine(database.write(insert(str(n)))) for n in range(10, 200)]
        answers = loop.wait(begun)
        closing.join()
        kept = sum(not isinstance(answer, Exception) for answer in answers)
        other = sqlite3.connect(database.path)
        assert len(words(other)) == kept >= 10
        other.close()


def test_what_waits_for_the_same_work_is_done_in_one_call(database: Database, loop: Loop) -> None:
    calls: list[list[str]] = []
    heard: list[tuple[list[str], list[str]]] = []

    def work(db: sqlite3.Connection, items: Sequence[str]) -> list[str]:
        calls.append(list(items))
        db.executemany("INSERT INTO word VALUES (?)", [(item,) for item in items])
        return [item.upper() for item in items]

    together = Together(work, lambda items, answers: heard.append((list(items), list(answers))))
    inside, held = threading.Event(), threading.Event()

    def hold(db: sqlite3.Connection) -> None:
        inside.set()
        assert held.wait(60)

    begun = [Deferred.fromCoroutine(database.write(hold))]
    assert inside.wait(60)
    begun += [Deferred.fromCoroutine(database.write_together(together, word)) for word in ("a", "b")]
    begun += [Deferred.fromCoroutine(database.write(insert("alone")))]
    begun += [Deferred.fromCoroutine(database.write_together(together, "c"))]
    held.set()
    answers = loop.wait(begun)
    assert [answers[1], answers[2], answers[4]] == ["A", "B", "C"]
    assert calls == [["a", "b", "c"]]
    assert heard == [(["a", "b", "c"], ["A", "B", "C"])]
    assert loop.one(database.read(words)) == {"a", "b", "c", "alone"}

    calls.clear()
    heard.clear()
    inside.clear()
    held.clear()
    begun = [Deferred.fromCoroutine(database.write(hold))]
    assert inside.wait(60)
    begun += [Deferred.fromCoroutine(database.write_together(together, word)) for word in ("d", "a", "e")]
    held.set()
    answers = loop.wait(begun)
    assert answers[1] == "D" and answers[3] == "E"  # one that fails takes no other along
    assert isinstance(answers[2], StoreError)
    assert calls == [["d", "a", "e"], ["d"], ["a"], ["e"]]
    assert heard == [(["d"], ["D"]), (["e"], ["E"])]


def test_the_log_is_copied_beside_the_writer_and_begins_again(
    tmp_path: Path, loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "CHECKPOINTS", (0.01, 0.01))
    monkeypatch.setattr(sqlite, "CHECKPOINT", 20)
    database = Database(tmp_path / "test.sqlite", loop.post)
    database.migrate("words", STEPS)
    log = database.path.with_name("test.sqlite-wal")
    try:
        for number in range(100_000):  # a page of the log at least for each
            loop.one(database.write(insert(f"{number:0500}")))
            begun_again = log.stat().st_size < number * 4096
            if begun_again and database.path.stat().st_size > 250_000:
                break
        else:
            pytest.fail("the log grows and grows")
        assert len(loop.one(database.read(words))) == number + 1
    finally:
        database.close()
