"""The conversation with one milter about one client, step by step as Sendmail's milter protocol 6 has them.

Each step is a generator: it yields octets to send, is given one packet of the filter back, and returns what the filter
says. All raise RemoteProtocolError.
"""

from __future__ import annotations

import ipaddress
import re
import struct
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from gatewayd.wire.milter import RemoteProtocolError
from gatewayd.wire.milter.packets import Packet

VERSION = 6
ADD_HEADERS, CHANGE_BODY, ADD_RECIPIENTS, DELETE_RECIPIENTS = 0x1, 0x2, 0x4, 0x8
CHANGE_HEADERS, QUARANTINE, CHANGE_SENDER, ADD_RECIPIENTS_WITH_PARAMETERS = 0x10, 0x20, 0x40, 0x80
ACTIONS = 0xFF  # that we offer: all of these
LEADING_SPACE = 0x100000
STEPS = 0x1FF7FF  # every step may be left out, or go without a reply; recipients that we refuse are not shown
CHUNK = 65535  # octets of the body in one packet

# letter of a step: (flag with which the filter leaves it out, flag with which it does not reply)
_FLAGS = {
    "C": (0x1, 0x1000), "H": (0x2, 0x2000), "M": (0x4, 0x4000), "R": (0x8, 0x8000), "T": (0x200, 0x10000),
    "L": (0x20, 0x80), "N": (0x40, 0x40000), "B": (0x10, 0x80000), "E": (0, 0),
}  # fmt: skip
_ACTIONS = {"c": "continue", "a": "accept", "r": "reject", "t": "defer", "f": "defer", "4": "defer", "d": "discard"}

_REPLY = re.compile(r"[45][0-5][0-9](?:[ -]|\Z)")  # RFC 5321 §4.2
_PERCENT = re.compile(r"%(.|\Z)", re.DOTALL)  # libmilter doubles them, for Sendmail takes the reply for a format

Action = Literal["continue", "accept", "reject", "defer", "discard"]


@dataclass(frozen=True, slots=True)
class Answer:
    """To one step. `reply` is what the filter wants said, if anything: "550 5.7.1 words", or "550-5.7.1 words" and more
    lines."""

    action: Action = "continue"
    reply: str = ""


CONTINUE = Answer()


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


@dataclass(frozen=True, slots=True)
class ChangeEnvelope:
    """`path` as the filter wrote it, without brackets: a recipient more or less, or another sender ("": null)."""

    what: Literal["add", "delete", "sender"]
    path: str


Edit = AddField | ChangeField | ReplaceBody | ChangeEnvelope


@dataclass(frozen=True, slots=True)
class Verdict:
    """On the whole message."""

    answer: Answer
    quarantine: str = ""  # why it should be put apart
    edits: tuple[Edit, ...] = ()


Step = Generator[bytes, Packet, Answer]


class Conversation:
    """`macros` by the name without braces: "j", "auth_authen" and so on. In order: `begin` once, then for each message
    `mail`, `rcpt` for each recipient, `data` if the client says DATA, `end`. A message that is `under_way` is ended by
    ABORT before the next one."""

    ABORT, QUIT = Packet("A").encode(), Packet("Q").encode()

    def __init__(self, macros: Mapping[str, str]) -> None:
        self.macros = dict(macros)
        self.under_way = False
        self._flags = 0
        self._waiting = b""  # steps that nobody answers, and macros, go out with the next step
        self._unsaid = b""  # of them, what is about the client: it outlives a message that was broken off
        self._asked_data = False

    def begin(self, client: str, helo: str) -> Step:
        """`client` is an IP address."""
        answer = yield Packet("O", struct.pack(">III", VERSION, ACTIONS, STEPS)).encode()
        self._flags = _negotiated(answer)
        said = yield from self._step(Packet("C", _connect(client)))
        if said == CONTINUE:
            said = yield from self._step(Packet("H", helo.encode() + b"\0"))
        self._unsaid = self._waiting
        return said

    def mail(self, reverse_path: str) -> Step:
        """Without brackets; "" is null."""
        self._waiting, self._asked_data, self.under_way = self._unsaid, False, True
        return self._step(Packet("M", f"<{reverse_path}>".encode() + b"\0"))

    def rcpt(self, recipient: str) -> Step:
        self.macros |= {"rcpt_addr": recipient, "rcpt_host": recipient.rpartition("@")[2]}
        return self._step(Packet("R", f"<{recipient}>".encode() + b"\0"))

    def data(self) -> Step:
        self._asked_data = True
        return self._step(Packet("T"))

    def end(self, fields: Sequence[tuple[bytes, bytes]], body: bytes) -> Generator[bytes, Packet, Verdict]:
        """Fields as (name, value with its folding, first space included), in their order."""
        said = CONTINUE if self._asked_data else (yield from self.data())
        if said != CONTINUE:
            return Verdict(said)
        for name, value in fields:
            text = value.replace(b"\r\n", b"\n").replace(b"\0", b"")
            shown = text if self._flags & LEADING_SPACE else text.removeprefix(b" ")
            said = yield from self._step(Packet("L", name + b"\0" + shown + b"\0"))
            if said != CONTINUE:
                return Verdict(said)
        said = yield from self._step(Packet("N"))
        if said != CONTINUE:
            return Verdict(said)
        for begin in range(0, len(body), CHUNK):
            try:
                said = yield from self._step(Packet("B", body[begin : begin + CHUNK]))
            except _EnoughSeen:
                break
            if said != CONTINUE:
                return Verdict(said)
        return (yield from self._final())

    # -- inside -----------------------------------------------------------------------------------------------------

    def _step(self, packet: Packet) -> Step:
        left_out, silent = _FLAGS[packet.letter]
        self._waiting += self._macros(packet.letter)  # as Sendmail: also of a step that is left out
        if self._flags & left_out:
            return CONTINUE
        self._waiting += packet.encode()
        if self._flags & silent:
            return CONTINUE
        answer = yield self._flushed()
        while answer.letter == "p":  # it needs more time
            answer = yield b""
        if answer.letter == "s" and packet.letter == "B":
            raise _EnoughSeen
        return _answer(answer)

    def _final(self) -> Generator[bytes, Packet, Verdict]:
        """After the last step the filter says what it changes, and then its verdict."""
        edits: list[Edit] = []
        quarantine = ""
        self._waiting += self._macros("E") + Packet("E").encode()
        answer = yield self._flushed()
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
                    put = answer.letter == "i"
                    edits.append(AddField(name, value, index) if put else ChangeField(name, index, value))
                case "b":
                    edits.append(ReplaceBody(answer.data))
                case "+" | "2":
                    edits.append(ChangeEnvelope("add", _path(answer)))
                case "-":
                    edits.append(ChangeEnvelope("delete", _path(answer)))
                case "e":
                    edits.append(ChangeEnvelope("sender", _path(answer)))
                case "q":
                    quarantine = answer.strings()[0].decode("utf-8", "replace") or "no reason given"
                case _:
                    said = _answer(answer)
                    self.under_way = False
                    taken = said.action in {"continue", "accept"}
                    return Verdict(said, quarantine, tuple(edits)) if taken else Verdict(said)
            answer = yield b""

    def _flushed(self) -> bytes:
        octets, self._waiting, self._unsaid = self._waiting, b"", b""
        return octets

    def _macros(self, letter: str) -> bytes:
        names = [name for name in _MACROS.get(letter, ()) if name in self.macros]
        if not names:
            return b""
        pairs = "".join(f"{name if len(name) == 1 else f'{{{name}}}'}\0{self.macros[name]}\0" for name in names)
        return Packet("D", letter.encode() + pairs.encode()).encode()


class _EnoughSeen(Exception):
    """Of the body."""


def _answer(packet: Packet) -> Answer:
    if packet.letter == "y":
        reply = _PERCENT.sub(r"\1", packet.strings()[0].decode("utf-8", "replace"))
        if not _REPLY.match(reply):
            raise RemoteProtocolError(f"a reply that is none: {reply[:80]!r}")
        return Answer("reject" if reply[0] == "5" else "defer", reply)
    action = _ACTIONS.get(packet.letter)
    if action is None:
        raise RemoteProtocolError(f"{packet.letter!r} is no answer to this, or nothing that we offer")
    return Answer(action)  # type: ignore[arg-type]


def _negotiated(answer: Packet) -> int:
    if answer.letter != "O" or len(answer.data) < 12:
        raise RemoteProtocolError("the filter does not negotiate")
    version, actions, steps = struct.unpack_from(">III", answer.data)
    if not 2 <= version <= VERSION:
        raise RemoteProtocolError(f"the filter speaks version {version}")
    if actions & ~ACTIONS:
        raise RemoteProtocolError(f"the filter wants actions that are not offered: {actions & ~ACTIONS:#x}")
    return int(steps)


def _connect(client: str) -> bytes:
    address = ipaddress.ip_address(client)
    family = b"4" if address.version == 4 else b"6"
    text = client if address.version == 4 else f"IPv6:{client}"
    return f"[{client}]\0".encode() + family + struct.pack(">H", 0) + text.encode() + b"\0"


_MACROS = {
    "C": ("j", "_", "v", "client_addr", "client_name", "daemon_name"), "H": ("tls_version", "cipher"),
    "M": ("i", "mail_addr", "mail_host", "auth_authen", "auth_type"), "R": ("i", "rcpt_addr", "rcpt_host"),
    "T": ("i",), "N": ("i",), "E": ("i",),
}  # fmt: skip


def _path(packet: Packet) -> str:
    """Of a recipient or sender; what stands behind it are ESMTP parameters, which are not heeded."""
    text = packet.strings()[0].decode("utf-8", "replace").strip()
    return text[1:-1] if text.startswith("<") and text.endswith(">") else text


def _pair(packet: Packet, data: bytes) -> tuple[bytes, bytes]:
    strings = packet.strings(data)
    if len(strings) != 2 or not strings[0]:
        raise RemoteProtocolError(f"{packet.letter!r} holds no field")
    return strings[0], strings[1]
