"""Waiting for what another thread or process will do."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

PATIENCE = 30.0  # seconds until what does not come fails the test

T = TypeVar("T")


def eventually(condition: Callable[[], T], said: Callable[[], object] = lambda: "") -> T:
    """What it gives, as soon as that is true. Fails with what is `said` then."""
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline, said()
        time.sleep(0.02)
    return found
