"""What several test files need: the reactor in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings

settings.register_profile("gatewayd", deadline=None)  # no test asserts on time
settings.load_profile("gatewayd")


@pytest.fixture(scope="session")
def reactor() -> Iterator[Any]:
    """The global reactor (Twisted's startTLS uses no other), running in a thread until the tests end."""
    from twisted.internet import reactor as running

    thread = threading.Thread(target=running.run, kwargs={"installSignalHandlers": False}, daemon=True)  # type: ignore[attr-defined]
    thread.start()
    yield running
    running.callFromThread(running.stop)  # type: ignore[attr-defined]
    thread.join(10)
