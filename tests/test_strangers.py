"""What strangers' mail meets, over real sockets and a real DNS server: rates, blocklists, greylisting, filters; and
that the user's word goes before a filter's. Clients come through a proxy, so that each has the address that it says."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.threads import blockingCallFromThread

from demo.dns_server import DNSServer
from demo.world import Gateway, Reactor, ctl
from tests.smtp_talk import Mailbox, Talk
from tests.test_net_proxy_protocol import proxied

LIST = """\
@ 60 IN SOA ns hostmaster 1 3600 600 86400 5
@ 60 IN NS ns
ns 60 IN A 127.0.0.1
66.2.0.192 60 IN A 127.0.0.4
66.2.0.192 60 IN TXT "exploited; see https://list.test/192.0.2.66"
67.2.0.192 60 IN A 127.255.255.254
1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2 60 IN A 127.0.0.2
"""
FRIENDS = """\
@ 60 IN SOA ns hostmaster 1 3600 600 86400 5
@ 60 IN NS ns
ns 60 IN A 127.0.0.1
@ 60 IN A 127.0.70.14
@ 60 IN TXT "v=spf1 ip4:198.51.100.0/24 -all"
"""
FRIENDS += """\
null 60 IN MX 0 .
alias 60 IN CNAME @
nothing 60 IN TXT "only this"
parley 60 IN TXT "only this"
_parley._tcp.parley 60 IN SRV 0 0 5299 @
"""
NOWHERE = "550 5.1.8 The sender's domain does not exist, or has no mail host"
SENDERS = {  # what a stranger hears who sends from there
    "friends.test": "250 2.1.0 Sender ok", "alias.friends.test": "250 2.1.0 Sender ok",
    "parley.friends.test": "250 2.1.0 Sender ok", "not.known.test": "250 2.1.0 Sender ok",
    "null.friends.test": "550 5.7.27 The sender's domain does not accept mail, so it sends none",
    "never.friends.test": NOWHERE, "nothing.friends.test": NOWHERE,
}  # fmt: skip
MORE = """
[incoming]
proxies = ["127.0.70.20/32"]
trusted = ["192.0.2.99/32"]
blocklists = ["list.test"]
greylist = {greylist}
[limits]
messages_per_address = 10
messages_per_network = 25
messages_per_domain = 40
[filters]
{filters}
"""


def made(root: Path, reactor: Any, address: str, *, greylist: str = "false", filters: str = "") -> Iterator[Gateway]:
    dns = DNSServer({"list.test": LIST, "friends.test": FRIENDS})
    blockingCallFromThread(reactor, dns.listen, reactor)
    gateway = Gateway(root, "alpha.test", address, ["alice", "bob"], dns.port)
    gateway.config.write_text(gateway.config.read_text() + MORE.format(greylist=greylist, filters=filters))
    gateway.start()
    yield gateway
    gateway.stop()
    Reactor().wait(dns.stop())


@pytest.fixture
def gateway(tmp_path: Path, reactor: Any) -> Iterator[Gateway]:
    yield from made(tmp_path / "plain", reactor, "127.0.70.11")


@pytest.fixture
def grey(tmp_path: Path, reactor: Any) -> Iterator[Gateway]:
    yield from made(tmp_path / "grey", reactor, "127.0.70.12", greylist="true")


def stranger(gateway: Gateway, address: str) -> Talk:
    family = "TCP6" if ":" in address else "TCP4"
    other = "2001:db8::99" if ":" in address else "198.51.100.1"
    talk = Talk(gateway, connected=proxied(gateway, "smtp", f"PROXY {family} {address} {other} 5000 25\r\n".encode()))
    talk.do("EHLO stranger.test")
    return talk


def begin(gateway: Gateway, address: str, sender: str = "x@elsewhere.test", count: int = 1) -> list[str]:
    with stranger(gateway, address) as talk:
        answers = []
        for _ in range(count):
            answers.append(talk.do(f"MAIL FROM:<{sender}>"))
            talk.do("RSET")
        return answers


def mail(sender: str) -> bytes:
    return f"From: {sender}\r\nSubject: hello\r\n\r\nbody\r\n".encode()


def test_rates_of_addresses_networks_and_domains(gateway: Gateway) -> None:
    answers = begin(gateway, "192.0.2.1", "a@one.test", 12)
    assert [answer[:9] for answer in answers] == ["250 2.1.0"] * 10 + ["451 4.7.1"] * 2
    assert answers[-1].startswith("451 4.7.1 Too many messages from 192.0.2.1; try again in ")
    begin(gateway, "192.0.2.2", "a@two.test", 10)
    answers = begin(gateway, "192.0.2.3", "a@three.test", 6)
    assert any("Too many messages from 192.0.2.0/24" in answer for answer in answers)
    for number in range(4):
        begin(gateway, f"203.0.{113 + number}.1", "a@four.test", 10)
    assert "Too many messages from four.test" in begin(gateway, "203.0.120.1", "b@four.test")[0]
    assert begin(gateway, "203.0.121.1", "b@five.test")[0].startswith("250")
    assert {answer[:3] for answer in begin(gateway, "192.0.2.99", "a@one.test", 15)} == {"250"}  # trusted
    with Talk(gateway, "submissions", tls=True) as talk:  # a user is no stranger
        talk.sign_in()
        assert {talk.all("MAIL FROM:<alice@alpha.test>", "RSET")[0][:3] for _ in range(15)} == {"250"}


def test_blocklists(gateway: Gateway) -> None:
    line = "550 5.7.1 192.0.2.66 is listed by list.test: exploited; see https://list.test/192.0.2.66"
    assert begin(gateway, "192.0.2.66") == [line]
    assert begin(gateway, "2001:db8::1") == ["550 5.7.1 2001:db8::1 is listed by list.test"]
    assert begin(gateway, "192.0.2.67")[0].startswith("250")  # the list says that we may not ask
    assert begin(gateway, "192.0.2.68")[0].startswith("250")
    assert "refused 192.0.2.66: 192.0.2.66 is listed by list.test" in (gateway.root / "gatewayd.log").read_text()


def test_senders_that_nobody_could_answer(gateway: Gateway) -> None:
    answers = [begin(gateway, "192.0.2.5", f"x@{name}")[0] for name in SENDERS]
    assert answers == list(SENDERS.values())
    with Talk(gateway, "submissions", tls=True) as talk:  # a user may write to whom he likes, and hears of it
        talk.sign_in()
        assert talk.do("MAIL FROM:<alice@alpha.test>").startswith("250")


def test_only_what_nobody_vouches_for_is_greylisted(grey: Gateway) -> None:
    def send(address: str, sender: str) -> str:
        with stranger(grey, address) as talk:
            return talk.send(sender, ["bob@alpha.test"], mail(sender))

    assert send("198.51.100.7", "a@friends.test").startswith("250")  # SPF does
    first = send("203.0.113.1", "a@nowhere.test")
    assert first.startswith("451 4.7.1 Nobody vouches for this mail; try again in ")
    with sqlite3.connect(grey.root / "state/gatewayd.sqlite") as database:
        database.execute("UPDATE greylist SET first = first - 3600")
    assert send("203.0.113.200", "A@nowhere.test").startswith("250")  # another host of the same network
    assert send("203.0.114.1", "a@nowhere.test").startswith("451 4.7.1")
    with Talk(grey, "submissions", tls=True) as talk:
        talk.sign_in()
        assert talk.send("alice@alpha.test", ["bob@alpha.test"], mail("alice@alpha.test")).startswith("250")


class Suspicious(BaseHTTPRequestHandler):
    """An rspamd that takes all for spam."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        answer = {"action": "add header", "score": 7.0, "required_score": 15.0, "symbols": {}}
        octets = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(octets)))
        self.end_headers()
        self.wfile.write(octets)

    def log_message(self, *_: Any) -> None:
        pass


def test_the_users_word_goes_before_a_filters(tmp_path: Path, reactor: Any) -> None:
    rspamd = ThreadingHTTPServer(("127.0.70.13", 11333), Suspicious)
    threading.Thread(target=rspamd.serve_forever, daemon=True).start()
    try:
        for alpha in made(tmp_path / "g", reactor, "127.0.70.13", filters='rspamd = ["127.0.70.13:11333"]'):
            with Talk(alpha, "submissions", tls=True) as talk:  # bob writes to a friend, and so knows her
                talk.sign_in("bob@alpha.test")
                talk.send("bob@alpha.test", ["ann@friends.test"], mail("bob@alpha.test"))
            for address, sender in (
                ("198.51.100.1", "ann@friends.test"),  # a contact, vouched for
                ("198.51.100.1", "eve@friends.test"),  # no contact
                ("203.0.113.5", "ann@friends.test"),  # somebody else in the contact's name
            ):
                with stranger(alpha, address) as talk:
                    assert talk.send(sender, ["bob@alpha.test"], mail(sender)).startswith("250")
            with Mailbox(alpha, "bob@alpha.test") as inbox, Mailbox(alpha, "bob@alpha.test", "Junk") as junk:
                (friend,) = inbox.wait(1)
                assert b"smtp.mailfrom=friends.test" in friend and b"From: ann@friends.test" in friend
                assert (
                    b"\r\nGatewayd-Verdict: INBOX; you know ann@friends.test, and friends.test vouches for it by where "
                    b"it comes from (198.51.100.1); else it were Junk: rspamd: add header, 7.0 of 15.0 ()\r\n" in friend
                )
                senders = [octets.partition(b"From: ")[2].partition(b"\r\n")[0] for octets in junk.wait(2)]
                assert senders == [b"eve@friends.test", b"ann@friends.test"]
    finally:
        rspamd.shutdown()
        rspamd.server_close()


def test_what_waits_for_room_stays_a_strangers(gateway: Gateway) -> None:
    """One of two recipients has no room for now: his copy waits here, and what is known of it is not forgotten."""
    ctl("--config", gateway.config, "quota", "bob@alpha.test", "--messages", "1")
    two = ["alice@alpha.test", "bob@alpha.test"]
    with Talk(gateway) as first, stranger(gateway, "192.0.2.8") as talk:
        first.do("EHLO friends.test")
        assert talk.do("MAIL FROM:<x@elsewhere.test>").startswith("250")
        assert all(answer.startswith("250") for answer in talk.all(*(f"RCPT TO:<{to}>" for to in two)))
        assert first.send("a@friends.test", ["bob@alpha.test"], mail("a@friends.test")).startswith("250")
        assert talk.do("DATA").startswith("354")
        assert talk.do(mail("x@elsewhere.test") + b".\r\n").startswith("250 2.0.0 Accepted")
    ctl("--config", gateway.config, "quota", "bob@alpha.test", "--messages", "none")
    with Mailbox(gateway, "alice@alpha.test", "Introductions") as hers:
        (one,) = hers.wait(1)
    with Mailbox(gateway, "bob@alpha.test", "Introductions") as his:
        _, other = his.wait(2)
    line = b"Gatewayd-Verdict: Introductions; you do not know x@elsewhere.test; "
    assert line in one and line in other
