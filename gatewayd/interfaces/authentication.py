"""IAuthenticator: who signs in."""

from __future__ import annotations

from zope.interface import Interface

from gatewayd.interfaces.records import Account, ScramCredentials


class AuthenticationFailed(Exception):
    """Wrong user or password: which of them is never said (RFC 4954 §4, RFC 5530 AUTHENTICATIONFAILED)."""


class IAuthenticator(Interface):
    async def password(user: str, password: str) -> Account:
        """PLAIN, LOGIN, USER/PASS. Raises AuthenticationFailed; StoreError when the store cannot tell."""

    async def scram(user: str) -> tuple[Account | None, ScramCredentials]:
        """For SCRAM. An unknown user gets made-up credentials, the same every time, and no account (RFC 5802 §5.1)."""
