"""The resolver against a real server on a loopback socket."""

from __future__ import annotations

import socket
from collections.abc import Callable, Coroutine, Iterator
from random import Random
from typing import Any

import pytest
from twisted.internet import defer
from twisted.internet.threads import blockingCallFromThread, deferToThread
from zope.interface.verify import verifyObject

from demo.dns_server import DNSServer
from gatewayd.address import Domain
from gatewayd.dns.resolver import Resolver, nameserver
from gatewayd.interfaces.dns import Answer, Endpoint, IResolver, ResolutionFailed

SOA = "$TTL 60\n@ SOA ns hostmaster 1 3600 600 86400 30\n@ NS ns\n"
ZONE = (
    SOA
    + """\
@ MX 20 backup
@ MX 10 mx
mx A 192.0.2.1
mx AAAA 2001:db8::1
_parley._tcp SRV 1 0 443 Backup
_parley._tcp SRV 0 0 5299 mx
txt TXT "one " "record"
_5299._tcp TLSA 3 1 0 aabb
big TXT "{0}" "{0}" "{0}" "{0}" "{0}" "{0}"
""".format("x" * 250)
)
NULL = SOA + "@ MX 0 .\n_parley._tcp SRV 0 0 0 .\n"

Ask = Callable[[Coroutine[Any, Any, Answer]], Answer]


@pytest.fixture
def server(reactor: Any) -> Iterator[DNSServer]:
    server = DNSServer({"alpha.test": ZONE, "null.test": NULL})
    blockingCallFromThread(reactor, server.listen, reactor)
    yield server
    blockingCallFromThread(reactor, lambda: defer.Deferred.fromCoroutine(server.stop()))


@pytest.fixture
def resolver(server: DNSServer) -> Resolver:
    return Resolver(deferToThread, [f"127.0.0.1:{server.port}"], timeout=5, random=Random(1))


@pytest.fixture
def ask(reactor: Any) -> Ask:
    return lambda work: blockingCallFromThread(reactor, lambda: defer.Deferred.fromCoroutine(work))


def test_provides_the_interface(resolver: Resolver) -> None:
    assert verifyObject(IResolver, resolver)


def test_records_of_every_kind(resolver: Resolver, ask: Ask) -> None:
    assert ask(resolver.srv("_parley._tcp.alpha.test")) == Answer(
        (Endpoint("mx.alpha.test", 5299), Endpoint("backup.alpha.test", 443)), exists=True
    )
    assert ask(resolver.mx(Domain("alpha.test"))).records == ((10, "mx.alpha.test"), (20, "backup.alpha.test"))
    assert ask(resolver.addresses("mx.alpha.test")).records == ("2001:db8::1", "192.0.2.1")
    assert ask(resolver.txt("txt.alpha.test")).records == (b"one record",)
    assert ask(resolver.tlsa("_5299._tcp.alpha.test")).records == ((3, 1, 0, b"\xaa\xbb"),)


def test_truncated_answer_is_asked_again_by_tcp(resolver: Resolver, ask: Ask) -> None:
    assert ask(resolver.txt("big.alpha.test")).records == (b"x" * 1500,)


def test_absence_is_an_answer(resolver: Resolver, ask: Ask) -> None:
    assert ask(resolver.srv("_parley._tcp.none.alpha.test")) == Answer()
    assert ask(resolver.txt("mx.alpha.test")) == Answer()
    assert ask(resolver.addresses("none.alpha.test")) == Answer()
    assert ask(resolver.txt("x" * 70 + ".test")) == Answer()


def test_null_records_exist_and_name_nobody(resolver: Resolver, ask: Ask) -> None:
    assert ask(resolver.mx(Domain("null.test"))) == Answer(exists=True)
    assert ask(resolver.srv("_parley._tcp.null.test")) == Answer(exists=True)


def test_a_literal_is_its_own_answer(resolver: Resolver, ask: Ask) -> None:
    assert ask(resolver.addresses("2001:DB8:0::1")).records == ("2001:db8::1",)


def test_refusal_is_a_failure(resolver: Resolver, ask: Ask) -> None:
    with pytest.raises(ResolutionFailed):
        ask(resolver.mx(Domain("beta.test")))
    with pytest.raises(ResolutionFailed):
        ask(resolver.addresses("mx.beta.test"))


def test_silence_is_a_failure(reactor: Any, ask: Ask) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf:
        deaf.bind(("127.0.0.1", 0))
        resolver = Resolver(deferToThread, [f"127.0.0.1:{deaf.getsockname()[1]}"], timeout=0.3)
        with pytest.raises(ResolutionFailed):
            ask(resolver.mx(Domain("alpha.test")))


def test_who_is_dead_is_not_waited_for_by_everybody(
    reactor: Any, server: DNSServer, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gatewayd.dns.resolver.HASTE", 0.2)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf:
        deaf.bind(("127.0.0.1", 0))
        resolver = Resolver(deferToThread, [f"127.0.0.1:{deaf.getsockname()[1]}"], timeout=0.5)
        assert not resolver.silent
        with pytest.raises(ResolutionFailed):
            ask(resolver.mx(Domain("alpha.test")))
        assert resolver.silent
        resolver._resolver.lifetime = 3600.0  # the patience of one who knows nothing
        for _ in range(3):
            with pytest.raises(ResolutionFailed):
                ask(resolver.mx(Domain("alpha.test")))
        for one in (resolver._resolver, resolver._hasty):
            one.nameservers = [nameserver(f"127.0.0.1:{server.port}")]
        assert ask(resolver.mx(Domain("alpha.test"))).exists
        assert not resolver.silent


def test_answers_and_absences_are_cached(resolver: Resolver, server: DNSServer, ask: Ask) -> None:
    before = ask(resolver.mx(Domain("alpha.test"))), ask(resolver.txt("none.alpha.test"))
    server.replace({})
    assert (ask(resolver.mx(Domain("alpha.test"))), ask(resolver.txt("none.alpha.test"))) == before


def test_nameserver_texts() -> None:
    assert str(nameserver("192.0.2.1")) == "Do53:192.0.2.1@53"
    assert str(nameserver("[2001:db8::1]:5353")) == "Do53:2001:db8::1@5353"
    assert str(nameserver("2001:db8::1")) == "Do53:2001:db8::1@53"
    for bad in ("ns.example", "192.0.2.1:port", ""):
        with pytest.raises(ValueError):
            nameserver(bad)
