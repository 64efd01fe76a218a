"""What can become of a message, for one recipient: a closed set of three (RFC 3463 codes, RFC 5321 §4.2).

Every protocol maps these to its own replies in one table; nothing below the sessions knows a reply code.
"""

from __future__ import annotations

import msgspec


class Delivered(msgspec.Struct, frozen=True):
    """Durable here, or accepted durably by the next hop. `reports`: that hop tells the sender, as was asked."""

    code: str = "2.0.0"
    text: str = "Message accepted"
    reports: bool = False
    ok = True


class Deferred(msgspec.Struct, frozen=True):
    """Not now; the one who holds the message keeps it and tries again. `retry_after` is seconds, if known. `reply`: the
    digits that a filter of ours wants said by SMTP (0: as the code has it), here and in Refused."""

    code: str = "4.0.0"
    text: str = "Try again later"
    retry_after: float | None = None
    reply: int = 0
    ok = False


class Refused(msgspec.Struct, frozen=True):
    """Never; the sender has to be told."""

    code: str = "5.0.0"
    text: str = "Message refused"
    reply: int = 0
    ok = False


Outcome = Delivered | Deferred | Refused


def outcome(code: str, text: str, retry_after: float | None = None) -> Outcome:
    """The outcome whose class is the first digit of an RFC 3463 code. Raises ValueError for any other digit."""
    match code[:1]:
        case "2":
            return Delivered(code, text)
        case "4":
            return Deferred(code, text, retry_after)
        case "5":
            return Refused(code, text)
    raise ValueError(f"not an enhanced status code: {code!r}")


# The outcomes that several places produce, each named once (RFC 3463 §3).
SENDER_OK = Delivered("2.1.0", "Sender ok")
RECIPIENT_OK = Delivered("2.1.5", "Recipient ok")
NO_SUCH_USER = Refused("5.1.1", "No such user here")
BAD_ADDRESS = Refused("5.1.3", "Bad address syntax")
NO_MAIL_SERVICE = Refused("5.1.10", "The domain does not accept mail")  # RFC 7505 §4.2, null MX
NULL_MX_SENDER = Refused("5.7.27", "The sender's domain does not accept mail, so it sends none")  # RFC 7505 §4.2
NO_SUCH_SENDER = Refused("5.1.8", "The sender's domain does not exist, or has no mail host")
RELAY_DENIED = Refused("5.7.1", "Relaying denied; sign in first")
NOT_YOUR_ADDRESS = Refused("5.7.1", "The sender is not the account that signed in")
ALIAS_LOOP = Refused("5.4.6", "The address's aliases lead round in a loop")
MAILBOX_FULL = Deferred("4.2.2", "The mailbox is full")
MESSAGE_OVER_QUOTA = Refused("5.2.2", "The message is larger than the mailbox may ever be")
TOO_BIG = Refused("5.3.4", "Message too big")
TOO_BIG_FOR_MAIL = Refused("5.3.4", "Too big to go by mail, and the recipient's domain has no Parley")
STORE_FAILED = Deferred("4.3.0", "Message store failed; try again later")
STORE_FULL = Deferred("4.3.1", "Message store is full; try again later")
