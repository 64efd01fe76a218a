"""What the operator is told of a message. Times are seconds since the epoch."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Event(NamedTuple):
    """One step in a message's story."""

    trace_id: str  # Content.trace_id; "" for what was refused before it was ours
    at: float
    address: str  # whom it is about, a sender or a recipient; "" for neither
    text: str  # plain words


Record = Callable[[Event], None]  # costs next to nothing and never fails
