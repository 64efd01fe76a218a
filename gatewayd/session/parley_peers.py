"""Other domains, asked about consent over the couriers' connections (docs/parley.rst §7.7, §7.8)."""

from __future__ import annotations

from typing import TypeVar

from gatewayd.address import Address
from gatewayd.core.contacts import Never, NotNow, Standing, TooOften
from gatewayd.interfaces.routes import Parley
from gatewayd.session.parley_client import RequestFailed
from gatewayd.session.parley_courier import ParleyCourier
from gatewayd.wire.parley import RemoteProtocolError
from gatewayd.wire.parley.schema import Body, Consent, ConsentReply, Lookup, LookupReply, read

T = TypeVar("T")


class ParleyPeers:
    def __init__(self, courier: ParleyCourier) -> None:
        self._courier = courier

    async def request(self, route: Parley, author: Address, address: Address) -> None:
        await self._ask(route, author, "consent", Consent("request", str(address), str(author)), ConsentReply)

    async def cancel(self, route: Parley, author: Address, address: Address) -> None:
        await self._ask(route, author, "consent", Consent("cancel", str(address), str(author)), ConsentReply)

    async def lookup(self, route: Parley, author: Address, address: Address) -> Standing:
        found = await self._ask(route, author, "lookup", Lookup(str(address), str(author)), LookupReply)
        return Standing(found.granted, found.introduction)

    async def _ask(self, route: Parley, author: Address, method: str, body: Body, kind: type[T]) -> T:
        try:
            return read(kind, await self._courier.ask(author.domain, route, method, body))
        except RequestFailed as failed:
            if failed.error == "unknown-method":
                raise Never(f"{route.domain} does not know the method {method}") from None
            if failed.error == "too-often":
                raise TooOften(f"{route.domain}: {failed.text}") from None
            raise NotNow(f"{route.domain} answered {failed}") from None
        except RemoteProtocolError as error:
            raise NotNow(f"{route.domain}: {error}") from None
        except KeyError:
            raise NotNow(f"{author.domain} has no key to sign in with") from None
        except OSError as error:
            raise NotNow(f"{route.domain}: {error}") from None
