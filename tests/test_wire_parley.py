"""The engine and its frames: any split, any octets; and docs/parley.cddl says what the code says."""

from __future__ import annotations

import secrets
from itertools import pairwise
from pathlib import Path
from typing import Any

import cbor2
import pycddl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatewayd.address import Domain
from gatewayd.crypto import cose, domain_auth
from gatewayd.crypto.domain_keys import KeySet, PublicKey, SigningKey
from gatewayd.message.model import Content, Part, Payload
from gatewayd.wire.parley import LocalProtocolError, RemoteProtocolError
from gatewayd.wire.parley.connection import Bye, Event, ParleyConnection, Push, Request, Response
from gatewayd.wire.parley.frames import FrameReader, decode, encode
from gatewayd.wire.parley.schema import (
    Auth,
    AuthReply,
    Body,
    Change,
    Changes,
    Error,
    Hello,
    Keys,
    KeysReply,
    Mark,
    Result,
    Send,
    SendReply,
    Sync,
    plain,
)

CDDL = (Path(__file__).parent.parent / "docs/parley.cddl").read_text()
SCHEMA = pycddl.Schema(CDDL)
ALPHA, BETA = Domain.parse("alpha.test"), Domain.parse("beta.test")
KEY = SigningKey.generate(ALPHA)
BODY = b"Hello"


def content() -> Content:
    payload = Payload(
        "alice@alpha.test", ("bob@beta.test",), 1735689600000, secrets.token_bytes(16), subject="Hi",
        parts=(Part(secrets.token_bytes(32), "text/plain", 5, "a.txt"),), parents=(secrets.token_bytes(32),),
        ext={"bridged": {"by": "alpha.test"}},
    ).encode()  # fmt: skip
    protected, signature = cose.sign(payload, KEY)
    return Content(protected, payload, signature, {})


SIGNED = content()
KEY_SET = KeySet("alpha.test", 1735689600, (PublicKey(KEY.kid, KEY.public, 0, 2000000000),)).encode()
CHANGES = Changes(
    (
        Change("INBOX", 7, 9, flags=("\\Seen",), id=SIGNED.id, signed=SIGNED.signed, bodies=(BODY,)),
        Change("Junk", 1, 10, gone=True),
    ),
    10,
    more=True,
)
ASKED: list[tuple[str, Body]] = [
    ("auth", Auth("SCRAM-SHA-256-PLUS", b"p=tls-exporter,,n=alice,r=x")),
    ("auth", Auth("DOMAIN", domain_auth.sign(KEY, BETA, b"\2" * 32), "alpha.test", "beta.test", KEY.kid)),
    ("keys", Keys("beta.test")),
    ("send", Send(("bob@beta.test",), (BODY,), payload=SIGNED.payload)),
    ("send", Send(("bob@beta.test",), (BODY,), signed=SIGNED.signed, from_="alice@alpha.test")),
    ("send", Send(("bob@beta.test",), signed=SIGNED.signed)),
    ("sync", Sync(0, 100, True)),
    ("mark", Mark("INBOX", (1, 2), add=("\\Seen",), remove=("x",), move="Archive")),
    ("mark", Mark("INBOX", (), delete=True)),
]
ANSWERED: list[tuple[str, Body]] = [
    ("auth", AuthReply(False, b"r=x,s=y,i=4096")),
    ("auth", AuthReply(True)),
    ("keys", KeysReply(KEY_SET)),
    ("send", SendReply((Result("bob@beta.test", "2.0.0", "Delivered"), Result("x", "4.4.1", "later", 60)))),
    ("sync", CHANGES),
    ("mark", Changes((), 12)),
    ("sync", Error("unavailable", "the disk")),
    ("nonsense", Error("unknown-method", "nonsense")),
]


def pair() -> tuple[ParleyConnection, ParleyConnection]:
    """Two ends that have said HELLO."""
    one, other = ParleyConnection(), ParleyConnection()
    other.receive(one.send(Hello(1, "one", 65536, 1000, 86400)))
    one.receive(other.send(Hello(1, "other", 1 << 20)))
    return one, other


def received(body: Body) -> Any:
    return cbor2.loads(cbor2.dumps(plain(body)))


def conversation() -> tuple[bytes, list[Event]]:
    """What one end of a whole conversation says, and what it is."""
    one, other = pair()
    fresh = ParleyConnection()
    octets = fresh.send(Hello(1, "one", 65536))
    events: list[Event] = [Hello(1, "one", 65536)]
    for method, body in ASKED:
        events.append(Request(one.new_stream(), method, received(body)))
        octets += one.send(events[-1])
    for stream, (method, body) in enumerate(ANSWERED, 1):
        one.receive(other.send(Request(stream, method, {})))
        octets += one.send(Response(stream, method, body))
        events.append(Response(stream, method, received(body)))
    events += [Push("changes", received(CHANGES)), Bye("timeout", "idle")]
    octets += one.send(events[-2]) + one.send(events[-1])
    return octets, events


OCTETS, EVENTS = conversation()


def listener() -> ParleyConnection:
    """One that has asked what ANSWERED answers."""
    made = ParleyConnection()
    made.send(Hello(1, "listener", 65536))
    for stream, (method, _) in enumerate(ANSWERED, 1):
        made.send(Request(stream, method, {}))
    return made


def items(octets: bytes) -> list[bytes]:
    found = []
    while octets:
        end = 4 + int.from_bytes(octets[:4], "big")
        found.append(octets[4:end])
        octets = octets[end:]
    return found


def test_every_frame_is_of_the_schema() -> None:
    said = items(OCTETS)
    assert len(said) == 3 + len(ASKED) + len(ANSWERED)
    for item in said:
        SCHEMA.validate_cbor(item)
    for rule, octets in (
        ("signed", SIGNED.signed), ("protected", SIGNED.protected), ("payload", SIGNED.payload), ("key-set", KEY_SET),
    ):  # fmt: skip
        pycddl.Schema(f"root = {rule}\n{CDDL}").validate_cbor(octets)


@pytest.mark.parametrize(
    "frame",
    [
        [0, 0, "", {"version": 2, "name": "x", "frame": 65536}],
        [0, 0, "", {"version": 1, "name": "x", "frame": 10}],
        [0, 0, "", {"version": 1, "frame": 65536}],
        [5, 0, "", {}],
        [1, 1, "keys", {"domain": 1}],
        [1, 1, "send", {"to": []}],
        [1, 1, "sync", {"since": -1}],
        [1, 1, "keys"],
        {"kind": 1},
        [1, "1", "keys", {"domain": "beta.test"}],
        [3, 0, "changes", {"changes": [{"mailbox": "INBOX"}], "modseq": 1}],
    ],
)
def test_what_the_schema_refuses(frame: Any) -> None:
    with pytest.raises(pycddl.ValidationError):
        SCHEMA.validate_cbor(cbor2.dumps(frame))


def test_unknown_fields_are_ignored() -> None:
    octets = cbor2.dumps([0, 0, "", {"version": 1, "name": "x", "frame": 65536, "news": [1, {"a": None}]}])
    SCHEMA.validate_cbor(octets)
    assert ParleyConnection().receive(len(octets).to_bytes(4, "big") + octets) == [Hello(1, "x", 65536)]


@given(st.lists(st.integers(0, len(OCTETS)), max_size=40))
def test_any_split_gives_the_same_events(cuts: list[int]) -> None:
    engine = listener()
    points = [0, *sorted(cuts), len(OCTETS)]
    got = [event for a, b in pairwise(points) for event in engine.receive(OCTETS[a:b])]
    assert got == EVENTS


def test_octet_by_octet() -> None:
    engine = listener()
    assert [event for octet in OCTETS for event in engine.receive(bytes([octet]))] == EVENTS


@given(st.lists(st.binary(max_size=200), max_size=10))
def test_random_octets_raise_one_error_only(chunks: list[bytes]) -> None:
    engine = listener()
    try:
        for chunk in [*chunks, b""]:
            engine.receive(chunk)
    except RemoteProtocolError as error:
        assert error.code in {"bad-frame", "too-big", "version", "bad-request"}


@given(st.integers(0, len(OCTETS) - 1), st.integers(0, 255), st.integers(0, 3))
def test_mutations_raise_one_error_only(where: int, octet: int, how: int) -> None:
    mutated = {
        0: OCTETS[:where] + bytes([octet]) + OCTETS[where + 1 :],
        1: OCTETS[:where] + OCTETS[where + 1 :],
        2: OCTETS[:where] + bytes([octet]) + OCTETS[where:],
        3: OCTETS[:where] + OCTETS[where:][::-1],
    }[how]
    try:
        listener().receive(mutated)
    except RemoteProtocolError as error:
        assert error.text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(JSON)
def test_items_come_back(item: Any) -> None:
    assert list(FrameReader(1 << 20).feed(encode(item, 1 << 20))) == [item]


@given(st.binary(max_size=300))
def test_what_is_decoded_is_what_cbor2_decodes(octets: bytes) -> None:
    """Our walk over the heads never lets through what the library reads otherwise."""
    try:
        item = decode(octets)
    except RemoteProtocolError:
        return
    assert item == cbor2.loads(octets)


@pytest.mark.parametrize(
    "octets",
    [
        b"", b"\xff", b"\x81" * 1000 + b"\x00", b"\x81" * 17 + b"\x00", b"\x9f\xff", b"\xbf\xff", b"\x5f\xff",
        b"\xc0\x60", b"\xf9\x00\x00", b"\xfb" + bytes(8), b"\xf7", b"\xe0", b"\xf8\x20", b"\x00\x00",
        b"\xa2\x01\x01\x01\x02", b"\x9b\xff\xff\xff\xff\xff\xff\xff\xff", b"\x5b\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\xbb\x7f\xff\xff\xff\xff\xff\xff\xff", b"\x1c", b"\x62\xff\xff", b"\xd8\x12\x80",
    ],
    ids=lambda octets: octets[:8].hex(),
)  # fmt: skip
def test_not_strict_cbor(octets: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="bad-frame"):
        decode(octets)


def test_an_announced_length_is_judged_before_its_octets_come() -> None:
    reader = FrameReader(1000)
    with pytest.raises(RemoteProtocolError, match="too-big"):
        list(reader.feed((1001).to_bytes(4, "big")))


def test_strangers_have_small_frames() -> None:
    engine = ParleyConnection()
    announced = (70_000).to_bytes(4, "big")
    with pytest.raises(RemoteProtocolError, match="too-big"):
        engine.receive(announced)
    trusting = ParleyConnection()
    trusting.trust()
    assert trusting.receive(announced) == []


def test_states_of_the_peer() -> None:
    hello = ParleyConnection().send(Hello(1, "x", 65536))

    def frame(kind: int, stream: int, method: str, body: dict[str, Any]) -> bytes:
        return encode([kind, stream, method, body], 65536)

    for octets in (
        frame(1, 1, "keys", {}),  # before HELLO
        hello + hello,
        hello + frame(2, 1, "keys", {}),  # a reply to nothing
        hello + frame(1, 1, "keys", {}) * 2,  # a stream that is in use
        hello + b"".join(frame(1, n, "keys", {}) for n in range(1, 1002)),  # too many open
        hello + frame(9, 0, "", {}),
        hello + frame(True, 0, "", {}),
    ):
        engine = ParleyConnection()
        with pytest.raises(RemoteProtocolError):
            for chunk in (octets, b""):
                engine.receive(chunk)
    assert ParleyConnection().receive(hello + frame(4, 0, "", {}) + b"rubbish after BYE")[-1] == Bye("", "")


def test_our_own_mistakes() -> None:
    for event in (Request(1, "keys", {}), Push("changes", {}), Response(1, "keys", {})):
        with pytest.raises(LocalProtocolError):
            ParleyConnection().send(event)
    one, _ = pair()
    with pytest.raises(LocalProtocolError, match="once"):
        one.send(Hello(1, "again", 65536))
    with pytest.raises(LocalProtocolError, match="no such request"):
        one.send(Response(5, "keys", {}))
    with pytest.raises(LocalProtocolError, match="the peer takes 1048576"):
        one.send(Push("changes", {"x": bytes(1 << 20)}))
    one.send(Bye("", ""))
    with pytest.raises(LocalProtocolError, match="BYE"):
        one.send(Push("changes", {}))
    with pytest.raises(LocalProtocolError, match="STARTTLS"):
        one.tls_started()


def test_a_reply_is_of_the_method_that_was_asked() -> None:
    one, other = pair()
    one.send(Request(1, "keys", {}))
    other.receive(one.send(Request(2, "sync", {})))
    with pytest.raises(RemoteProtocolError, match="a reply to nothing"):
        one.receive(encode([2, 1, "sync", {}], 65536))


def test_a_stream_is_free_again_when_it_is_answered() -> None:
    one, other = pair()
    for _ in range(3):
        assert other.receive(one.send(Request(7, "keys", {}))) == [Request(7, "keys", {})]
        assert one.receive(other.send(Response(7, "keys", {}))) == [Response(7, "keys", {})]
        with pytest.raises(LocalProtocolError, match="no such request"):
            other.send(Response(7, "keys", {}))


def test_what_was_too_large_to_send_was_not_sent() -> None:
    """The stream stays as it was: free for another request, and owed another reply."""
    one, other = pair()
    large = {"x": bytes(1 << 20)}
    with pytest.raises(LocalProtocolError, match="the peer takes"):
        one.send(Request(1, "keys", large))
    with pytest.raises(RemoteProtocolError, match="a reply to nothing"):
        one.receive(encode([2, 1, "keys", {}], 65536))
    one, other = pair()
    other.receive(one.send(Request(1, "keys", {})))
    with pytest.raises(LocalProtocolError, match="the peer takes"):
        other.send(Response(1, "keys", large))
    assert one.receive(other.send(Response(1, "keys", {}))) == [Response(1, "keys", {})]


def test_nothing_is_read_after_bye() -> None:
    one, other = pair()
    assert other.receive(one.send(Bye("", "")) + b"rubbish") == [Bye("", "")]
    for octets in (b"", b"more rubbish", bytes(100)):
        assert other.receive(octets) == []


def test_nothing_is_read_after_an_error() -> None:
    """Neither what comes later nor what stood behind it in the same octets."""
    one, other = pair()
    good = one.send(Request(1, "keys", {}))
    assert other.receive(good + b"\xff\xff\xff\xff" + good) == [Request(1, "keys", {})]
    for octets in (b"", good):
        with pytest.raises(RemoteProtocolError, match="too-big"):
            other.receive(octets)


@pytest.mark.parametrize(
    ("octets", "why"),
    [
        (b"\xc1\x00", "tags"),
        (b"\x81\xd8\x2a\x60", "tags"),
        (b"\x9a\x00\x01\x00\x00\x00", "more items announced"),
        (b"\xba\x00\x01\x00\x00\x00", "more items announced"),
        (b"\x81" * 17 + b"\x00", "nested deeper"),
        (b"\x9f\xff", "definite"),
        (b"\xfb" + bytes(8), "floats"),
        (b"\x00\x00", "octets after"),
        (b"\x19\x00", "cut off"),
    ],
)
def test_the_error_says_what_is_wrong(octets: bytes, why: str) -> None:
    with pytest.raises(RemoteProtocolError, match=why):
        decode(octets)


def test_an_announced_frame_holds_no_memory_until_it_comes() -> None:
    """A frame of 80 MB is announced; what is kept is what has come."""
    engine, _ = pair()
    engine.trust(80 << 20)
    engine.receive((80 << 20).to_bytes(4, "big"))
    for _ in range(100):
        assert engine.receive(bytes(10)) == []
    assert len(engine._reader._buffer) == 1004
