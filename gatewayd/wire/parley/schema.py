"""What the frames' bodies hold: the code's form of docs/parley.cddl. Unknown fields are ignored; no field is null."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from gatewayd.wire.parley import RemoteProtocolError

T = TypeVar("T")
CHUNK = 64 * 1024  # octets of a blob in one frame
MAX_FETCH = 500  # objects asked for at once
Number = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
SHA256 = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
UID = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]
_FLAG = r"^(\\(Answered|Deleted|Draft|Flagged|Seen)|[!#$&'+,./0-9:;<=>?@A-Z^_`a-z|~-]+)\Z"  # RFC 9051 §2.3.2, §9
Flag = Annotated[str, msgspec.Meta(pattern=_FLAG)]


class Body(msgspec.Struct, frozen=True, omit_defaults=True, rename={"from_": "from"}):
    pass


class Hello(Body, frozen=True):
    version: int
    name: str  # who speaks: a server's host name, or a client's program
    frame: Annotated[int, msgspec.Meta(le=2**32 - 1)]  # octets of the largest frame taken
    recipients: Number = 1000  # of one send
    remember: Number = 0  # seconds that the listener's domains are to be remembered as speaking Parley


class Auth(Body, frozen=True):
    mechanism: str  # "SCRAM-SHA-256-PLUS" or "DOMAIN"
    data: bytes = b""  # SCRAM: the message; DOMAIN: the signature
    domain: str = ""  # DOMAIN: who dials
    to: str = ""  # DOMAIN: who is dialled
    kid: bytes = b""


class AuthReply(Body, frozen=True):
    done: bool
    data: bytes = b""


class Keys(Body, frozen=True):
    domain: str


class KeysReply(Body, frozen=True):
    keys: bytes  # an encoded key set


class Send(Body, frozen=True):
    to: tuple[str, ...]
    bodies: tuple[bytes, ...] = ()
    payload: bytes = b""  # from a user: its server signs
    signed: bytes = b""  # from a peer: COSE_Sign1
    from_: str = ""  # from a peer: the reverse-path; "" is null


class Result(Body, frozen=True):
    to: str
    code: str  # RFC 3463
    text: str
    retry: Number | UnsetType = UNSET  # seconds


class SendReply(Body, frozen=True):
    results: tuple[Result, ...]


Action = Literal["list", "request", "cancel", "grant", "revoke"]
ContactState = Literal["requested", "granted", "revoked", "none"]


class Contact(Body, frozen=True):
    """Whether somebody may write to the account; "none" where that was taken back."""

    address: str
    state: ContactState
    since: Number  # milliseconds since 1970-01-01T00:00Z
    modseq: Number


class Consent(Body, frozen=True):
    action: Action
    address: str = ""  # but for "list"
    from_: str = ""  # from a peer: which of its users asks


class ConsentReply(Body, frozen=True):
    contacts: tuple[Contact, ...] = ()  # to a user: all, or the one that was named


class Lookup(Body, frozen=True):
    address: str
    from_: str = ""  # from a peer: which of its users asks


class LookupReply(Body, frozen=True):
    granted: bool = False  # the user who asks may write anything to the address
    introduction: Number = 0  # characters that may be written without
    way: Literal["local", "parley", "mail", "none"] | UnsetType = UNSET  # to a user: how the address is reached
    state: ContactState = "none"  # to a user: what it said of the address


class Mailbox(Body, frozen=True):
    """One of the account; which, in whatever it is called, `uidvalidity` tells. The last three only in a list."""

    name: str
    uidvalidity: UID
    modseq: Number
    use: str = ""  # "\\Sent" and so on
    subscribed: bool = False
    gone: bool = False
    uidnext: UID | UnsetType = UNSET
    messages: Number | UnsetType = UNSET
    unseen: Number | UnsetType = UNSET


MailboxAction = Literal["list", "create", "rename", "delete", "subscribe", "unsubscribe"]


class Mailboxes(Body, frozen=True):
    action: MailboxAction
    mailbox: str = ""  # but for "list"
    to: str = ""  # for "rename"


class MailboxesReply(Body, frozen=True):
    mailboxes: tuple[Mailbox, ...] = ()  # all, or the one that was named


Epoch = Annotated[bytes, msgspec.Meta(max_length=32)]
Extent = Literal["all", "signed", "ids"]  # of a message in the log: whole; without its bodies; only which it is


class Sync(Body, frozen=True):
    since: Number
    limit: Annotated[int, msgspec.Meta(ge=1)] = 100
    live: bool = False
    epoch: Epoch = b""  # what came with that number
    content: Extent = "all"


class Change(Body, frozen=True):
    mailbox: str
    uid: UID
    modseq: Number
    gone: bool = False
    flags: tuple[str, ...] = ()
    id: SHA256 = b""
    signed: bytes = b""
    bodies: tuple[bytes, ...] = ()


class Changes(Body, frozen=True):
    changes: tuple[Change, ...]
    modseq: Number
    more: bool = False
    contacts: tuple[Contact, ...] = ()
    mailboxes: tuple[Mailbox, ...] = ()
    epoch: Epoch = b""  # in a reply to sync: which log `modseq` is a place of


class Fetch(Body, frozen=True):
    ids: Annotated[tuple[SHA256, ...], msgspec.Meta(min_length=1, max_length=MAX_FETCH)]


class Object(Body, frozen=True):
    id: SHA256
    signed: bytes
    bodies: tuple[bytes, ...] = ()


class FetchReply(Body, frozen=True):
    objects: tuple[Object, ...]
    more: bool = False  # what was asked for after the last of them was not looked at


class Mark(Body, frozen=True):
    mailbox: str
    uids: tuple[UID, ...]
    add: tuple[Flag, ...] = ()
    remove: tuple[Flag, ...] = ()
    move: str = ""
    delete: bool = False
    displayed: bool = False  # to the reader, who lets authors know that asked for it; \\Seen too


class Signal(Body, frozen=True):
    to: tuple[str, ...]
    kind: str  # "presence", "typing"
    state: str
    lease: Number  # seconds
    about: bytes = b""  # the id of a conversation's first object
    from_: str = ""  # from a peer: whose signal it is


class SignalReply(Body, frozen=True):
    skipped: tuple[str, ...] = ()  # to a user: whom he has not granted


class Signalled(Body, frozen=True):
    from_: str
    kind: str
    state: str
    lease: Number
    about: bytes = b""


class Put(Body, frozen=True):
    hash: SHA256  # of the blob
    size: Number  # octets of the blob
    offset: Number  # where `data` begins
    data: Annotated[bytes, msgspec.Meta(max_length=CHUNK)] = b""


class PutReply(Body, frozen=True):
    offset: Number  # how many octets are there


class Get(Body, frozen=True):
    hash: SHA256
    offset: Number


class GetReply(Body, frozen=True):
    data: Annotated[bytes, msgspec.Meta(max_length=CHUNK)]  # shorter than CHUNK only at the end
    size: Number  # octets of the blob


class Error(Body, frozen=True):
    error: str  # the registry's name
    text: str


def read(kind: type[T], body: Any) -> T:
    """Raises RemoteProtocolError, naming the field that is wrong."""
    try:
        return msgspec.convert(body, kind, builtin_types=(bytes,))  # else text would pass as base64
    except msgspec.ValidationError as error:
        raise RemoteProtocolError("bad-request", str(error)) from None


def plain(body: Body) -> Any:
    return msgspec.to_builtins(body, builtin_types=(bytes,))
