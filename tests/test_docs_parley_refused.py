"""What the specification says must be refused, is: Appendix B's vectors, made and tried here."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from hashlib import sha256
from typing import Any, NamedTuple

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec.structs import replace
from twisted.internet.defer import Deferred as Waiting

from gatewayd.address import Address, Domain
from gatewayd.core.accepting import Accepting, Handover
from gatewayd.core.delivery import LARGEST, LARGEST_MAIL
from gatewayd.core.keys import KeysUnavailable
from gatewayd.core.posting import Letter
from gatewayd.core.story import Story
from gatewayd.crypto import cose, domain_auth
from gatewayd.crypto.domain_keys import KeySet, PublicKey, SigningKey
from gatewayd.message.model import Content, Part, Payload
from gatewayd.outcome import Delivered, Outcome
from gatewayd.session.parley_send import Sending
from gatewayd.wire.parley import RemoteProtocolError, schema
from gatewayd.wire.parley.connection import ParleyConnection, Request
from gatewayd.wire.parley.schema import Hello, Send

ALPHA, BETA = Domain.parse("alpha.test"), Domain.parse("beta.test")
KEY = SigningKey.of(ALPHA, Ed25519PrivateKey.from_private_bytes(b"\1" * 32))
KEY_SET = KeySet("alpha.test", 1767225600, (PublicKey(KEY.kid, KEY.public, 1735689600, 1798761600),))
EXPORTER = b"\2" * 32
NOW = 1735689601
BODY = b"Hello, Bob.\n"
DIGEST = sha256(BODY).digest()
FIELDS = Payload(
    from_="alice@alpha.test", to=("bob@beta.test",), date=1735689600000, nonce=b"\3" * 16, subject="Hello",
    parts=(Part(DIGEST, "text/plain; charset=utf-8", len(BODY)),),
)  # fmt: skip


def framed(octets: bytes) -> bytes:
    return len(octets).to_bytes(4, "big") + octets


def nested(depth: int) -> bytes:
    """A frame as deep as that."""
    inner = b"\x81" * (depth - 3) + b"\x00" if depth > 2 else b"\x00"
    return framed(b"\x84\x01\x01\x64keys\xa1\x61x" + b"\x81" + inner)


def request(method: str, body: Any) -> bytes:
    return framed(cbor2.dumps([1, 1, method, body]))


FRAMES = [
    ("bad-frame", "a map without a length", framed(b"\x84\x01\x01\x64keys\xbf\xff")),
    ("bad-frame", "a text in pieces", framed(b"\x84\x01\x01\x7f\x64keys\xff\xa0")),
    ("bad-frame", "a tag", framed(b"\x84\x01\x01\x64keys\xa1\x61x\xc1\x00")),
    ("bad-frame", "a float", framed(b"\x84\x01\x01\x64keys\xa1\x61x\xf9\x3c\x00")),
    ("bad-frame", "undefined", framed(b"\x84\x01\x01\x64keys\xa1\x61x\xf7")),
    ("bad-frame", "a key twice", framed(b"\x84\x01\x01\x64keys\xa2\x61x\x00\x61x\x00")),
    ("bad-frame", "a key that is no text", framed(b"\x84\x01\x01\x64keys\xa1\x01\x00")),
    ("bad-frame", "text that is not UTF-8", framed(b"\x84\x01\x01\x64keys\xa1\x61x\x61\xff")),
    ("bad-frame", "17 deep", nested(17)),
    ("bad-frame", "cut off", framed(b"\x84\x01\x01\x64key")),
    ("bad-frame", "more after the item", framed(b"\x84\x01\x01\x64keys\xa0\x00")),
    ("bad-frame", "an array of five", framed(b"\x85\x01\x01\x64keys\xa0\x00")),
    ("bad-frame", "kind 5", framed(b"\x84\x05\x00\x60\xa0")),
    ("bad-frame", "a request on stream 0", framed(b"\x84\x01\x00\x64keys\xa0")),
    ("bad-frame", "a push on stream 1", framed(b"\x84\x03\x01\x67changes\xa0")),
    ("bad-frame", "a reply to nothing", framed(b"\x84\x02\x01\x64keys\xa0")),
    ("bad-frame", "HELLO again", framed(cbor2.dumps([0, 0, "", {"version": 1, "name": "x", "frame": 65536}]))),
    ("too-big", "65,537 octets announced, before sign-in", b"\x00\x01\x00\x01"),
]
FIRST = [
    ("bad-frame", "a request before HELLO", request("keys", {"domain": "beta.test"})),
    ("bad-request", "HELLO without a name", framed(cbor2.dumps([0, 0, "", {"version": 1, "frame": 65536}]))),
    ("version", "HELLO of version 2", framed(cbor2.dumps([0, 0, "", {"version": 2, "name": "x", "frame": 65536}]))),
    ("version", "frames of 1023 octets", framed(cbor2.dumps([0, 0, "", {"version": 1, "name": "x", "frame": 1023}]))),
]
REQUESTS = [
    ("bad-request", "the domain as octets", request("keys", {"domain": b"beta.test"})),
    ("bad-request", "a modseq below 0", request("sync", {"since": -1})),
    ("bad-request", "true for a number", request("sync", {"since": True})),
    ("bad-request", "no system flag", request("mark", {"mailbox": "INBOX", "uids": [1], "add": ["\\seen"]})),
    ("bad-request", "an id of 31 octets", request("fetch", {"ids": [bytes(31)]})),
    ("bad-request", "a kind of mailbox action", request("mailboxes", {"action": "empty", "mailbox": "Trash"})),
]


def proof(label: str, role: str, dialling: str, dialled: str, exporter: bytes) -> bytes:
    return KEY.private.sign(cbor2.dumps([label, role, dialling, dialled, exporter]))


PROOFS = [
    ("another label", proof("parley/1 domain", "dialler", "alpha.test", "beta.test", EXPORTER)),
    ("of a listener", proof("parley/1 domain auth", "listener", "alpha.test", "beta.test", EXPORTER)),
    ("to another domain", proof("parley/1 domain auth", "dialler", "alpha.test", "gamma.test", EXPORTER)),
    ("of another connection", proof("parley/1 domain auth", "dialler", "alpha.test", "beta.test", b"\4" * 32)),
]


class Case(NamedTuple):
    """An object of alpha.test that comes from there: Appendix A's, but for what is given."""

    code: str
    what: str
    shown: bytes  # what the specification prints
    signed: bytes
    bodies: tuple[bytes, ...] = (BODY,)
    when: float = NOW


def seal(protected: bytes, payload: bytes, signature: bytes | None = None) -> bytes:
    structure = cbor2.dumps(["Signature1", protected, b"", payload])
    return cbor2.dumps([protected, {}, payload, KEY.private.sign(structure) if signature is None else signature])


def _objects() -> list[Case]:
    payload = FIELDS.encode()
    batch = cose.sign_batch([replace(FIELDS, nonce=nonce * 16).encode() for nonce in (b"\3", b"\4", b"\5")], KEY)
    (header, first), third = batch[0], batch[2][1]
    plain = cose.sign(payload, KEY)[0]

    def signature(what: str, protected: bytes, octets: bytes) -> Case:
        return Case("5.7.7", what, octets, seal(protected, payload, octets))

    def of_header(code: str, what: str, fields: dict[Any, Any]) -> Case:
        protected = cbor2.dumps(fields, canonical=True)
        return Case(code, what, protected, seal(protected, payload))

    def of_payload(what: str, **fields: Any) -> Case:
        raw = {**cbor2.loads(payload), **fields}
        octets = cbor2.dumps({name: value for name, value in raw.items() if value is not None}, canonical=True)
        return Case("5.6.0", what, octets, seal(plain, octets))

    other = first[:68] + bytes(32)
    label = cbor2.dumps(["Signature", plain, b"", payload])
    return [
        signature("alone, of another context", plain, KEY.private.sign(label)),
        signature("in the batch, of the third", header, third),
        signature("in the batch, another hash in the path", header, other),
        signature("in the batch, a side beyond the path", header, first[:64] + b"\0\0\0\2" + first[68:]),
        signature("in the batch, no path", header, first[:68]),
        signature("in the batch, half a hash", header, first[:84]),
        of_header("5.7.7", "header: ES256", {1: -7, 4: KEY.kid, "iss": "alpha.test"}),
        of_header("5.7.7", "header: one label more", {1: -8, 2: ["iss"], 4: KEY.kid, "iss": "alpha.test"}),
        of_header("4.7.5", "header: a kid that no set of the domain has", {1: -8, 4: bytes(8), "iss": "alpha.test"}),
        of_payload("payload: no nonce", nonce=None),
        of_payload("payload: a date before 1970", date=-1),
        of_payload("payload: an edit of nothing", type="edit"),
        Case("5.6.0", "body: another", BODY[:-1], seal(plain, payload), (BODY[:-1],)),
        Case("5.6.0", "body: none", b"", seal(plain, payload), ()),
    ]  # fmt: skip


OBJECTS = _objects()
OVER = Case("5.7.7", "", b"", seal(cose.sign(FIELDS.encode(), KEY)[0], FIELDS.encode()), when=1798761601)
TAGGED = Case("5.6.0", "", b"", b"\xd2" + OVER.signed)
CRITICAL = replace(FIELDS, ext={"x": 1}, crit=("x",)).encode()

TEXT = """
Appendix B. What must be refused
--------------------------------

In hex; each with the error, or the status of the recipients, that it gets. Frames that come after a HELLO, and end the
connection{frames}
Frames in place of a HELLO{first}
Requests that are answered by an error, the connection going on{requests}
Signatures of section 4.3, from alpha.test to beta.test as in Appendix A: all ``auth-failed``, as is the one there after
the second 1798761600{proofs}
Objects that alpha.test sends: the one of Appendix A, but for the signature, protected header (signed anew), payload
(signed anew) or body that is given. The one of Appendix A itself gets 5.7.7 if it comes after the second 1798761600,
and 5.6.0 as a tagged COSE_Sign1, with d2 before it{objects}
This payload is taken by servers, and MUST NOT be shown by a client that does not know the extension ``x``{critical}"""


def refused() -> str:
    """Appendix B."""

    def block(lines: Sequence[tuple[str, bytes]]) -> str:
        text = "::\n\n"
        for what, octets in lines:
            text += f"    {what}\n" if what else ""
            text += textwrap.indent("\n".join(textwrap.wrap(octets.hex(), 100)) or "(nothing)", "      ") + "\n"
        return text

    def coded(vectors: Sequence[tuple[str, str, bytes]]) -> str:
        return block([(f"{code}: {what}", octets) for code, what, octets in vectors])

    return TEXT.format(
        frames=coded(FRAMES), first=coded(FIRST), requests=coded(REQUESTS), proofs=block(PROOFS),
        objects=coded([(case.code, case.what, case.shown) for case in OBJECTS]), critical=block([("", CRITICAL)]),
    )  # fmt: skip


def receive(octets: bytes, *, greeted: bool) -> Any:
    engine = ParleyConnection()
    hello = Hello(1, "x", 65536)
    engine.send(hello)
    if greeted:
        engine.receive(ParleyConnection().send(hello))
    (event,) = engine.receive(octets)
    return event


@pytest.mark.parametrize(("code", "what", "octets"), FRAMES)
def test_frames(code: str, what: str, octets: bytes) -> None:
    with pytest.raises(RemoteProtocolError) as refused:
        receive(octets, greeted=True)
    assert refused.value.code == code


def test_frames_that_are_just_right() -> None:
    """What is refused is refused for the reason given."""
    assert isinstance(receive(nested(16), greeted=True), Request)
    assert isinstance(receive(framed(b"\x84\x01\x18\x01\x64keys\xa0"), greeted=True), Request)  # not the shortest form


@pytest.mark.parametrize(("code", "what", "octets"), FIRST)
def test_first_frames(code: str, what: str, octets: bytes) -> None:
    with pytest.raises(RemoteProtocolError) as refused:
        receive(octets, greeted=False)
    assert refused.value.code == code


@pytest.mark.parametrize(("code", "what", "octets"), REQUESTS)
def test_requests(code: str, what: str, octets: bytes) -> None:
    with pytest.raises(RemoteProtocolError) as refused:
        event = receive(octets, greeted=True)
        schema.read(getattr(schema, event.method.capitalize()), event.body)
    assert refused.value.code == code


@pytest.mark.parametrize(("what", "octets"), PROOFS)
def test_proofs(what: str, octets: bytes) -> None:
    with pytest.raises(cose.SignatureError):
        domain_auth.verify(octets, KEY.kid, KEY_SET, ALPHA, BETA, EXPORTER, NOW)


def test_a_good_proof_of_a_key_that_is_over() -> None:
    good = domain_auth.sign(KEY, BETA, EXPORTER)
    domain_auth.verify(good, KEY.kid, KEY_SET, ALPHA, BETA, EXPORTER, NOW)
    for kid, when in ((KEY.kid, 1798761601), (bytes(8), NOW)):
        with pytest.raises(cose.SignatureError):
            domain_auth.verify(good, kid, KEY_SET, ALPHA, BETA, EXPORTER, when)


class Office:
    """What stands around core/accepting.py: alpha.test's keys, and a mailbox for everybody."""

    def __init__(self, when: float) -> None:
        self.when = when

    async def verify_all(self, contents: Sequence[Content]) -> list[Domain | Exception]:
        return [self.verified(content) for content in contents]

    def verified(self, content: Content) -> Domain | Exception:
        try:
            if not KEY_SET.knows(cose.signer(content.protected)[1]):
                return KeysUnavailable()
            return cose.verify(content.protected, content.payload, content.signature, KEY_SET, self.when)
        except cose.SignatureError as error:
            return error

    async def is_ours(self, address: Address) -> bool:
        return True

    async def post_all(self, letters: Sequence[Letter]) -> list[dict[Address, Outcome]]:
        return [dict.fromkeys(letter.envelope.recipients, Delivered("2.0.0", "Delivered")) for letter in letters]


def answer(case: Case) -> str:
    office: Any = Office(case.when)
    accepting = Accepting(
        office, office, BETA, office, office, None, office, office, Story(lambda: NOW), lambda: NOW, LARGEST,
        LARGEST_MAIL,
    )  # fmt: skip

    def accept(handover: Handover, answered: Any) -> None:
        Waiting.fromCoroutine(accepting.accept([handover])).addCallback(lambda answers: answered(answers[0]))

    done: list[Any] = []
    send = Send(("bob@beta.test",), case.bodies, signed=case.signed, from_="alice@alpha.test")
    Sending(lambda submission, answered: None, accept).from_peer(ALPHA, send, office, done.append)
    (reply,) = done
    code: str = reply.results[0].code
    return code


@pytest.mark.parametrize("case", [*OBJECTS, OVER, TAGGED], ids=lambda case: case.what)
def test_objects(case: Case) -> None:
    assert answer(case) == case.code


def test_objects_that_are_just_right() -> None:
    plain = cose.sign(FIELDS.encode(), KEY)[0]
    assert answer(OVER._replace(when=NOW)) == "2.0.0"
    assert answer(OVER._replace(when=NOW, signed=seal(plain, CRITICAL))) == "2.0.0"
    shuffled = cbor2.dumps(dict(reversed(cbor2.loads(FIELDS.encode()).items())))  # the author's duty, not the reader's
    assert answer(OVER._replace(when=NOW, signed=seal(plain, shuffled))) == "2.0.0"
