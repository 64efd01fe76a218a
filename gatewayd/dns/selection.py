"""The order in which hosts are tried: SRV by priority and weight (RFC 2782), MX by preference (RFC 5321 §5.1),
and a host's addresses."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby, zip_longest
from operator import itemgetter
from random import Random
from typing import NamedTuple


class SRV(NamedTuple):
    """RFC 2782's fields in their order; `target` is "." where the service is decidedly not offered."""

    priority: int
    weight: int
    port: int
    target: str


def order_srv(records: Sequence[SRV], random: Random) -> list[SRV]:
    """By rising priority, each priority in RFC 2782's weighted random order; a lone "." target leaves nothing."""
    ordered: list[SRV] = []
    for _, same in groupby(sorted(r for r in records if r.target != "."), key=itemgetter(0)):
        waiting = list(same)  # sorted: weight 0 stands first, so that it is chosen by 0 alone
        while waiting:
            drawn = random.randint(0, sum(record.weight for record in waiting))
            for chosen in waiting:
                drawn -= chosen.weight
                if drawn <= 0:
                    break
            waiting.remove(chosen)
            ordered.append(chosen)
    return ordered


def order_mx(records: Sequence[tuple[int, str]], random: Random) -> list[tuple[int, str]]:
    """By rising preference, equals shuffled to share the load; null MX (RFC 7505) leaves nothing."""
    shuffled = [record for record in records if record[1] != "."]
    random.shuffle(shuffled)
    return sorted(shuffled, key=itemgetter(0))


def alternate(six: Sequence[str], four: Sequence[str]) -> tuple[str, ...]:
    """IPv6 and IPv4 in turns (RFC 8305 §4): where one of them leads nowhere, the second attempt goes the other way."""
    pairs = zip_longest(six, four)
    return tuple(address for pair in pairs for address in pair if address is not None)
