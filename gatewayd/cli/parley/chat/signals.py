"""Who is there and who is writing, as far as they say so, and no longer than they said (docs/parley.rst §7.6)."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from gatewayd.client import ParleyClient, RequestFailed
from gatewayd.wire.parley.schema import Signalled

OURS = {"presence": ("online", 120), "typing": ("composing", 10)}  # what we say: state, lease in seconds
PRESENCE_EVERY, TYPING_EVERY = 60.0, 5.0  # seconds
MOST = 20  # recipients of one signal
WORDS = {"online": "is there", "away": "is away", "composing": "is writing"}


class Heard:
    """What others signalled. `now` in seconds of any clock that does not jump."""

    def __init__(self) -> None:
        self._until: dict[tuple[str, str], tuple[str, float]] = {}  # (who, kind) -> (state, until)

    def hear(self, signal: Signalled, now: float) -> None:
        self._until[signal.from_, signal.kind] = signal.state, now + signal.lease

    def said_something(self, who: str) -> None:
        """A message came, so they are not writing any more."""
        self._until.pop((who, "typing"), None)

    def of(self, people: Sequence[str], now: float) -> str:
        """In words; "" when nothing is known."""
        self._until = {key: (state, until) for key, (state, until) in self._until.items() if until > now}
        found = []
        for who in people:
            for kind in ("typing", "presence"):  # who is writing is there
                state, _ = self._until.get((who, kind), ("", 0.0))
                if state in WORDS:
                    found.append(WORDS[state] if len(people) == 1 else f"{who} {WORDS[state]}")
                    break
        return ", ".join(found)


async def say(parley: ParleyClient, people: Sequence[str], kind: str) -> None:
    """What cannot be said now is not said: it holds for a moment only."""
    state, lease = OURS[kind]
    others = [who for who in people if who != parley.user][:MOST]
    if others and parley.is_online:
        with contextlib.suppress(OSError, RequestFailed):
            await parley.signal(others, kind, state, lease=lease)
