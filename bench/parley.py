"""Messages from client to client by Parley, durable and over TLS: within a domain, across two, and clients that idle.

The peer of `parley_local` and `parley_idle` is Prosody, over TLS too, with its archive off, in files, and in SQLite.
The clients of both run on the servers' processors, in one process of the same shape (bench/load.py).
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from twisted.internet import defer

from bench import bare, figures, prosody
from bench.load import Result, Spec
from bench.servers import Server
from demo.world import PASSWORD, Gateway, World
from gatewayd.address import Address, Domain
from gatewayd.cli.gatewayctl import credentials
from gatewayd.config import load
from gatewayd.database.sqlite import Database
from gatewayd.store.blobs import BlobStore
from gatewayd.store.sqlite import SQLiteStore

ONE, OTHER = "one.test", "other.test"
ADDRESSES = {ONE: "127.0.0.31", OTHER: "127.0.0.32"}
IDLE = 10_000
LIMITS = "\n[limits]\nconnections = 30000\nconnections_per_address = 30000\n"
SHAPES = [(1, 1), (50, 4), (50, 16), (500, 4)]  # pairs of clients, messages of one sender under way
TARGETS = {(50, 4): 11_574, (50, 16): 23_148}  # messages a second (DESIGN §6)
SECONDS = 5.0
ACROSS = 8_000  # messages a second across two domains
CALM = 200.0  # messages a second at which the latency is measured
CALMLY = f"50 senders, {CALM:.0f} messages/s in all"


@contextmanager
def domains(root: Path, names: Sequence[str], users: Sequence[str]) -> Iterator[World]:
    world = World(root, {name: ADDRESSES[name] for name in names}, {}, [])
    try:
        for gateway in world.gateways.values():
            gateway.config.write_text(gateway.config.read_text() + LIMITS)
            world.reactor.wait(_populate(gateway, users, world.reactor.reactor), 300)
        world.start()
        yield world
    finally:
        world.stop()


async def _populate(gateway: Gateway, users: Sequence[str], reactor: Any) -> None:
    """All have one password and one salt: the load computes its PBKDF2 once. No sender is a stranger."""
    config = load(gateway.config)
    database = Database(config.database, reactor.callFromThread)
    store = SQLiteStore(database, BlobStore(config.blobs), reactor, time.time)
    password, domain = credentials(PASSWORD), Domain.parse(gateway.domain)

    async def add(user: str) -> None:
        account = await store.add_account(Address(user, domain), password)
        if user.startswith("r"):
            await store.set_contact(account.account_id, Address("s" + user[1:], Domain(ONE)), "granted")

    await defer.gatherResults([defer.Deferred.fromCoroutine(add(user)) for user in users])
    database.close()


def ours(begin: Gateway, end: Gateway, **what: Any) -> Result:
    pids = tuple({gateway.pid for gateway in (begin, end)})
    authorities = str(begin.root / "trust.pem")
    return measured(
        Spec(
            protocol="parley", authorities=authorities, password=PASSWORD, pids=pids, from_domain=begin.domain,
            from_address=begin.port("parley"), to_domain=end.domain, to_address=end.port("parley"), **what,
        )
    )  # fmt: skip


def theirs(peer: Server, **what: Any) -> Result:
    return measured(
        Spec(
            protocol=peer.protocol, authorities=str(peer.authorities), password=PASSWORD, pids=(peer.pid,),
            from_domain=peer.domain, from_address=peer.address, to_domain=peer.domain, to_address=peer.address, **what,
        )
    )  # fmt: skip


def measured(spec: Spec) -> Result:
    command = [sys.executable, "-m", "bench.load", msgspec.json.encode(spec).decode()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the load failed:\n{done.stderr[-2000:]}")
    return msgspec.json.decode(done.stdout, type=Result)


def users(pairs: int) -> list[str]:
    return [f"{side}{number}" for side in "sr" for number in range(pairs)]


def shape(pairs: int, in_flight: int) -> str:
    return f"{pairs} senders to {pairs} recipients, {in_flight} in flight each"


Figures = dict[str, tuple[float, str]]  # what -> (figure, unit)


def shapes(run: Any) -> dict[str, Figures]:
    """Every piece of work by its name."""
    found: dict[str, Figures] = {}
    for pairs, in_flight in SHAPES:
        result = run(pairs=pairs, in_flight=in_flight, seconds=SECONDS)
        found[shape(pairs, in_flight)] = {
            "": (result.rate, "messages/s"),
            ", p50": (result.p50, "ms"),
            ", p99": (result.p99, "ms"),
            ", server": (result.cpu, "us of processor a message"),
            ", clients": (result.client_cpu, "us of processor a message"),
        }
    result = run(pairs=50, rate=CALM, seconds=SECONDS)
    found[CALMLY] = {", p50": (result.p50, "ms"), ", p99": (result.p99, "ms")}
    return found


def report(bench: str, found: dict[str, Figures], peer: str, peers: dict[str, Figures]) -> None:
    for work, values in found.items():
        for what, (figure, unit) in values.items():
            peer_figure = peers.get(work, {}).get(what, (0.0, ""))[0]
            figures.report(
                bench=bench,
                work=work + what,
                ours=figure,
                peer=peer if peer_figure else "",
                peer_figure=peer_figure,
                unit=unit,
                ratio=figure / peer_figure if peer_figure else 0.0,
            )


def local() -> None:
    names = users(max(pairs for pairs, _ in SHAPES))
    with tempfile.TemporaryDirectory() as root:
        with domains(Path(root), [ONE], names) as world:
            gateway = world.gateways[ONE]
            found = shapes(lambda **what: ours(gateway, gateway, **what))
        goals: dict[str, Figures] = {shape(*key): {"": (rate, "")} for key, rate in TARGETS.items()}
        report("parley_local", found, "the goal", goals | {CALMLY: {", p50": (1.0, ""), ", p99": (5.0, "")}})
        with bare.bare(Path(root) / "bare") as path:
            report("parley_local", found, "the bare path", shapes(lambda **what: theirs(path, **what)))
        for archive, name in peers_archives("parley_local"):
            with prosody.prosody(Path(root) / archive, archive, names) as peer:
                report("parley_local", found, f"Prosody, {name}, TLS", shapes(lambda **what: theirs(peer, **what)))


def federated() -> None:
    """Without a peer: Prosody's servers find each other by the system's DNS only."""
    names = users(max(pairs for pairs, _ in SHAPES))
    with tempfile.TemporaryDirectory() as root, domains(Path(root), [ONE, OTHER], names) as world:
        begin, end = world.gateways[ONE], world.gateways[OTHER]
        goals: dict[str, Figures] = {shape(50, 16): {"": (ACROSS, "")}}
        report("parley_federated", shapes(lambda **what: ours(begin, end, **what)), "the goal", goals)


def idle() -> None:
    names = [f"r{number}" for number in range(IDLE)]
    work = f"{IDLE} signed-in clients that idle"
    with tempfile.TemporaryDirectory() as root:
        with domains(Path(root), [ONE], names) as world:
            gateway = world.gateways[ONE]
            found: Figures = {"": (ours(gateway, gateway, idle=IDLE).memory, "KiB a client")}
        for archive, name in peers_archives("parley_idle")[:1]:
            with prosody.prosody(Path(root) / archive, archive, names) as peer:
                peers: Figures = {"": (theirs(peer, idle=IDLE).memory, "")}
                report("parley_idle", {work: found}, f"Prosody, {name}, TLS", {work: peers})


def peers_archives(bench: str) -> list[tuple[str, str]]:
    if prosody.missing():
        print(f"{bench}: not installed: prosody; ours stands alone", file=sys.stderr)
        return []
    return list(prosody.ARCHIVES.items())
