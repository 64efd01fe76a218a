"""One message shown to a filter, from negotiation to its verdict. The steps are those of Sendmail's milter protocol 6.

`converse` is a generator: it yields octets to send, is given one packet of the filter back, and returns the Verdict.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from gatewayd.wire.milter import RemoteProtocolError
from gatewayd.wire.milter.packets import Packet

VERSION = 6
ADD_HEADERS, CHANGE_BODY, CHANGE_HEADERS, QUARANTINE = 0x1, 0x2, 0x10, 0x20
ACTIONS = ADD_HEADERS | CHANGE_BODY | CHANGE_HEADERS | QUARANTINE  # that we offer
LEADING_SPACE = 0x100000
STEPS = 0x1FFFFF  # every step may be left out, or go without a reply, and header values keep their first space
CHUNK = 65535  # octets of the body in one packet

# letter of a step: (flag with which the filter leaves it out, flag with which it does not reply)
_FLAGS = {
    "C": (0x1, 0x1000), "H": (0x2, 0x2000), "M": (0x4, 0x4000), "R": (0x8, 0x8000), "T": (0x200, 0x10000),
    "L": (0x20, 0x80), "N": (0x40, 0x40000), "B": (0x10, 0x80000), "E": (0, 0),
}  # fmt: skip

Action = Literal["accept", "reject", "defer", "discard"]


@dataclass(frozen=True, slots=True)
class Question:
    """What is shown. Header fields as (name, value with its folding, first space included), in their order."""

    client: str  # IP address
    helo: str
    reverse_path: str  # without brackets; "" is null
    recipients: Sequence[str]
    fields: Sequence[tuple[bytes, bytes]]
    body: bytes
    macros: Mapping[str, str]  # by the name without braces: "j", "auth_authen" and so on


@dataclass(frozen=True, slots=True)
class AddField:
    name: bytes
    value: bytes
    index: int | None = None  # None: at the end; else it stands before the field of that number


@dataclass(frozen=True, slots=True)
class ChangeField:
    name: bytes
    index: int  # of the fields with that name, from 1
    value: bytes  # b"": it is taken away


@dataclass(frozen=True, slots=True)
class ReplaceBody:
    chunk: bytes  # the chunks together are the new body


Edit = AddField | ChangeField | ReplaceBody


@dataclass(frozen=True, slots=True)
class Verdict:
    action: Action
    reply: str = ""  # what the filter wants said: "550 5.7.1 words"
    quarantine: str = ""  # why it should be put apart
    refused: frozenset[str] = frozenset()  # recipients that it does not take
    edits: tuple[Edit, ...] = ()


def converse(question: Question) -> Generator[bytes, Packet, Verdict]:
    """Raises RemoteProtocolError."""
    answer = yield Packet("O", struct.pack(">III", VERSION, ACTIONS, STEPS)).encode()
    flags = _negotiated(answer)
    refused: set[str] = set()
    waiting = b""  # steps that nobody answers go out with the next one
    skipped: set[str] = set()
    for step in _steps(question, flags):
        left_out, silent = _FLAGS[step.letter]
        if flags & left_out or step.letter in skipped:
            continue
        waiting += _macros(step.letter, question) + step.encode()
        if flags & silent or step.letter == "E":
            continue
        answer = yield waiting
        waiting = b""
        while answer.letter == "p":  # it needs more time
            answer = yield b""
        match answer.letter:
            case "c":
                continue
            case "s" if step.letter == "B":  # it has seen enough of the body
                skipped.add("B")
            case "r" | "t" | "y" | "f" if step.letter == "R":
                refused.add(step.data.decode("utf-8", "replace").strip("<>\0"))
                if len(refused) == len(set(question.recipients)):
                    return _final(answer, (), "", refused)
            case _:
                return _final(answer, (), "", refused)
    return (yield from _end(waiting, frozenset(refused)))


def _end(waiting: bytes, refused: frozenset[str]) -> Generator[bytes, Packet, Verdict]:
    """After the last step the filter says what it changes, and then its verdict."""
    edits: list[Edit] = []
    quarantine = ""
    answer = yield waiting
    while True:
        match answer.letter:
            case "p":
                pass
            case "h":
                name, value = _pair(answer, answer.data)
                edits.append(AddField(name, value))
            case "i" | "m":
                (index,) = struct.unpack_from(">I", answer.data.ljust(4, b"\0"))
                name, value = _pair(answer, answer.data[4:])
                edits.append(AddField(name, value, index) if answer.letter == "i" else ChangeField(name, index, value))
            case "b":
                edits.append(ReplaceBody(answer.data))
            case "q":
                quarantine = answer.strings()[0].decode("utf-8", "replace") or "no reason given"
            case _:
                return _final(answer, tuple(edits), quarantine, refused)
        answer = yield b""


def _final(answer: Packet, edits: tuple[Edit, ...], quarantine: str, refused: frozenset[str] | set[str]) -> Verdict:
    apart = frozenset(refused)
    match answer.letter:
        case "c" | "a":
            return Verdict("accept", "", quarantine, apart, edits)
        case "r":
            return Verdict("reject", "", "", apart)
        case "t" | "f":
            return Verdict("defer", "", "", apart)
        case "d":
            return Verdict("discard", "", "", apart)
        case "y":
            reply = answer.strings()[0].decode("utf-8", "replace")
            if reply[:1] not in {"4", "5"}:
                raise RemoteProtocolError(f"a reply that is none: {reply[:80]!r}")
            return Verdict("reject" if reply[0] == "5" else "defer", reply, "", apart)
    raise RemoteProtocolError(f"{answer.letter!r} is no answer to this, or nothing that we offer")


def _negotiated(answer: Packet) -> int:
    if answer.letter != "O" or len(answer.data) < 12:
        raise RemoteProtocolError("the filter does not negotiate")
    version, actions, steps = struct.unpack_from(">III", answer.data)
    if not 2 <= version <= VERSION:
        raise RemoteProtocolError(f"the filter speaks version {version}")
    if actions & ~ACTIONS:
        raise RemoteProtocolError(f"the filter wants actions that are not offered: {actions & ~ACTIONS:#x}")
    return int(steps)


def _steps(question: Question, flags: int) -> Iterator[Packet]:
    yield Packet("C", _connect(question.client))
    yield Packet("H", question.helo.encode() + b"\0")
    yield Packet("M", f"<{question.reverse_path}>".encode() + b"\0")
    for recipient in question.recipients:
        yield Packet("R", f"<{recipient}>".encode() + b"\0")
    yield Packet("T")
    for name, value in question.fields:
        text = value.replace(b"\r\n", b"\n").replace(b"\0", b"")
        yield Packet("L", name + b"\0" + (text if flags & LEADING_SPACE else text.removeprefix(b" ")) + b"\0")
    yield Packet("N")
    for begin in range(0, len(question.body), CHUNK):
        yield Packet("B", question.body[begin : begin + CHUNK])
    yield Packet("E")


def _connect(client: str) -> bytes:
    address = ipaddress.ip_address(client)
    family = b"4" if address.version == 4 else b"6"
    text = client if address.version == 4 else f"IPv6:{client}"
    return f"[{client}]\0".encode() + family + struct.pack(">H", 0) + text.encode() + b"\0"


_MACROS = {
    "C": ("j", "client_addr", "daemon_name"), "H": ("tls_version", "cipher"),
    "M": ("i", "mail_addr", "auth_authen", "auth_type"), "E": ("i",),
}  # fmt: skip


def _macros(letter: str, question: Question) -> bytes:
    names = [name for name in _MACROS.get(letter, ()) if name in question.macros]
    if not names:
        return b""
    pairs = "".join(f"{name if len(name) == 1 else f'{{{name}}}'}\0{question.macros[name]}\0" for name in names)
    return Packet("D", letter.encode() + pairs.encode()).encode()


def _pair(packet: Packet, data: bytes) -> tuple[bytes, bytes]:
    strings = packet.strings(data)
    if len(strings) != 2 or not strings[0]:
        raise RemoteProtocolError(f"{packet.letter!r} holds no field")
    return strings[0], strings[1]
