"""The open mailbox as one session sees it: entries by rising UID, and what has changed since it was last told."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable

from gatewayd.interfaces.records import Entry, Mailbox
from gatewayd.interfaces.store import IStore
from gatewayd.wire.imap.syntax import STAR, SequenceSet


class OpenMailbox:
    """Message n is self.entries[n - 1]. Numbers move only when `apply` says so (RFC 3501 §7.4.1)."""

    def __init__(self, account_id: int, mailbox: Mailbox, *, read_only: bool) -> None:
        self.account_id = account_id
        self.mailbox_id = mailbox.mailbox_id
        self.name = mailbox.name
        self.uidvalidity = mailbox.uidvalidity
        self.read_only = read_only
        self.entries: list[Entry] = []
        self._modseq = 0

    async def refresh(self, store: IStore, *, expunges: bool) -> list[bytes]:
        """The untagged responses that bring the client up to date; without `expunges` those wait."""
        changed = await store.entries(self.account_id, self.mailbox_id, self._modseq)
        gone = set(await store.expunged(self.account_id, self.mailbox_id, self._modseq))
        if not expunges and any(self.index(uid) is not None for uid in gone):
            return []  # all of it waits: half a look would lose the other half
        lines = []
        uids = [entry.uid for entry in self.entries]
        for uid in sorted(gone, reverse=True):
            i = bisect_left(uids, uid)
            if i < len(uids) and uids[i] == uid:
                del uids[i], self.entries[i]
                lines.append(b"%d EXPUNGE" % (i + 1))
        before = len(self.entries)
        for entry in changed:
            i = bisect_left(uids, entry.uid)
            if i < len(uids) and uids[i] == entry.uid:
                if self.entries[i].flags != entry.flags:
                    lines.append(flags_response(i + 1, entry, uid=True))
                self.entries[i] = entry
            elif entry.uid not in gone:  # gone since the first question
                uids.insert(i, entry.uid)
                self.entries.insert(i, entry)
        if len(self.entries) != before:
            lines.append(b"%d EXISTS" % len(self.entries))
            lines.append(b"0 RECENT")
        self._modseq = max([self._modseq, *(entry.modseq for entry in changed)])
        return lines

    async def flagged(self, store: IStore, uids: Iterable[int], flag: str) -> list[int]:
        """Those of `uids` that have the flag now, whatever this session has been told."""
        changed = await store.entries(self.account_id, self.mailbox_id, self._modseq)
        now = {entry.uid: entry for entry in (*self.entries, *changed)}
        return [uid for uid in uids if uid in now and flag in now[uid].flags.split()]

    def update(self, entries: Iterable[Entry]) -> None:
        """Flags that this session has set itself, and so knows."""
        for entry in entries:
            i = self.index(entry.uid)
            if i is not None:
                self.entries[i] = entry

    def index(self, uid: int) -> int | None:
        i = bisect_left(self.entries, uid, key=lambda entry: entry.uid)
        return i if i < len(self.entries) and self.entries[i].uid == uid else None

    def select(self, numbers: SequenceSet, *, uid: bool) -> list[tuple[int, Entry]]:
        """(message number, entry) of a sequence set, rising. Raises ValueError for a number that is none."""
        count = len(self.entries)
        ranges: list[tuple[int, int]] = []  # of indices, the second one exclusive
        for low, high in numbers:
            if uid:
                top = self.entries[-1].uid if self.entries else 0
                low, high = sorted((min(low, top) if low == STAR else low, top if high == STAR else high))
                first = bisect_left(self.entries, low, key=lambda entry: entry.uid)
                last = bisect_left(self.entries, high + 1, key=lambda entry: entry.uid)
                ranges.append((first, last))
            elif not count and STAR in (low, high):
                continue  # "1:*" of an empty mailbox: nothing, and no mistake
            else:
                low, high = sorted((count if low == STAR else low, count if high == STAR else high))
                if low < 1 or high > count:
                    raise ValueError("no such message number")
                ranges.append((low - 1, high))
        chosen: list[tuple[int, Entry]] = []
        done = 0
        for first, last in sorted(ranges):
            chosen += [(i + 1, self.entries[i]) for i in range(max(first, done), last)]
            done = max(done, last)
        return chosen


def flags_response(number: int, entry: Entry, *, uid: bool) -> bytes:
    also = b" UID %d" % entry.uid if uid else b""
    return b"%d FETCH (FLAGS (%s)%s)" % (number, entry.flags.encode(), also)
