"""A message as a client sees it, and one that is to be sent."""

from __future__ import annotations

import mimetypes
import os
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

from gatewayd.address import Address, Domain
from gatewayd.crypto.cose import signer, to_be_signed
from gatewayd.message import receipts
from gatewayd.message.model import EDIT, MAIL, MAX_PARENTS, MESSAGE, REACTION, RECEIPT, RETRACT, Content, Part, Payload
from gatewayd.message.object_types import MAX_REACTION, REPLACEABLE, emoji, reaction_text
from gatewayd.message.receipts import Fate
from gatewayd.message.render import references, rendered_id
from gatewayd.wire.parley.schema import Change

TEXT = "text/plain; charset=utf-8"
STATUS = re.compile(r"\b[45]\.\d{1,3}\.\d{1,3} [^\n]*")  # RFC 3463, and what is said with it


@dataclass(frozen=True)
class Receipt:
    """What became of a message of ours."""

    of: bytes  # its id
    status: str  # "stored", "delivered", "displayed"; of a mail's report also "failed", "delayed", "relayed"
    by: str  # the recipient
    at: float  # seconds since the epoch
    signed: bool  # by the recipient's domain; else it is what a mail says
    why: str = ""  # it failed, or is delayed


@dataclass(frozen=True)
class Message:
    """One message as it stands in a mailbox."""

    mailbox: str
    uid: int
    modseq: int
    flags: tuple[str, ...]
    content: Content

    @classmethod
    def of(cls, change: Change) -> Message:
        """Of a change that brings the whole message. Raises ObjectError."""
        bodies = {sha256(body).digest(): body for body in change.bodies}
        content = Content.from_signed(change.signed, bodies)
        return cls(change.mailbox, change.uid, change.modseq, change.flags, content)

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
    def why(self) -> str:
        """The same in words: who vouches for its author, or why nobody does."""
        return str(_bridged(self.content).get("why", ""))

    @property
    def reaction(self) -> str | None:
        """What a reaction says of the message that is its first parent; by mail too (RFC 9078)."""
        said = _bridged(self.content).get("reaction") if self.bridged else emoji(self.content)
        return said if isinstance(said, str) else None

    @property
    def receipts(self) -> tuple[Receipt, ...]:
        """What a receipt says, or a mail that reports on a message, perhaps of several recipients."""
        fields = self.content.fields
        if not fields.parents or self.type not in (MAIL, RECEIPT):
            return ()
        of, at, signed = fields.parents[0], fields.date / 1000, not self.bridged
        return tuple(Receipt(of, f.status, f.recipient, at, signed, self._why(f)) for f in receipts.fates(fields))

    def _why(self, said: Fate) -> str:
        found = None if said.why or said.status != "failed" else STATUS.search(self.text)
        return found[0].strip() if found else said.why

    @property
    def asks_for(self) -> frozenset[str]:
        """The receipts that its author wants: "stored", "delivered", "displayed"."""
        return receipts.asked(self.content.fields)

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
        """The first text/plain part that is no file, or "" when there is none at hand (a blob is not)."""
        for part in self.content.fields.parts:
            if part.type.startswith("text/plain") and not part.name:
                return self.content.bodies.get(part.hash, b"").decode("utf-8", "replace")
        return ""

    @property
    def files(self) -> tuple[Part, ...]:
        return tuple(part for part in self.content.fields.parts if part.name)

    @property
    def mail(self) -> bytes | None:
        """The original octets of a message that was born as mail, unless they are a blob: `download` fetches it."""
        return self.content.bodies.get(self.content.fields.parts[0].hash) if self.bridged else None


@dataclass(frozen=True)
class Draft:
    """A composed message. Sending the same draft again is the same message: it arrives once."""

    payload: bytes
    bodies: tuple[bytes, ...]
    blobs: tuple[tuple[Part, bytes | Path], ...] = ()  # large bodies and where they are read: put before it is sent

    @property
    def id(self) -> bytes:
        return sha256(self.payload).digest()

    @property
    def to(self) -> tuple[str, ...]:
        """Whom it names."""
        return Payload.decode(self.payload).to

    @property
    def message(self) -> Message:
        """As its author sees it before the domain has signed: in no mailbox, and without a signature."""
        bodies = {sha256(body).digest(): body for body in self.bodies}
        domain = Address.parse(Payload.decode(self.payload).from_).domain
        return Message("", 0, 0, ("\\Seen",), Content(to_be_signed(domain), self.payload, b"", bodies))


def about(type: str, original: Message, user: str) -> dict[str, Any]:
    """What `compose` is told for an EDIT, a RETRACT or a REACTION by that user: to whom it goes, and what it is about.
    Raises ValueError: no server would take it."""
    to = original.content.fields.to
    if type == REACTION:
        everybody = dict.fromkeys((original.sender, *to))
        return {"type": type, "to": [one for one in everybody if one != user] or [user], "answers": original}
    done = "edited" if type == EDIT else "taken back"
    if original.sender != user:
        raise ValueError(f"only what you wrote yourself can be {done}")
    if original.type not in REPLACEABLE[type]:
        raise ValueError(f"what is of the type {original.type} cannot be {done}")
    return {"type": type, "to": to, "replaces": original.id}


def compose(
    sender: str, to: Sequence[str], text: str = "", *, now: float, subject: str = "", files: Sequence[Path] = (),
    parents: Sequence[bytes] = (), answers: Message | None = None, type: str = MESSAGE, replaces: bytes | None = None,
    receipts: Collection[str] = (), kept: Message | None = None,
) -> Draft:  # fmt: skip
    """`now` in seconds since the epoch; `answers` goes before `parents`; `receipts` asks for some of "stored",
    "delivered", "displayed"; the files of `kept` (whole, as it stands in the account) are sent as well. Reads the
    files, so it blocks. Raises OSError for a file that cannot be read, ValueError for what no server would take."""
    if type == REACTION and reaction_text(text.encode("utf-8")) is None:
        raise ValueError(f"a reaction is an emoji or a few characters, at most {MAX_REACTION} octets")
    parts: list[Part] = []
    sources: dict[bytes, bytes | Path] = {}
    if text or not (files or type == RETRACT):
        body = text.encode("utf-8")
        parts.append(Part(sha256(body).digest(), TEXT, len(body)))
        sources[parts[-1].hash] = body
    for path in files:
        with path.open("rb") as file:
            digest = file_digest(file, "sha256").digest()
            media_type = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
            parts.append(Part(digest, media_type, file.tell(), path.name))
        sources[digest] = path
    for part in kept.files if kept else ():
        parts.append(part)
        if kept and part.hash in kept.content.bodies:
            sources[part.hash] = kept.content.bodies[part.hash]
    ext: dict[str, Any] = {"receipts": sorted(receipts)} if receipts else {}
    if answers is not None:
        fields = answers.content.fields
        most = 1 if type == REACTION else MAX_PARENTS
        parents = [answers.id, *parents, *fields.parents][:most]
        ext["references"] = [rendered_id(answers.content), *references(fields)][:most]
    payload = Payload(
        from_=sender, to=tuple(to), date=int(now * 1000), nonce=os.urandom(16), type=type, subject=subject,
        parts=tuple(parts), parents=tuple(parents), replaces=replaces, ext=ext,
    )  # fmt: skip
    encoded = payload.encode()
    blobs = Content(b"", encoded, b"", {}).blobs
    bodies = [source for digest, source in sources.items() if digest not in blobs]
    return Draft(
        encoded,
        tuple(source.read_bytes() if isinstance(source, Path) else source for source in bodies),
        tuple((part, sources[digest]) for digest, part in blobs.items() if digest in sources),  # else the server has it
    )


def _bridged(content: Content) -> dict[str, Any]:
    found = content.fields.ext.get("bridged")
    return found if isinstance(found, dict) else {}
