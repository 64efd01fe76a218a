"""SQLite with group commit: one writer thread commits everything that waits in one transaction.

Nothing is acknowledged before its commit (WAL, synchronous=FULL: one fsync for a whole batch). Readers have threads and
connections of their own and never wait for the writer. Other processes may write the same file; `changed` is called
when they did. No reactor here: `post` (reactor.callFromThread) carries results to the thread that asked.
"""

from __future__ import annotations

import contextlib
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from gatewayd.errors import StoreError, StoreFull

I = TypeVar("I")  # noqa: E741
R = TypeVar("R")
T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]
Post = Callable[[Callable[[], None]], None]

ROWS = (64, 32, 16, 8, 4, 2, 1)  # of one INSERT
BUSY = 30.0  # seconds to wait for another process's transaction
BATCH = 500  # work items in one transaction: bounds what one failed commit takes along
READERS = 2
READ_TOGETHER = 16
CHECKPOINT = 4000  # pages of the log, 16 MB: under load 1000 are one commit, and each would be written twice
CHECKPOINTS = (1.0, 5.0)  # seconds between them, while there are commits: of many pages, of fewer
MANY = 16_000  # pages
QUIET = 10.0  # seconds without a failure until it counts as mended: on a full disk some transactions still fit
CACHE = -65536  # KiB, negative: a size and not pages


@dataclass(frozen=True, eq=False)
class Together(Generic[I, R]):
    """Work that is done for all the items that wait for it in one call: under load it takes few statements, and each
    statement costs a hand-over of Python's lock."""

    work: Callable[[sqlite3.Connection, Sequence[I]], Sequence[R]]  # an answer for each item
    committed: Callable[[Sequence[I], Sequence[R]], None]  # on the asker's thread, before the answers are given


class _Item(NamedTuple):
    work: Work[Any] | Together[Any, Any]
    item: Any  # of a Together
    result: Deferred[Any]


def connect(path: Path) -> sqlite3.Connection:
    """A connection with our settings, in autocommit: transactions are said aloud. Raises StoreError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(path, timeout=BUSY, isolation_level=None, check_same_thread=False)
    except (OSError, sqlite3.Error) as error:
        raise StoreError(f"{path}: {error}") from error
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT}")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute(f"PRAGMA cache_size={CACHE}")
        connection.execute("PRAGMA temp_store=MEMORY")
    except sqlite3.Error as error:
        connection.close()
        raise typed(error, f"{path}: ") from error
    return connection


def in_pieces(rows: Sequence[Sequence[Any]]) -> Iterator[tuple[str, list[Any]]]:
    """A VALUES clause and what stands in it, for many rows at a time: each statement is a step, which gives Python's
    lock away and wins it back. executemany does so for each row."""
    at = 0
    for size in ROWS:
        while len(rows) - at >= size:
            marks = f"({','.join('?' * len(rows[at]))})"
            yield f"VALUES {','.join([marks] * size)}", [value for row in rows[at : at + size] for value in row]
            at += size


def insert_rows(db: sqlite3.Connection, insert: str, rows: Sequence[Sequence[Any]]) -> int:
    """`insert` is an INSERT up to its VALUES. Returns how many were inserted."""
    return sum(db.execute(f"{insert} {values}", flat).rowcount for values, flat in in_pieces(rows))


def typed(error: sqlite3.Error, where: str = "") -> StoreError:
    full = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
    made = (StoreFull if full else StoreError)(f"{where}{error}")
    made.__cause__ = error
    return made


class Database:
    """One file. `write` and `read` take work that runs on another thread with a connection in hand. What the file does
    not let them do is logged once, not for each who asks.

    Raises StoreError when the file cannot be opened.
    """

    log = Logger()

    def __init__(self, path: Path, post: Post, steady: Callable[[], float] = time.monotonic) -> None:
        self.path = path
        self.commits = 0  # for tests and metrics: how well the group commit groups
        self._post = post
        self._steady = steady
        self._failures: dict[str, float] = {}  # what went wrong of late, and when it last did
        self._writer_connection = connect(path)
        self._writer_connection.execute("PRAGMA wal_autocheckpoint=0")  # a thread does it, and nobody waits for it
        readers = [connect(path) for _ in range(READERS)]
        self._writes: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._reads: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._write_all, name="database-writer", daemon=True)]
        self._threads += [
            threading.Thread(target=self._read_all, args=(connection,), name=f"database-reader-{n}", daemon=True)
            for n, connection in enumerate(readers)
        ]
        checkpoints = threading.Thread(target=self._copy_log, args=(connect(path),), name="database-log", daemon=True)
        self._threads.append(checkpoints)
        self._closed = False
        self._ended = threading.Event()
        self._closing = threading.Lock()  # nothing is put behind the end of a queue
        for thread in self._threads:
            thread.start()

    def migrate(self, component: str, steps: list[str]) -> None:
        """Bring one component's tables up to date, before anything uses them. Raises StoreError."""
        connection = connect(self.path)
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("CREATE TABLE IF NOT EXISTS schema (component TEXT PRIMARY KEY, version INTEGER)")
            row = connection.execute("SELECT version FROM schema WHERE component=?", (component,)).fetchone()
            version = row[0] if row else 0
            if version > len(steps):
                raise StoreError(f"{self.path} was written by a newer gatewayd ({component} version {version})")
            for step in steps[version:]:
                for statement in step.split(";"):
                    connection.execute(statement)
            connection.execute("INSERT OR REPLACE INTO schema VALUES (?, ?)", (component, len(steps)))
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise typed(error, f"{self.path}: ") from error
        finally:
            connection.close()

    async def write(self, work: Work[T]) -> T:
        """Run in the next group transaction; returns when it is committed. Raises what `work` raises, or StoreError;
        then it alone was rolled back. A group that fails is done again one by one, so `work` may run twice."""
        answer: T = await self._put(self._writes, work)
        return answer

    async def write_together(self, work: Together[I, R], item: I) -> R:
        """As `write`, in one call with the others that wait for the same work. If that call raises, each is done again
        alone."""
        answer: R = await self._put(self._writes, work, item)
        return answer

    async def read(self, work: Work[T]) -> T:
        """Run on a reader, inside one snapshot."""
        answer: T = await self._put(self._reads, work)
        return answer

    async def data_version(self) -> int:
        """Changes when another process has committed: the writer's own commits do not move it."""
        version: int = await self._put(self._writes, _data_version)
        return version

    async def check(self) -> str:
        """What is wrong with the file, of late or now; "": it can be written."""
        try:
            await self.write(_touch)
        except StoreError as error:
            return str(error)
        return "; ".join(self._failures)

    def close(self) -> None:
        """Commit what waits, then end the threads. Blocks."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
            self._ended.set()
            self._writes.put(None)
            for _ in range(READERS):
                self._reads.put(None)
        for thread in self._threads:
            thread.join()
        self._writer_connection.close()

    def _put(
        self, target: queue.SimpleQueue[_Item | None], work: Work[Any] | Together[Any, Any], item: Any = None
    ) -> Deferred[Any]:
        result: Deferred[Any] = Deferred()
        with self._closing:
            if not self._closed:
                target.put(_Item(work, item, result))
                return result
        result.errback(StoreError("the database is closed"))
        return result

    # -- the writer's thread ----------------------------------------------------------------------------------------

    def _write_all(self) -> None:
        ending = False
        while not ending:
            batch = [self._writes.get()]
            while len(batch) < BATCH and not self._writes.empty():
                batch.append(self._writes.get())
            ending = None in batch
            items = [item for item in batch if item is not None]
            for work in (_data_version, _checkpoint):  # outside a transaction
                if asked := [item for item in items if item.work is work]:
                    answer: Any
                    try:
                        answer = work(self._writer_connection)
                    except sqlite3.Error as error:
                        answer = Failure(typed(error))
                    done = [(work, asked, [answer] * len(asked))]
                    self._post(lambda done=done: self._resolve(done))  # type: ignore[misc]
                    items = [item for item in items if item.work is not work]
            if items:
                self._commit(items)

    def _commit(self, items: list[_Item]) -> None:
        connection = self._writer_connection
        done: list[_Done] = []
        began = False
        try:
            connection.execute("BEGIN IMMEDIATE")
            began = True
            for work, members in _grouped(items):
                done += _attempt(connection, work, members)
            connection.execute("COMMIT")
            self.commits += 1
        except Exception as error:
            if connection.in_transaction:
                with contextlib.suppress(sqlite3.Error):  # then the next transaction cannot begin, and says so
                    connection.execute("ROLLBACK")
            if began and len(items) > 1:  # one of them may have been the reason: now each stands or falls alone
                for item in items:
                    self._commit([item])
                return
            failed = typed(error) if isinstance(error, sqlite3.Error) else StoreError(str(error))
            done = [(item.work, [item], [Failure(failed)]) for item in items]
        self._post(lambda: self._resolve(done))

    # -- the log's thread -------------------------------------------------------------------------------------------

    def _copy_log(self, connection: sqlite3.Connection) -> None:
        """Pages of the log go to their places while the writer goes on. What came meanwhile is little; when that too
        is done, by the writer itself, the log begins again at its start."""
        seen, pages = 0, 0
        while not self._ended.wait(CHECKPOINTS[pages < MANY]):  # a commit meanwhile waits for the disk: so seldom
            pages = 0
            if self.commits != seen:
                seen = self.commits
                with contextlib.suppress(sqlite3.Error):  # the writer meets it too, and says so
                    pages = _checkpoint(connection)
                    if pages >= CHECKPOINT:
                        self._put(self._writes, _checkpoint).addErrback(lambda failure: None)
        connection.close()

    # -- the readers' threads ---------------------------------------------------------------------------------------

    def _read_all(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA query_only=ON")
        while waiting := self._waiting_reads():
            done: list[_Done] = []
            for item in waiting:
                answer: Any
                try:
                    if not connection.in_transaction:
                        connection.execute("BEGIN")
                    answer = _do(connection, item.work, [item])[0]
                except sqlite3.Error as error:
                    answer = Failure(typed(error))
                except Exception as error:
                    answer = Failure(error)
                done.append((item.work, [item], [answer]))
            if connection.in_transaction:
                with contextlib.suppress(sqlite3.Error):  # nothing was written
                    connection.execute("COMMIT")
            self._post(lambda done=done: self._resolve(done))  # type: ignore[misc]
        connection.close()

    def _waiting_reads(self) -> list[_Item]:
        """What is done in one snapshot and handed over at once; nothing: the end, for this reader."""
        waiting: list[_Item] = []
        item = self._reads.get()
        while item is not None:
            waiting.append(item)
            if len(waiting) == READ_TOGETHER:
                break
            try:
                item = self._reads.get_nowait()
            except queue.Empty:
                break
            if item is None:
                self._reads.put(None)  # after these
        return waiting

    # -- the asker's thread -----------------------------------------------------------------------------------------

    def _resolve(self, done: Iterable[_Done]) -> None:
        self._notice(failure.value for _, _, answers in done for failure in answers if isinstance(failure, Failure))
        for work, members, answers in done:
            if isinstance(work, Together) and not isinstance(answers[0], Failure):
                work.committed([member.item for member in members], answers)
        for _, members, answers in done:
            for member, answer in zip(members, answers, strict=True):
                member.result.callback(answer)

    def _notice(self, errors: Iterable[BaseException | None]) -> None:
        failed = {str(error) for error in errors if error is not None and _is_the_files(error.__cause__)}
        if not failed and not self._failures:
            return
        now = self._steady()
        for text in failed - self._failures.keys():
            self.log.error("{path}: {error}", path=str(self.path), error=text)
        self._failures.update(dict.fromkeys(failed, now))
        if now - max(self._failures.values()) >= QUIET:
            self._failures.clear()
            self.log.info("{path} can be used again", path=str(self.path))


def _is_the_files(error: BaseException | None) -> bool:
    return isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.IntegrityError)


def _touch(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA user_version=0")  # nobody reads it, but it is a page to be written


def _data_version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA data_version").fetchone()[0])


def _checkpoint(connection: sqlite3.Connection) -> int:
    """How many pages the log has."""
    return int(connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()[1])


_Done = tuple[Work[Any] | Together[Any, Any], Sequence[_Item], Sequence[Any]]  # with an answer for each item


def _grouped(items: Iterable[_Item]) -> list[tuple[Work[Any] | Together[Any, Any], list[_Item]]]:
    """What can be done together, where the first of it stands."""
    groups: list[tuple[Work[Any] | Together[Any, Any], list[_Item]]] = []
    together: dict[int, list[_Item]] = {}
    for item in items:
        if not isinstance(item.work, Together):
            groups.append((item.work, [item]))
        elif id(item.work) in together:
            together[id(item.work)].append(item)
        else:
            groups.append((item.work, members := [item]))
            together[id(item.work)] = members
    return groups


def _do(
    connection: sqlite3.Connection, work: Work[Any] | Together[Any, Any], members: Sequence[_Item]
) -> Sequence[Any]:
    return work.work(connection, [m.item for m in members]) if isinstance(work, Together) else [work(connection)]


def _attempt(
    connection: sqlite3.Connection, work: Work[Any] | Together[Any, Any], members: Sequence[_Item]
) -> list[_Done]:
    """Raises when the transaction is lost."""
    connection.execute("SAVEPOINT item")
    try:
        done: list[_Done] = [(work, members, _do(connection, work, members))]
    except Exception as error:
        if not connection.in_transaction:  # the error took the whole transaction: full disk, I/O
            raise
        connection.execute("ROLLBACK TO item")
        if len(members) > 1:
            done = [answered for member in members for answered in _attempt(connection, work, [member])]
        else:
            done = [(work, members, [Failure(typed(error) if isinstance(error, sqlite3.Error) else error)])]
    connection.execute("RELEASE item")
    return done
