"""Who signs in: passwords against SCRAM credentials (RFC 5802 §3), and made-up ones for users that do not exist.

Passwords are derived in a thread pool of their own: PBKDF2 takes milliseconds by design.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Awaitable, Callable
from typing import Any

from zope.interface import implementer

from gatewayd.address import Address, AddressError
from gatewayd.interfaces.authentication import AuthenticationFailed, IAuthenticator
from gatewayd.interfaces.records import Account, ScramCredentials
from gatewayd.interfaces.store import IStore

ITERATIONS = 4096  # RFC 7677 §4's least; what the made-up credentials of unknown users show

Derive = Callable[[str, bytes, int], tuple[bytes, bytes]]  # password, salt, iterations -> stored key, server key
InThread = Callable[..., Awaitable[Any]]  # (function, *arguments) -> its result, off the reactor


@implementer(IAuthenticator)
class Authenticator:
    """Accounts by their address, or by the bare local part where it is unambiguous."""

    def __init__(self, store: IStore, derive: Derive, in_thread: InThread, secret: bytes) -> None:
        self._store = store
        self._derive = derive
        self._in_thread = in_thread
        self._secret = secret  # makes an unknown user's salt the same every time, and unguessable

    async def password(self, user: str, password: str) -> Account:
        account, credentials = await self.scram(user)
        try:
            stored_key, _ = await self._in_thread(self._derive, password, credentials.salt, credentials.iterations)
        except ValueError:  # a password that SASLprep prohibits (RFC 4013) is a wrong password
            raise AuthenticationFailed from None
        if account is None or not hmac.compare_digest(stored_key, credentials.stored_key):
            raise AuthenticationFailed
        return account

    async def scram(self, user: str) -> tuple[Account | None, ScramCredentials]:
        address = await self._address(user)
        account = await self._store.account(address) if address else None
        if account is not None:
            credentials = await self._store.credentials(account.account_id)
            if credentials is not None:
                return account, credentials
        name = "@".join(address.key) if address else user  # however it is written, as with a known user
        seed = hmac.digest(self._secret, name.encode("utf-8", "replace"), "sha256")
        keys = hashlib.shake_256(seed).digest(64)
        return None, ScramCredentials(seed[:16], ITERATIONS, keys[:32], keys[32:])

    async def _address(self, user: str) -> Address | None:
        if "@" not in user:
            domains = await self._store.domains()
            if len(domains) != 1:
                return None
            user = f"{user}@{next(iter(domains))}"
        try:
            return Address.parse(user)
        except AddressError:
            return None
