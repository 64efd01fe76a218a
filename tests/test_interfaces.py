"""Every implementer of a plug point has all of its methods, with the arguments that it names."""

from __future__ import annotations

import importlib
import pkgutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

import gatewayd
from gatewayd.address import Domain
from gatewayd.core.authentication import Authenticator
from gatewayd.database.sqlite import Database
from gatewayd.dns.resolver import Resolver
from gatewayd.interfaces.authentication import IAuthenticator
from gatewayd.interfaces.dns import IResolver
from gatewayd.interfaces.queue import IQueue
from gatewayd.interfaces.routes import ICourier
from gatewayd.interfaces.store import IStore
from gatewayd.queue.sqlite import SQLiteQueue
from gatewayd.session.parley_courier import ParleyCourier
from gatewayd.session.smtp_courier import SMTPCourier
from gatewayd.store.blobs import BlobStore
from gatewayd.store.sqlite import SQLiteStore

PLUG_POINTS = (IStore, IQueue, IResolver, ICourier, IAuthenticator)
HERE = Domain.parse("here.test")
ANYTHING: Any = None

MAKE: dict[type, Callable[[Database, Path], Any]] = {
    SQLiteStore: lambda database, path: SQLiteStore(database, BlobStore(path), Clock(), time.time),
    SQLiteQueue: lambda database, path: SQLiteQueue(database, Clock(), time.time),
    Resolver: lambda database, path: Resolver(ANYTHING, ("127.0.0.1:53",)),
    ParleyCourier: lambda database, path: ParleyCourier(*[ANYTHING] * 4, HERE, Clock(), time.time),
    SMTPCourier: lambda database, path: SMTPCourier(ANYTHING, ANYTHING, HERE, ANYTHING, Clock()),
    Authenticator: lambda database, path: Authenticator(ANYTHING, ANYTHING, ANYTHING, b"secret"),
}


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "test.sqlite", lambda call: call())
    yield database
    database.close()


def implementers() -> dict[type, Any]:
    """Every class of the package that says it implements one of them."""
    found: dict[type, Any] = {}
    for module in pkgutil.walk_packages(gatewayd.__path__, "gatewayd."):
        for thing in vars(importlib.import_module(module.name)).values():
            if isinstance(thing, type):
                found.update((thing, point) for point in PLUG_POINTS if point.implementedBy(thing))
    return found


def test_every_implementer_is_checked_here() -> None:
    found = implementers()
    assert set(found) == set(MAKE)
    assert set(found.values()) == set(PLUG_POINTS)


@pytest.mark.parametrize("implementer", MAKE, ids=lambda implementer: implementer.__name__)
def test_an_implementer_keeps_its_promise(implementer: type, database: Database, tmp_path: Path) -> None:
    made = MAKE[implementer](database, tmp_path / "blobs")
    assert verifyObject(implementers()[implementer], made)
