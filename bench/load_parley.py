"""A Parley client for the load: it signs in, sends one message again and again under new numbers, counts what comes."""

from __future__ import annotations

import os
import re
from functools import cache
from hashlib import sha256
from typing import Any

from bench.load import BODY, Connection
from gatewayd.crypto import scram
from gatewayd.message.model import Part, Payload
from gatewayd.net.tls import EXPORTER_LABEL, EXPORTER_LENGTH, PARLEY_ALPN
from gatewayd.wire.parley.connection import MAX_FRAME, PUSH, REQ, RES, Event, ParleyConnection, Request, Response
from gatewayd.wire.parley.frames import encode
from gatewayd.wire.parley.schema import Auth, Body, Hello, Sync

RUN = os.urandom(8)  # begins the nonce of every message of this process: 8 octets, 4 of the sender, 4 of the number
NONCE = re.compile(rb"\x65nonce\x50" + re.escape(RUN) + rb"(.{4})(.{4})", re.DOTALL)
FIRST_STREAM = 1 << 16  # from here on a number takes the same 5 octets of CBOR


scram._salted = cache(scram._salted)  # PBKDF2 once for all the users, who have one salt


class ParleyLoad(Connection):
    def __init__(self, address: tuple[str, int], user: str, domain: str, password: str, authorities: str) -> None:
        super().__init__(address, domain, authorities, PARLEY_ALPN)
        self._user = f"{user}@{domain}"
        self._engine = ParleyConnection()
        self._events: list[Event] = []
        self._buffer = b""
        self._sign_in(password)
        if user.startswith("r"):
            self._follow()
        self.ready()

    def _follow(self) -> None:
        """Through what was, by ids only; from there all that comes."""
        page: dict[str, Any] = {"modseq": 0, "more": True}
        while page.get("more"):
            page = self._ask("sync", Sync(page["modseq"], 500, content="ids"))
        self._ask("sync", Sync(page["modseq"], 500, live=True))

    # -- a message ---------------------------------------------------------------------------------------------------

    def prepare(self, sender: int, recipient: str) -> None:
        nonce = b"\xee" * 16
        part = Part(sha256(BODY).digest(), "text/plain; charset=utf-8", len(BODY))
        payload = Payload(self._user, (recipient,), 1_800_000_000_000, nonce, parts=(part,)).encode()
        stream = 0xEEEEEEEE
        octets = encode([REQ, stream, "send", {"to": [recipient], "bodies": [BODY], "payload": payload}], MAX_FRAME)
        self._head, _, rest = octets.partition(stream.to_bytes(4, "big"))
        self._middle, _, self._tail = rest.partition(nonce)
        self._middle += RUN + sender.to_bytes(4, "big")

    def message(self, number: int) -> bytes:
        stream = (FIRST_STREAM + number).to_bytes(4, "big")
        return self._head + stream + self._middle + number.to_bytes(4, "big") + self._tail

    def read(self) -> list[tuple[int, int]]:
        data = self._buffer + self.receive()
        at, size, come = 0, len(data), []
        while size - at >= 4:
            end = at + 4 + int.from_bytes(data[at : at + 4], "big")
            if end > size:
                break
            kind = data[at + 5]
            if kind == PUSH:
                found = NONCE.findall(data, at, end)
                come += [(int.from_bytes(sender, "big"), int.from_bytes(number, "big")) for sender, number in found]
            elif kind != RES or data.find(b"dcodee2.0.0", at, end) < 0:
                raise RuntimeError(f"refused: {data[at:end]!r}")
            at = end
        self._buffer = data[at:]
        return come

    # -- signing in --------------------------------------------------------------------------------------------------

    def _sign_in(self, password: str) -> None:
        self.write(self._engine.send(Hello(1, "bench", 1 << 20)))
        exporter = self.tls.export_keying_material(EXPORTER_LABEL, EXPORTER_LENGTH, b"")
        client = scram.ScramClient(self._user, password, os.urandom(8).hex(), exporter)
        mechanism = scram.MECHANISM_PLUS
        challenge = self._ask("auth", Auth(mechanism, client.first()))["data"]
        client.check(self._ask("auth", Auth(mechanism, client.final(challenge)))["data"])

    def _ask(self, method: str, body: Body) -> dict[str, Any]:
        self.write(self._engine.send(Request(self._engine.new_stream(), method, body)))
        while True:
            while self._events:
                event = self._events.pop(0)
                if isinstance(event, Response):
                    reply: dict[str, Any] = event.body
                    return reply
                if not isinstance(event, Hello):
                    raise RuntimeError(f"{self._user}: {event}")
            self._events += self._engine.receive(self.tls.recv(65536))


class BareLoad(ParleyLoad):
    """The same messages to the bare path, which believes every name."""

    def _sign_in(self, password: str) -> None:
        self.write(encode([REQ, 0, "hello", self._user], MAX_FRAME))

    def _follow(self) -> None:
        """It has no past."""
