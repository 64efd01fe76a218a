"""Many deliveries in few statements leave what the same deliveries leave one by one."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatewayd.errors import StoreError
from gatewayd.interfaces.records import Delivery, NoSuchMailbox, Placed
from gatewayd.message.model import Content, Part, Payload
from gatewayd.store import rows, schema
from gatewayd.store.delivering import deliver


def content(number: int, body: bytes = b"body") -> Content:
    part = Part(b"%032d" % number, "text/plain", len(body))
    payload = Payload("a@a.test", ("b@a.test",), 0, b"%016d" % number, parts=(part,))
    return Content(b"p", payload.encode(), b"s", {part.hash: body})


CONTENTS = [content(number) for number in range(4)]
NOW = 1000

deliveries = st.builds(
    Delivery,
    account_id=st.integers(1, 4),  # there are three
    content=st.sampled_from(CONTENTS),
    trace=st.just(b"Received: x\r\n"),
    mailbox=st.sampled_from(["INBOX", "inbox", "\\Sent", "Sent", "Work", "Nowhere"]),
    flags=st.sampled_from([(), ("\\Seen",), ("b", "a", "\\Recent")]),
    internal_date_ms=st.sampled_from([None, 7]),
    once=st.booleans(),
)


def database() -> sqlite3.Connection:
    db = sqlite3.connect(":memory:", isolation_level=None)
    for step in schema.STEPS:
        db.executescript(step)
    for account_id in (1, 2, 3):
        db.execute(
            "INSERT INTO account (account_id, local, domain, address, salt, iterations, stored_key, server_key)"
            " VALUES (?,?,'a.test','',x'',1,x'',x'')",
            (account_id, str(account_id)),
        )
        if account_id == 3:
            db.execute("UPDATE account SET max_octets=40, max_messages=5 WHERE account_id=3")
        for name, special_use in (*schema.SPECIAL_USE.items(), ("Work", None)):
            rows.create_mailbox(db, account_id, name, special_use)
    db.execute("BEGIN")
    return db


def everything(db: sqlite3.Connection) -> dict[str, list[Any]]:
    tables = ("account", "mailbox", "message", "entry", "removed")
    return {table: sorted(db.execute(f"SELECT * FROM {table}").fetchall()) for table in tables}


def comparable(placed: Sequence[Placed | StoreError]) -> list[object]:
    return [each if isinstance(each, Placed) else (type(each), str(each)) for each in placed]


@given(st.lists(deliveries, max_size=12))
def test_together_as_one_by_one(some: list[Delivery]) -> None:
    together, alone = database(), database()
    placed = deliver(together, some, NOW)
    expected = [answer for delivery in some for answer in deliver(alone, [delivery], NOW)]
    assert comparable(placed) == comparable(expected)
    assert everything(together) == everything(alone)


def test_a_large_batch_takes_few_statements() -> None:
    db = database()
    said: list[str] = []
    some = [Delivery(1 + n % 2, content(n)) for n in range(60)]
    db.set_trace_callback(said.append)
    placed = deliver(db, some, NOW)
    db.set_trace_callback(None)
    assert len(said) < 20
    assert [p.uid for p in placed if isinstance(p, Placed)] == [1 + n // 2 for n in range(60)]


def test_one_without_a_mailbox_stops_no_other() -> None:
    db = database()
    good, bad = Delivery(1, CONTENTS[0]), Delivery(2, CONTENTS[0], mailbox="Nowhere")
    first, second, third = deliver(db, [good, bad, Delivery(3, CONTENTS[0])], NOW)
    assert isinstance(first, Placed) and isinstance(third, Placed) and isinstance(second, NoSuchMailbox)


def test_a_special_mailbox_that_was_deleted_comes_back() -> None:
    db = database()
    db.execute("DELETE FROM mailbox WHERE account_id=1 AND name='Sent'")
    (placed,) = deliver(db, [Delivery(1, CONTENTS[0], mailbox="\\Sent")], NOW)
    assert isinstance(placed, Placed) and placed.mailbox == "Sent"


def test_a_full_disk_is_not_taken_for_a_repeat(tmp_path: Path) -> None:
    db = database()
    db.execute("COMMIT")
    pages = db.execute("PRAGMA page_count").fetchone()[0]
    db.execute(f"PRAGMA max_page_count={pages + 1}")
    db.execute("BEGIN")
    with pytest.raises(sqlite3.OperationalError, match="full"):
        deliver(db, [Delivery(1, content(9, b"x" * 60000))] * 2, NOW)
