"""What each type of object holds, and must hold (docs/parley.rst §8.1). Checked where an object is accepted."""

from __future__ import annotations

from gatewayd.message import receipts
from gatewayd.message.model import EDIT, MAX_PARENTS, MESSAGE, REACTION, RETRACT, Content, ObjectError, Payload

MAX_REACTION = 64  # octets: an emoji, or a few (RFC 9078 §2)
NONCE = 16  # octets
REPLACEABLE = {  # what its author may replace, by what
    EDIT: {MESSAGE},
    RETRACT: {MESSAGE, EDIT, REACTION},
}


def check(content: Content) -> None:
    """Raises ObjectError: the object does not hold what its type asks for. A type that is not known may hold
    anything."""
    payload = content.fields
    if len(payload.nonce) != NONCE:
        raise ObjectError(f"a nonce has {NONCE} octets")
    if len(payload.parents) > MAX_PARENTS or any(len(parent) != 32 for parent in payload.parents):
        raise ObjectError(f"at most {MAX_PARENTS} parents, each an object id")
    if payload.type in REPLACEABLE and payload.replaces is None:
        raise ObjectError("`replaces` is missing: the object that this is about")
    if payload.replaces is not None and len(payload.replaces) != 32:
        raise ObjectError("`replaces` is an object id, of 32 octets")
    match payload.type:
        case "message" if payload.replaces is not None:
            raise ObjectError("a message replaces nothing; the type that does is edit")
        case "edit" if not payload.parts:
            raise ObjectError("an edit holds the new text")
        case "retract" if payload.parts or payload.subject:
            raise ObjectError("a retraction has no subject and no parts")
        case "reaction":
            _check_reaction(payload, content)
        case "receipt":
            if len(payload.parents) != 1 or payload.replaces is not None or not receipts.status(payload):
                raise ObjectError("a receipt names one message, in `parents`, and says what became of it")
            if payload.parts or payload.subject or len(payload.to) != 1:
                raise ObjectError("a receipt goes to one author and has no subject and no parts")


def emoji(content: Content) -> str | None:
    """What a well-formed reaction says; None for anything else."""
    payload = content.fields
    if payload.type != REACTION or len(payload.parts) != 1:
        return None
    return reaction_text(content.bodies.get(payload.parts[0].hash, b""))


def reaction_text(body: bytes) -> str | None:
    """None if it is not short, not UTF-8, or not all to be seen; white space around it (RFC 9078 §2) does not count."""
    try:
        text = body.decode("utf-8").strip() if len(body) <= MAX_REACTION else ""
    except UnicodeDecodeError:
        return None
    return text if text and all(c.isprintable() or c == "\u200d" or _is_tag(c) for c in text) else None


def _check_reaction(payload: Payload, content: Content) -> None:
    if len(payload.parents) != 1 or payload.replaces is not None:
        raise ObjectError("a reaction names one message, in `parents`")
    part = payload.parts[0] if len(payload.parts) == 1 else None
    if part is None or part.name is not None or part.type.split(";")[0].strip().lower() != "text/plain":
        raise ObjectError("a reaction has one part, text/plain")
    if emoji(content) is None:
        raise ObjectError(f"a reaction is an emoji or a few characters, at most {MAX_REACTION} octets")


def _is_tag(c: str) -> bool:
    """Flags of regions and families are sequences with these (UTS 51 §1.4.9)."""
    return "\U000e0020" <= c <= "\U000e007f"
