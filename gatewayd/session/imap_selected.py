"""The commands of the selected state: what a session does to the messages of its open mailbox (RFC 3501 §6.4)."""

from __future__ import annotations

import contextlib

from gatewayd.errors import StoreFull
from gatewayd.interfaces.records import Entry
from gatewayd.interfaces.store import IStore
from gatewayd.session import imap_fetch, imap_search
from gatewayd.session.imap_failed import No
from gatewayd.session.imap_mailbox import OpenMailbox, flags_response
from gatewayd.session.link import Link
from gatewayd.wire.imap.connection import Command, Untagged
from gatewayd.wire.imap.syntax import BadSyntax, compact


class Selected:
    """An open mailbox and what can be asked of it, a method for each command."""

    COMMANDS = frozenset({"EXPUNGE", "SEARCH", "FETCH", "STORE", "COPY", "MOVE"})

    def __init__(self, opened: OpenMailbox, store: IStore, link: Link) -> None:
        self.opened = opened
        self._account_id = opened.account_id
        self._store = store
        self._link = link

    async def expunge(self, command: Command) -> str:
        self._writable()
        uids = [entry.uid for entry in self.opened.entries]
        if command.uid:
            uids = [entry.uid for _, entry in self._chosen(command)]
        await self.expunge_deleted(uids)
        return "OK Expunged"

    async def search(self, command: Command) -> str:
        test = imap_search.read(command.arguments, self.opened)
        found = []
        for number, entry in enumerate(self.opened.entries, 1):
            if await test(imap_search.Candidate(number, entry, lambda entry=entry: self._mail(entry))):  # type: ignore[misc]
                found.append(entry.uid if command.uid else number)
        self._link.send(Untagged(" ".join(["SEARCH", *map(str, found)]).encode()))
        return "OK Done"

    async def fetch(self, command: Command) -> str:
        chosen = self._chosen(command)
        command.arguments.space()
        wanted = imap_fetch.attributes(command.arguments)
        command.arguments.end()
        if command.uid and "UID" not in wanted:
            wanted.insert(0, "UID")
        if imap_fetch.sets_seen(wanted) and not self.opened.read_only:
            unseen = [entry.uid for _, entry in chosen if "\\Seen" not in entry.flags]
            if unseen:
                with contextlib.suppress(StoreFull):  # what is there can be read still
                    await self._flag(unseen, "+", ["\\Seen"])
                chosen = [(n, self.opened.entries[n - 1]) for n, _ in chosen]
                if "FLAGS" not in wanted:
                    wanted.append("FLAGS")
        async for line in imap_fetch.responses(self._store, self._account_id, chosen, wanted):
            self._link.send(Untagged(line))
            await self._link.drained()
        return "OK Done"

    async def store(self, command: Command) -> str:
        self._writable()
        chosen = self._chosen(command)
        command.arguments.space()
        item = command.arguments.word()
        command.arguments.space()
        flags = command.arguments.flags()
        command.arguments.end()
        silent = item.endswith(".SILENT")
        item = item.removesuffix(".SILENT")
        if item not in {"FLAGS", "+FLAGS", "-FLAGS"}:
            raise BadSyntax("FLAGS, +FLAGS or -FLAGS is expected")
        await self._flag([entry.uid for _, entry in chosen], item[0] if item[0] in "+-" else "=", flags)
        given = set(flags) - {"\\Recent"}
        for number, before in chosen:
            entry, old = self.opened.entries[number - 1], set(before.flags.split())
            expected = old | given if item[0] == "+" else old - given if item[0] == "-" else given
            if not silent or set(entry.flags.split()) != expected:  # another session's change came in with ours
                self._link.send(Untagged(flags_response(number, entry, uid=command.uid)))
        return "OK Done"

    async def copy(self, command: Command) -> str:
        return await self._copy(command, move=False)

    async def move(self, command: Command) -> str:
        self._writable()
        return await self._copy(command, move=True)

    async def _copy(self, command: Command, *, move: bool) -> str:
        uids = [entry.uid for _, entry in self._chosen(command)]
        command.arguments.space()
        target = command.arguments.mailbox()
        command.arguments.end()
        validity, pairs = await self._store.copy(self._account_id, self.opened.mailbox_id, uids, target, move)
        if not pairs:
            return "OK Nothing to do"
        code = b"[COPYUID %d %s %s]" % (validity, compact([a for a, _ in pairs]), compact([b for _, b in pairs]))
        if move:  # RFC 6851 §4.3: the code comes before the expunges
            self._link.send(Untagged(b"OK " + code + b" Moved"))
            return "OK Moved"
        return f"OK {code.decode()} Copied"

    # -- inside -----------------------------------------------------------------------------------------------------

    def _writable(self) -> None:
        if self.opened.read_only:
            raise No("[READ-ONLY] The mailbox is open for reading only")

    def _chosen(self, command: Command) -> list[tuple[int, Entry]]:
        try:
            return self.opened.select(command.arguments.sequence_set(), uid=command.uid)
        except ValueError as error:
            raise BadSyntax(str(error)) from None

    async def _mail(self, entry: Entry) -> bytes:
        return (await self._store.mails(self._account_id, [entry.message_id])).get(entry.message_id, b"")

    async def _flag(self, uids: list[int], mode: str, flags: list[str]) -> None:
        changed = await self._store.store_flags(self._account_id, self.opened.mailbox_id, uids, mode, flags)
        self.opened.update(changed)

    async def expunge_deleted(self, uids: list[int]) -> None:
        doomed = await self.opened.flagged(self._store, uids, "\\Deleted")
        if doomed:
            await self._store.expunge(self._account_id, self.opened.mailbox_id, doomed)
