"""The methods `consent` and `lookup`, for a user and for a peer domain (docs/parley.rst §7.7, §7.8)."""

from __future__ import annotations

from gatewayd.address import Address, AddressError, Domain
from gatewayd.core.contacts import Contacts, Never, NotNow, TooOften
from gatewayd.interfaces.records import Account, Contact
from gatewayd.session.parley_failed import Failed
from gatewayd.wire.parley import schema
from gatewayd.wire.parley.schema import Consent, ConsentReply, Lookup, LookupReply


class Consenting:
    __slots__ = ("_contacts",)

    def __init__(self, contacts: Contacts) -> None:
        self._contacts = contacts

    async def of_user(self, account: Account, body: Consent) -> ConsentReply:
        if body.action == "list":
            return ConsentReply(tuple(map(as_contact, await self._contacts.listing(account))))
        address = _address(body.address)
        try:
            match body.action:
                case "request":
                    await self._contacts.request(account, address)
                case "cancel":
                    await self._contacts.cancel(account, address)
                case "grant":
                    await self._contacts.decide(account, address, "granted")
                case "revoke":
                    await self._contacts.decide(account, address, "revoked")
        except (NotNow, Never) as error:
            raise _failed(error) from None
        contact = await self._contacts.contact(account, address)
        return ConsentReply((as_contact(contact),) if contact is not None else ())

    async def of_peer(self, peer: Domain, body: Consent) -> ConsentReply:
        """Says nothing but that it was received."""
        author, address = _author(peer, body.from_), _address(body.address)
        try:
            match body.action:
                case "request":
                    await self._contacts.requested(author, address)
                case "cancel":
                    await self._contacts.cancelled(author, address)
                case _:
                    raise Failed("bad-request", "a domain can only request and cancel")
        except NotNow as error:
            raise _failed(error) from None
        return ConsentReply()

    async def lookup_of_user(self, account: Account, body: Lookup) -> LookupReply:
        try:
            found = await self._contacts.lookup(account, _address(body.address))
        except (NotNow, Never) as error:
            raise _failed(error) from None
        if found.standing is None:
            return LookupReply(way=found.way, state=found.state)
        return LookupReply(found.standing.granted, found.standing.introduction, found.way, found.state)

    async def lookup_of_peer(self, peer: Domain, body: Lookup) -> LookupReply:
        author, address = _author(peer, body.from_), _address(body.address)
        try:
            standing = await self._contacts.looked_up(author, address)
        except NotNow as error:
            raise _failed(error) from None
        return LookupReply(standing.granted, standing.introduction)


def as_contact(contact: Contact) -> schema.Contact:
    return schema.Contact(str(contact.address), contact.state, contact.since_ms, contact.modseq)


def _failed(error: NotNow | Never) -> Failed:
    if isinstance(error, TooOften):
        return Failed("too-often", str(error))
    return Failed("unavailable" if isinstance(error, NotNow) else "not-found", str(error))


def _address(text: str) -> Address:
    try:
        return Address.parse(text)
    except AddressError as error:
        raise Failed("bad-request", f"address: {error}") from None


def _author(peer: Domain, text: str) -> Address:
    """One place checks that a domain asks for its own users only."""
    author = _address(text)
    if author.domain != peer:
        raise Failed("bad-request", "`from` is not of your domain")
    return author
