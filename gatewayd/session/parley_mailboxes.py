"""`mailboxes`: the account's mailboxes, and what is done to them (docs/parley.rst §7.12)."""

from __future__ import annotations

from collections.abc import Iterator

from gatewayd.interfaces.records import Account, Changes, Counts
from gatewayd.interfaces.store import IStore
from gatewayd.session.parley_failed import Failed
from gatewayd.wire.parley.schema import Mailbox, Mailboxes, MailboxesReply


class Folders:
    """What one signed-in user does to mailboxes."""

    __slots__ = ("_id", "_store")

    def __init__(self, account: Account, store: IStore) -> None:
        self._id = account.account_id
        self._store = store

    async def do(self, body: Mailboxes) -> MailboxesReply:
        name = body.mailbox
        match body.action:
            case "list":
                return await self._listed()
            case "create":
                name = (await self._store.create_mailbox(self._id, name)).name
            case "rename":
                if (await self._store.mailbox(self._id, name)).name == "INBOX":
                    raise Failed("bad-request", "INBOX cannot be renamed")
                await self._store.rename_mailbox(self._id, name, body.to)
                name = body.to
            case "delete":
                await self._store.delete_mailbox(self._id, name)
                return MailboxesReply()
            case "subscribe" | "unsubscribe":
                await self._store.subscribe_mailbox(self._id, name, body.action == "subscribe")
        return await self._listed((await self._store.mailbox(self._id, name)).mailbox_id)

    async def _listed(self, only: int | None = None) -> MailboxesReply:
        counts = await self._store.counts(self._id, only)
        listed = []
        for one in await self._store.mailboxes(self._id):
            if only in (None, one.mailbox_id):
                count = counts.get(one.mailbox_id, Counts(0, 0))
                use = one.special_use or ""
                listed.append(
                    Mailbox(
                        one.name, one.uidvalidity, one.changed, use, one.subscribed,
                        uidnext=one.uidnext, messages=count.messages, unseen=count.unseen,
                    )
                )  # fmt: skip
        return MailboxesReply(tuple(listed))


def changed(found: Changes, since: int) -> Iterator[Mailbox]:
    """What is new of mailboxes in the log: those that are gone first."""
    for gone in found.deleted:
        yield Mailbox(gone.name, gone.uidvalidity, gone.modseq, gone=True)
    for one in found.mailboxes:
        if one.changed > since:
            yield Mailbox(one.name, one.uidvalidity, one.changed, one.special_use or "", one.subscribed)
