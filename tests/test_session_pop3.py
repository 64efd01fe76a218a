"""POP3 over real sockets and a real store: the maildrop is INBOX, octet for octet, one session at a time."""

from __future__ import annotations

import base64
import poplib
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gatewayd.errors import StoreError
from tests.corpus import messages
from tests.test_session_imap import ALICE, BOB, PASSWORD, TIMEOUT, House, Mail, Talk, mail


class Drop(Talk):
    """A POP3 client that shows what it is told."""

    def __init__(self, house: House, user: object = ALICE, *, tls: bool = True) -> None:
        super().__init__(house.ports["pop3s" if tls else "pop3"], tls=tls)
        assert self.line() == b"+OK gatewayd POP3 ready"
        if user is not None:
            self.ok(f"USER {user}")
            self.ok(f"PASS {PASSWORD}")

    def do(self, command: str) -> bytes:
        self.send(command.encode() + b"\r\n")
        return self.line()

    def ok(self, command: str) -> bytes:
        line = self.do(command)
        assert line.startswith(b"+OK"), line
        return line[4:]

    def refused(self, command: str) -> bytes:
        line = self.do(command)
        assert line.startswith(b"-ERR "), line
        return line[5:]

    def body(self, command: str) -> bytes:
        """A multi-line answer without its stuffing."""
        self.ok(command)
        lines = []
        while (line := self.line()) != b".":
            lines.append(line[line.startswith(b".") :] + b"\r\n")
        return b"".join(lines)

    def lines(self, command: str) -> list[str]:
        return self.body(command).decode().split("\r\n")[:-1]

    def quit(self) -> bytes:
        line = self.ok("QUIT")
        assert self.ended()
        return line


@pytest.fixture
def house(reactor: Any, tmp_path: Path) -> Iterator[House]:
    made = House(reactor, tmp_path)
    made.add_account(ALICE)
    made.add_account(BOB)
    yield made
    made.stop()


@pytest.fixture
def three(house: House) -> House:
    """alice's INBOX holds mail(1) to mail(3)."""
    for number in (1, 2, 3):
        house.deliver(mail(number))
    return house


SASL = "SASL SCRAM-SHA-256-PLUS SCRAM-SHA-256 PLAIN"


def plain(user: object, password: str) -> str:
    return base64.b64encode(f"\0{user}\0{password}".encode()).decode()


async def broken(*arguments: Any, **more: Any) -> Any:
    raise StoreError("broken")


# -- signing in -----------------------------------------------------------------------------------------------------


def test_nobody_signs_in_in_the_clear(house: House) -> None:
    drop = Drop(house, None, tls=False)
    assert "STLS" in drop.lines("CAPA") and not {"USER", SASL} & set(drop.lines("CAPA"))
    for command in (f"USER {ALICE}", f"PASS {PASSWORD}", "AUTH PLAIN", f"AUTH PLAIN {plain(ALICE, PASSWORD)}", "AUTH"):
        assert drop.refused(command) == b"[AUTH] Use STLS first"
    assert drop.refused("STAT") == b"STAT is not allowed now"


def test_stls_then_sign_in(house: House) -> None:
    drop = Drop(house, None, tls=False)
    drop.ok("STLS")
    drop.start_tls()
    assert "STLS" not in drop.lines("CAPA") and {"USER", SASL} <= set(drop.lines("CAPA"))
    drop.refused("STLS")
    drop.ok(f"USER {ALICE}")
    assert drop.ok(f"PASS {PASSWORD}") == b"0 messages"


def test_commands_ahead_of_stls_are_never_executed(house: House) -> None:
    drop = Drop(house, None, tls=False)
    drop.send(b"STLS\r\nCAPA\r\nNO")
    assert drop.line() == b"+OK Begin TLS"
    drop.start_tls()
    assert drop.refused("OP") == b"unknown command"
    assert drop.ok("QUIT") == b"Goodbye"


def test_a_user_named_in_the_clear_is_forgotten(house: House) -> None:
    drop = Drop(house, None, tls=False)
    drop.refused(f"USER {ALICE}")
    drop.ok("STLS")
    drop.start_tls()
    drop.refused(f"PASS {PASSWORD}")


def test_commands_after_a_refused_stls_are_executed(house: House) -> None:
    drop = Drop(house, None)
    drop.send(b"STLS\r\nQUIT\r\n")
    assert [drop.line()[:4], drop.line()] == [b"-ERR", b"+OK Goodbye"]


def test_a_wrong_password_and_the_limit(house: House) -> None:
    drop = Drop(house, None)
    for user in (ALICE, "nobody@alpha.test"):
        drop.ok(f"USER {user}")
        assert drop.refused("PASS wrong") == b"[AUTH] Wrong user or password"
    assert drop.refused(f"AUTH PLAIN {plain(ALICE, 'wrong')}") == b"[AUTH] Wrong user or password"
    assert drop.ended()
    Drop(house)


def test_sasl_plain(house: House) -> None:
    drop = Drop(house, None)
    assert drop.lines("AUTH") == ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "PLAIN"]
    drop.refused("AUTH CRAM-MD5")
    for response in ("*", "=", "", "x"):
        assert drop.do("AUTH PLAIN") == b"+ "
        drop.refused(response)
    assert drop.do("auth plain") == b"+ "
    drop.ok(plain(ALICE, PASSWORD))
    drop.ok("STAT")
    Drop(house, None).ok(f"AUTH PLAIN {plain(BOB, PASSWORD)}")


def test_poplib(three: House) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    client = poplib.POP3("127.0.0.1", three.ports["pop3"], TIMEOUT)
    assert "STLS" in client.capa()
    client.stls(context)
    client.utf8()
    client.user(str(ALICE))
    client.pass_(PASSWORD)
    assert client.stat()[0] == 3
    assert b"\r\n".join(client.retr(2)[1]) + b"\r\n" == mail(2)
    assert len(client.list()[1]) == len(client.uidl()[1]) == 3
    client.dele(2)
    client.quit()
    assert Mail(three, ALICE, "INBOX").uids() == [1, 3]


# -- the maildrop ---------------------------------------------------------------------------------------------------


def test_stat_list_and_uidl(three: House) -> None:
    drop = Drop(three)
    size = len(mail(1))
    assert drop.ok("STAT") == b"3 %d" % (3 * size)
    assert drop.lines("LIST") == [f"{n} {size}" for n in (1, 2, 3)]
    assert drop.ok("LIST 2") == b"2 %d" % size
    uidl = drop.lines("UIDL")
    assert drop.ok("UIDL 3").decode() == uidl[2]
    names = [line.split()[1] for line in uidl]
    assert len(set(names)) == 3 and all(name.isascii() and len(name) <= 70 for name in names)


def test_uidl_stays_over_sessions_restarts_and_deletions(three: House, reactor: Any, tmp_path: Path) -> None:
    drop = Drop(three)
    before = [line.split()[1] for line in drop.lines("UIDL")]
    drop.ok("DELE 1")
    drop.quit()
    three.stop()
    again = House(reactor, tmp_path)
    again.deliver(mail(4))
    after = [line.split()[1] for line in Drop(again).lines("UIDL")]
    again.stop()
    assert after[:2] == before[1:]
    assert after[2] not in before


@pytest.mark.parametrize(
    ("octets", "received"),
    [
        (b"Subject: x\r\n\r\n.\r\n..\r\n.a\r\n\r\n.\r\n", b"Subject: x\r\n\r\n.\r\n..\r\n.a\r\n\r\n.\r\n"),
        (b".Subject: x\r\n\r\nbody\r\n", b".Subject: x\r\n\r\nbody\r\n"),
        (b"Subject: x\r\n\r\nno end", b"Subject: x\r\n\r\nno end\r\n"),
        (b"\r\n", b"\r\n"),
        (b"", b""),
        (bytes(range(128, 256)) * 9 + b"\r\n", bytes(range(128, 256)) * 9 + b"\r\n"),
        (b"a: b\r\n\r\n" + b"x" * 100_000 + b"\r\n", b"a: b\r\n\r\n" + b"x" * 100_000 + b"\r\n"),
    ],
)
def test_retr_gives_the_octets(house: House, octets: bytes, received: bytes) -> None:
    house.deliver(octets)
    drop = Drop(house)
    assert drop.body("RETR 1") == received
    assert drop.ok("LIST 1") == b"1 %d" % len(octets)
    assert drop.ok("STAT") == b"1 %d" % len(octets)


def test_a_dot_after_a_bare_lf_does_not_end_the_message_for_any_client(house: House) -> None:
    house.deliver(b"a: b\r\n\r\nx\n.\r\n-ERR y\r\n")
    client = poplib.POP3_SSL(
        "127.0.0.1", house.ports["pop3s"], timeout=TIMEOUT, context=ssl._create_unverified_context()
    )
    client.user(str(ALICE))
    client.pass_(PASSWORD)
    assert client.retr(1)[1] == [b"a: b", b"", b"x", b".", b"-ERR y"]
    assert client.stat()[0] == 1


def test_the_corpus_comes_octet_for_octet(house: House) -> None:
    mails = messages()[::9]
    for octets in mails:
        house.deliver(octets)
    drop = Drop(house)
    assert int(drop.ok("STAT").split()[1]) == sum(map(len, mails))
    for number, octets in enumerate(mails, 1):
        assert drop.body(f"RETR {number}") == octets


@pytest.mark.parametrize(
    ("octets", "tops"),
    [
        (
            b"A: 1\r\nB: 2\r\n\r\none\r\n.two\r\nthree\r\n",
            ["", "one\r\n", "one\r\n.two\r\n", "one\r\n.two\r\nthree\r\n"],
        ),
        (b"A: 1\r\nB: 2\r\n\r\n", ["", ""]),
        (b"A: 1\r\nB: 2\r\n\r\n\r\n\r\nx\r\n", ["", "\r\n", "\r\n\r\n", "\r\n\r\nx\r\n", "\r\n\r\nx\r\n"]),
        (b"A: 1\r\nB: 2\r\n\r\nno end", ["", "no end\r\n", "no end\r\n"]),
    ],
)
def test_top(house: House, octets: bytes, tops: list[str]) -> None:
    house.deliver(octets)
    drop = Drop(house)
    for count, body in enumerate(tops):
        assert drop.body(f"TOP 1 {count}") == b"A: 1\r\nB: 2\r\n\r\n" + body.encode()
    assert drop.body("TOP 1 9999999999") == b"A: 1\r\nB: 2\r\n\r\n" + tops[-1].encode()


def test_top_of_a_mail_without_header_or_without_body(house: House) -> None:
    house.deliver(b"\r\none\r\ntwo\r\n")
    house.deliver(b"A: 1\r\n")
    drop = Drop(house)
    assert drop.body("TOP 1 1") == b"\r\none\r\n"
    assert drop.body("TOP 2 1") == b"A: 1\r\n"


def test_deletions_happen_at_quit(three: House) -> None:
    drop = Drop(three)
    drop.ok("DELE 1")
    drop.ok("DELE 3")
    assert drop.ok("STAT") == b"1 %d" % len(mail(2))
    assert [line.split()[0] for line in drop.lines("LIST")] == ["2"]
    for command in ("DELE 1", "RETR 1", "LIST 1", "UIDL 1", "TOP 1 0"):
        assert drop.refused(command) == b"No such message"
    client = Mail(three, ALICE, "INBOX")
    assert client.uids() == [1, 2, 3]
    drop.quit()
    assert client.do("NOOP") == [b"3 EXPUNGE", b"1 EXPUNGE", b"OK Done"]


def test_reset_takes_deletions_back(three: House) -> None:
    drop = Drop(three)
    drop.ok("DELE 1")
    assert drop.ok("RSET") == b"3 messages"
    assert drop.body("RETR 1") == mail(1)
    drop.quit()
    assert Mail(three, ALICE, "INBOX").uids() == [1, 2, 3]


def test_without_quit_nothing_is_deleted(three: House) -> None:
    drop = Drop(three)
    drop.ok("DELE 1")
    drop.close()
    assert Mail(three, ALICE, "INBOX").uids() == [1, 2, 3]


def test_what_comes_meanwhile_is_seen_next_time(three: House) -> None:
    drop = Drop(three)
    three.deliver(mail(4))
    assert drop.ok("STAT").startswith(b"3 ")
    drop.quit()
    assert Drop(three).ok("STAT").startswith(b"4 ")


def test_what_another_session_expunged_is_an_answer(three: House) -> None:
    drop = Drop(three)
    client = Mail(three, ALICE, "INBOX")
    client.ok("STORE 2 FLAGS (\\Deleted)")
    client.ok("EXPUNGE")
    assert drop.refused("RETR 2") == b"[SYS/TEMP] the message is gone"
    drop.ok("DELE 2")
    drop.ok("DELE 1")
    drop.quit()
    client.ok("NOOP")
    assert client.uids() == [3]


def test_arguments(three: House) -> None:
    drop = Drop(three)
    for command in ("RETR 0", "RETR 4", "RETR -1", "RETR x", "RETR ²", "RETR " + "9" * 5000, "RETR 1 2", "TOP 1 ²",
                    "TOP 1 -1", "TOP 1 x", "TOP 1 " + "9" * 5000, "DELE 1 1", "STAT 1", "LIST 4"):  # fmt: skip
        assert drop.refused(command) == b"No such message", command
    for command in ("RETR", "TOP", "DELE"):
        assert drop.refused(command) == b"Bad arguments"
    for command in ("USER x", "XTND", "", "STLS", "UTF8"):
        drop.refused(command)
    assert drop.ok("NOOP") == b""


def test_pipelined_commands_are_answered_in_order(three: House) -> None:
    drop = Drop(three)
    drop.send(b"STAT\r\nDELE 1\r\nLIST 1\r\nRSET\r\nQUIT\r\nNOOP\r\n")
    assert [drop.line()[:4] for _ in range(5)] == [b"+OK ", b"+OK ", b"-ERR", b"+OK ", b"+OK "]
    assert drop.ended()


# -- the lock -------------------------------------------------------------------------------------------------------


def test_the_maildrop_is_open_once(three: House) -> None:
    first, second = Drop(three), Drop(three, None)
    second.ok(f"USER {ALICE}")
    assert second.refused(f"PASS {PASSWORD}") == b"[IN-USE] The maildrop is open in another session"
    Drop(three, BOB).quit()
    first.ok("DELE 1")
    first.quit()
    second.ok(f"USER {ALICE}")
    assert second.ok(f"PASS {PASSWORD}") == b"2 messages"
    second.quit()
    assert three.locks == set()


def until_unlocked(house: House) -> None:
    """The test's time limit ends it if need be."""
    while True:
        drop = Drop(house, None)
        drop.ok(f"USER {ALICE}")
        answer = drop.do(f"PASS {PASSWORD}")
        drop.close()
        if answer.startswith(b"+OK"):
            return
        assert answer.startswith(b"-ERR [IN-USE]")


def test_a_broken_connection_gives_the_maildrop_back(three: House) -> None:
    Drop(three).close()
    until_unlocked(three)


def test_a_failed_sign_in_gives_the_maildrop_back(three: House, monkeypatch: pytest.MonkeyPatch) -> None:
    drop = Drop(three, None)
    for name in ("mailbox", "entries", "summaries"):
        monkeypatch.setattr(three.store, name, broken)
        drop.ok(f"USER {ALICE}")
        assert drop.refused(f"PASS {PASSWORD}") == b"[SYS/TEMP] broken"
        monkeypatch.undo()
    drop.ok(f"USER {ALICE}")
    assert drop.ok(f"PASS {PASSWORD}") == b"3 messages"


def test_a_message_that_goes_during_sign_in_is_not_listed(three: House, monkeypatch: pytest.MonkeyPatch) -> None:
    summaries = three.store.summaries

    async def without_one(account_id: int, message_ids: list[int]) -> Any:
        found = await summaries(account_id, message_ids)
        del found[message_ids[1]]
        return found

    monkeypatch.setattr(three.store, "summaries", without_one)
    drop = Drop(three)
    assert drop.ok("STAT").startswith(b"2 ")
    assert drop.body("RETR 2") == mail(3)


def test_quit_ends_even_if_nothing_could_be_deleted(three: House, monkeypatch: pytest.MonkeyPatch) -> None:
    drop = Drop(three)
    drop.ok("DELE 1")
    monkeypatch.setattr(three.store, "expunge", broken)
    assert drop.refused("QUIT") == b"[SYS/TEMP] Nothing was deleted: broken"
    assert drop.ended()
    assert three.locks == set()
    assert Mail(three, ALICE, "INBOX").uids() == [1, 2, 3]


def test_an_internal_error_closes_its_session_only(three: House, monkeypatch: pytest.MonkeyPatch) -> None:
    drop, other = Drop(three), Drop(three, BOB)

    async def wrong(*arguments: Any) -> Any:
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr(three.store, "mails", wrong)
    assert drop.refused("RETR 1") == b"[SYS/TEMP] internal error"
    assert drop.ended()
    monkeypatch.undo()
    other.ok("NOOP")
    assert three.account(ALICE).account_id not in three.locks


def test_a_failing_store_is_an_answer(three: House, monkeypatch: pytest.MonkeyPatch) -> None:
    drop = Drop(three)
    monkeypatch.setattr(three.store, "mails", broken)
    assert drop.refused("RETR 1") == drop.refused("TOP 1 0") == b"[SYS/TEMP] broken"
    monkeypatch.undo()
    assert drop.body("RETR 1") == mail(1)


def test_an_endless_line_is_said_goodbye(house: House) -> None:
    drop = Drop(house)
    drop.send(b"x" * 9000)
    assert drop.line() == b"-ERR line too long"
    assert house.locks == set()
    assert drop.ended()
