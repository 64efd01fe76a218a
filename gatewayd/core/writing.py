"""What follows from a user of ours writing to somebody: they may answer, and the receipts that were asked for are known
when they come.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from gatewayd.address import Address
from gatewayd.core.consent import Consent
from gatewayd.core.receipts import Receipts
from gatewayd.errors import StoreError
from gatewayd.interfaces.records import Account
from gatewayd.message.model import Content


class Written(NamedTuple):
    author: Account
    content: Content
    recipients: Sequence[Address]
    by_hand: bool = True  # what a program answers lets nobody in


class Writing:
    def __init__(self, consent: Consent, receipts: Receipts) -> None:
        self._consent = consent
        self._receipts = receipts

    async def note(self, written: Mapping[int, Written]) -> dict[int, StoreError]:
        """Of many at once: why, for those of which it could not be noted."""
        try:
            await self._consent.written([(each.author, each.recipients) for each in written.values() if each.by_hand])
        except StoreError as error:
            return dict.fromkeys(written, error)
        failed = {}
        for number, each in written.items():
            try:
                await self._receipts.expect(each.author, each.content, each.recipients)
            except StoreError as error:
                failed[number] = error
        return failed
