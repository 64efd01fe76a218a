"""SASL, which SMTP, IMAP and POP3 carry alike (RFC 4422): SCRAM-SHA-256 and -PLUS (RFC 5802, RFC 7677, bound by
tls-exporter, RFC 9266), PLAIN (RFC 4616), LOGIN. Nothing is offered in the clear.

An exchange is a number of steps: a response in, the next challenge or the account out.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from typing import Protocol

from gatewayd.crypto import scram
from gatewayd.crypto.scram import ScramError, ScramServer
from gatewayd.interfaces.authentication import AuthenticationFailed, IAuthenticator
from gatewayd.interfaces.records import Account, ScramCredentials
from gatewayd.session.link import TLSInfo

PLAIN, LOGIN = "PLAIN", "LOGIN"


class BadResponse(ValueError):
    """Not what the mechanism wants, or a wish to act for somebody else."""


class Exchange(Protocol):
    first: bytes  # the challenge for a client that gave no initial response

    async def step(self, response: bytes) -> bytes | Account:
        """Raises BadResponse, AuthenticationFailed, StoreError: then the exchange is over."""


def offered(tls: TLSInfo | None) -> tuple[str, ...]:
    """The strongest first. LOGIN, which no standard asks for, is left to SMTP."""
    if tls is None:
        return ()
    return (*((scram.MECHANISM_PLUS,) if tls.exporter else ()), scram.MECHANISM, PLAIN)


def begin(mechanism: str, authenticator: IAuthenticator, tls: TLSInfo) -> Exchange | None:
    """None: not a mechanism of ours, or not over this connection."""
    match mechanism:
        case "PLAIN":
            return _Plain(authenticator)
        case "LOGIN":
            return _Login(authenticator)
        case scram.MECHANISM:
            return _Scram(authenticator, ScramServer(secrets.token_hex(), tls.exporter, plus=False))
        case scram.MECHANISM_PLUS if tls.exporter:
            return _Scram(authenticator, ScramServer(secrets.token_hex(), tls.exporter, plus=True))
    return None


def decoded(letters: bytes) -> bytes:
    """A response as IMAP and POP3 carry it; "=" is an empty one (RFC 4959 §3, RFC 5034 §4). Raises BadResponse."""
    try:
        return b"" if letters == b"=" else base64.b64decode(letters, validate=True)
    except (binascii.Error, ValueError):
        raise BadResponse("not base64") from None


class _Plain:
    first = b""

    def __init__(self, authenticator: IAuthenticator) -> None:
        self._authenticator = authenticator

    async def step(self, response: bytes) -> Account:
        try:
            identity, user, password = response.decode("utf-8").split("\0")
        except ValueError:  # UnicodeDecodeError is one
            raise BadResponse("not a PLAIN response") from None
        if identity and identity != user:
            raise BadResponse("no acting for others")
        account: Account = await self._authenticator.password(user, password)
        return account


class _Login:
    first = b"Username:"

    def __init__(self, authenticator: IAuthenticator) -> None:
        self._authenticator = authenticator
        self._user: str | None = None

    async def step(self, response: bytes) -> bytes | Account:
        try:
            text = response.decode("utf-8")
        except UnicodeDecodeError:
            raise BadResponse("not a LOGIN response") from None
        if self._user is None:
            self._user = text
            return b"Password:"
        account: Account = await self._authenticator.password(self._user, text)
        return account


class _Scram:
    """The server's last message is a challenge too, answered by nothing: none of the three carries it with success
    (RFC 4954 §4, RFC 9051 §6.2.2, RFC 5034 §4)."""

    first = b""

    def __init__(self, authenticator: IAuthenticator, server: ScramServer) -> None:
        self._authenticator = authenticator
        self._server = server
        self._found: tuple[Account | None, ScramCredentials] | None = None
        self._proved: Account | None = None

    async def step(self, response: bytes) -> bytes | Account:
        if self._proved is not None:
            if response:
                raise BadResponse("nothing more is expected")
            return self._proved
        try:
            if self._found is None:
                self._found = await self._authenticator.scram(self._server.first(response))
                credentials = self._found[1]
                return self._server.challenge(credentials.salt, credentials.iterations)
            account, credentials = self._found
            final = self._server.final(response, credentials.stored_key, credentials.server_key)
        except ScramError:
            raise AuthenticationFailed from None
        if account is None:
            raise AuthenticationFailed
        self._proved = account
        return final
