"""The server of another domain: peers dial it, it dials them, and keeps what its users are sent (sections 4.3 to 8)."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import frames, transport
from .frames import Connection, Failed
from .objects import (
    CHUNK,
    DomainKey,
    KeySet,
    Refused,
    Signed,
    blobs_of,
    compose,
    domain_of,
    matched,
    sha256,
    well_formed,
)
from .zone import locate


@dataclass
class Copy:
    """An object as a recipient has it."""

    signed: Signed
    bodies: dict[bytes, bytes]
    reverse_path: str


@dataclass
class Peer:
    """One domain. ``users`` are the addresses that exist; ``granted`` who may write to whom, as (user, address)."""

    domain: str
    certificate: Path
    key: Path
    trust: Path
    nameserver: tuple[str, int]
    users: set[str] = field(default_factory=set)
    granted: set[tuple[str, str]] = field(default_factory=set)
    takes: int = 1 << 20
    remember: int = 0

    def __post_init__(self) -> None:
        self.signing = DomainKey(self.domain)
        self.shown = self.signing.key_set
        self.copies: dict[tuple[str, bytes], Copy] = {}  # by recipient and object id
        self.requests: set[tuple[str, str, str]] = set()
        self.signals: asyncio.Queue[frames.Body] = asyncio.Queue()
        self.offered: dict[bytes, bytes] = {}  # blobs of what is being sent
        self.sends = self.connections = 0
        self.instead: list[Callable[[Connection], list[dict[str, Any]]]] = []  # what the next sends are answered
        self.blob = _piece
        self._sets: dict[str, KeySet] = {}
        self._arrived = asyncio.Condition()
        self._seen: dict[str, list[Copy]] = defaultdict(list)

    # --- dialled -------------------------------------------------------------------------------------------------

    async def listen(self, address: str) -> int:
        """The port."""
        context = transport.listening_context(self.certificate, self.key)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                tls = await transport.accept(reader, writer, context)
                Connection(tls, self._answer, takes=self.takes, remember=self.remember)
            except (EOFError, ConnectionError):
                writer.close()

        self.listener = await asyncio.start_server(serve, address)
        port: int = self.listener.sockets[0].getsockname()[1]
        return port

    async def _answer(self, connection: Connection, method: str, body: frames.Body) -> frames.Body:
        if method == "keys":
            if body["domain"] != self.domain:
                raise Failed("not-found")
            return {"keys": self.shown(int(time.time()))}
        if method == "auth":
            return await self._auth(connection, body)
        if not connection.identity:
            raise Failed("auth-required")
        if method == "send":
            return {"results": await self._send(connection, body)}
        if domain_of(body["from"]) != connection.identity:
            raise Failed("bad-request", "from")
        if method == "signal":
            self.signals.put_nowait(body)
            return {}
        if method == "consent":
            self.requests.add((body["action"], body["from"].lower(), body["address"].lower()))
            return {}
        if method == "lookup":
            granted = (body["address"].lower(), body["from"].lower()) in self.granted
            return {"granted": granted, "introduction": 2000}
        raise Failed("unknown-method", method)

    async def _auth(self, connection: Connection, body: frames.Body) -> frames.Body:
        if body["mechanism"] != "DOMAIN":
            raise Failed("mechanism")
        if body["to"] != self.domain or body["domain"] == self.domain or connection.identity:
            raise Failed("auth-failed")
        keys = await self._keys_of(body["domain"], body["kid"])
        proof = ["parley/1 domain auth", "dialler", body["domain"], self.domain, connection.tls.exporter()]
        if not keys.check(body["kid"], body["data"], frames.strict_cbor.encode(proof), time.time()):
            raise Failed("auth-failed")
        connection.identity = body["domain"]
        self.connections += 1
        return {"done": True}

    async def _keys_of(self, domain: str, kid: bytes) -> KeySet:
        """Kept until it expires, or a kid is asked for that it does not know (section 5)."""
        keys = self._sets.get(domain)
        if keys is None or keys.expires < time.time() or kid not in keys.keys:
            try:
                connection = await self.connect(domain)
                keys = KeySet.read((await connection.request("keys", domain=domain))["keys"], domain)
                connection.end()
            except (OSError, Failed, ValueError) as error:
                raise Failed("keys-unavailable", str(error)) from error
            if kid not in keys.keys:
                raise Failed("keys-unavailable", "it does not have that key")
            self._sets[domain] = keys
        return keys

    async def _send(self, connection: Connection, body: frames.Body) -> list[dict[str, Any]]:
        self.sends += 1
        if self.instead:
            return self.instead.pop(0)(connection)
        results = []
        copy: Copy | None = None
        for to in body["to"]:
            try:
                if to.lower() not in self.users:
                    raise Refused("5.1.1", "No such user")
                copy = copy or await self._verified(connection, body)
                async with self._arrived:
                    if (to.lower(), copy.signed.id) not in self.copies:
                        self.copies[to.lower(), copy.signed.id] = copy
                        self._seen[to.lower()].append(copy)
                        self._arrived.notify_all()
                results.append({"to": to, "code": "2.0.0", "text": "Kept"})
            except Refused as refused:
                results.append({"to": to, "code": refused.code, "text": refused.text})
        return results

    async def _verified(self, connection: Connection, body: frames.Body) -> Copy:
        signed = Signed.read(body["signed"])
        fields = well_formed(signed.payload)
        reverse_path = body.get("from", "")
        if fields.get("type") == "mail":
            speaks = fields.get("ext", {}).get("bridged", {}).get("by")
        else:
            speaks = domain_of(fields["from"])
        if speaks != connection.identity or (reverse_path and domain_of(reverse_path) != connection.identity):
            raise Refused("5.7.1")
        if signed.domain != connection.identity:
            raise Refused("5.7.7")
        try:
            signed.verify(await self._keys_of(signed.domain, signed.kid))
        except Failed as failed:
            raise Refused("4.7.5", failed.text) from failed
        bodies = matched(signed.payload, body.get("bodies", []))
        for blob in blobs_of(signed.payload):
            octets, size = b"", 1
            while len(octets) < size:
                reply = await connection.request("get", hash=blob, offset=len(octets))
                octets, size = octets + reply["data"], reply["size"]
            if sha256(octets) != blob:
                raise Refused("5.6.0")
            bodies[blob] = octets
        return Copy(signed, bodies, reverse_path)

    async def arrival(self, user: str, kind: str = "message") -> Copy:
        """The next object of that type for the user, which is then forgotten here."""
        async with self._arrived:
            while True:
                for copy in self._seen[user]:
                    if copy.signed.fields.get("type", "message") == kind:
                        self._seen[user].remove(copy)
                        return copy
                await asyncio.wait_for(self._arrived.wait(), 60)

    # --- dialling ------------------------------------------------------------------------------------------------

    async def connect(self, domain: str) -> Connection:
        error: Exception = ConnectionError(f"{domain} has no server")
        for host, port in await locate(domain, self.nameserver):
            try:
                return Connection(await transport.dial(host, port, domain, self.trust), self._serve_blobs)
            except OSError as failed:
                error = failed
        raise error

    async def dial(self, dialled: str, proof: bytes | None = None, **claims: Any) -> Connection:
        """A connection that is signed in as this domain; ``proof`` and ``claims`` say something else instead."""
        connection = await self.connect(dialled)
        claims = {"domain": self.domain, "to": dialled, "kid": self.signing.kid} | claims
        data = self.signing.proof(dialled, connection.tls.exporter()) if proof is None else proof
        try:
            reply = await connection.request("auth", mechanism="DOMAIN", data=data, **claims)
        except Failed:
            connection.end()
            raise
        assert reply["done"]
        return connection

    async def _serve_blobs(self, connection: Connection, method: str, body: frames.Body) -> frames.Body:
        if method != "get":
            raise Failed("unknown-method", method)
        octets = self.offered.get(body["hash"])
        if octets is None:
            raise Failed("not-found")
        return self.blob(connection, octets, body["offset"])

    async def send(
        self, connection: Connection, to: list[str], signed: bytes, *bodies: bytes, reverse_path: str = ""
    ) -> dict[str, str]:
        blobs = blobs_of(Signed.read(signed).payload)
        self.offered |= {sha256(body): body for body in bodies if sha256(body) in blobs}
        inline = [body for body in bodies if sha256(body) not in blobs]
        body = {"to": to, "signed": signed, "from": reverse_path, "bodies": inline}
        results = (await connection.request("send", **body))["results"]
        return {result["to"]: result["code"] for result in results}

    def receipt(self, user: str, about: Signed, status: str) -> bytes:
        """Section 8.3: a signed receipt of a user of this domain."""
        author = about.fields["from"]
        message_id = f"{about.id.hex()}@{domain_of(author)}"
        ext = {"receipt": {"status": status}, "references": [message_id]}
        return self.signing.sign(compose(user, [author], type="receipt", parents=[about.id], ext=ext))

    def close(self) -> None:
        self.listener.close()


def _piece(connection: Connection, octets: bytes, offset: int) -> frames.Body:
    return {"data": octets[offset : offset + CHUNK], "size": len(octets)}
