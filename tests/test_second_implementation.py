"""What docs/parley.rst promises to a client and asks of it, by a client that was written after it alone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from OpenSSL import SSL

from demo.world import PASSWORD
from tests.second_implementation import strict_cbor, transport
from tests.second_implementation.frames import BYE, FIRST_FRAME, HELLO, PUSH, Ended, Failed, frame
from tests.second_implementation.house import DOCS, PORT, House
from tests.second_implementation.objects import BATCH, CHUNK, KeySet, Refused, Signed, compose, sha256
from tests.second_implementation.user import MECHANISM, User

ALICE, BOB, CAROL, NOBODY = (f"{name}@alpha.test" for name in ("alice", "bob", "carol", "nobody"))
BLOB = bytes(range(256)) * 1200


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, reactor: Any) -> Iterator[House]:
    made = House(tmp_path_factory.mktemp("second"), "127.0.0.121", "127.0.0.122")
    yield made
    made.stop()


async def error(asking: Any) -> str:
    """What a request is answered with, or its connection ends with."""
    try:
        await asking
    except Failed as failed:
        return failed.error
    except Ended as ended:
        return f"BYE {ended.code}"
    return ""


def given(**fields: Any) -> bytes:
    """A payload of alice's; None leaves a field out."""
    payload = strict_cbor.decode(compose(ALICE, [BOB])) | fields
    return strict_cbor.encode({name: value for name, value in payload.items() if value is not None})


def part(body: bytes, **fields: Any) -> dict[str, Any]:
    return {"hash": sha256(body), "type": "text/plain", "size": len(body)} | fields


def test_the_transport(house: House) -> None:
    async def run() -> None:
        for alpn, version in (
            (None, SSL.TLS1_3_VERSION),
            (b"h2", SSL.TLS1_3_VERSION),
            (b"parley/1", SSL.TLS1_2_VERSION),
        ):
            try:
                tls = await transport.dial(house.here, PORT, "alpha.test", house.trust, alpn, version)
            except transport.NotTheDomain:
                continue
            size = int.from_bytes(await tls.read(4), "big")
            kind, _, _, body = strict_cbor.decode(await tls.read(size))
            assert (kind, body["code"]) == (BYE, "transport")
        for domain, trust in (("mx.alpha.test", house.trust), ("alpha.test", house.authority.path)):
            with pytest.raises(transport.NotTheDomain):
                await transport.dial(house.here, PORT, domain, trust)

    house.run(run())


def listed() -> list[tuple[str, str, bytes, bool]]:
    """Appendix B's frames: the code, what it is, the octets, and whether a HELLO went before."""
    text = (DOCS / "parley.rst").read_text().partition("Appendix B.")[2].partition("Requests that are")[0]
    after, _, instead = text.partition("Frames in place of a HELLO")
    pattern = r"    ([a-z-]+): (.*)\n((?:      [0-9a-f]+\n)+)"
    found = [
        (*row, greeted) for greeted, some in ((True, after), (False, instead)) for row in re.findall(pattern, some)
    ]
    return [(code, what, bytes.fromhex(re.sub(r"\s", "", octets)), greeted) for code, what, octets, greeted in found]


def test_frames_that_end_a_connection(house: House) -> None:
    octets = strict_cbor.encode({"domain": "alpha.test"})
    cases = [
        *listed(),
        ("bad-frame", "a stream beyond 32 bits", frame(1, 1 << 32, "keys", {}), True),
        ("bad-frame", "a body that is none", b"\0\0\0\5\x84\1\1\x60\x80", True),
        ("bad-frame", "no octets", bytes(4), True),
        ("bad-frame", "HELLO on a stream", frame(HELLO, 1, "", {}), True),
        ("bad-request", "a version of text", frame(HELLO, 0, "", {"version": "1", "name": "", "frame": 1024}), False),
        ("too-big", "what its HELLO allows only later", (FIRST_FRAME + 1).to_bytes(4, "big") + octets, True),
    ]  # fmt: skip
    assert len(cases) > 25

    async def run() -> None:
        for code, what, octets, greeted in cases:
            connection = await house.dial(greeted)
            connection.tls.write(octets)
            assert (what, await connection.ended) == (what, code)
        connection = await house.dial()  # these do not
        connection.tls.write(frame(PUSH, 0, "news", {}) + frame(PUSH, 0, "changes", {"changes": [], "modseq": 1}))
        padding = bytes(FIRST_FRAME - 43)
        assert "keys" in await connection.request("keys", domain="alpha.test", news=padding)
        assert await error(connection.request("keys", domain="second.test")) == "not-found"
        for method in ("send", "sync", "put", "news"):
            assert await error(connection.request(method)) == "auth-required"
        connection.tls.write(frame(BYE, 0, "", {}))
        assert await connection.ended == ""

    house.run(run())


def test_signing_in(house: House) -> None:
    async def first(name: str, header: str = "p=tls-exporter,,") -> Any:
        connection = await house.dial()
        reply = await connection.request("auth", mechanism=MECHANISM, data=f"{header}n={name},r=abcdefgh".encode())
        return re.sub(rb"r=[^,]*", b"", reply["data"])

    async def run() -> None:
        user = User(await house.dial(), ALICE)
        assert await error(user.authenticate(PASSWORD, exporter=bytes(32))) == "auth-failed"
        await user.authenticate(PASSWORD)  # begun again
        assert await error(user.authenticate(PASSWORD)) == "bad-request"
        user = User(await house.dial(), ALICE.upper().replace("ALPHA.TEST", "alpha.test"))
        await user.authenticate(PASSWORD)
        for address in (ALICE, NOBODY):
            user = User(await house.dial(), address)
            for _ in range(3):
                assert await error(user.authenticate("wrong")) == "auth-failed"
            assert await user.connection.ended == "auth-failed"
        assert await first(NOBODY) == await first(NOBODY) != await first(ALICE)
        for header in ("n,,", "y,,", "p=tls-unique,,", f"p=tls-exporter,a={BOB},"):
            assert await error(first(ALICE, header)) == "auth-failed"
        connection = await house.dial()
        assert await error(connection.request("auth", mechanism="PLAIN", data=b"")) == "mechanism"
        assert await error(connection.request("auth", data=b"")) == "bad-request"

    house.run(run())


def test_sending(house: House) -> None:
    async def run() -> None:
        alice, bob = await house.user("alice"), await house.user("bob")
        payload, to = compose(ALICE, [BOB], b"Hello"), [BOB, CAROL, BOB.upper(), NOBODY, "x@", "<bob@alpha.test>"]
        codes = ["2.0.0", "2.0.0", "2.0.0", "5.1.1", "5.1.3", "5.1.3"]
        for _ in range(2):
            assert await alice.send(to, payload, b"Hello") == dict(zip(to, codes, strict=True))
        found = await bob.find(payload)  # there is one
        assert found is not None and found["bodies"] == [b"Hello"]
        sent = await alice.find(payload, "Sent")
        assert sent is not None and sent["signed"] == found["signed"]
        for wrong in ([], [f"u{n}@alpha.test" for n in range(1001)]):
            assert await error(alice.send(wrong, payload, b"Hello")) == "bad-request"
        assert await error(alice.ask("send", to=[BOB], payload=payload, bodies=["Hello"])) == "bad-request"

    house.run(run())


def test_one_signature_for_many(house: House) -> None:
    async def run() -> None:
        alice = await house.user("alice")
        payloads = [compose(ALICE, [BOB], subject=str(number)) for number in range(9)]
        replies = alice.connection.begin("send", [{"to": [BOB], "payload": payload} for payload in payloads])
        assert {(await reply)["results"][0]["code"] for reply in replies} == {"2.0.0"}
        keys = await alice.keys("alpha.test")
        logged = [Signed.read(change["signed"]) for change in await alice.log() if change["mailbox"] == "Sent"]
        batch = [signed for signed in logged if signed.payload in payloads]
        assert len(batch) == 9 and BATCH in {signed.algorithm for signed in batch}
        for signed in batch:
            signed.verify(keys)
            other = Signed(signed.octets, signed.protected, signed.algorithm, *(signed.kid, signed.domain),
                           batch[batch[0] is signed].payload, signed.signature)  # fmt: skip
            for forged, by in ((other, keys), (signed, KeySet("second.test", 0, keys.keys))):
                with pytest.raises(Refused):
                    forged.verify(by)

    house.run(run())


def test_objects_that_are_refused(house: House) -> None:
    named = sha256(given(subject="of nobody"))
    x = [part(b"x")]
    same = [part(bytes(CHUNK))] * 9  # one body, which stands where it is named first
    cases: list[tuple[str, bytes, list[bytes]]] = [
        ("2.0.0", given(news={"a": [1, None]}), []),
        ("2.0.0", given(date=253_402_300_799_999), []),
        ("2.0.0", given(type="poll", replaces=named), []),
        ("2.0.0", given(parts=x * 2), [b"x", b"x"]),
        ("2.0.0", given(parts=same), [bytes(CHUNK)]),
        ("2.0.0", given(ext={"receipts": "stored", "references": ["a b"] * 30, "bridged": 1}), []),
        ("2.0.0", given(ext={"new": 1}, crit=["new"]), []),
        ("2.0.0", b"\xa4\x65nonce\x50" + bytes(16) + b"\x64from\x70" + ALICE.encode() + b"\x62to\x80\x64date\1", []),
        ("5.6.0", b"\xff", []),
        ("5.6.0", given(nonce=bytes(15)), []),
        ("5.6.0", given(nonce=None), []),
        ("5.6.0", given(date=-1), []),
        ("5.6.0", given(to=None), []),
        ("5.6.0", given(ext=[]), []),
        ("5.6.0", given(replaces=named), []),
        ("5.6.0", given(parents=[named] * 21), []),
        ("5.6.0", given(parents=[b"short"]), []),
        ("5.6.0", given(parts=x), []),
        ("5.6.0", given(parts=x), [b"y"]),
        ("5.6.0", given(parts=x), [b"x", b"y"]),
        ("5.6.0", given(parts=[part(b"x", size=2)]), [b"x"]),
        ("5.6.0", given(parts=[part(BLOB)]), [BLOB]),
        ("5.6.0", given(parts=[part(BLOB)]), []),
        ("5.6.0", given(type="edit", parts=x), [b"x"]),
        ("5.6.0", given(type="edit", replaces=named), []),
        ("5.6.0", given(type="retract", replaces=named, subject="x"), []),
        ("2.0.0", given(type="reaction", parents=[named], parts=x), [b"x"]),
        ("5.6.0", given(type="reaction", parents=[], parts=x), [b"x"]),
        ("5.6.0", given(type="reaction", parents=[named], parts=[part(b"x", name="x")]), [b"x"]),
        ("5.6.0", given(type="reaction", parents=[named], parts=[part(b"x" * 65)]), [b"x" * 65]),
        ("5.6.0", given(type="reaction", parents=[named], parts=[part(b"\xff")]), [b"\xff"]),
        ("5.7.1", given(type="receipt", parents=[named], ext={"receipt": {"status": "displayed"}}), []),
        ("5.7.1", given(**{"from": BOB}), []),
        ("5.7.1", given(type="mail", parts=x, ext={"bridged": {"by": "alpha.test"}}), [b"x"]),
        ("5.3.4", given(subject="x" * 262_144), []),
    ]

    async def run() -> None:
        alice = await house.user("alice")
        for number, (code, payload, bodies) in enumerate(cases):
            assert (number, await alice.send([BOB], payload, *bodies)) == (number, {BOB: code})

    house.run(run())


def test_what_replaces_another(house: House) -> None:
    async def run() -> None:
        alice, bob = await house.user("alice"), await house.user("bob")
        said = compose(ALICE, [BOB], b"Hullo")
        await alice.send([BOB], said, b"Hullo")
        edit = compose(ALICE, [BOB], b"Hello", type="edit", replaces=sha256(said))
        retract = compose(ALICE, [BOB], type="retract", replaces=sha256(edit))
        assert await alice.send([BOB], edit, b"Hello") == await alice.send([BOB], retract) == {BOB: "2.0.0"}
        again = compose(ALICE, [BOB], b"Hello", type="edit", replaces=sha256(edit))
        forged = compose(BOB, [ALICE, CAROL], b"Hello", type="edit", replaces=sha256(said))
        assert await alice.send([BOB], again, b"Hello") == {BOB: "5.7.1"}
        assert set((await bob.send([ALICE, CAROL], forged, b"Hello")).values()) == {"5.7.1"}
        for object_ in (edit, retract):
            assert await bob.find(object_) and await alice.find(object_, "Sent")

    house.run(run())


def test_the_log(house: House) -> None:
    async def run() -> None:
        alice, bob = await house.user("alice"), await house.user("bob")
        for number in range(3):
            await alice.send([BOB], compose(ALICE, [BOB], subject=f"{number} of the log"))
        whole = await bob.log()
        epoch, end = bob.epoch, bob.modseq
        assert await bob.log(limit=1) == whole == await bob.log(limit=1 << 63)
        assert [change["modseq"] for change in whole] == sorted({change["modseq"] for change in whole})
        assert not {"signed", "bodies"} & set().union(*await bob.log(content="ids"))
        assert await bob.log(end, epoch=epoch) == []
        for since, named in ((end, b"x"), (end + 99, epoch), (end + 99, b"")):
            assert await error(bob.ask("sync", since=since, epoch=named)) == "resync"
        for body in ({}, {"since": -1}, {"since": 0, "limit": 0}, {"since": 0, "content": "news"}):
            assert await error(bob.ask("sync", **body)) == "bad-request"
        ids = [change["id"] for change in whole][-2:]
        objects = (await bob.ask("fetch", ids=[*ids, bytes(32), *ids]))["objects"]
        assert [Signed.read(each["signed"]).id for each in objects] == ids
        assert {await error(bob.ask("fetch", ids=ids)) for ids in ([], [b"x"], ids * 300)} == {"bad-request"}

    house.run(run())


def test_marks_and_mailboxes_reach_the_live_tail(house: House) -> None:
    async def run() -> None:
        alice, bob = await house.user("alice"), await house.user("bob")
        await bob.log(live=True, content="ids")
        payload = compose(ALICE, [BOB], subject="live")
        await alice.send([BOB], payload)
        method, page = await bob.connection.push()
        (change,) = page["changes"]
        assert (method, change["id"], change["mailbox"]) == ("changes", sha256(payload), "INBOX")
        await bob.log(page["modseq"], epoch=page["epoch"])
        at = {"mailbox": "INBOX", "uids": [change["uid"], 4_000_000]}
        marked = await bob.ask("mark", **at, add=["\\Seen", "Work", "work"], remove=["x"])
        _, page = await bob.connection.push()
        assert (page["modseq"], page["changes"][0]["modseq"]) == (marked["modseq"],) * 2
        assert set(page["changes"][0]["flags"]) == {"\\Seen", "Work", "work"}
        for fields, wrong in (
            ({"move": "Trash", "delete": True}, "bad-request"),
            ({"add": ["x"], "remove": ["x"]}, "bad-request"),
            ({"remove": ["\\Seen"], "displayed": True}, "bad-request"),
            ({"add": ["\\seen"]}, "bad-request"),
            ({"add": ["a b"]}, "bad-request"),
            ({"move": "Nowhere"}, "not-found"),
        ):
            assert await error(bob.ask("mark", **at, **fields)) == wrong
        (made,) = (await bob.ask("mailboxes", action="create", mailbox="Work/Old"))["mailboxes"]
        await bob.ask("mark", **at, move="Work/Old")
        await bob.ask("mailboxes", action="rename", mailbox="Work", to="Play")
        moved, boxes = None, {}
        while boxes.get(made["uidvalidity"]) != "Play/Old":
            _, page = await bob.connection.push()
            boxes |= {box["uidvalidity"]: box["name"] for box in page.get("mailboxes", [])}
            moved = next((c for c in page["changes"] if c.get("id") == sha256(payload)), moved)
        assert moved is not None and moved["mailbox"] in ("Work/Old", "Play/Old")
        for name, wrong in (("Play", "exists"), ("inbox", "exists"), ("a//b", "bad-request"), ("\\x", "bad-request")):
            assert await error(bob.ask("mailboxes", action="create", mailbox=name)) == wrong
        for action, wrong in (("delete", "bad-request"), ("rename", "bad-request"), ("news", "bad-request")):
            assert await error(bob.ask("mailboxes", action=action, mailbox="INBOX", to="x")) == wrong
        assert await bob.ask("mailboxes", action="delete", mailbox="Play/Old") == {}
        assert await bob.find(payload, "Play/Old") is None

    house.run(run())


def test_blobs(house: House) -> None:
    async def run() -> None:
        alice, bob, digest = await house.user("alice"), await house.user("bob"), sha256(BLOB)
        assert await alice.put(BLOB, until=100_000) == 100_000
        alice.connection.cut()
        alice = await house.user("alice")
        about = {"hash": digest, "size": len(BLOB)}
        for offset, data in ((0, BLOB[:9]), (200_000, b"x"), (99_999, b"xx")):  # neither again nor further on
            assert await alice.ask("put", **about, offset=offset, data=data) == {"offset": 100_000}
        assert await bob.ask("put", **about, offset=0) == {"offset": 0}
        assert await alice.put(BLOB) == len(BLOB)
        assert await error(alice.get(digest)) == "not-found"
        payload = compose(ALICE, [BOB], (BLOB, "image/png", "blob.png"))
        assert await alice.send([BOB], payload) == {BOB: "2.0.0"}
        assert await bob.get(digest) == await alice.get(digest) == BLOB
        assert await error((await house.user("carol")).get(digest)) == "not-found"
        lie = given(parts=[part(BLOB, size=len(BLOB) + 1)])
        assert await alice.send([BOB], lie) == {BOB: "5.6.0"}
        assert await bob.send([CAROL], compose(BOB, [CAROL], BLOB)) == {CAROL: "2.0.0"}  # sent on
        wrong = {"hash": bytes(32), "size": 9}
        assert await error(alice.ask("put", **wrong, offset=0, data=bytes(9))) == "wrong-octets"
        assert await alice.ask("put", **wrong, offset=0) == {"offset": 0}
        assert await error(alice.ask("put", **wrong, offset=0, data=bytes(CHUNK + 1))) == "bad-request"

    house.run(run())


def test_receipts_signals_and_consent_at_home(house: House) -> None:
    async def run() -> None:
        alice, bob = await house.user("alice"), await house.user("bob")
        keys = await alice.keys("alpha.test")
        payload = compose(ALICE, [BOB], ext={"receipts": ["stored", "displayed"]})
        await alice.log(live=True)
        await alice.send([BOB], payload)
        found = await bob.find(payload)
        assert found is not None
        for _ in range(2):  # one receipt
            await bob.ask("mark", mailbox="INBOX", uids=[found["uid"]], displayed=True)
        said: list[str] = []
        while "displayed" not in said:
            _, page = await alice.connection.push()
            for change in page["changes"]:
                receipt = Signed.read(change["signed"])
                receipt.verify(keys)
                if receipt.fields.get("type") == "receipt":
                    assert (change["mailbox"], change["flags"]) == ("Receipts", ["\\Seen"])
                    assert (receipt.fields["from"], receipt.fields["parents"]) == (BOB, [sha256(payload)])
                    said.append(receipt.fields["ext"]["receipt"]["status"])
        assert said == ["stored", "displayed"]
        presence = {"kind": "presence", "state": "away", "lease": 120}
        stranger, about = "x@second.test", sha256(payload)
        assert await bob.ask("signal", to=[ALICE, CAROL, stranger], **presence, about=about) == {"skipped": [stranger]}
        assert await alice.connection.push() == ("signal", {"from": BOB, **presence, "about": about})
        for wrong in ({"lease": 121}, {"state": "paused"}, {"kind": "news"}, {"about": b"x"}, {"to": [BOB] * 21}):
            assert await error(bob.ask("signal", **{"to": [ALICE], **presence, **wrong})) == "bad-request"
        assert (await bob.ask("consent", action="revoke", address=ALICE))["contacts"][0]["state"] == "revoked"
        unwanted = compose(ALICE, [BOB], subject="unwanted")
        assert await alice.send([BOB], unwanted) == {BOB: "2.0.0"}
        assert await bob.find(unwanted, "Junk")
        assert (await bob.ask("lookup", address=ALICE))["state"] == "revoked"
        assert (await bob.ask("consent", action="cancel", address=ALICE)).get("contacts", []) == []
        last = (await bob.ask("sync", since=0, limit=500))["contacts"]
        assert {contact["address"]: contact["state"] for contact in last}[ALICE] == "none"
        assert (await bob.ask("lookup", address=NOBODY))["way"] == "none"
        assert await error(bob.ask("consent", action="grant", address="x")) == "bad-request"

    house.run(run())
