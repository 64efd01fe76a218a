"""A client of one user (sections 4.2 and 7)."""

from pathlib import Path
from typing import Any

from . import frames, transport
from .objects import CHUNK, KeySet, sha256
from .scram import Scram

MECHANISM = "SCRAM-SHA-256-PLUS"


class User:
    """A signed-in connection."""

    def __init__(self, connection: frames.Connection, address: str) -> None:
        self.connection, self.address = connection, address

    @classmethod
    async def sign_in(
        cls, host: str, port: int, trust: Path, address: str, password: str, takes: int = 1 << 20
    ) -> "User":
        tls = await transport.dial(host, port, address.rpartition("@")[2], trust)
        user = cls(frames.Connection(tls, takes=takes), address)
        await user.authenticate(password)
        return user

    async def authenticate(self, password: str, exporter: bytes | None = None) -> None:
        scram = Scram(self.address, password, exporter or self.connection.tls.exporter())
        reply = await self.ask("auth", mechanism=MECHANISM, data=scram.first())
        assert not reply["done"]
        reply = await self.ask("auth", mechanism=MECHANISM, data=scram.final(reply["data"]))
        assert reply["done"] and scram.proves(reply["data"])

    async def ask(self, method: str, **body: Any) -> frames.Body:
        return await self.connection.request(method, **body)

    async def send(self, to: list[str], payload: bytes, *bodies: bytes) -> dict[str, str]:
        """The code for each recipient."""
        results = (await self.ask("send", to=to, payload=payload, bodies=list(bodies)))["results"]
        return {result["to"]: result["code"] for result in results}

    async def log(self, since: int = 0, **more: Any) -> list[dict[str, Any]]:
        """All changes after a number, page by page; ``self.modseq`` and ``self.epoch`` say how far it goes."""
        changes: list[dict[str, Any]] = []
        while True:
            page = await self.ask("sync", since=since, **more)
            changes += page["changes"]
            since = self.modseq = page["modseq"]
            self.epoch = page["epoch"]
            if not page.get("more"):
                return changes

    async def find(self, payload: bytes, mailbox: str = "INBOX") -> dict[str, Any] | None:
        found = [c for c in await self.log() if c.get("id") == sha256(payload) and c["mailbox"] == mailbox]
        assert len(found) < 2
        return found[0] if found else None

    async def put(self, octets: bytes, until: int | None = None) -> int:
        """Bring a blob, from where it stands, perhaps not to its end. How many octets are there now."""
        about = {"hash": sha256(octets), "size": len(octets)}
        there: int = (await self.ask("put", **about, offset=0, data=b""))["offset"]
        end = len(octets) if until is None else until
        chunks = [about | {"offset": at, "data": octets[at : min(at + CHUNK, end)]} for at in range(there, end, CHUNK)]
        for reply in self.connection.begin("put", chunks):
            there = (await reply)["offset"]
        return there

    async def get(self, hash_: bytes) -> bytes:
        octets, size = b"", 1
        while len(octets) < size:
            reply = await self.ask("get", hash=hash_, offset=len(octets))
            octets, size = octets + reply["data"], reply["size"]
        assert sha256(octets) == hash_
        return octets

    async def keys(self, domain: str) -> KeySet:
        return KeySet.read((await self.ask("keys", domain=domain))["keys"], domain)
