"""SASL PLAIN, which SMTP, IMAP and POP3 carry alike (RFC 4616)."""

from __future__ import annotations

import base64
import binascii


class BadResponse(ValueError):
    """Not a PLAIN message, or one that asks to act for somebody else."""


def plain(message: bytes) -> tuple[str, str]:
    """(user, password). Raises BadResponse."""
    try:
        identity, user, password = message.decode("utf-8").split("\0")
    except ValueError:  # UnicodeDecodeError is one
        raise BadResponse("not a PLAIN response") from None
    if identity and identity != user:
        raise BadResponse("no acting for others")
    return user, password


def plain_base64(letters: bytes) -> tuple[str, str]:
    """The same, as IMAP and POP3 carry it."""
    try:
        return plain(base64.b64decode(letters, validate=True))
    except (binascii.Error, ValueError) as error:
        raise error if isinstance(error, BadResponse) else BadResponse("not base64") from None
