"""`make demo`: every route once. Two gateways and a plain mail domain; each kind of client writes to each other kind,
the receiver online and offline; then both gateways are killed in the middle of traffic. Exit status 0: all rows ok."""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import NamedTuple

from demo.clients import Client, IMAPProgram, LegacyHost, Lost, ParleyProgram, POPProgram
from demo.conversation import converse
from demo.crash import crash
from demo.introductions import Accept, by_imap, by_parley, introduce
from demo.legacy import ADDRESS, legacy
from demo.world import Gateway, World

ALPHA, BETA, LEGACY = "alpha.test", "beta.test", "legacy.test"
ACCOUNTS = ("alice", "bob", "paula", "zoe")
TEXT = "Grüße über {}, 世界!\n.a line that begins with a dot\nFrom here to there"


class Row(NamedTuple):
    sender: str
    receiver: str
    state: str
    carrier: str
    milliseconds: float | None
    failed: str  # "" when it is ok


class Carriers:
    """What carried a message is what the sending gateway counted, not what we expect."""

    def __init__(self, gateways: list[Gateway]) -> None:
        self._gateways = gateways
        self._before: dict[str, float] = {}

    def mark(self) -> None:
        """From here on it counts."""
        self._before = self._now()

    def _now(self) -> dict[str, float]:
        names = ("Parley", "Mail", "Local")
        return {
            name: sum(g.metric("gatewayd_relayed_total", carrier=name, outcome="Delivered") for g in self._gateways)
            for name in names
        }

    def carried(self, sender: Client, receiver: Client) -> str:
        """Called after the arrival; the count may follow it by a moment."""
        if sender.address.endswith(LEGACY):
            return "SMTP"  # legacy.test speaks nothing else
        if sender.address.partition("@")[2] == receiver.address.partition("@")[2]:
            return "local" if self._now() == self._before else "not local"
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            now = self._now()
            for name, label in (("Parley", "Parley"), ("Mail", "SMTP")):
                if now[name] > self._before[name]:
                    return label
            time.sleep(0.01)
        return "unknown"


def walk(sender: Client, receiver: Client, online: bool, number: int, carriers: Carriers) -> Row:
    """The five steps of one route. Milliseconds count from the sender's first octet, or, offline, from signing in."""
    state = "online" if online else "offline"
    subject = f"route {number} {state}"
    text = TEXT.format(sender.kind)
    carrier, failed, spent = "", "", None
    carriers.mark()
    try:
        (receiver.go_online if online else receiver.go_offline)()
        begin = time.perf_counter()
        sender.send(receiver.address, subject, text)
        if not online:
            time.sleep(0.2)  # it has come, or it waits, before anybody looks
            begin = time.perf_counter()
            receiver.go_online()
        got = receiver.receive(subject)
        spent = (time.perf_counter() - begin) * 1000
        if got.text != text:
            raise Lost(f"the text came as {got.text!r}")
        if sender.address not in got.sender:
            raise Lost(f"the sender came as {got.sender!r}")
        carrier = carriers.carried(sender, receiver)
        if carrier != expected(sender, receiver):
            failed = f"carried by {carrier}, not by {expected(sender, receiver)}"
        receiver.go_offline()
    except Exception as error:  # what clients raise has no common root; the row tells it, and the demo goes on
        failed = f"{type(error).__name__}: {error}"
    return Row(sender.kind, receiver.kind, state, carrier, spent, failed)


def expected(sender: Client, receiver: Client) -> str:
    if sender.address.partition("@")[2] == receiver.address.partition("@")[2]:
        return "local"
    return "SMTP" if LEGACY in sender.address + receiver.address else "Parley"


def stranger(sender: ParleyProgram, receiver: Client, accept: Accept, number: int, carriers: Carriers) -> Row:
    """A first message between two who do not know each other; how long it takes with the receiver's consent."""
    subject, carrier, failed, spent = f"introduction {number}", "", "", None
    carriers.mark()
    try:
        begin = time.perf_counter()
        got = introduce(sender, receiver, accept, subject, TEXT.format(sender.kind))
        spent = (time.perf_counter() - begin) * 1000
        if got.text != TEXT.format(sender.kind):
            raise Lost(f"the text came as {got.text!r}")
        carrier = carriers.carried(sender, receiver)
        receiver.go_offline()
    except Exception as error:  # as in `walk`
        failed = f"{type(error).__name__}: {error}"
    return Row(sender.kind, receiver.kind, "stranger", carrier, spent, failed)


def friends(here: ParleyProgram, there: ParleyProgram, show: Callable[[Row], None]) -> list[Row]:
    """Each has written to the other before."""
    rows = []
    try:
        for what, spent in converse(here, there):
            rows.append(Row(here.kind, there.kind, what, "Parley", spent, ""))
    except Exception as error:  # as in `walk`
        rows.append(Row(here.kind, there.kind, "friends", "", None, f"{type(error).__name__}: {error}"))
    for row in rows:
        show(row)
    return rows


def people(gateway: Gateway, world: World) -> list[Client]:
    return [
        IMAPProgram(gateway, "alice"),
        POPProgram(gateway, "paula"),
        ParleyProgram(gateway, "zoe", world.reactor),
    ]


def routes(world: World, root: Path, show: Callable[[Row], None]) -> list[Row]:
    alpha, beta = world.gateways[ALPHA], world.gateways[BETA]
    carol = LegacyHost(legacy(root / "legacy"))
    here, there = people(alpha, world), people(beta, world)
    zoe, bob = ParleyProgram(alpha, "zoe", world.reactor), IMAPProgram(beta, "bob")
    strangers: list[tuple[Client, Accept]] = [(each, by_imap(beta, each.address)) for each in (*there[:2], bob)]
    strangers += [(each, by_parley(each)) for each in there if isinstance(each, ParleyProgram)]
    pairs = [*product(here, [*here, *there, carol]), *((carol, receiver) for receiver in there)]
    carriers = Carriers([alpha, beta])
    rows: list[Row] = []
    try:
        for number, (receiver, accept) in enumerate(strangers):
            rows.append(stranger(zoe, receiver, accept, number, carriers))
            show(rows[-1])
        for number, (online, (sender, receiver)) in enumerate(product((True, False), pairs)):
            rows.append(walk(sender, receiver, online, number, carriers))
            show(rows[-1])
        rows += friends(zoe, ParleyProgram(beta, "zoe", world.reactor), show)
    finally:
        carol.go_offline()
    return rows


def line(row: Row) -> str:
    spent = "" if row.milliseconds is None else f"{row.milliseconds:8.1f} ms"
    fate = f"FAILED: {row.failed}" if row.failed else "ok"
    return f"{row.sender:<18} -> {row.receiver:<18} {row.state:<8} {row.carrier:<8} {spent:>11}  {fate}"


def main() -> int:
    """`python -m demo [DIRECTORY]`: all state is kept there, or thrown away."""
    with contextlib.ExitStack() as stack:
        root = Path(sys.argv[1] if sys.argv[1:] else stack.enter_context(tempfile.TemporaryDirectory()))
        print(f"Two gateways, {ALPHA} and {BETA}, a DNS server, and {LEGACY}; all on loopback.", flush=True)
        world = World(root, {ALPHA: "127.0.0.11", BETA: "127.0.0.12"}, {LEGACY: ADDRESS}, ACCOUNTS)
        try:
            world.start()
            rows = routes(world, root, lambda row: print(line(row), flush=True))
            crashes = crash(world.gateways[ALPHA], world.gateways[BETA], world.reactor)
        finally:
            world.stop()
    for each in crashes:
        print(each.text)
    failed = sum(bool(row.failed) for row in rows) + sum(not each.ok for each in crashes)
    print(f"{len(rows)} routes, {len(crashes)} crashes, {failed or 'none'} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
