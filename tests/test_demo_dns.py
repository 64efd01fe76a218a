"""The demo's authoritative server: its answers as octets."""

from __future__ import annotations

import dns.exception
import dns.flags
import dns.message
import dns.rcode
import pytest

from demo.dns_server import DNSServer

ZONE = """\
$TTL 60
@ SOA ns hostmaster 1 3600 600 86400 30
@ NS ns
@ MX 10 mx
mx A 192.0.2.1
www CNAME mx
out CNAME mx.elsewhere.test.
_parley._tcp SRV 0 0 5299 mx
big TXT "{0}" "{0}" "{0}"
""".format("x" * 250)


def ask(server: DNSServer, name: str, kind: str, limit: int | None = None, **options: int) -> dns.message.Message:
    octets = server.answer(dns.message.make_query(name, kind, **options).to_wire(), limit)
    assert octets is not None
    return dns.message.from_wire(octets)


@pytest.fixture
def server() -> DNSServer:
    return DNSServer({"alpha.test": ZONE})


def test_answer_is_authoritative(server: DNSServer) -> None:
    reply = ask(server, "alpha.test", "MX")
    assert reply.answer[0].to_text() == "alpha.test. 60 IN MX 10 mx.alpha.test."
    assert reply.flags & dns.flags.AA
    assert not reply.flags & dns.flags.AD


def test_names_do_not_differ_by_case(server: DNSServer) -> None:
    assert ask(server, "MX.Alpha.TEST", "A").answer


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("none.alpha.test", dns.rcode.NXDOMAIN),
        ("mx.alpha.test", dns.rcode.NOERROR),
        ("_tcp.alpha.test", dns.rcode.NOERROR),  # an empty non-terminal exists, RFC 8020
    ],
)
def test_absence_carries_the_soa(server: DNSServer, name: str, code: dns.rcode.Rcode) -> None:
    reply = ask(server, name, "AAAA")
    assert reply.rcode() == code
    assert not reply.answer
    assert "SOA" in reply.authority[0].to_text()


def test_alias_is_followed(server: DNSServer) -> None:
    assert [r.to_text().split()[3:] for r in ask(server, "www.alpha.test", "A").answer] == [
        ["CNAME", "mx.alpha.test."],
        ["A", "192.0.2.1"],
    ]
    assert len(ask(server, "out.alpha.test", "A").answer) == 1


def test_other_zones_are_refused(server: DNSServer) -> None:
    assert ask(server, "beta.test", "A").rcode() == dns.rcode.REFUSED


def test_too_big_for_udp(server: DNSServer) -> None:
    assert ask(server, "big.alpha.test", "TXT", 512).flags & dns.flags.TC
    assert ask(server, "big.alpha.test", "TXT", 512, use_edns=0, payload=1232).answer
    assert ask(server, "big.alpha.test", "TXT").answer


def test_replace_takes_all_or_nothing(server: DNSServer) -> None:
    with pytest.raises(dns.exception.DNSException):
        server.replace({"beta.test": ZONE, "gamma.test": "nonsense"})
    assert ask(server, "alpha.test", "MX").answer
    server.replace({"beta.test": ZONE})
    assert ask(server, "beta.test", "MX").answer
    assert ask(server, "alpha.test", "MX").rcode() == dns.rcode.REFUSED


@pytest.mark.parametrize("octets", [b"", b"short", b"\0" * 200])
def test_garbage_is_not_answered_with_data(server: DNSServer, octets: bytes) -> None:
    reply = server.answer(octets)
    assert reply is None or dns.message.from_wire(reply).rcode() != dns.rcode.NOERROR
