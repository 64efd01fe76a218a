"""An XMPP client for the load (RFC 6120, 6121; XEP-0368: TLS from the first octet), shaped as the Parley one."""

from __future__ import annotations

import os
import re
from base64 import b64encode

from bench.load import BODY, Connection

RUN = os.urandom(4).hex()
ID = re.compile(rb"<message\b[^>]*\bid='" + RUN.encode() + rb"-(\d+)-(\d+)'")
END = b"</message>"


class XMPPLoad(Connection):
    def __init__(self, address: tuple[str, int], user: str, domain: str, password: str, authorities: str) -> None:
        super().__init__(address, domain, authorities)
        self._buffer = b""
        opening = (
            f"<stream:stream to='{domain}' version='1.0' xmlns='jabber:client'"
            " xmlns:stream='http://etherx.jabber.org/streams'>"
        )
        plain = b64encode(f"\0{user}\0{password}".encode()).decode()
        self._ask(opening, "</stream:features>")
        self._ask(f"<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>{plain}</auth>", "<success")
        self._ask(opening, "</stream:features>")
        bind = "<bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>b</resource></bind>"
        self._ask(f"<iq type='set' id='bind'>{bind}</iq>", "</iq>")
        self._ask("<presence/>", "<presence")
        self._buffer = b""
        self.ready()

    def prepare(self, sender: int, recipient: str) -> None:
        begin = f"<message to='{recipient}/b' type='chat' id='{RUN}-{sender}-%d'><body>{BODY.decode()}</body></message>"
        self._template = begin.encode()

    def message(self, number: int) -> bytes:
        return self._template % number

    def read(self) -> list[tuple[int, int]]:
        data = self._buffer + self.receive()
        whole, end, rest = data.rpartition(END)
        self._buffer = rest
        if not end and b"<stream:error" in rest:
            raise RuntimeError(rest.decode())
        return [(int(sender), int(number)) for sender, number in ID.findall(whole)]

    def _ask(self, text: str, answer: str) -> None:
        self._buffer = b""
        self.write(text.encode())
        while answer.encode() not in self._buffer:
            if b"<failure" in self._buffer or b"<stream:error" in self._buffer:
                raise RuntimeError(self._buffer.decode())
            self._buffer += self.tls.recv(65536)
