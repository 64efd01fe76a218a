"""A milter over its socket: one connection for each client, asked at each step of the client's transaction.

The connection is made at the first MAIL, when the client has said all that goes ahead of it (HELO, who signed in); who
never sends mail costs the filter nothing.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
import struct
import time
from collections.abc import Generator
from typing import TypeVar

from msgspec.structs import replace

from gatewayd.address import Address
from gatewayd.core.filtering import FilterDown, Filtered, refusal
from gatewayd.interfaces.queue import Envelope
from gatewayd.interfaces.routes import Origin
from gatewayd.message.edit import EditableMail
from gatewayd.net import filters
from gatewayd.net.filters import Asking, Place
from gatewayd.outcome import Deferred, Outcome, Refused
from gatewayd.wire.milter import RemoteProtocolError
from gatewayd.wire.milter.conversation import (
    CONTINUE,
    AddField,
    Answer,
    ChangeEnvelope,
    ChangeField,
    Conversation,
    Edit,
    ReplaceBody,
    Verdict,
)
from gatewayd.wire.milter.packets import Packet, PacketReader

T = TypeVar("T")
NOT_TAKEN = "A content filter does not take it"


class Milter:
    """One client's visit. Blocking; all raise FilterDown."""

    def __init__(self, place: Place, hostname: str, origin: Origin, submitter: Address | None) -> None:
        self._place = place
        self._origin = origin
        shown = f"[{origin.address}]"
        self._macros = {
            "j": hostname, "_": shown, "v": "gatewayd", "client_addr": origin.address, "client_name": shown,
            "daemon_name": "gatewayd",
        }  # fmt: skip
        if origin.tls:
            self._macros |= {"tls_version": origin.tls, "cipher": origin.cipher}
        if submitter is not None:
            self._macros |= {"auth_authen": str(submitter), "auth_type": origin.mechanism}
        self._socket: socket.socket | None = None
        self._asked = False  # of the transaction that the client is in
        self._standing = CONTINUE  # what it said of the client itself
        self._said = CONTINUE  # of the transaction: no more is asked once it is anything else

    def mail(self, sender: Address | None) -> Outcome | None:
        used = self._socket is not None
        try:
            return self._mail(sender)
        except FilterDown:
            if not used:  # else it has hung up since the last message, as it may
                raise
            return self._mail(sender)

    def rcpt(self, recipient: Address) -> Outcome | None:
        if self._said != CONTINUE:
            return None
        said = self._run(self._talk.rcpt(str(recipient)))
        if said.action in {"accept", "discard"}:  # the whole message
            self._said = said
        return _turned_away(said)

    def data(self) -> Outcome | None:
        if self._said == CONTINUE:
            self._said = self._run(self._talk.data())
        return _turned_away(self._said)

    def judge(self, mail: bytes, envelope: Envelope) -> Filtered:
        refused: dict[Address, Outcome] = {}
        if not self._asked:
            turned_away = self.mail(envelope.reverse_path)
            for recipient in envelope.recipients if turned_away is None else ():
                if (said := self.rcpt(recipient)) is not None:
                    refused[recipient] = said
            if turned_away is not None or len(refused) == len(envelope.recipients):
                return self._not_taken(mail, turned_away or next(iter(refused.values())))
        editable = EditableMail(mail)
        verdict = Verdict(self._said)
        if self._said == CONTINUE:
            verdict = self._run(self._talk.end(editable.fields, editable.body))
        self._asked = False
        outcome = _turned_away(verdict.answer)
        if outcome is not None:
            return self._not_taken(mail, outcome)
        if verdict.answer.action == "discard":
            return Filtered("discard", mail, f"milter {self._place}: discarded")
        try:
            changed = _edited_envelope(envelope, verdict.edits)
            _edit(editable, verdict.edits)
        except ValueError as error:
            raise self._down(error) from None
        why = "; ".join(filter(None, (verdict.quarantine, _described(verdict.edits))))
        return Filtered(
            "junk" if verdict.quarantine else "take", editable.octets if verdict.edits else mail,
            f"milter {self._place}: {why}" if why else "", None, frozenset(refused),
            changed if changed != envelope else None,
        )  # fmt: skip

    def close(self) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.settimeout(0)  # this is the reactor's thread
                self._socket.sendall(Conversation.QUIT)
            self._socket.close()
        self._socket = None

    # -- inside -----------------------------------------------------------------------------------------------------

    def _mail(self, sender: Address | None) -> Outcome | None:
        if self._socket is None:
            self._connect()
        if self._talk.under_way:
            self._send(Conversation.ABORT)
        self._asked, self._said = True, self._standing
        if self._said == CONTINUE:
            host = sender.domain.name if sender is not None else ""
            self._talk.macros |= {"i": secrets.token_hex(6), "mail_addr": str(sender or ""), "mail_host": host}
            self._said = self._run(self._talk.mail(str(sender or "")))
        return _turned_away(self._said)

    def _connect(self) -> None:
        try:
            self._socket = self._place.connect()
        except OSError as error:
            raise self._down(error) from None
        self._reader, self._talk = PacketReader(), Conversation(self._macros)
        self._standing = self._run(self._talk.begin(self._origin.address, self._origin.helo))

    def _run(self, step: Generator[bytes, Packet, T]) -> T:
        patience = time.monotonic() + filters.PATIENCE
        try:
            octets = next(step)
            while True:
                self._send(octets)
                octets = step.send(self._packet())
                if time.monotonic() > patience:  # it keeps asking for more time
                    raise TimeoutError("no answer in time")
        except StopIteration as end:
            result: T = end.value
            return result
        except (OSError, RemoteProtocolError, struct.error) as error:
            raise self._down(error) from None

    def _send(self, octets: bytes) -> None:
        assert self._socket is not None
        try:
            self._socket.sendall(octets)
        except OSError as error:
            raise self._down(error) from None

    def _packet(self) -> Packet:
        assert self._socket is not None
        while (packet := self._reader.next()) is None:
            data = self._socket.recv(65536)
            if not data:
                raise RemoteProtocolError("the filter hung up")
            self._reader.feed(data)
        return packet

    def _down(self, error: Exception) -> FilterDown:
        if self._socket is not None:
            self._socket.close()
        self._socket = None
        return FilterDown(f"milter {self._place}: {error}", silent=isinstance(error, TimeoutError))

    def _not_taken(self, mail: bytes, outcome: Outcome) -> Filtered:
        action = "defer" if isinstance(outcome, Deferred) else "refuse"
        return Filtered(action, mail, f"milter {self._place}: {outcome.text}", outcome)  # type: ignore[arg-type]


class MilterVisit:
    """The same, each step in a thread."""

    def __init__(
        self, in_thread: Asking, place: Place, hostname: str, origin: Origin, submitter: Address | None
    ) -> None:
        self._in_thread = in_thread
        self._milter = Milter(place, hostname, origin, submitter)

    async def mail(self, sender: Address | None) -> Outcome | None:
        said: Outcome | None = await self._in_thread(self._milter.mail, sender)
        return said

    async def rcpt(self, recipient: Address) -> Outcome | None:
        said: Outcome | None = await self._in_thread(self._milter.rcpt, recipient)
        return said

    async def data(self) -> Outcome | None:
        said: Outcome | None = await self._in_thread(self._milter.data)
        return said

    async def judge(self, mail: bytes, envelope: Envelope) -> Filtered:
        said: Filtered = await self._in_thread(self._milter.judge, mail, envelope)
        return said

    def close(self) -> None:
        self._milter.close()


def _turned_away(answer: Answer) -> Outcome | None:
    if answer.action not in {"reject", "defer"}:
        return None
    if answer.reply:
        return refusal(answer.reply, NOT_TAKEN)
    return Refused("5.7.1", NOT_TAKEN) if answer.action == "reject" else Deferred("4.7.1", NOT_TAKEN)


def _edit(mail: EditableMail, edits: tuple[Edit, ...]) -> None:
    """Raises ValueError."""
    chunks = [edit.chunk for edit in edits if isinstance(edit, ReplaceBody)]
    if chunks:
        mail.body = b"".join(chunks)
    for edit in edits:
        match edit:
            case AddField(name, value, index):
                mail.add(name, value, index)
            case ChangeField(name, index, value):
                mail.change(name, index, value)


def _edited_envelope(envelope: Envelope, edits: tuple[Edit, ...]) -> Envelope:
    """Raises ValueError for what is no address."""
    recipients, sender = dict.fromkeys(envelope.recipients), envelope.reverse_path
    for edit in edits:
        match edit:
            case ChangeEnvelope("sender", path):
                sender = Address.parse(path) if path else None
            case ChangeEnvelope("add", path):
                recipients[Address.parse(path)] = None
            case ChangeEnvelope("delete", path):
                doomed = Address.parse(path).key
                recipients = {each: None for each in recipients if each.key != doomed}
    return replace(envelope, reverse_path=sender, recipients=tuple(recipients))


def _described(edits: tuple[Edit, ...]) -> str:
    """What the user ought to know of; a field more is not worth a word."""
    things = []
    if any(isinstance(edit, ChangeField) for edit in edits):
        things.append("fields")
    if any(isinstance(edit, ReplaceBody) for edit in edits):
        things.append("the body")
    if any(isinstance(edit, ChangeEnvelope) for edit in edits):
        things.append("the envelope")
    return f"changed {' and '.join(things)}" if things else ""
