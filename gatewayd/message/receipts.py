"""Receipts: who asks for one, what one says, its mail form, and what a mail's report says.

docs/parley.rst §8.3; delivery reports RFC 3464, disposition notifications RFC 8098, their international forms RFC 6533.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from typing import Any

from gatewayd.address import Address, AddressError
from gatewayd.message import mime
from gatewayd.message.model import RECEIPT, Content, Payload

STORED, DELIVERED, DISPLAYED = STATUSES = ("stored", "delivered", "displayed")
SAYS = {
    STORED: "has been stored by the server of",
    DELIVERED: "has been delivered to a program of",
    DISPLAYED: "has been displayed to",
}
_WORDS = """\
Your message
  {message}
{says}
  {recipient}.

That it was read or understood is not said.
"""
ACTIONS = {  # RFC 3464 §2.3.3
    "delivered": STORED,
    "expanded": "relayed",
    "relayed": "relayed",
    "delayed": "delayed",
    "failed": "failed",
}
REPORTED = {DISPLAYED, *ACTIONS.values()}
MAX_FATES = 100  # of one report
MAX_WHY = 300  # characters
_BLOCKS = re.compile(rb"\r?\n[ \t]*\r?\n")
_BRACKETED = re.compile(r"<([^<>\s]{1,800})>")


def may_ask(content: Content) -> bool:
    """False: it does not. Cheaper than `asked`, for the many that do not."""
    return b"receipts" in content.payload


def asked(payload: Payload) -> frozenset[str]:
    """The receipts that the author wants. None for a receipt."""
    said = payload.ext.get("receipts")
    if payload.type == RECEIPT or not isinstance(said, list):
        return frozenset()
    return frozenset(status for status in STATUSES if status in said)


def status(payload: Payload) -> str:
    """What a receipt says of its parent; of a mail, what the report in it says; "" when it says nothing known."""
    said = payload.ext.get("receipt")
    word = said.get("status") if isinstance(said, dict) else None
    return word if word in STATUSES else ""


def recipient(payload: Payload) -> Address | None:
    """Whose receipt it is: of a mail, who the report names."""
    said = payload.ext.get("receipt")
    named = payload.from_ if payload.type == RECEIPT else said.get("recipient") if isinstance(said, dict) else None
    try:
        return Address.parse(str(named))
    except AddressError:
        return None


def as_report(content: Content, message_id: str) -> bytes:
    """The body of a receipt's mail form, from its Content-Type on. The octets depend on nothing else."""
    payload = content.fields
    said, address = status(payload), recipient(payload)
    kind = "rfc822" if address is None or address.is_ascii else "utf-8"
    named = f"Final-Recipient: {kind}; {address or 'unknown'}"
    if said == DISPLAYED:
        what = "disposition-notification"
        lines = [
            named,
            f"Original-Message-ID: <{message_id}>",
            "Disposition: manual-action/MDN-sent-manually; displayed",
        ]
    else:
        what = "delivery-status"
        domain = address.domain if address else "invalid"
        lines = [f"Reporting-MTA: dns; {domain}", "", named, "Action: delivered", "Status: 2.0.0"]
    report = f"message/{'global-' if kind == 'utf-8' else ''}{what}"
    words = _WORDS.format(message=f"<{message_id}>", says=SAYS.get(said, "concerns"), recipient=address or "unknown")
    parts = (
        ("text/plain; charset=utf-8", words.splitlines()),
        (report, lines),
        ("text/rfc822-headers", [f"Message-ID: <{message_id}>"]),
    )
    boundary = f"=_receipt_{content.id.hex()[:40]}"
    out = [f'Content-Type: multipart/report; report-type={what}; boundary="{boundary}"', ""]
    for media_type, text in parts:
        out += [f"--{boundary}", f"Content-Type: {media_type}", "Content-Transfer-Encoding: 8bit", "", *text]
    return "\r\n".join([*out, f"--{boundary}--", ""]).encode("utf-8")


@dataclass(frozen=True)
class Fate:
    """What became of a message for one recipient: "stored", "delivered", "displayed"; of a mail's report also "failed",
    "delayed", "relayed" (whoever has it reports no more)."""

    recipient: str
    status: str
    why: str = ""


def fates(payload: Payload) -> list[Fate]:
    """All that a receipt, or the report in a mail, says of its first parent."""
    said = payload.ext.get("receipt")
    several = said.get("fates") if isinstance(said, dict) and payload.type != RECEIPT else None
    if not isinstance(several, list):
        who = recipient(payload)
        one = said.get("status") if isinstance(said, dict) else None
        word = status(payload) or ("failed" if one == "failed" and payload.type != RECEIPT else "")
        why = str(said.get("why", "")) if isinstance(said, dict) else ""
        return [Fate(str(who), word, why)] if who is not None and word else []
    found = []
    for each in several[:MAX_FATES]:
        if isinstance(each, dict) and each.get("status") in REPORTED:
            with contextlib.suppress(AddressError):
                who = Address.parse(str(each.get("recipient")))
                found.append(Fate(str(who), each["status"], str(each.get("why", ""))))
    return found


def read_report(mail: bytes, root: mime.Entity) -> tuple[str, dict[str, Any]] | None:
    """The Message-ID that a mail reports on, without brackets, and what a bridged object says of it in "receipt". None
    if the mail is no report, or says nothing that is known."""
    if root.media_type != "multipart/report":
        return None
    for entity in root.children:
        body = mime.decoded_body(mail, entity)
        if entity.subtype in ("disposition-notification", "global-disposition-notification"):
            said = _block(body)
            disposition = said.get("disposition", "").partition(";")[2].split("/")[0].strip().lower()
            if disposition != DISPLAYED:
                return None
            return _found(said.get("original-message-id", ""), DISPLAYED, said)
        if entity.subtype in ("delivery-status", "global-delivery-status"):
            blocks = [said for said in map(_block, _BLOCKS.split(body)) if "action" in said]
            return _delivery_report(_reported_on(mail, root), blocks)
    return None


def _delivery_report(message_id: str, blocks: list[dict[str, str]]) -> tuple[str, dict[str, Any]] | None:
    """One that tells of a single recipient whether he has it says it as a receipt does."""
    named, fates = "", []
    for said in blocks[:MAX_FATES]:
        word = ACTIONS.get(said["action"].strip().lower(), "")
        one = _found(message_id, word, said) if word else None
        if one is not None:
            named = one[0]
            fates.append(one[1] | _why(said) if word in ("failed", "delayed") else one[1])
    if len(blocks) == 1 and fates and fates[0]["status"] in (STORED, "failed"):
        return named, fates[0]
    return (named, {"fates": fates}) if fates else None


def _why(said: dict[str, str]) -> dict[str, str]:
    code, reply = said.get("status", "").strip(), said.get("diagnostic-code", "").partition(";")[2]
    text = " ".join((reply if code in reply else f"{code} {reply}").split())
    return {"why": text[:MAX_WHY].encode("utf-8", "replace").decode("utf-8")} if text else {}


def _found(message_id: str, word: str, said: dict[str, str]) -> tuple[str, dict[str, Any]] | None:
    named = _BRACKETED.search(message_id)
    address = said.get("final-recipient", "").partition(";")[2].strip()
    try:
        return (named[1], {"status": word, "recipient": str(Address.parse(address))}) if named else None
    except AddressError:
        return None


def _reported_on(mail: bytes, root: mime.Entity) -> str:
    """The Message-ID of the message, or of its header, that goes along with a delivery report (RFC 3464 §2)."""
    for entity in root.children:
        if entity.subtype in ("rfc822-headers", "global-headers"):
            return _block(mime.decoded_body(mail, entity)).get("message-id", "")
        if entity.subtype in ("rfc822", "global") and entity.children:
            return next(iter(entity.children[0].values(b"message-id")), "")
    return ""


def _block(text: bytes) -> dict[str, str]:
    """Fields of RFC 822 form (RFC 3464 §2.1.1); of several with one name the last."""
    return {name.decode("ascii").lower(): mime.decoded(value) for name, value in mime.block(text.lstrip(b"\r\n"))}
