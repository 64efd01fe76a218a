"""Where the DNS says that the own server is, and how it has to prove itself there."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gatewayd.address import Domain
from gatewayd.client import ParleyClient, connect, dialling
from gatewayd.crypto.certificates import make_authority
from gatewayd.crypto.dane import TLSA
from gatewayd.dns import resolver
from gatewayd.interfaces.dns import Answer, Endpoint, ResolutionFailed
from tests.house import ALICE, ALPHA, PASSWORD, House
from tests.test_client import here, sign_in

OTHER = TLSA(3, 1, 1, sha256(b"another key").digest())


@pytest.fixture
def alpha(reactor: Any, tmp_path: Path) -> Iterator[House]:
    made = House(reactor, tmp_path / "alpha", ALPHA, (ALICE,), {}, make_authority("Test authority"))
    yield made
    made.stop()


class DNS:
    """Stands for the resolver: alpha.test is served by mx.alpha.test, which is here."""

    def __init__(self, house: House, *tlsa: TLSA, secure: bool = False, secure_tlsa: bool = True) -> None:
        self.asked: list[str] = []
        self.trusted: list[bool] = []
        self._house = house
        self._tlsa = tlsa
        self._secure = secure
        self._secure_tlsa = secure_tlsa

    def __call__(self, in_thread: Any, *, trust_ad: bool) -> DNS:
        self.trusted.append(trust_ad)
        return self

    async def srv(self, name: str) -> Answer:
        self.asked.append(name)
        if name == "_parley._tcp.gone.test":
            raise ResolutionFailed("no answer")
        host = "mx.alpha.test" if self._secure else "127.0.0.1"
        records = (Endpoint(host, self._house.port),) if name == "_parley._tcp.alpha.test" else ()
        return Answer(records, self._secure, exists=True)

    async def addresses(self, host: str) -> Answer:
        assert host == "mx.alpha.test"
        return Answer(("127.0.0.1",), self._secure, exists=True)

    async def tlsa(self, name: str) -> Answer:
        assert name == f"_{self._house.port}._tcp.mx.alpha.test"
        return Answer(self._tlsa, self._secure_tlsa, exists=bool(self._tlsa))


def sign_in_by(house: House, dns: DNS, monkeypatch: pytest.MonkeyPatch, *, authorities: Path | None) -> ParleyClient:
    monkeypatch.setattr(resolver, "Resolver", dns)
    return house.wait(connect(house.reactor, str(ALICE), PASSWORD, authorities=authorities))  # type: ignore[no-any-return]


def matching(house: House) -> TLSA:
    key = x509.load_pem_x509_certificate((house.root / "certificate.pem").read_bytes()).public_key()
    return TLSA(3, 1, 1, sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest())


def test_where_the_dns_says_that_a_server_is(alpha: House, monkeypatch: pytest.MonkeyPatch) -> None:
    dns = DNS(alpha)
    monkeypatch.setattr(resolver, "Resolver", dns)
    assert alpha.wait(dialling.locate(ALPHA)) == [here(alpha)]
    with pytest.raises(OSError, match=r"beta\.test publishes no Parley service"):
        alpha.wait(dialling.locate(Domain.parse("beta.test")))
    with pytest.raises(OSError, match="no answer"):
        alpha.wait(dialling.locate(Domain.parse("gone.test")))
    assert dns.asked == [f"_parley._tcp.{name}.test" for name in ("alpha", "beta", "gone")]


def test_the_servers_of_the_dns_are_tried_in_turn(alpha: House, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Domain] = []

    async def locate(domain: Domain) -> list[Endpoint]:
        asked.append(domain)
        return [Endpoint("127.0.0.1", 1), here(alpha)]

    monkeypatch.setattr(dialling, "locate", locate)
    assert sign_in(alpha, server=None).user == str(ALICE)
    assert asked == [ALPHA]


def test_a_secure_record_is_enough(alpha: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's authorities do not know the one that made the certificate."""
    dns = DNS(alpha, OTHER, matching(alpha), secure=True)
    assert sign_in_by(alpha, dns, monkeypatch, authorities=None).is_online


def test_a_secure_record_of_another_key_is_obeyed(alpha: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the authorities say."""
    with pytest.raises(OSError, match="is not the one in the TLSA records"):
        sign_in_by(alpha, DNS(alpha, OTHER, secure=True), monkeypatch, authorities=alpha.authorities)


@pytest.mark.parametrize("where", [{"secure": False}, {"secure": True, "secure_tlsa": False}])
def test_an_insecure_record_says_nothing(where: Any, alpha: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such a host is dialled by its name, and judged by the authorities alone."""
    dns = DNS(alpha, matching(alpha), **where)
    monkeypatch.setattr(resolver, "Resolver", dns)
    (found,) = alpha.wait(dialling.locate(ALPHA))
    assert found == Endpoint("mx.alpha.test" if where["secure"] else "127.0.0.1", alpha.port)
    with pytest.raises(OSError, match="certificate verify failed"):
        alpha.wait(connect(alpha.reactor, str(ALICE), PASSWORD, server=here(alpha)))


@pytest.mark.parametrize(
    ("text", "trusted"),
    [
        ("nameserver 127.0.0.53\noptions edns0\n", True),
        ("nameserver ::1\nnameserver 127.0.0.1", True),
        ("nameserver 127.0.0.1\nnameserver 192.0.2.1", False),
        ("nameserver 192.0.2.1\noptions edns0 trust-ad\n", True),
        ("# options trust-ad\nnameserver 192.0.2.1", False),
        ("nameserver\nnameserver fe80::1%eth0", False),
        ("", False),
        (None, False),
    ],
)
def test_which_resolver_is_believed(
    text: str | None, trusted: bool, alpha: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if text is not None:
        (tmp_path / "resolv.conf").write_text(text)
    monkeypatch.setattr(dialling, "RESOLV_CONF", tmp_path / "resolv.conf")
    dns = DNS(alpha)
    monkeypatch.setattr(resolver, "Resolver", dns)
    alpha.wait(dialling.locate(ALPHA))
    assert dns.trusted == [trusted]
