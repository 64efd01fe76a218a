"""Receipts by our users: who gets one, that it is said once, and signed by our domain (docs/parley.rst §8.3)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence

from twisted.logger import Logger

from gatewayd.address import Address, AddressError, Domain
from gatewayd.core.consent import knows
from gatewayd.errors import StoreError
from gatewayd.interfaces.records import Account, Awaited, Owed
from gatewayd.interfaces.store import IStore
from gatewayd.message import receipts
from gatewayd.message.model import MAIL, RECEIPT, Content, Payload
from gatewayd.message.render import rendered_id
from gatewayd.outcome import Deferred, Outcome

AT_ONCE = 1000  # that are owed from before, in one look


Owns = Callable[[Account, Address], Awaitable[bool]]
Sign = Callable[[Domain, bytes], Awaitable[tuple[bytes, bytes]]]
Post = Callable[[Content, Address], Awaitable[Outcome]]


class Receipts:
    """`post` delivers or queues a receipt. A receipt that cannot be given now is given later, by `resume`."""

    log = Logger()

    def __init__(
        self, store: IStore, owns: Owns, sign: Sign, post: Post, now: Callable[[], float],
        random: Callable[[int], bytes],
    ) -> None:  # fmt: skip
        self._store = store
        self._owns = owns
        self._sign = sign
        self._post = post
        self._now = now
        self._random = random

    async def expect(self, account: Account, content: Content, recipients: Sequence[Address]) -> None:
        """A user of ours sends what may ask for receipts. Raises StoreError."""
        statuses = receipts.asked(content.fields)
        if statuses:
            awaited = Awaited(statuses, content.fields.type == MAIL)
            await self._store.expect_receipts(account.account_id, content.id, recipients, awaited)

    async def stored(self, account: Account, content: Content) -> None:
        """The user's copy stands."""
        await self.give(account, [content], receipts.STORED)

    async def give(self, account: Account, contents: Collection[Content], status: str) -> None:
        """This became of what the user has; those authors are told who asked for it and may know. Raises nothing."""
        try:
            originals = {c.id: c for c in contents if await self._is_due(account, c, status)}
            now_ms = int(self._now() * 1000)
            owed = [Owed(account.account_id, i, status, now_ms, self._random(16)) for i in originals]
            for each in await self._store.owe_receipts(owed) if owed else ():
                await self._send(account, originals[each.object_id], each)
        except StoreError as error:
            self.log.error("receipts of {account} wait: {error}", account=str(account.address), error=error)

    async def resume(self) -> None:
        """What was owed when the process ended, or the store could not. Raises StoreError."""
        owed = await self._store.unsent_receipts(AT_ONCE)
        accounts = {a.account_id: a for a in await self._store.accounts()} if owed else {}
        for each in owed:
            account = accounts.get(each.account_id)
            found = await self._store.find(each.account_id, [each.object_id])
            original = found.get(each.object_id)
            if account is None or original is None:
                await self._store.receipt_sent(each)  # gone, and nothing can be said of it
            else:
                await self._send(account, original, each)

    # -- inside -----------------------------------------------------------------------------------------------------

    async def _is_due(self, account: Account, content: Content, status: str) -> bool:
        """Asked for, and the author is one to whom this user answers: never a stranger, nor one who was revoked."""
        if not receipts.may_ask(content) or status not in receipts.asked(content.fields):
            return False
        try:
            author = Address.parse(content.fields.from_)
        except AddressError:
            return False
        if author.key == account.address.key:
            return False
        return await knows(self._store, account.account_id, author)

    async def _named(self, account: Account, original: Content) -> Address:
        """The address by which the author knows the user: an alias, if he wrote to one."""
        for text in original.fields.to:
            try:
                address = Address.parse(text)
            except AddressError:
                continue
            if await self._owns(account, address):
                return address
        return account.address

    async def _send(self, account: Account, original: Content, owed: Owed) -> None:
        author = Address.parse(original.fields.from_)
        named = await self._named(account, original)
        payload = Payload(
            from_=str(named), to=(str(author),), date=owed.at_ms, nonce=owed.nonce, type=RECEIPT,
            parents=(owed.object_id,),
            ext={"receipt": {"status": owed.status}, "references": [rendered_id(original)]},
        ).encode()  # fmt: skip
        try:
            protected, signature = await self._sign(named.domain, payload)
        except KeyError:
            self.log.error("no signing key for {domain}", domain=named.domain)
            return
        answer = await self._post(Content(protected, payload, signature, {}), author)
        if not isinstance(answer, Deferred):
            await self._store.receipt_sent(owed)
