"""Messages at hand for their first attempt, which mostly comes at once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection

from gatewayd.interfaces.queue import MailObject
from gatewayd.message.model import Content

MOST = 16 * 1024 * 1024  # octets of all; the oldest go
LARGEST = 64 * 1024  # octets of one
LEAST = 2048  # octets that one counts for at least


class Fresh:
    def __init__(self) -> None:
        self._kept: OrderedDict[int, tuple[Content, bytes]] = OrderedDict()  # by key
        self._octets = 0

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, key: int, one: MailObject) -> None:
        octets = _octets(one.content)
        if key not in self._kept and octets <= LARGEST:
            self._kept[key] = one.content, one.trace
            self._octets += octets
        while self._octets > MOST:
            _, (oldest, _) = self._kept.popitem(last=False)
            self._octets -= _octets(oldest)

    def among(self, keys: Collection[int]) -> dict[int, tuple[Content, bytes]]:
        return {key: self._kept[key] for key in keys if key in self._kept}


def _octets(content: Content) -> int:
    return LEAST + sum(map(len, content.bodies.values()))
