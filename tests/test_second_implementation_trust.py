"""Whose keys and certificates are believed, as docs/parley.rst has it (sections 4 and 5), by both sides."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Iterator
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from demo.world import ctl
from tests.second_implementation import strict_cbor
from tests.second_implementation.house import Authority, House
from tests.second_implementation.objects import DomainKey, Refused, compose
from tests.second_implementation.peer import Peer
from tests.test_second_implementation import ALICE, error


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, reactor: Any) -> Iterator[House]:
    made = House(tmp_path_factory.mktemp("second"), "127.0.0.125", "127.0.0.126")
    made.second.users.add("dora@second.test")
    yield made
    made.stop()


def test_key_sets(house: House) -> None:
    now = int(time.time())

    async def answer(domain: str, wrong: Any = None, **certificate: Any) -> str:
        peer = await house.open(domain, **certificate)
        key = {"kid": peer.signing.kid, "key": peer.signing.public, "not_before": now - 60, "not_after": now + 600}
        whole = {"domain": domain, "expires": now + 60, "keys": [key], "news": 1}
        shown = strict_cbor.encode(whole if wrong is None else wrong(whole, key))
        peer.shown = lambda now: shown
        try:
            return await error(peer.dial("alpha.test"))
        finally:
            peer.close()

    async def run() -> None:
        assert await answer("good.test") == ""
        assert await answer("expired.test", lambda whole, key: whole | {"expires": now - 1}) == ""
        assert await answer("none.test", lambda whole, key: whole | {"keys": []}) == "keys-unavailable"
        assert await answer("many.test", lambda whole, key: whole | {"keys": [key] * 17}) == "keys-unavailable"
        assert await answer("other.test", lambda whole, key: whole | {"domain": "good.test"}) == "keys-unavailable"
        assert await answer("set.test", lambda whole, key: [whole]) == "keys-unavailable"
        for domain, times in (("new.test", {"not_before": now + 99}), ("over.test", {"not_after": now - 9})):
            over = await answer(domain, lambda whole, key, times=times: whole | {"keys": [key | times]})
            assert over == "auth-failed"
        # section 4.1: whose certificate it is
        assert await answer("service.test", names=[], services=["_parley.service.test"]) == ""
        assert await answer("xmpp.test", names=["xmpp.test"], services=["_xmpp.another.test"]) == ""
        assert await answer("not.test", names=["not.test"], services=["_parley.another.test"]) == "keys-unavailable"
        assert await answer("a.wild.test", names=["*.wild.test"]) == "keys-unavailable"
        assert await answer("target.test", names=["mx.target.test"]) == "keys-unavailable"

    house.run(run())


def test_keys_in_the_zone(house: House) -> None:
    now = int(time.time())

    async def answer(domain: str, text: str, of: DomainKey | None = None) -> str:
        peer = Peer(domain, *house.authority.issue(domain, [domain]), house.trust, house.nameserver)
        public = base64.b64encode((of or peer.signing).public).decode()
        house.zone.records.append(f"_keys._parley.{domain}. 60 IN TXT {text.replace('KEY', public)}")
        house.zone.secure = True
        try:
            return await error(peer.dial("alpha.test"))
        finally:
            house.zone.secure = False

    async def run() -> None:
        good = f"v=parley1; k=KEY; from={now - 9}; until={now + 99}"
        assert await answer("z1.test", f'"{good}"') == ""
        assert await answer("z2.test", f'"{good[:20]}" "{good[20:]}"') == ""
        assert await answer("z3.test", f'"until={now + 99};news=1 ;k=KEY;v=parley1; from=1;"') == ""
        assert await answer("z4.test", f'"{good}"', DomainKey("z4.test")) == "keys-unavailable"  # not that one yet
        assert await answer("z5.test", '"v=parley1; k=KEY; from=1; until=2"') == "auth-failed"
        assert await answer("z6.test", '"v=parley2; k=KEY; from=1"') == "keys-unavailable"  # who then has no server

    house.run(run())


def test_records_of_certificates(house: House) -> None:
    async def answer(domain: str, text: str, by: Authority, *, secure: bool = True) -> str:
        """To a domain whose zone says this of its certificate; KEY is its key, CA the authority."""
        peer = await house.open(domain, by=by)
        port = peer.listener.sockets[0].getsockname()[1]
        key = x509.load_pem_x509_certificate(peer.certificate.read_bytes()).public_key()
        spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        ca = x509.load_pem_x509_certificate(by.path.read_bytes()).public_bytes(Encoding.DER)
        for word, octets in (("KEY", spki), ("CA", ca)):
            text = text.replace(word, hashlib.sha256(octets).hexdigest())
        house.zone.records.append(f"_{port}._tcp.mx.{domain}. 60 IN TLSA {text}")
        house.zone.secure = secure
        try:
            return await error(peer.dial("alpha.test"))
        finally:
            house.zone.secure = False
            peer.close()

    async def run() -> None:
        known, other = house.authority, Authority(house.trust.parent)
        assert await answer("d1.test", "3 1 1 KEY", other) == ""
        assert await answer("d2.test", "3 1 1 CA", known) == "keys-unavailable"
        assert await answer("d3.test", "1 1 1 KEY", known) == ""
        assert await answer("d4.test", "1 1 1 KEY", other) == "keys-unavailable"
        assert await answer("d5.test", "0 0 1 CA", known) == ""
        assert await answer("d6.test", "9 1 1 CA", known) == ""  # none that can be used
        assert await answer("d7.test", "3 1 1 CA", known, secure=False) == ""

    house.run(run())


def test_the_gateway_revokes_its_key(house: House) -> None:
    async def run() -> None:
        peer, alice = house.second, await house.user("alice")
        to = ["dora@second.test"]
        await alice.send(to, compose(ALICE, to))
        before = (await peer.arrival(*to)).signed
        before.verify(await alice.keys("alpha.test"))
        revoked = ctl("--config", house.gateway.config, "keys", "revoke", "alpha.test", before.kid.hex())
        assert revoked.returncode == 0
        await alice.send(to, compose(ALICE, to))
        after = (await peer.arrival(*to)).signed
        after.verify(keys := await alice.keys("alpha.test"))
        assert set(keys.keys) == {after.kid} != {before.kid}
        with pytest.raises(Refused):
            before.verify(keys)

    house.run(run())
