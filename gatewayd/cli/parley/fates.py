"""What became of a message of ours, for each of its recipients, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from gatewayd.client.conversation import Said

ALONE = {"displayed": "read", "delivered": "delivered", "stored": "stored", "relayed": "handed on", "": "on the server"}
ALL = {"displayed": "read by all", "delivered": "delivered to all", "stored": "stored for all",
    "relayed": "handed on for all", "": "on the server"}  # fmt: skip
SOME = {"displayed": "read by", "delivered": "delivered to", "stored": "stored for", "relayed": "handed on for",
    "": "on the server for"}  # fmt: skip
NAMED = 4  # recipients of whom the same is known; beyond it they are counted


def state(said: Said) -> str:
    """At a glance, the best first. Who will not get it, or not yet, is in `troubles`."""
    if said.waiting is not None:
        return f"waits to be sent ({said.waiting})" if said.waiting else "waits to be sent"
    trouble = {*said.undelivered, *said.delayed}
    groups: dict[str, list[str]] = {}
    for to in said.recipients:
        if to not in trouble:
            groups.setdefault(said.receipts.get(to, ""), []).append(to)
    if len(groups) == 1 and not trouble:
        (status,) = groups
        return (ALONE if len(groups[status]) == 1 else ALL)[status]
    return ", ".join(f"{SOME[status]} {_names(groups[status], said.recipients)}" for status in SOME if status in groups)


def troubles(said: Said) -> list[tuple[str, bool]]:
    """A line for each recipient who will not get it (True), or has not got it yet."""
    found = [(f"not delivered to {to}{_because(why)}", True) for to, why in said.undelivered.items()]
    for to, report in said.delayed.items():
        when = f" (as of {datetime.fromtimestamp(report.at).astimezone():%Y-%m-%d %H:%M})" if report.at else ""
        found.append((f"not yet delivered to {to}{when}{_because(report.why)}", False))
    return found


def each(said: Said) -> list[str]:
    """A line for each recipient."""
    if said.waiting is not None:
        return [f"{to}: {state(said)}" for to in said.recipients]
    trouble = {*said.undelivered, *said.delayed}
    known = [f"{to}: {ALONE[said.receipts.get(to, '')]}" for to in said.recipients if to not in trouble]
    return known + [line for line, _ in troubles(said)]


def _because(why: str) -> str:
    return f": {why}" if why else ""


def _names(some: Sequence[str], everybody: Sequence[str]) -> str:
    """By what stands before the @, where that tells them from the others."""
    if len(some) > NAMED:
        return f"{len(some)} of {len(everybody)}"
    locals = Counter(to.rpartition("@")[0] for to in everybody)
    return " and ".join(
        ", ".join(to if locals[local := to.rpartition("@")[0]] > 1 else local for to in part)
        for part in (some[:-1], some[-1:])
        if part
    )
