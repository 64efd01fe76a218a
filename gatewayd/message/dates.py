"""Dates as mail writes them (RFC 5322 §3.3)."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime
from functools import lru_cache


def internet_date(seconds: float) -> str:
    """UTC, as "+0000": "-0000" would say that the zone is not known."""
    return _of(int(seconds))


@lru_cache(16)  # the present second is asked for again and again
def _of(seconds: int) -> str:
    return format_datetime(datetime.fromtimestamp(seconds, UTC))
