"""What docs/parley.cddl refuses the code refuses too, before anything is done with it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import cbor2
import pycddl
import pytest

from fuzz.grammar import ANSWERED, ASKED, CDDL
from gatewayd.address import Domain
from gatewayd.crypto.cose import SignatureError, signer
from gatewayd.crypto.domain_keys import KeySet, KeySetError
from gatewayd.message.model import Content, ObjectError, Payload
from gatewayd.session import parley_server
from gatewayd.wire.parley import RemoteProtocolError
from gatewayd.wire.parley.connection import ParleyConnection, Push, Request, Response
from gatewayd.wire.parley.schema import (
    Changes,
    Hello,
    Signalled,
    read,
)

SCHEMA = pycddl.Schema(CDDL)

HELLO = {"version": 1, "name": "x", "frame": 65536}
DOMAIN = {"mechanism": "DOMAIN", "data": bytes(64), "domain": "a.test", "to": "b.test", "kid": b"k"}
RESULT = {"to": "bob@beta.test", "code": "2.0.0", "text": "Delivered"}
CHANGE = {"mailbox": "INBOX", "uid": 1, "modseq": 2}
SIGNAL = {"kind": "typing", "state": "composing", "lease": 10}
MARK = {"mailbox": "INBOX", "uids": [1]}
CONTACT = {"address": "bob@beta.test", "state": "granted", "since": 1735689600000, "modseq": 3}
MAILBOX = {"name": "INBOX", "uidvalidity": 1, "modseq": 2}
OBJECT = {"id": bytes(32), "signed": b"x"}
PUT = {"hash": bytes(32), "size": 100_000, "offset": 0}

GOOD: list[list[Any]] = [
    [0, 0, "", HELLO],
    [1, 1, "auth", DOMAIN],
    [1, 4294967295, "sync", {"since": 0, "limit": 1}],
    [1, 1, "sync", {"since": 7, "epoch": b"12345678", "content": "signed", "live": True}],
    [2, 1, "sync", {"changes": [], "modseq": 7, "epoch": bytes(32)}],
    [1, 1, "mark", {**MARK, "add": ["\\Seen", "$Forwarded", "later"], "move": "Junk"}],
    [1, 1, "mark", {**MARK, "displayed": True}],
    [1, 1, "put", PUT],
    [1, 1, "put", {**PUT, "data": bytes(65000)}],
    [2, 1, "put", {"offset": 0}],
    [1, 1, "get", {"hash": bytes(32), "offset": 2**63 - 1}],
    [2, 1, "get", {"data": b"", "size": 100_000}],
    [1, 1, "fetch", {"ids": [bytes(32)]}],
    [1, 1, "mailboxes", {"action": "list"}],
    [1, 1, "mailboxes", {"action": "rename", "mailbox": "a", "to": "b"}],
    [1, 1, "mailboxes", {"action": "unsubscribe", "mailbox": "a"}],
    [2, 1, "mailboxes", {"mailboxes": [{**MAILBOX, "use": "\\Sent", "uidnext": 1, "messages": 0, "unseen": 0}]}],
    [2, 1, "mailboxes", {}],
    [3, 0, "changes", {"changes": [], "modseq": 3, "mailboxes": [{**MAILBOX, "gone": True}]}],
    [2, 1, "fetch", {"objects": [OBJECT, {**OBJECT, "bodies": [b"x", b""]}], "more": True}],
    [2, 1, "fetch", {"objects": []}],
    [2, 1, "send", {"results": [RESULT]}],
    [2, 1, "sync", {"changes": [CHANGE], "modseq": 2}],
    [3, 0, "changes", {"changes": [{**CHANGE, "gone": True}], "modseq": 2}],
    [1, 1, "signal", {**SIGNAL, "to": ["bob@beta.test"]}],
    [1, 1, "signal", {**SIGNAL, "to": ["bob@beta.test"], "from": "carol@gamma.test", "about": bytes(32)}],
    [2, 1, "signal", {}],
    [2, 1, "signal", {"skipped": ["bob@beta.test"]}],
    [3, 0, "signal", {**SIGNAL, "from": "bob@beta.test"}],
    [3, 0, "changes", {"changes": [], "modseq": 3, "contacts": [CONTACT, {**CONTACT, "state": "none"}]}],
    [1, 1, "consent", {"action": "list"}],
    [1, 1, "consent", {"action": "revoke", "address": "bob@beta.test"}],
    [1, 1, "consent", {"action": "request", "address": "bob@beta.test", "from": "alice@alpha.test"}],
    [2, 1, "consent", {"contacts": [CONTACT]}],
    [2, 1, "consent", {}],
    [1, 1, "lookup", {"address": "bob@beta.test", "from": "alice@alpha.test"}],
    [2, 1, "lookup", {"granted": True, "introduction": 2000}],
    [2, 1, "lookup", {"way": "mail", "state": "granted"}],
    [4, 0, "", {"code": "", "text": ""}],
]

BAD: list[Any] = [
    # the frame
    {"kind": 0},
    [0, 0, ""],
    [0, 0, "", HELLO, 1],
    [0, 0, "", [HELLO]],
    [0, 0, "", None],
    [0, 1, "", HELLO],
    [-1, 0, "", {}],
    [5, 0, "", {}],
    ["0", 0, "", HELLO],
    [False, 0, "", HELLO],
    [1, 0, "keys", {"domain": "beta.test"}],
    [1, -1, "keys", {"domain": "beta.test"}],
    [1, 2**32, "keys", {"domain": "beta.test"}],
    [1, True, "keys", {"domain": "beta.test"}],
    [1, "1", "keys", {"domain": "beta.test"}],
    [1, 1, None, {"domain": "beta.test"}],
    [1, 1, "keys", {"domain": "beta.test", 7: 1}],
    [2, 0, "keys", {"keys": b""}],
    [3, 1, "changes", {"changes": [], "modseq": 1}],
    # consent and lookup
    [1, 1, "consent", {}],
    [1, 1, "consent", {"address": "bob@beta.test"}],
    [1, 1, "consent", {"action": "forgive", "address": "bob@beta.test"}],
    [2, 1, "consent", {"contacts": [{**CONTACT, "state": "loved"}]}],
    [2, 1, "consent", {"contacts": [{"address": "bob@beta.test"}]}],
    [1, 1, "lookup", {}],
    [1, 1, "lookup", {"address": None}],
    [2, 1, "lookup", {"way": "pigeon"}],
    [2, 1, "lookup", {"way": ""}],
    [2, 1, "lookup", {"way": None}],
    [2, 1, "lookup", {"introduction": -1}],
    [3, 0, "changes", {"changes": [], "modseq": 1, "contacts": {}}],
    # HELLO
    [0, 0, "", {}],
    [0, 0, "", {**HELLO, "version": 2}],
    [0, 0, "", {**HELLO, "version": "1"}],
    [0, 0, "", {**HELLO, "frame": 1023}],
    [0, 0, "", {**HELLO, "frame": 2**32}],
    [0, 0, "x", HELLO],
    [4, 0, "keys", {"code": "", "text": ""}],
    [0, 0, "", {**HELLO, "frame": "65536"}],
    [0, 0, "", {**HELLO, "name": b"x"}],
    [0, 0, "", {**HELLO, "remember": -1}],
    # auth, keys
    [1, 1, "auth", {"data": b""}],
    [1, 1, "auth", {"mechanism": 1, "data": b""}],
    [1, 1, "auth", {"mechanism": "SCRAM-SHA-256-PLUS", "data": "biwsbj1ib2I="}],
    [1, 1, "auth", {**DOMAIN, "kid": "a2lk"}],
    [1, 1, "auth", {**DOMAIN, "domain": None}],
    [1, 1, "keys", {}],
    [1, 1, "keys", {"domain": b"beta.test"}],
    [2, 1, "auth", {"done": 1}],
    [2, 1, "auth", {"done": "true"}],
    [2, 1, "keys", {"keys": "AA=="}],
    # send
    [1, 1, "send", {"payload": b""}],
    [1, 1, "send", {"to": "bob@beta.test", "payload": b""}],
    [1, 1, "send", {"to": [b"bob@beta.test"], "payload": b""}],
    [1, 1, "send", {"to": ["bob@beta.test"], "payload": "AA=="}],
    [1, 1, "send", {"to": ["bob@beta.test"], "payload": b"", "bodies": b"x"}],
    [1, 1, "send", {"to": ["bob@beta.test"], "payload": b"", "bodies": ["AA=="]}],
    [1, 1, "send", {"to": ["bob@beta.test"], "signed": b"", "from": None}],
    [2, 1, "send", {"results": [{"to": "bob@beta.test", "text": ""}]}],
    [2, 1, "send", {"results": [{**RESULT, "code": 2}]}],
    [2, 1, "send", {"results": [{**RESULT, "retry": -1}]}],
    [2, 1, "send", {"results": RESULT}],
    # sync, mark
    [1, 1, "sync", {}],
    [1, 1, "sync", {"since": -1}],
    [1, 1, "sync", {"since": 2**63}],
    [1, 1, "sync", {"since": "0"}],
    [1, 1, "sync", {"since": True}],
    [1, 1, "sync", {"since": 0, "limit": 0}],
    [1, 1, "sync", {"since": 0, "live": 1}],
    [2, 1, "sync", {"changes": [], "modseq": -1}],
    [2, 1, "sync", {"changes": [{**CHANGE, "uid": 2**32}], "modseq": 2}],
    [2, 1, "sync", {"changes": [{**CHANGE, "id": bytes(31)}], "modseq": 2}],
    [1, 1, "sync", {"since": 1, "epoch": bytes(33)}],
    [1, 1, "sync", {"since": 1, "content": "half"}],
    [2, 1, "sync", {"changes": [{**CHANGE, "gone": "yes"}], "modseq": 2}],
    [3, 0, "changes", {"changes": [{"mailbox": "INBOX"}], "modseq": 1}],
    [1, 1, "signal", SIGNAL],
    [1, 1, "signal", {**SIGNAL, "to": "bob@beta.test"}],
    [1, 1, "signal", {**SIGNAL, "to": ["bob@beta.test"], "lease": -1}],
    [1, 1, "signal", {**SIGNAL, "to": ["bob@beta.test"], "lease": 1.5}],
    [1, 1, "signal", {**SIGNAL, "to": ["bob@beta.test"], "about": "x"}],
    [1, 1, "signal", {"to": ["bob@beta.test"], "kind": "typing", "lease": 10}],
    [2, 1, "signal", {"skipped": "bob@beta.test"}],
    [3, 0, "signal", SIGNAL],
    [3, 0, "signal", {**SIGNAL, "from": 1}],
    [1, 1, "mark", {"uids": [1]}],
    [1, 1, "mark", {**MARK, "displayed": 1}],
    [1, 1, "mark", {"mailbox": "INBOX", "uids": 1}],
    [1, 1, "mark", {"mailbox": "INBOX", "uids": [-1]}],
    [1, 1, "mark", {"mailbox": "INBOX", "uids": [2**32]}],
    [1, 1, "mailboxes", {}],
    [1, 1, "mailboxes", {"mailbox": "a"}],
    [1, 1, "mailboxes", {"action": "empty", "mailbox": "a"}],
    [1, 1, "mailboxes", {"action": "create", "mailbox": 1}],
    [1, 1, "mailboxes", {"action": "rename", "mailbox": "a", "to": None}],
    [2, 1, "mailboxes", {"mailboxes": {}}],
    [2, 1, "mailboxes", {"mailboxes": [{"name": "INBOX"}]}],
    [2, 1, "mailboxes", {"mailboxes": [{**MAILBOX, "uidvalidity": 2**32}]}],
    [2, 1, "mailboxes", {"mailboxes": [{**MAILBOX, "unseen": -1}]}],
    [3, 0, "changes", {"changes": [], "modseq": 3, "mailboxes": [{**MAILBOX, "gone": 1}]}],
    [1, 1, "fetch", {}],
    [1, 1, "fetch", {"ids": []}],
    [1, 1, "fetch", {"ids": bytes(32)}],
    [1, 1, "fetch", {"ids": [bytes(31)]}],
    [2, 1, "fetch", {}],
    [2, 1, "fetch", {"objects": [{"id": bytes(32)}]}],
    [2, 1, "fetch", {"objects": [{**OBJECT, "signed": "x"}]}],
    [2, 1, "fetch", {"objects": [], "more": 1}],
    [1, 1, "mark", {**MARK, "add": [""]}],
    [1, 1, "mark", {**MARK, "remove": ["\\"]}],
    # put, get
    [1, 1, "put", {**PUT, "hash": bytes(31)}],
    [1, 1, "put", {**PUT, "size": 2**63}],
    [1, 1, "put", {**PUT, "offset": -1}],
    [1, 1, "put", {**PUT, "data": bytes(65537)}],
    [1, 1, "put", {"size": 1, "offset": 0}],
    [2, 1, "put", {}],
    [2, 1, "put", {"offset": "0"}],
    [1, 1, "get", {"hash": bytes(33), "offset": 0}],
    [1, 1, "get", {"hash": bytes(32)}],
    [1, 1, "get", {"hash": bytes(32), "offset": 2**63}],
    [2, 1, "get", {"data": bytes(65537), "size": 100_000}],
    [2, 1, "get", {"data": b""}],
]  # fmt: skip

UNSEEN: list[
    Any
] = [  # refused by the schema too; pycddl panics, or takes a regular expression that fits in part, or text of that size
    [1, 1, b"keys", {"domain": "beta.test"}],
    [1, 1, "mark", {**MARK, "add": ["two words"]}],
    [1, 1, "mark", {**MARK, "add": ["\\Seen)\r\n* BYE"]}],
    [1, 1, "mark", {**MARK, "remove": ["a\\b"]}],
    [1, 1, "mark", {**MARK, "add": ["\\seen"]}],
    [1, 1, "mark", {**MARK, "add": ["\\Recent"]}],
    [1, 1, "mark", {**MARK, "remove": ["later\n"]}],
    [1, 1, "put", {**PUT, "hash": "0" * 32}],
    [1, 1, "put", {**PUT, "data": "AA=="}],
]


def check(frame: Any) -> None:
    """The code takes the frame as far as where it is used; raises RemoteProtocolError."""
    engine = ParleyConnection()
    before = [] if isinstance(frame, list) and frame[0] in (0, False, "0") else [Hello(1, "x", 65536)]
    engine.send(Hello(1, "here", 65536))
    if isinstance(frame, list) and frame[0] == 2 and frame[1] > 0:
        engine.send(Request(frame[1], frame[2], {}))
    item = cbor2.dumps(frame)
    for event in before:
        engine.receive(ParleyConnection().send(event))
    (got,) = engine.receive(len(item).to_bytes(4, "big") + item)
    match got:
        case Request(_, method, body):
            read(ASKED[method], body)
        case Response(_, method, body):
            read(ANSWERED[method], body)
        case Push("changes", body):
            read(Changes, body)
        case Push("signal", body):
            read(Signalled, body)


def test_every_method_is_in_the_schema_in_both_directions_and_in_the_specification() -> None:
    for kind, known in ((1, ASKED), (2, ANSWERED)):
        assert set(re.findall(rf'\[{kind}, stream, "([a-z]+)"', CDDL)) == known.keys()
    text = (Path(__file__).parent.parent / "docs/parley.rst").read_text()
    methods = text[text.index("\nMethod ") : text.index("\n7.1 auth")]
    assert set(re.findall(r"^([a-z]+) ", methods, re.MULTILINE)) == ASKED.keys()
    assert set(re.findall(r"^7\.\d+ ([a-z]+)$", text, re.MULTILINE)) == ASKED.keys()
    server = Path(parley_server.__file__).read_text()
    assert set(re.findall(r'(?:case|method ==) "([a-z]+)"', server)) == ASKED.keys()


@pytest.mark.parametrize("frame", GOOD)
def test_good_frames(frame: Any) -> None:
    SCHEMA.validate_cbor(cbor2.dumps(frame))
    check(frame)


@pytest.mark.parametrize("frame", BAD)
def test_bad_frames_are_refused_by_schema_and_code(frame: Any) -> None:
    with pytest.raises(pycddl.ValidationError):
        SCHEMA.validate_cbor(cbor2.dumps(frame))
    with pytest.raises(RemoteProtocolError):
        check(frame)


@pytest.mark.parametrize("frame", UNSEEN)
def test_bad_frames_that_pycddl_does_not_see(frame: Any) -> None:
    with pytest.raises(RemoteProtocolError):
        check(frame)


def rule(name: str) -> pycddl.Schema:
    return pycddl.Schema(f"root = {name}\n{CDDL}")


PAYLOAD = {"from": "a@a.test", "to": ["b@b.test"], "date": 1, "nonce": bytes(16)}
PART = {"hash": bytes(32), "type": "text/plain", "size": 1}


@pytest.mark.parametrize(
    "payload",
    [
        [1, 1, "consent", {"action": "grant", "address": 7}],
        {},
        [PAYLOAD],
        {**PAYLOAD, "to": "b@b.test"},
        {**PAYLOAD, "date": "1"},
        {**PAYLOAD, "subject": None},
        {**PAYLOAD, "parts": [{**PART, "size": "1"}]},
        {**PAYLOAD, "parts": [{"hash": bytes(32), "type": "text/plain"}]},
        {**PAYLOAD, "ext": []},
        {**PAYLOAD, "crit": "x"},
    ],
)
def test_bad_payloads(payload: Any) -> None:
    rule("payload").validate_cbor(cbor2.dumps({**PAYLOAD, "parts": [PART], "news": 1}))
    Payload.decode(cbor2.dumps({**PAYLOAD, "parts": [PART], "news": 1}))
    with pytest.raises(pycddl.ValidationError):
        rule("payload").validate_cbor(cbor2.dumps(payload))
    with pytest.raises(ObjectError):
        Payload.decode(cbor2.dumps(payload))


@pytest.mark.parametrize(
    "signed",
    [[], [b"", {}, b""], ["", {}, b"", bytes(64)], [b"", {}, None, bytes(64)], {}, 1],
)
def test_bad_signed_forms(signed: Any) -> None:
    for signature in (bytes(64), bytes(64 + 4 + 32), bytes(64 + 4 + 16 * 32)):
        rule("signed").validate_cbor(cbor2.dumps([b"", {}, b"", signature]))
    with pytest.raises(pycddl.ValidationError):
        rule("signed").validate_cbor(cbor2.dumps(signed))
    with pytest.raises(ObjectError):
        Content.from_signed(cbor2.dumps(signed), {})


def test_an_unprotected_header_is_empty() -> None:  # pycddl takes {} for any map
    with pytest.raises(ObjectError):
        Content.from_signed(cbor2.dumps([b"", {4: b"k"}, b"", bytes(64)]), {})


@pytest.mark.parametrize(
    "header",
    [{}, {1: -8, 4: b"k"}, {1: -7, 4: b"k", "iss": "a.test"}, {1: -8, 4: "k", "iss": "a.test"}, {1: -8, 4: b"", 5: 1}],
)
def test_bad_protected_headers(header: Any) -> None:
    for algorithm in (-8, -70001):
        rule("protected").validate_cbor(cbor2.dumps({1: algorithm, 4: b"k", "iss": "a.test"}))
        signer(cbor2.dumps({1: algorithm, 4: b"k", "iss": "a.test"}))
    with pytest.raises(pycddl.ValidationError):
        rule("protected").validate_cbor(cbor2.dumps(header))
    with pytest.raises(SignatureError):
        signer(cbor2.dumps(header))


KEY = {"kid": b"k", "key": bytes(32), "not_before": 0, "not_after": 1}


@pytest.mark.parametrize(
    "keys",
    [
        [{**KEY, "key": bytes(31)}],
        [{**KEY, "not_after": "1"}],
        [{**KEY, "not_before": -1}],
        [{**KEY, "kid": 1}],
        [{}],
        None,
        KEY,
    ],
)
def test_bad_key_sets(keys: Any) -> None:
    def octets(keys: Any) -> bytes:
        return cbor2.dumps({"domain": "a.test", "expires": 1, "keys": keys})

    rule("key-set").validate_cbor(octets([KEY]))
    assert KeySet.decode(octets([KEY]), Domain.parse("a.test")).knows(b"k")
    with pytest.raises(pycddl.ValidationError):
        rule("key-set").validate_cbor(octets(keys))
    with pytest.raises(KeySetError):
        KeySet.decode(octets(keys), Domain.parse("a.test"))
