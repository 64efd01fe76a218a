"""`parley --trace`: every frame, both ways, on standard error, in the diagnostic notation of RFC 8949 §8."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from typing import Any, TextIO

import cbor2

from gatewayd.message.model import Content, ObjectError
from gatewayd.wire.parley.connection import Bye, Event, ParleyConnection, Push, Request, Response
from gatewayd.wire.parley.schema import Body, Hello, plain

SHORT = 32  # octets that are shown of a byte string
ENCODED = {"payload", "keys"}  # octets that are CBOR themselves (RFC 8949 §8: <<>>)


class Traced(ParleyConnection):
    """Says what it hears and says."""

    def __init__(self, out: TextIO | None = None) -> None:
        super().__init__()
        self._out = out

    def send(self, event: Event) -> bytes:
        octets = super().send(event)
        self._show("->", event, f"  / {len(octets)} octets /")
        return octets

    def receive(self, data: bytes) -> list[Event]:
        events = super().receive(data)
        for event in events:
            self._show("<-", event, "")
        return events

    def _show(self, direction: str, event: Event, note: str) -> None:
        print(direction, described(event) + note, file=self._out or sys.stderr, flush=True)


def described(event: Event) -> str:
    """One line."""
    match event:
        case Hello():
            return f"HELLO {notation(plain(event))}"
        case Bye(code, text):
            return f"BYE {notation({'code': code, 'text': text})}"
        case Request(stream, method, body):
            return f"REQ {stream} {_word(method)} {notation(_masked(method, body))}"
        case Response(stream, method, body):
            return f"RES {stream} {_word(method)} {notation(_masked(method, body))}"
        case Push(method, body):
            return f"PUSH {_word(method)} {notation(_masked(method, body))}"


def _masked(method: str, body: Any) -> Any:
    """What signs a user or a domain in is not for a log that people show to others."""
    body = plain(body) if isinstance(body, Body) else body
    if method == "auth" and isinstance(body, Mapping) and body.get("data"):
        return {**body, "data": ...}
    return body


def notation(value: Any, key: str = "") -> str:
    """A CBOR item; long byte strings are cut, and without anything that a terminal would obey."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case str():
            return _quoted(value)
        case bytes():
            return _octets(value, key)
        case Mapping():
            return "{" + ", ".join(f"{notation(k)}: {notation(v, k)}" for k, v in value.items()) + "}"
        case list() | tuple():
            return "[" + ", ".join(notation(item, key) for item in value) + "]"
    return "..."  # masked; nothing else is in a frame


def _octets(value: bytes, key: str) -> str:
    if key in ENCODED:
        return _encoded(value)
    if key == "signed":
        with contextlib.suppress(ObjectError):
            content = Content.from_signed(value, {})
            signature = _octets(content.signature, "")
            return f"<<[{_encoded(content.protected)}, {{}}, {_encoded(content.payload)}, {signature}]>>"
    if len(value) <= SHORT:
        return f"h'{value.hex()}'"
    return f"h'{value[:SHORT].hex()}...' / {len(value)} octets /"


def _encoded(value: bytes) -> str:
    try:
        return f"<<{notation(cbor2.loads(value, max_depth=16))}>>"
    except (cbor2.CBORDecodeError, ValueError):
        return _octets(value, "")


def _quoted(text: str) -> str:
    return '"' + "".join(c if c.isprintable() and c not in '"\\' else _escaped(c) for c in text) + '"'


def _escaped(c: str) -> str:
    if c in '"\\':
        return "\\" + c
    return "".join(f"\\u{unit:04x}" for unit in memoryview(c.encode("utf-16-le", "surrogatepass")).cast("H"))


def _word(method: str) -> str:
    return method if method.isascii() and method.isalnum() else _quoted(method)
