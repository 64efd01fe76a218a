"""The Parley client as a library: sign in as a user, send, read the log, stay on its live tail (docs/parley.rst).

A bot is ten lines::

    async def main(reactor):
        async with await connect(reactor, "alice@alpha.test", "parley-demo") as parley:
            async for message in parley.messages(since=0, live=True):
                await parley.send([message.sender], f"You said: {message.text}")
"""

from __future__ import annotations

import mimetypes
import os
import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred

from gatewayd.address import Address, Domain
from gatewayd.crypto.cose import signer
from gatewayd.dns.resolver import Resolver
from gatewayd.interfaces import Endpoint
from gatewayd.message.model import EDIT, MAIL, MAX_PARENTS, MESSAGE, REACTION, RETRACT, Content, Part, Payload
from gatewayd.message.object_types import REPLACEABLE, emoji
from gatewayd.message.render import references, rendered_id
from gatewayd.net.dial import dial_parley
from gatewayd.net.tls import Trust
from gatewayd.session.parley_client import ConnectionGone, ParleyClientSession, RequestFailed
from gatewayd.wire.parley.connection import ParleyConnection
from gatewayd.wire.parley.schema import Change, Changes, Mark, Result, Send, SendReply, Sync, read

__all__ = ["ConnectionGone", "Message", "ParleyClient", "RequestFailed", "compose", "connect", "locate"]

TEXT = "text/plain; charset=utf-8"
PAGE = 100  # changes asked for at once


@dataclass(frozen=True)
class Message:
    """One message as it stands in a mailbox."""

    mailbox: str
    uid: int
    modseq: int
    flags: tuple[str, ...]
    content: Content

    @property
    def id(self) -> bytes:
        return self.content.id

    @property
    def sender(self) -> str:
        return self.content.fields.from_

    @property
    def subject(self) -> str:
        return self.content.fields.subject

    @property
    def type(self) -> str:
        """message, edit, retract, reaction, receipt, mail; or one that this library does not know."""
        return self.content.fields.type

    @property
    def bridged(self) -> bool:
        """It was born as mail: its sender is what the mail says, not what a domain signed."""
        return self.type == MAIL

    @property
    def signer(self) -> Domain:
        """The domain that signed: the sender's, or, bridged, the one that took the mail in."""
        return signer(self.content.protected)[0]

    @property
    def results(self) -> dict[str, str]:
        """Of a bridged message, what its domain found of the sender: "spf", "dkim" and "dmarc", where it looked."""
        found = _bridged(self.content)
        return {k: str(found[k]) for k in ("spf", "dkim", "dmarc") if k in found}

    @property
    def reaction(self) -> str | None:
        """What a reaction says of the message that is its first parent; by mail too (RFC 9078)."""
        said = _bridged(self.content).get("reaction") if self.bridged else emoji(self.content)
        return said if isinstance(said, str) else None

    def replaces(self, original: Message) -> bool:
        """Whether this edits or retracts that one, and may: only its author can, by the same domain's signature."""
        mine, theirs = self.content.fields, original.content.fields
        return (
            mine.replaces == original.id
            and theirs.type in REPLACEABLE.get(mine.type, ())
            and mine.from_ == theirs.from_
            and self.signer == original.signer
        )

    @property
    def text(self) -> str:
        """The first text/plain part, or "" when there is none."""
        for part in self.content.fields.parts:
            if part.type.startswith("text/plain"):
                return self.content.bodies[part.hash].decode("utf-8", "replace")
        return ""

    @property
    def mail(self) -> bytes | None:
        """The original octets of a message that was born as mail."""
        return self.content.bodies[self.content.fields.parts[0].hash] if self.bridged else None


@dataclass(frozen=True)
class Draft:
    """A composed message. Sending the same draft again is the same message: it arrives once."""

    payload: bytes
    bodies: tuple[bytes, ...]

    @property
    def id(self) -> bytes:
        return Content(b"", self.payload, b"", {}).id


def compose(
    sender: str, to: Sequence[str], text: str = "", *, now: float, subject: str = "", files: Sequence[Path] = (),
    parents: Sequence[bytes] = (), answers: Message | None = None, type: str = MESSAGE, replaces: bytes | None = None,
) -> Draft:  # fmt: skip
    """`now` in seconds since the epoch; `answers` goes before `parents`. Raises OSError for a file that cannot be
    read."""
    parts: list[Part] = []
    bodies: list[bytes] = []

    def add(media_type: str, body: bytes, name: str | None = None) -> None:
        parts.append(Part(sha256(body).digest(), media_type, len(body), name))
        bodies.append(body)

    if text or not (files or type == RETRACT):
        add(TEXT, text.encode("utf-8"))
    for path in files:
        add(mimetypes.guess_type(path.name)[0] or "application/octet-stream", path.read_bytes(), path.name)
    ext: dict[str, Any] = {}
    if answers is not None:
        fields = answers.content.fields
        most = 1 if type == REACTION else MAX_PARENTS
        parents = [answers.id, *parents, *fields.parents][:most]
        ext["references"] = [rendered_id(answers.content), *references(fields)][:most]
    payload = Payload(
        from_=sender, to=tuple(to), date=int(now * 1000), nonce=os.urandom(16), type=type, subject=subject,
        parts=tuple(parts), parents=tuple(parents), replaces=replaces, ext=ext,
    )  # fmt: skip
    return Draft(payload.encode(), tuple(dict.fromkeys(bodies)))


async def locate(reactor: Any, domain: Domain) -> list[Endpoint]:
    """Where the domain's server listens: SRV `_parley._tcp`. Raises OSError when there is none."""
    resolver = Resolver(reactor)
    resolver.start()
    try:
        found = await resolver.srv(f"_parley._tcp.{domain}")
    finally:
        resolver.stop()
    endpoints = [record for record in found.records if isinstance(record, Endpoint)]
    if not endpoints:
        raise ConnectionError(f"{domain} publishes no Parley service (SRV _parley._tcp.{domain})")
    return endpoints


async def connect(
    reactor: Any, user: str, password: str, *, server: Endpoint | None = None, authorities: Path | None = None
) -> ParleyClient:
    """Signs in at the user's own domain, which the server must prove to be. `authorities`: a PEM file instead of the
    system's. Raises OSError (no connection, not that domain), RequestFailed (not signed in), AddressError."""
    domain = Address.parse(user).domain
    failed: OSError = ConnectionError(f"no server of {domain}")
    for endpoint in [server] if server else await locate(reactor, domain):
        engine = ParleyConnection()
        session = ParleyClientSession("gatewayd.client", engine)
        try:
            await dial_parley(reactor, endpoint.host, endpoint.port, domain, Trust(authorities), engine, session)
        except OSError as error:
            failed = error
            continue
        await session.sign_in_user(user, password, secrets.token_hex(16))
        return ParleyClient(reactor, user, session)
    raise failed


class ParleyClient:
    """A signed-in connection. Every method may raise RequestFailed and ConnectionGone."""

    def __init__(self, reactor: Any, user: str, session: ParleyClientSession) -> None:
        self.user = user
        self._reactor = reactor
        self._session = session
        self._pushed: list[Changes] = []
        self._waiter: Deferred[None] | None = None
        self._gone: Exception | None = None
        session.on_changes = self._on_changes
        session.on_closed = self._on_closed

    async def __aenter__(self) -> ParleyClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    async def send(
        self, to: Sequence[str], text: str = "", *, subject: str = "", files: Sequence[Path] = (),
        parents: Sequence[bytes] = (), answers: Message | None = None, type: str = MESSAGE,
        replaces: bytes | None = None,
    ) -> tuple[Result, ...]:  # fmt: skip
        """One message; a result for each recipient, in their order."""
        draft = compose(
            self.user, to, text, now=self._reactor.seconds(), subject=subject, files=files, parents=parents,
            answers=answers, type=type, replaces=replaces,
        )  # fmt: skip
        return await self.send_draft(to, draft)

    async def edit(
        self, original: Message, text: str, *, subject: str = "", files: Sequence[Path] = ()
    ) -> tuple[Result, ...]:
        """Another text for a message of ours, to those whom it names. Always of the first version: edits replace no
        edits."""
        to = original.content.fields.to
        return await self.send(to, text, subject=subject, files=files, type=EDIT, replaces=original.id)

    async def retract(self, original: Message) -> tuple[Result, ...]:
        """Asks those whom it names to show a message, an edit or a reaction of ours no more."""
        return await self.send(original.content.fields.to, type=RETRACT, replaces=original.id)

    async def react(self, original: Message, text: str) -> tuple[Result, ...]:
        """With an emoji, or a few, to everybody whom the message names but ourselves."""
        fields = original.content.fields
        everybody = [to for to in dict.fromkeys((fields.from_, *fields.to)) if to != self.user]
        return await self.send(everybody or [self.user], text, type=REACTION, answers=original)

    async def send_draft(self, to: Sequence[str], draft: Draft) -> tuple[Result, ...]:
        """Safe to repeat after ConnectionGone: the same draft arrives once."""
        reply = await self._session.request("send", Send(tuple(to), draft.bodies, payload=draft.payload))
        return read(SendReply, reply).results

    async def changes(self, since: int = 0, *, live: bool = False) -> AsyncIterator[Changes]:
        """The account's log after modseq `since`, page by page; with `live`, on and on as it grows."""
        while True:
            page = read(Changes, await self._session.request("sync", Sync(since, PAGE, live)))
            yield page
            since = page.modseq
            if not page.more:
                break
        while live:
            while not self._pushed:
                if self._gone is not None:
                    raise self._gone
                self._waiter = Deferred()
                await self._waiter
            yield self._pushed.pop(0)

    async def messages(self, since: int = 0, *, live: bool = False, mailbox: str = "INBOX") -> AsyncIterator[Message]:
        """The messages of one mailbox that are new or changed after modseq `since`."""
        async for page in self.changes(since, live=live):
            for change in page.changes:
                if change.mailbox == mailbox and change.signed:  # else gone, or one of a group too large for a page
                    yield _message(change)

    async def mark(
        self, mailbox: str, uids: Sequence[int], *, add: Sequence[str] = (), remove: Sequence[str] = (),
        move: str = "", delete: bool = False,
    ) -> None:  # fmt: skip
        """Flags (IMAP's names), another mailbox, or gone."""
        await self._session.request("mark", Mark(mailbox, tuple(uids), tuple(add), tuple(remove), move, delete))

    def close(self) -> None:
        self._session.close()

    def _on_changes(self, changes: Changes) -> None:
        self._pushed.append(changes)
        self._wake()

    def _on_closed(self, error: Exception) -> None:
        self._gone = error
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None:
            waiter, self._waiter = self._waiter, None
            waiter.callback(None)


def _bridged(content: Content) -> dict[str, Any]:
    found = content.fields.ext.get("bridged")
    return found if isinstance(found, dict) else {}


def _message(change: Change) -> Message:
    bodies = {sha256(body).digest(): body for body in change.bodies}
    return Message(change.mailbox, change.uid, change.modseq, change.flags, Content.from_signed(change.signed, bodies))
