"""What several test files need: the reactor in a thread of its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings

from demo.world import Reactor

settings.register_profile("gatewayd", deadline=None)  # no test asserts on time
settings.load_profile("gatewayd")


@pytest.fixture(scope="session", autouse=True)  # whoever starts it ends it
def reactor() -> Iterator[Any]:
    """The global reactor (Twisted's startTLS uses no other), running in a thread until the tests end."""
    made = Reactor()
    yield made.reactor
    made.stop()
