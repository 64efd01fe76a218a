"""The account's mailboxes as IMAP shows and changes them: names, levels, subscriptions, STATUS (RFC 3501 §6.3), quota
(RFC 9208)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from gatewayd.interfaces.records import MAX_NAME, Counts
from gatewayd.interfaces.store import IStore
from gatewayd.session.imap_failed import No
from gatewayd.wire.imap.syntax import BadSyntax, Reader, encoded_name

ANNOUNCED = frozenset({"\\Archive", "\\Drafts", "\\Junk", "\\Sent", "\\Trash"})  # RFC 6154 §2; others are our own


class Folders:
    """One signed-in user's commands on mailboxes, a method each; `say` takes an untagged response."""

    COMMANDS = frozenset({
        "CREATE", "DELETE", "RENAME", "SUBSCRIBE", "UNSUBSCRIBE", "LIST", "LSUB", "STATUS", "NAMESPACE",
        "GETQUOTA", "GETQUOTAROOT",
    })  # fmt: skip

    def __init__(self, account_id: int, store: IStore, say: Callable[[bytes], None]) -> None:
        self._account_id = account_id
        self._store = store
        self._say = say

    async def create(self, arguments: Reader) -> str:
        name = _new_name(arguments)
        arguments.end()
        await self._store.create_mailbox(self._account_id, name)
        return "OK Created"

    async def delete(self, arguments: Reader) -> str:
        name = arguments.mailbox()
        arguments.end()
        await self._store.delete_mailbox(self._account_id, name)
        return "OK Deleted"

    async def rename(self, arguments: Reader) -> str:
        name = arguments.mailbox()
        arguments.space()
        to = _new_name(arguments)
        arguments.end()
        await self._store.rename_mailbox(self._account_id, name, to)
        return "OK Renamed"

    async def subscribe(self, arguments: Reader) -> str:
        return await self._subscribe(arguments, True)

    async def unsubscribe(self, arguments: Reader) -> str:
        return await self._subscribe(arguments, False)

    async def _subscribe(self, arguments: Reader, subscribed: bool) -> str:
        name = arguments.mailbox()
        arguments.end()
        await self._store.subscribe_mailbox(self._account_id, name, subscribed)
        return "OK Done"

    async def list(self, arguments: Reader) -> str:
        return await self._list(arguments, "LIST")

    async def lsub(self, arguments: Reader) -> str:
        return await self._list(arguments, "LSUB")

    async def _list(self, arguments: Reader, response: str) -> str:
        reference = arguments.mailbox()
        arguments.space()
        pattern = arguments.list_mailbox()
        arguments.end()
        if not pattern:  # asks for the separator (RFC 3501 §6.3.8)
            self._say(f'{response} (\\Noselect) "/" ""'.encode())
            return "OK Done"
        pattern = reference + pattern
        if len(pattern) > MAX_NAME:
            raise BadSyntax("the pattern is too long")
        mailboxes = await self._store.mailboxes(self._account_id)
        superior = _superiors(mailbox.name for mailbox in mailboxes)
        shown = {mailbox.name: mailbox.special_use for mailbox in mailboxes if response == "LIST" or mailbox.subscribed}
        levels = superior if response == "LIST" else _superiors(shown) if pattern.endswith("%") else set()
        for name in sorted(shown.keys() | levels):
            if _matches(pattern, name):
                marks = [] if name in shown else ["\\Noselect"]  # a level, and no mailbox (RFC 3501 §6.3.8, §6.3.9)
                marks.append("\\HasChildren" if name in superior else "\\HasNoChildren")
                special_use = shown.get(name)
                marks += [special_use] if special_use in ANNOUNCED else []
                line = f'{response} ({" ".join(marks)}) "/" '.encode() + encoded_name(name)
                self._say(line)
        return "OK Done"

    async def status(self, arguments: Reader) -> str:
        name = arguments.mailbox()
        arguments.space()
        arguments.need(b"(")
        wanted: list[str] = []
        while not arguments.skip(b")"):
            if wanted:
                arguments.space()
            wanted.append(arguments.word())
        arguments.end()
        mailbox = await self._store.mailbox(self._account_id, name)
        counted = await self._store.counts(self._account_id, mailbox.mailbox_id)
        counts = counted.get(mailbox.mailbox_id, Counts(0, 0))
        values = {
            "MESSAGES": counts.messages,
            "RECENT": 0,
            "UIDNEXT": mailbox.uidnext,
            "UIDVALIDITY": mailbox.uidvalidity,
            "UNSEEN": counts.unseen,
        }
        if not set(wanted) <= set(values):
            raise BadSyntax("no such status item")
        items = " ".join(f"{item} {values[item]}" for item in wanted)
        self._say(b"STATUS " + encoded_name(name) + f" ({items})".encode())
        return "OK Done"

    async def getquota(self, arguments: Reader) -> str:
        """There is one quota root, named "" (RFC 9208 §4.1.1)."""
        if arguments.astring() != b"":
            raise No("[NONEXISTENT] No such quota root")
        arguments.end()
        await self._tell_quota()
        return "OK Done"

    async def getquotaroot(self, arguments: Reader) -> str:
        name = arguments.mailbox()
        arguments.end()
        await self._store.mailbox(self._account_id, name)
        self._say(b"QUOTAROOT " + encoded_name(name) + b' ""')
        await self._tell_quota()
        return "OK Done"

    async def _tell_quota(self) -> None:
        """Only resources that have a limit are named; STORAGE counts in units of 1024 octets (RFC 9208 §5.1)."""
        quota = await self._store.quota(self._account_id)
        shown = []
        if quota.max_octets is not None:
            shown.append(f"STORAGE {-(-quota.octets // 1024)} {quota.max_octets // 1024}")
        if quota.max_messages is not None:
            shown.append(f"MESSAGE {quota.messages} {quota.max_messages}")
        self._say(f'QUOTA "" ({" ".join(shown)})'.encode())

    async def namespace(self, arguments: Reader) -> str:
        self._say(b'NAMESPACE (("" "/")) NIL NIL')
        return "OK Done"


def _new_name(reader: Reader) -> str:
    return reader.mailbox().removesuffix("/")  # which announces inferiors (RFC 3501 §6.3.3)


def _superiors(names: Iterable[str]) -> set[str]:
    return {name[:i] for name in names for i, letter in enumerate(name) if letter == "/"}


def _matches(pattern: str, name: str) -> bool:
    """ "*" is anything, "%" anything within a level; at worst this takes the product of the lengths."""
    at = {0}  # how much of the name the pattern so far can stand for
    for letter in pattern:
        if letter in "*%":
            grown: set[int] = set()
            for i in sorted(at):
                while i not in grown:
                    grown.add(i)
                    if i < len(name) and (letter == "*" or name[i] != "/"):
                        i += 1
            at = grown
        else:
            at = {i + 1 for i in at if name.startswith(letter, i)}
    return len(name) in at
