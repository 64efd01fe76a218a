"""AUTH: a client of the submission listener says who it is (RFC 4954)."""

from __future__ import annotations

import base64

from gatewayd.errors import StoreError
from gatewayd.interfaces.authentication import AuthenticationFailed, IAuthenticator
from gatewayd.interfaces.records import Account
from gatewayd.session import sasl
from gatewayd.session.link import TLSInfo
from gatewayd.wire.smtp.commands import Auth, Reply, State, reply


class SignIn:
    """`begin` and `respond` give the reply; `account` is set when it is 235."""

    def __init__(self, authenticator: IAuthenticator) -> None:
        self._authenticator = authenticator
        self._exchange: sasl.Exchange | None = None
        self.account: Account | None = None
        self.mechanism = ""  # the last that was tried
        self.failures = 0

    async def begin(self, command: Auth, tls: TLSInfo | None) -> Reply:
        if tls is None:
            return reply(538, "5.7.11", "Encryption required for authentication")
        if self.account is not None:
            return reply(503, "5.5.1", "Signed in already")
        self.mechanism = command.mechanism
        self._exchange = sasl.begin(command.mechanism, self._authenticator, tls)
        if self._exchange is None:
            return reply(504, "5.5.4", "Mechanism not offered")
        if command.initial is None:
            return _challenge(self._exchange.first)
        return await self.respond(command.initial)

    async def respond(self, response: bytes | None) -> Reply:
        assert self._exchange is not None
        if response is None:
            return reply(501, "5.7.0", "Cancelled", state=State.READY)
        try:
            answer = await self._exchange.step(response)
        except sasl.BadResponse as error:
            return reply(501, "5.5.2", str(error), state=State.READY)
        except AuthenticationFailed:
            self.failures += 1
            return reply(535, "5.7.8", "Authentication credentials invalid", state=State.READY)
        except StoreError:
            return reply(454, "4.7.0", "Temporary authentication failure", state=State.READY)
        if isinstance(answer, bytes):
            return _challenge(answer)
        self.account = answer
        return reply(235, "2.7.0", "Authentication successful", state=State.READY)


def _challenge(octets: bytes) -> Reply:
    return reply(334, "", base64.b64encode(octets).decode("ascii"), state=State.AUTH)
