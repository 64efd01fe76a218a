"""What docs/parley.rst promises to another domain and asks of it, by a server that was written after it alone."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.second_implementation import strict_cbor
from tests.second_implementation.frames import Connection
from tests.second_implementation.house import House
from tests.second_implementation.objects import BATCH, DomainKey, KeySet, Signed, compose, sha256
from tests.second_implementation.transport import NotTheDomain
from tests.test_second_implementation import ALICE, BLOB, BOB, CAROL, NOBODY, error, part

DORA, EGON, ZOE = "dora@second.test", "egon@second.test", "zoe@gamma.test"


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, reactor: Any) -> Iterator[House]:
    made = House(tmp_path_factory.mktemp("second"), "127.0.0.123", "127.0.0.124", more=ZOE)
    made.second.users |= {DORA, EGON}
    made.run(grant(made, "bob", DORA))
    yield made
    made.stop()


async def grant(house: House, user: str, address: str) -> None:
    await (await house.user(user)).ask("consent", action="grant", address=address)


def given(**fields: Any) -> bytes:
    """A payload of dora's; None leaves a field out."""
    payload = strict_cbor.decode(compose(DORA, [BOB])) | fields
    return strict_cbor.encode({name: value for name, value in payload.items() if value is not None})


def sealed(key: DomainKey, payload: bytes, header: dict[Any, Any]) -> bytes:
    """Signed under another header than section 8's."""
    protected = strict_cbor.encode(header)
    signature = key.private.sign(strict_cbor.encode(["Signature1", protected, b"", payload]))
    return strict_cbor.encode([protected, {}, payload, signature])


def test_who_may_sign_in(house: House) -> None:
    async def run() -> None:
        peer = house.second
        key, exporter = peer.signing, bytes(32)

        async def refused(**claims: Any) -> str:
            return await error(peer.dial("alpha.test", **claims))

        connection = await peer.dial("alpha.test")
        assert await error(connection.request("auth", mechanism="DOMAIN", data=bytes(64))) == "bad-request"
        for method in ("sync", "put", "get", "mark", "news"):
            assert await error(connection.request(method, since=0)) == "unknown-method"
        first = await peer.dial("alpha.test")
        for proof in (
            key.proof("alpha.test", exporter),
            key.proof("alpha.test", first.tls.exporter()),
            key.proof("second.test", exporter),
            bytes(64),
        ):
            assert await refused(proof=proof) == "auth-failed"
        for claims in ({"to": "second.test"}, {"domain": "alpha.test"}):
            assert await refused(**claims) == "auth-failed"
        for claims in ({"kid": bytes(8)}, {"domain": "nobody.test"}):
            assert await refused(**claims) == "keys-unavailable"
        for change in ({"label": "parley/1"}, {"role": "listener"}):
            connection = await peer.connect("alpha.test")
            proof = key.proof("alpha.test", connection.tls.exporter(), **change)
            claims = {"domain": "second.test", "to": "alpha.test", "kid": key.kid}
            for _ in range(3):
                asked = connection.request("auth", mechanism="DOMAIN", data=proof, **claims)
                assert await error(asked) == "auth-failed"
            assert await connection.ended == "auth-failed"

    house.run(run())


def test_objects_that_are_refused(house: House) -> None:
    key = house.second.signing
    other, beta, alpha = (DomainKey(domain) for domain in ("second.test", "beta.test", "alpha.test"))
    payload, x = given(), part(b"x")
    signed = strict_cbor.decode(key.sign(payload))
    header = {1: -8, 4: key.kid, "iss": "second.test"}
    batch = strict_cbor.decode(key.sign_batch([given(), given(), given()])[2])
    mail = b"From: ann@elsewhere.test\r\n\r\nHello\r\n"
    of_mail = {"from": "ann@elsewhere.test", "type": "mail", "parts": [part(mail, type="message/rfc822")]}
    bridged = {"bridged": {"by": "second.test"}}

    def in_batch(signature: bytes) -> bytes:
        return strict_cbor.encode([batch[0], {}, batch[2], signature])

    cases: list[tuple[str, bytes, list[bytes], str]] = [
        ("2.0.0", key.sign(given(parts=[x | {"type": "text/html", "name": "x"}])), [b"x"], DORA),
        ("2.0.0", key.sign(given()), [], EGON),
        ("2.0.0", key.sign(given()), [], ""),
        ("5.7.1", key.sign(given()), [], "dora@beta.test"),
        ("5.7.1", key.sign(given(**{"from": BOB})), [], DORA),
        ("5.7.1", key.sign(given(**{"from": "ann@elsewhere.test"}, ext=bridged)), [], DORA),
        ("4.7.5", other.sign(given()), [], DORA),
        ("5.7.7", beta.sign(given()), [], DORA),
        ("5.7.7", alpha.sign(given()), [], DORA),
        ("5.7.7", strict_cbor.encode([signed[0], {}, given(), signed[3]]), [], DORA),
        ("5.7.7", strict_cbor.encode([*signed[:3], signed[3] + b"x"]), [], DORA),
        ("5.6.0", strict_cbor.encode([signed[0], {"x": 1}, *signed[2:]]), [], DORA),
        ("5.6.0", strict_cbor.encode([*signed, 0]), [], DORA),
        ("5.6.0", b"\xd2" + strict_cbor.encode(signed), [], DORA),
        ("5.7.7", sealed(key, payload, header | {1: -7}), [], DORA),
        ("5.7.7", sealed(key, payload, header | {"x": 1}), [], DORA),
        ("5.7.7", sealed(key, payload, {1: -8, 4: key.kid}), [], DORA),
        *(("2.0.0", each, [], DORA) for each in key.sign_batch([given() for _ in range(5)])),
        ("5.7.7", in_batch(batch[3][:64]), [], DORA),
        ("5.7.7", in_batch(batch[3][:68]), [], DORA),
        ("5.7.7", in_batch(batch[3][:-1]), [], DORA),
        ("5.7.7", in_batch(batch[3] + bytes(32)), [], DORA),
        ("5.7.7", in_batch(batch[3][:64] + b"\0\0\0\xff" + batch[3][68:]), [], DORA),
        ("5.7.7", sealed(key, payload, header | {1: BATCH}), [], DORA),
        ("5.6.0", key.sign(given(parts=[x])), [], DORA),
        ("5.6.0", key.sign(given(parts=[x])), [b"x", b"y"], DORA),
        ("5.6.0", key.sign(given(parts=[part(BLOB)])), [BLOB], DORA),
        ("2.0.0", key.sign(given(**of_mail, ext=bridged)), [mail], DORA),
        ("5.7.1", key.sign(given(**of_mail)), [mail], DORA),
        ("5.7.1", key.sign(given(**of_mail, ext={"bridged": {"by": "beta.test"}})), [mail], DORA),
        ("5.6.0", key.sign(given(**of_mail | {"from": "eve@elsewhere.test"}, ext=bridged)), [mail], DORA),
    ]

    async def run() -> None:
        connection = await house.second.dial("alpha.test")
        for number, (code, octets, bodies, reverse_path) in enumerate(cases):
            body = {"to": [BOB], "signed": octets, "bodies": bodies, "from": reverse_path}
            (result,) = (await connection.request("send", **body))["results"]
            assert (number, result["code"], result["to"]) == (number, code, BOB)
        to = [NOBODY, "x@", "x@elsewhere.test", EGON, BOB]
        codes = ["5.1.1", "5.1.3", "5.7.1", "5.7.1", "2.0.0"]
        for _ in range(2):
            assert list((await house.second.send(connection, to, key.sign(payload))).values()) == codes
        bob = await house.user("bob")
        assert await bob.find(payload)  # once

    house.run(run())


def test_one_listener_for_several_domains(house: House) -> None:
    async def run() -> None:
        peer = house.second
        connection = await peer.dial("alpha.test")
        assert await peer.send(connection, [ZOE, BOB], peer.signing.sign(given())) == {ZOE: "2.0.0", BOB: "2.0.0"}
        with pytest.raises(NotTheDomain):  # its certificate does not name that one
            await house.user("zoe", "gamma.test")

    house.run(run())


def test_a_stranger_introduces_itself(house: House) -> None:
    async def run() -> None:
        peer, carol = house.second, await house.user("carol")
        connection = await peer.dial("alpha.test")
        here = {"address": CAROL, "from": DORA}
        nobody = {"address": NOBODY, "from": DORA}
        assert await connection.request("lookup", **here) == await connection.request("lookup", **nobody)
        allowed = (await connection.request("lookup", **here))["introduction"]

        async def send(payload: bytes, *bodies: bytes) -> str:
            return (await peer.send(connection, [CAROL], peer.signing.sign(payload), *bodies))[CAROL]

        long = b"x" * (allowed + 1)
        for payload, body in (
            (given(parts=[part(long)]), long),
            (given(parts=[part(b"x", type="text/html")]), b"x"),
            (given(parts=[part(b"x", name="x")]), b"x"),
            (given(subject="x" * 201), b"x"),
            (given(ext={"x": "x" * 4096}), b"x"),
            (given(type="reaction", parents=[bytes(32)], parts=[part(b"x")]), b"x"),
            (given(type="poll"), b"x"),
            (given(parts=[part(BLOB)]), BLOB),
        ):
            bodies = [body] if strict_cbor.decode(payload).get("parts") else []
            assert await send(payload, *bodies) == "5.7.1"
        peer.offered.clear()
        text = "ü".encode() * allowed
        payloads = [given(parts=[part(text)], nonce=secrets.token_bytes(16)) for _ in range(4)]
        assert [await send(payload, text) for payload in payloads] == ["2.0.0"] * 3 + ["4.7.1"]
        assert await send(payloads[0], text) == "2.0.0"
        waiting = await carol.find(payloads[0], "Introductions")
        assert waiting is not None
        (contact,) = (await carol.ask("consent", action="list"))["contacts"]
        assert (contact["address"], contact["state"]) == (DORA, "requested")
        await carol.ask("mark", mailbox="\\Introductions", uids=[waiting["uid"]], move="Archive")  # which grants
        assert await carol.find(payloads[1])  # and what else waits moves to INBOX
        assert (await connection.request("lookup", **here))["granted"]
        assert await send(payloads[3], text) == "2.0.0"
        for method, body, wrong in (
            ("lookup", here | {"from": "x@beta.test"}, "bad-request"),
            ("consent", here | {"action": "grant"}, "bad-request"),
            ("consent", here | {"action": "request", "from": "x@beta.test"}, "bad-request"),
        ):
            assert await error(connection.request(method, **body)) == wrong
        for address in (ALICE, NOBODY, "x@elsewhere.test"):
            assert await connection.request("consent", action="request", address=address, **{"from": EGON}) == {}
        alice = await house.user("alice")
        listed = (await alice.ask("consent", action="list"))["contacts"]
        assert {contact["address"]: contact["state"] for contact in listed} == {EGON: "requested"}
        await connection.request("consent", action="cancel", address=ALICE, **{"from": EGON})
        assert (await alice.ask("consent", action="list")).get("contacts", []) == []

    house.run(run())


def test_blobs_are_pulled(house: House) -> None:
    async def run() -> None:
        peer, bob = house.second, await house.user("bob")
        asked: list[int] = []

        def piece(connection: Connection, octets: bytes, offset: int) -> dict[str, Any]:
            asked.append(offset)
            if len(asked) == 17:  # the first has arrived, for 16 are asked for at once
                connection.cut()
            return {"data": octets[offset : offset + 65_536], "size": len(octets)}

        whole = BLOB * 5
        peer.blob, payload = piece, given(parts=[part(whole)])
        signed = peer.signing.sign(payload)
        assert (await error(peer.send(await peer.dial("alpha.test"), [BOB], signed, whole))).startswith("BYE")
        asked[:] = [0] * 17  # it is cut no more
        connection, code = await peer.dial("alpha.test"), "4.3.2"
        for _ in range(50):
            code = (await peer.send(connection, [BOB], signed, whole))[BOB]
            if code != "4.3.2":
                break
            await asyncio.sleep(0.1)  # the first attempt is not over there
        assert code == "2.0.0"
        assert 0 < len(asked[17:]) <= len(whole) // 65_536  # the octets that came are not asked for again
        assert await bob.find(payload) and await bob.get(sha256(whole)) == whole
        for code, answer in (
            ("4.5.0", lambda connection, octets, offset: {"data": octets[:9], "size": len(octets)}),
            ("4.5.0", lambda connection, octets, offset: {"data": b"", "size": len(octets)}),
            ("4.5.0", lambda connection, octets, offset: {"data": octets[:65_536], "size": len(octets) + 1}),
            ("5.6.0", lambda connection, octets, offset: {"data": bytes(70_000 - offset)[:65_536], "size": 70_000}),
        ):
            peer.blob, blob = answer, secrets.token_bytes(70_000)
            wrong = peer.signing.sign(given(parts=[part(blob)]))
            assert await peer.send(connection, [BOB], wrong, blob) == {BOB: code}
        asked.clear()
        peer.blob = piece
        large = peer.signing.sign(given(parts=[part(BLOB), part(b"", size=1 << 32)]))
        fresh = secrets.token_bytes(70_000)
        assert await peer.send(connection, [BOB], large) == {BOB: "5.3.4"}
        assert await peer.send(connection, [NOBODY], peer.signing.sign(given(parts=[part(fresh)])), fresh) == {
            NOBODY: "5.1.1"
        }
        assert asked == []

    house.run(run())


def test_what_the_gateway_delivers(house: House) -> None:
    async def run() -> None:
        peer, bob = house.second, await house.user("bob")

        def status(*results: tuple[str, str]) -> list[dict[str, Any]]:
            return [{"to": to, "code": code, "text": "So it is", "retry": 0} for to, code in results]

        def cut(connection: Connection) -> list[dict[str, Any]]:
            connection.cut()
            return []

        await bob.put(BLOB)
        payload = compose(BOB, [DORA], b"Hello", BLOB, ext={"receipts": ["displayed"]})
        peer.instead = [
            lambda connection: status((DORA, "4.2.2"), (EGON, "5.1.1")),
            lambda connection: status((DORA, "3.0.0")),
            lambda connection: [],
            cut,
        ]
        assert set((await bob.send([DORA, EGON], payload, b"Hello")).values()) == {"2.0.0"}  # queued
        copy = await peer.arrival(DORA)
        assert copy.signed.payload == payload and not peer.instead and (EGON, copy.signed.id) not in peer.copies
        assert copy.bodies[sha256(BLOB)] == BLOB and copy.reverse_path == BOB
        reports = [Signed.read(change["signed"]).fields for change in await bob.log() if change["mailbox"] == "INBOX"]
        assert [r["ext"]["receipt"]["recipient"] for r in reports if "receipt" in r.get("ext", {})] == [EGON]
        edit = compose(BOB, [DORA], b"Hullo", type="edit", replaces=copy.signed.id)
        await bob.send([DORA], edit, b"Hullo")
        assert (await peer.arrival(DORA, "edit")).signed.fields["replaces"] == copy.signed.id
        connection = await peer.dial("alpha.test")
        for by, state, code in (
            (DORA, "displayed", "2.0.0"),
            (DORA, "stored", "5.7.1"),
            (EGON, "read", "5.6.0"),
            ("fred@second.test", "displayed", "5.7.1"),
        ):
            assert await peer.send(connection, [BOB], peer.receipt(by, copy.signed, state)) == {BOB: code}
        forged = compose(DORA, [BOB], b"Hi", type="edit", replaces=copy.signed.id)
        assert await peer.send(connection, [BOB], peer.signing.sign(forged), b"Hi") == {BOB: "5.7.1"}
        log = await bob.log()
        for change in log:
            house.check_payload(Signed.read(change["signed"]).payload)
        (receipt,) = [change for change in log if change["mailbox"] == "Receipts"]
        Signed.read(receipt["signed"]).verify(KeySet.read(peer.shown(int(time.time())), "second.test"))

    house.run(run())


def test_what_cannot_be_delivered(house: House) -> None:
    async def run() -> None:
        peer, bob = await house.open("third.test"), await house.user("bob")
        peer.users.add("zoe@third.test")
        peer.takes, peer.remember = 1024, 3600
        large, small = compose(BOB, [], b"x" * 2000), compose(BOB, [], subject="small")
        await bob.log(live=True)
        await bob.send(["zoe@third.test"], large, b"x" * 2000)
        fields: dict[str, Any] = {}
        while "bridged" not in fields.get("ext", {}):  # a report
            _, page = await bob.connection.push()
            for change in page["changes"]:
                fields = Signed.read(change["signed"]).fields
        assert (fields["parents"], fields["ext"]["receipt"]["status"]) == ([sha256(large)], "failed")
        house.zone.records.append("third.test. 1 IN MX 0 mx.third.test.")
        log = house.gateway.root / "gatewayd.log"
        for record in [r for r in house.zone.records if r.startswith("_parley._tcp.third.test.")]:
            house.zone.records.remove(record)
            await asyncio.sleep(1.1)  # what was known of it is over
            await bob.send(["zoe@third.test"], small)
            for _ in range(600):
                if "4.4.3" in log.read_text():  # neither sent by mail nor refused
                    break
                await asyncio.sleep(0.1)
            else:
                pytest.fail("it did not wait")
            house.zone.records.append(record)
        assert (await peer.arrival("zoe@third.test")).signed.payload == small
        peer.close()

    house.run(run())


def test_receipts_signals_and_consent_of_the_gateway(house: House) -> None:
    async def run() -> None:
        peer, alice = house.second, await house.user("alice")
        connection = await peer.dial("alpha.test")
        assert (await alice.ask("consent", action="request", address=DORA))["contacts"][0]["state"] == "granted"
        assert ("request", ALICE, DORA) in peer.requests
        assert await error(alice.ask("consent", action="request", address="x@nowhere.test")) == "not-found"
        peer.granted.add((DORA, ALICE))
        found = await alice.ask("lookup", address=DORA)
        assert (found["way"], found["granted"], found["state"]) == ("parley", True, "granted")
        await alice.log(live=True)
        wants = compose(DORA, [ALICE], b"Read it", ext={"receipts": ["stored", "delivered", "displayed"]})
        await peer.send(connection, [ALICE], peer.signing.sign(wants), b"Read it", reverse_path=DORA)
        _, page = await alice.connection.push()
        assert page["changes"][0]["bodies"] == [b"Read it"]
        await alice.ask("mark", mailbox="INBOX", uids=[page["changes"][0]["uid"]], displayed=True)
        said = set()
        while len(said) < 3:
            copy = await peer.arrival(DORA, "receipt")
            assert (copy.reverse_path, copy.signed.fields["from"]) == ("", ALICE)
            assert copy.signed.fields["parents"] == [sha256(wants)]
            said.add(copy.signed.fields["ext"]["receipt"]["status"])
        assert said == {"stored", "delivered", "displayed"}
        typing = {"kind": "typing", "state": "composing", "lease": 10}
        assert await alice.ask("signal", to=[DORA, EGON], **typing) == {"skipped": [EGON]}
        assert await peer.signals.get() == {"to": [DORA], "from": ALICE, **typing}
        for by in (EGON, DORA):  # whom alice does not know, and whom she does
            assert await connection.request("signal", to=[ALICE, NOBODY], **typing, **{"from": by}) == {}
        while (said_by := await alice.connection.push())[0] != "signal":
            pass
        assert said_by[1] == {"from": DORA, **typing}
        assert await error(connection.request("signal", to=[ALICE], **typing, **{"from": BOB})) == "bad-request"

    house.run(run())
