"""Parley's frames, made of docs/parley.cddl itself: what it allows is taken, what misses it by a little is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import cbor2

from fuzz import Finding
from fuzz.cddl import Grammar
from gatewayd.address import Domain
from gatewayd.crypto.cose import SignatureError, signer
from gatewayd.crypto.domain_keys import KeySet, KeySetError
from gatewayd.message.model import Content, ObjectError, Payload
from gatewayd.wire.parley import RemoteProtocolError
from gatewayd.wire.parley.connection import PUSH, REQ, RES, ParleyConnection, Push, Request, Response
from gatewayd.wire.parley.schema import (
    Auth,
    AuthReply,
    Body,
    Changes,
    Consent,
    ConsentReply,
    Fetch,
    FetchReply,
    Get,
    GetReply,
    Hello,
    Keys,
    KeysReply,
    Lookup,
    LookupReply,
    Mailboxes,
    MailboxesReply,
    Mark,
    Put,
    PutReply,
    Send,
    SendReply,
    Signal,
    Signalled,
    SignalReply,
    Sync,
    read,
)

CDDL = (Path(__file__).parent.parent / "docs/parley.cddl").read_text()
ASKED: dict[str, type[Body]] = {
    "auth": Auth, "keys": Keys, "send": Send, "sync": Sync, "mark": Mark, "signal": Signal, "consent": Consent,
    "lookup": Lookup, "put": Put, "get": Get, "fetch": Fetch, "mailboxes": Mailboxes,
}  # fmt: skip
ANSWERED: dict[str, type[Body]] = {
    "auth": AuthReply, "keys": KeysReply, "send": SendReply, "sync": Changes, "mark": Changes, "signal": SignalReply,
    "consent": ConsentReply, "lookup": LookupReply, "put": PutReply, "get": GetReply,
    "fetch": FetchReply, "mailboxes": MailboxesReply,
}  # fmt: skip

# What is left to those who know more: to the sessions which fields go together for who asks, to what checks an object
# (message/object_types.py, crypto/cose.py) the lengths of its hashes and signatures.
LATER = """
request = [1, stream, "auth", any-auth] / [1, stream, "keys", keys-request] / [1, stream, "send", any-send] /
          [1, stream, "sync", sync] / [1, stream, "mark", mark] / [1, stream, "fetch", fetch] /
          [1, stream, "mailboxes", any-mailboxes] / [1, stream, "signal", any-signal] /
          [1, stream, "consent", any-consent] / [1, stream, "lookup", any-lookup] /
          [1, stream, "put", put-blob] / [1, stream, "get", get-blob]
any-auth = { mechanism: tstr, ? data: bstr, ? domain: tstr, ? to: tstr, ? kid: bstr, * tstr => any }
any-send = { to: [* tstr], ? payload: bstr, ? signed: bstr, ? from: tstr, ? bodies: [* bstr], * tstr => any }
any-mailboxes = { action: "list" / "create" / "delete" / "subscribe" / "unsubscribe" / "rename", ? mailbox: tstr,
                  ? to: tstr, * tstr => any }
any-signal = { to: [* tstr], ? from: tstr, said, * tstr => any }
any-consent = { action: "list" / "request" / "cancel" / "grant" / "revoke", ? address: tstr, ? from: tstr,
                * tstr => any }
any-lookup = { address: tstr, ? from: tstr, * tstr => any }
error = { error: any, * tstr => any, * bstr => any }
status = tstr
send-reply = { results: [* result], * tstr => any }
signed = [bstr, {}, bstr, bstr]
payload = {
  from: tstr, to: [* tstr], date: int, nonce: bstr, ? type: tstr, ? subject: tstr, ? parts: [* any-part],
  ? parents: [* bstr], ? replaces: bstr / null, ? ext: { * tstr => any }, ? crit: [* tstr], * tstr => any
}
any-part = { hash: bstr, type: tstr, size: int, ? name: tstr / null, * tstr => any }
bye = [4, 0, "", { * tstr => any, * bstr => any }]
"""
# Each side's, for sessions.
ROLES = """
of-both = [1, stream, "keys", keys-request]
of-user = of-both / [1, stream, "send", send-of-user] / [1, stream, "sync", sync] / [1, stream, "mark", mark] /
          [1, stream, "fetch", fetch] / [1, stream, "mailboxes", mailboxes] / [1, stream, "signal", signal-of-user] /
          [1, stream, "consent", consent-of-user] / [1, stream, "lookup", lookup-of-user] /
          [1, stream, "put", put-blob] / [1, stream, "get", get-blob]
of-domain = of-both / [1, stream, "send", send-of-domain] / [1, stream, "signal", signal-of-domain] /
            [1, stream, "consent", consent-of-domain] / [1, stream, "lookup", lookup-of-domain]
"""
GRAMMAR, TAKEN = Grammar(CDDL + ROLES), Grammar(CDDL + LATER)
PARSED: dict[str, tuple[Callable[[bytes], object], type[Exception]]] = {
    "payload": (Payload.decode, ObjectError),
    "signed": (lambda octets: Content.from_signed(octets, {}), ObjectError),
    "protected": (signer, SignatureError),
    "key-set": (lambda octets: KeySet.decode(octets, Domain.parse("alpha.test")), KeySetError),
}


def take(frame: Any) -> None:
    """As far as the code looks at it before it knows who speaks. Raises RemoteProtocolError."""
    engine = ParleyConnection()
    engine.trust()
    engine.send(Hello(1, "here", 65536))
    like = [*frame, None, None, None][:4] if isinstance(frame, list) else [None] * 4
    if like[0] in (REQ, RES, PUSH) or frame == [4, 0, "", {}]:
        engine.receive(ParleyConnection().send(Hello(1, "there", 65536)))
    if like[0] == RES and type(like[1]) is int and like[1] > 0 and type(like[2]) is str:
        engine.send(Request(like[1], like[2], {}))
    item = cbor2.dumps(frame)
    for event in engine.receive(len(item).to_bytes(4, "big") + item):
        match event:
            case Request(_, method, body) if method in ASKED:
                read(ASKED[method], body)
            case Request():
                raise RemoteProtocolError("unknown-method", event.method)
            case Response(_, method, body) if "error" not in body:
                if method not in ANSWERED:
                    raise RemoteProtocolError("bad-frame", "an answer to what nobody asks")
                read(ANSWERED[method], body)
            case Push(method, body):
                kinds: dict[str, type[Body]] = {"changes": Changes, "signal": Signalled}
                if method not in kinds:
                    raise RemoteProtocolError("unknown-method", "a push that is ignored")
                read(kinds[method], body)


def parley_schema(random: Random) -> None:
    """Whole frames, either way."""
    good = random.random() < 0.5
    frame = (GRAMMAR.make if good else GRAMMAR.spoil)(random, "frame")
    taken = TAKEN.matches("frame", frame)
    if good and not taken:
        raise Finding(f"LATER is narrower than the schema: {frame}")
    try:
        take(frame)
    except RemoteProtocolError as error:
        if taken:
            raise Finding(f"refused, {error}: {frame}") from None
    else:
        if not taken:
            raise Finding(f"taken: {frame}")


def parley_schema_of_objects(random: Random) -> None:
    """What frames hold as octets. What is well formed may be wrong otherwise."""
    rule = random.choice([*PARSED])
    good = random.random() < 0.3
    value = (GRAMMAR.make if good else GRAMMAR.spoil)(random, rule)
    parse, error = PARSED[rule]
    try:
        parse(cbor2.dumps(value))
    except error:
        return
    if not TAKEN.matches(rule, value):
        raise Finding(f"taken as {rule}: {value}")
