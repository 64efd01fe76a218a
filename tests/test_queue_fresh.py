"""Messages at hand: so many octets of them, the newest."""

from __future__ import annotations

import pytest

from gatewayd.interfaces.queue import Envelope, MailObject
from gatewayd.queue import fresh
from gatewayd.queue.fresh import Fresh
from tests.test_store_sqlite import content


def test_the_oldest_go_and_the_large_never_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fresh, "MOST", 10 * fresh.LEAST)
    kept = Fresh()
    small = MailObject(content(b""), b"Received: x\r\n", Envelope(None, ()))
    for key in range(100):
        kept.keep(key, small)
    held = kept.among(range(100))
    assert max(held) == 99 and len(held) == len(kept) <= 10
    assert held[99] == (small.content, small.trace)
    kept.keep(100, MailObject(content(bytes(fresh.LARGEST)), b"", Envelope(None, ())))
    kept.keep(99, small)
    assert kept.among([100]) == {} and kept.among([99])
