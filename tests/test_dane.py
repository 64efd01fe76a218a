"""DANE, and keys in zones, with real servers: Knot serves signed zones, Unbound validates them, gateways are
processes of their own; and clients who sign in to them.

Two hosts serve all the domains: one shows a self-signed certificate, good by DANE alone; the other a certificate of an
authority that all believe.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import dns.flags
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rdtypes.ANY.TLSA
import dns.zone
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from twisted.internet._resolver import HostResolution
from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import IHostnameResolver, IHostResolution, IResolutionReceiver
from zope.interface import implementer

from demo.clients import IMAPProgram
from demo.world import PASSWORD, Gateway, Reactor, ctl, zone
from gatewayd.address import Domain
from gatewayd.client import ParleyClient, connect, dialling
from gatewayd.client.verifying import fetch_keys
from gatewayd.crypto.certificates import issue, make_authority
from gatewayd.crypto.domain_keys import KeySet
from gatewayd.dns import resolver
from tests.patience import eventually
from tests.signed_dns import SignedDNS, needed

pytestmark = needed

SELF_SIGNED = "127.0.0.61"
BY_AUTHORITY = "127.0.0.62"
SENDER = "127.0.0.63"
WRONG = sha256(b"another key").hexdigest()


def digest(pem: Path) -> str:
    """Of the public key: selector 1, matching type 1."""
    key = x509.load_pem_x509_certificate(pem.read_bytes()).public_key()
    return sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def tlsa(usage: int, data: str) -> str:
    return f"_5299._tcp.mx 60 IN TLSA {usage} 1 1 {data}\n"


def altered(zone: dns.zone.Zone) -> None:
    """The signature stays, the record is another."""
    node = zone.find_node(f"_5299._tcp.mx.{zone.origin}")
    found = node.find_rdataset(dns.rdataclass.IN, dns.rdatatype.TLSA)
    other = dns.rdtypes.ANY.TLSA.TLSA(dns.rdataclass.IN, dns.rdatatype.TLSA, 3, 1, 1, bytes.fromhex(WRONG))
    found.clear()
    found.add(other, 60)


def withheld(zone: dns.zone.Zone) -> None:
    """As if there were no record; but the zone has signed that there is."""
    node = zone.find_node(f"_5299._tcp.mx.{zone.origin}")
    node.delete_rdataset(dns.rdataclass.IN, dns.rdatatype.TLSA)
    node.delete_rdataset(dns.rdataclass.IN, dns.rdatatype.RRSIG, dns.rdatatype.TLSA)


class Houses:
    """Who sends, and the two hosts that serve the domains named in the tests."""

    def __init__(self, root: Path) -> None:
        self.dns = SignedDNS(root / "dns")
        accounts = ["alice"]
        port = self.dns.port
        self.sender = Gateway(root / "sender", "alpha.test", SENDER, accounts, port)
        self.self_signed = Gateway(root / "self", "matching.test", SELF_SIGNED, accounts, port)
        self.by_authority = Gateway(root / "authority", "unsigned.test", BY_AUTHORITY, accounts, port)
        houses = (self.sender, self.self_signed, self.by_authority)
        for house in houses:
            house.believe([self.sender, self.by_authority])
            house.config.write_text(house.config.read_text().replace("[dns]\n", "[dns]\ntrust_ad = true\n"))
        self._certify()
        right, also_right = (digest(h.root / "certificate.pem") for h in (self.self_signed, self.by_authority))
        anchor = digest(self.by_authority.root / "ca.pem")
        at_self, at_authority = zone(SELF_SIGNED, parley=True), zone(BY_AUTHORITY, parley=True)
        add = self.dns.add
        add("alpha.test", zone(SENDER, parley=True), signed=False)
        for name in SAYING:
            config = "--config", self.sender.config
            assert ctl(*config, "domain", "add", name).returncode == 0
            user = f"alice@{name}"
            assert ctl(*config, "account", "add", user, "--password-stdin", stdin=PASSWORD).returncode == 0
        add("said.test", zone(SENDER, parley=False) + NOBODY + self.keys("said.test"), signed=True)
        add("silent.test", zone(SENDER, parley=True), signed=True)
        add("insecure-keys.test", zone(SENDER, parley=True) + self.keys("said.test"), signed=False)
        add("other-keys.test", zone(SENDER, parley=True) + self.keys("said.test"), signed=True)
        add("matching.test", at_self + tlsa(3, right) + tlsa(3, WRONG), signed=True)
        add("insecure.test", at_self + tlsa(3, right), signed=False)
        add("unsigned.test", at_authority + tlsa(3, WRONG), signed=False)
        add("none.test", at_authority, signed=True)
        add("anchored.test", at_authority + tlsa(2, anchor), signed=True)
        add("pkix.test", at_authority + tlsa(1, also_right), signed=True)
        add("wrong.test", at_authority + tlsa(3, WRONG), signed=True)
        add("altered.test", at_authority + tlsa(3, also_right), signed=True, spoil=altered)
        add("withheld.test", at_authority + tlsa(3, WRONG), signed=True, spoil=withheld)
        for house, names in (
            (self.self_signed, ["insecure.test"]),
            (self.by_authority, [*NAMED[1:], "altered.test", "withheld.test"]),
        ):
            for name in names:
                config = "--config", house.config
                assert ctl(*config, "domain", "add", name).returncode == 0
                user = f"bob@{name}"
                assert ctl(*config, "account", "add", user, "--password-stdin", stdin=PASSWORD).returncode == 0
        self.dns.start()
        for house in houses:
            house.start()

    def _certify(self) -> None:
        root = self.self_signed.root
        key, certificate = make_authority("self-signed, and names nobody")
        (root / "key.pem").write_bytes(key)
        (root / "certificate.pem").write_bytes(certificate)
        root = self.sender.root
        authority = (root / "ca-key.pem").read_bytes(), (root / "ca.pem").read_bytes()
        key, certificate = issue(*authority, ["alpha.test", "mx.alpha.test", SENDER, *SAYING])
        (root / "key.pem").write_bytes(key)
        (root / "certificate.pem").write_bytes(certificate + authority[1])
        root = self.by_authority.root
        authority = (root / "ca-key.pem").read_bytes(), (root / "ca.pem").read_bytes()
        key, certificate = issue(*authority, [*NAMED, "altered.test", "withheld.test"])
        (root / "key.pem").write_bytes(key)
        (root / "certificate.pem").write_bytes(certificate + authority[1])

    def stop(self) -> None:
        for house in (self.sender, self.self_signed, self.by_authority):
            house.stop()
        self.dns.stop()

    def keys(self, name: str) -> str:
        """What `gatewayctl dns` says that the zone should say."""
        printed = ctl("--config", self.sender.config, "dns", name).stdout
        (line,) = [line for line in printed.splitlines() if line.startswith("_keys._parley.")]
        return "_keys._parley" + line.removeprefix(f"_keys._parley.{name}.") + "\n"

    def send(self, to: str, by: str = "alpha.test") -> str:
        """What the sender's log says became of it: "delivered by Parley: 2.0.0 ..." """
        program = IMAPProgram(self.sender, "alice")
        program.address = f"alice@{by}"
        program.send(to, "DANE", "secret")
        fate = re.compile(rf"{to} ((?:delivered|deferred|refused) by .*)")
        return eventually(lambda: fate.search((self.sender.root / "gatewayd.log").read_text()))[1]


SAYING = ["said.test", "silent.test", "insecure-keys.test", "other-keys.test"]
NOBODY = "_parley._tcp 60 IN SRV 0 0 1 mx\n"  # there is no asking the domain itself
NAMED = ["unsigned.test", "none.test", "anchored.test", "pkix.test", "wrong.test"]


@pytest.fixture(scope="module")
def houses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Houses]:
    made = Houses(tmp_path_factory.mktemp("houses"))
    yield made
    made.stop()


def test_the_dns_is_what_the_tests_take_it_for(houses: Houses) -> None:
    for name, kind, secure in (
        ("_parley._tcp.matching.test", "SRV", True),
        ("mx.matching.test", "AAAA", True),
        ("_5299._tcp.mx.matching.test", "TLSA", True),
        ("_5299._tcp.mx.none.test", "TLSA", True),
        ("_5299._tcp.mx.insecure.test", "TLSA", False),
    ):
        answer = houses.dns.ask(name, kind)
        assert bool(answer.flags & dns.flags.AD) == secure, answer
        assert answer.rcode() != dns.rcode.SERVFAIL
    for name in ("altered.test", "withheld.test"):
        assert houses.dns.ask(f"_parley._tcp.{name}", "SRV").flags & dns.flags.AD
        assert houses.dns.ask(f"_5299._tcp.mx.{name}", "TLSA").rcode() == dns.rcode.SERVFAIL


@pytest.mark.parametrize(
    "to",
    [
        "alice@matching.test",  # self-signed, and names nobody: its TLSA record is enough
        "bob@anchored.test",  # by the authority in the record, and names the domain
        "bob@pkix.test",  # by PKIX and by the record
        "bob@none.test",  # a signed zone without TLSA records: PKIX
        "alice@unsigned.test",  # an insecure record says nothing, not even that the certificate is wrong: PKIX
    ],
)
def test_delivered(houses: Houses, to: str) -> None:
    assert houses.send(to).startswith("delivered by Parley: 2.0.0")


@pytest.mark.parametrize(
    ("to", "why"),
    [
        (
            "bob@wrong.test",
            r"by Parley: 4\.4\.1 .* is not the one in the TLSA records of wrong\.test",
        ),  # PKIX is content
        ("bob@insecure.test", r"by Parley: 4\.4\.1 .*certificate verify failed"),  # an insecure record helps nobody
        ("bob@altered.test", r"by Deferred: 4\.4\.3 The DNS did not answer"),
        ("bob@withheld.test", r"by Deferred: 4\.4\.3 The DNS did not answer"),
    ],
)
def test_not_delivered_and_tried_again(houses: Houses, to: str, why: str) -> None:
    assert re.search(rf"deferred {why}.*again in", houses.send(to))
    assert to in ctl("--config", houses.sender.config, "queue").stdout


@pytest.mark.parametrize(
    ("by", "to"),
    [
        ("said.test", "bob@anchored.test"),  # by its zone alone
        ("silent.test", "bob@pkix.test"),  # the zone says none: asked itself
        ("insecure-keys.test", "bob@none.test"),  # what anybody could have said is not looked at
    ],
)
def test_whose_keys_are_known(houses: Houses, by: str, to: str) -> None:
    assert houses.send(to, by).startswith("delivered by Parley: 2.0.0")


def test_a_key_that_the_zone_does_not_say_is_none(houses: Houses) -> None:
    """Though the domain itself shows it, under a certificate that all believe."""
    said = houses.send("bob@unsigned.test", "other-keys.test")
    assert re.search(r"deferred by Parley: 4\.\d\.\d .*again in", said), said


# -- clients ----------------------------------------------------------------------------------------------------------


@implementer(IHostnameResolver)
class System:
    """What the C library would find by the same DNS."""

    def __init__(self, signed: SignedDNS) -> None:
        self._dns = signed

    def resolveHostName(
        self, resolutionReceiver: IResolutionReceiver, hostName: str, portNumber: int = 0, *_: Any, **__: Any
    ) -> IHostResolution:
        resolution = HostResolution(hostName)
        resolutionReceiver.resolutionBegan(resolution)
        for answer in self._dns.ask(hostName, "A").answer:
            for record in answer:
                if record.rdtype == dns.rdatatype.A:
                    resolutionReceiver.addressResolved(IPv4Address("TCP", record.address, portNumber))
        resolutionReceiver.resolutionComplete()
        return resolution


@pytest.fixture
def validating(houses: Houses, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The system's resolver is Unbound, but for its port, which resolv.conf cannot say. The file is returned."""
    made = partial(resolver.Resolver, nameservers=[f"127.0.0.1:{houses.dns.port}"])
    monkeypatch.setattr(resolver, "Resolver", made)
    (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.1\n")
    monkeypatch.setattr(dialling, "RESOLV_CONF", tmp_path / "resolv.conf")
    reactor = Reactor()
    before = reactor.call(reactor.reactor.installNameResolver, System(houses.dns))
    yield tmp_path / "resolv.conf"
    reactor.call(reactor.reactor.installNameResolver, before)


def sign_in(houses: Houses, user: str, *, by_authority: bool) -> None:
    """The authorities to believe: the one of the second host, or the system's."""
    reactor = Reactor()
    authorities = houses.by_authority.root / "ca.pem" if by_authority else None
    parley: ParleyClient = reactor.wait(connect(reactor.reactor, user, PASSWORD, authorities=authorities))
    assert parley.is_online
    reactor.call(parley.close)


@pytest.mark.usefixtures("validating")
@pytest.mark.parametrize(
    ("user", "by_authority"),
    [
        ("alice@matching.test", False),  # self-signed, and names nobody
        ("bob@anchored.test", False),  # the record brings the authority
        ("bob@pkix.test", True),
        ("bob@none.test", True),
        ("alice@unsigned.test", True),  # an insecure record says nothing
    ],
)
def test_a_client_signs_in(houses: Houses, user: str, by_authority: bool) -> None:
    sign_in(houses, user, by_authority=by_authority)


@pytest.mark.usefixtures("validating")
@pytest.mark.parametrize(
    ("user", "by_authority", "why"),
    [
        ("bob@wrong.test", True, "is not the one in the TLSA records"),
        ("bob@pkix.test", False, "is not the one in the TLSA records"),  # the record alone is not enough
        ("bob@insecure.test", False, "certificate verify failed"),
        ("bob@altered.test", True, "SERVFAIL"),
        ("bob@withheld.test", True, "SERVFAIL"),
    ],
)
def test_a_client_does_not_sign_in(houses: Houses, user: str, by_authority: bool, why: str) -> None:
    with pytest.raises(OSError, match=why):
        sign_in(houses, user, by_authority=by_authority)


def test_a_resolver_far_away_is_not_believed(houses: Houses, validating: Path) -> None:
    """What it calls secure anybody on the way may have said."""
    validating.write_text("nameserver 192.0.2.1\n")
    with pytest.raises(OSError, match="certificate verify failed"):
        sign_in(houses, "alice@matching.test", by_authority=False)
    sign_in(houses, "bob@wrong.test", by_authority=True)


@pytest.mark.usefixtures("validating")
def test_the_keys_of_another_domain(houses: Houses) -> None:
    """As `parley verify` asks for them."""
    reactor = Reactor()
    for name in ("matching.test", "anchored.test"):
        domain = Domain.parse(name)
        assert KeySet.decode(reactor.wait(fetch_keys(reactor.reactor, domain)), domain).keys
    with pytest.raises(OSError, match="is not the one in the TLSA records"):
        reactor.wait(fetch_keys(reactor.reactor, Domain.parse("wrong.test")))
