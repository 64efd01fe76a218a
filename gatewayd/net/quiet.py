"""Connections that have gone quiet keep less: OpenSSL's buffers between it and Twisted stay as large as a handshake, or
the largest page since, once made them."""

from __future__ import annotations

from itertools import islice
from typing import Any, Protocol

from OpenSSL import SSL
from twisted.internet.interfaces import IReactorTime

QUIET = 3  # seconds
AT_ONCE = 200  # connections in one turn of the reactor: some milliseconds

_lib: Any = SSL._lib  # type: ignore[attr-defined]
_ffi: Any = SSL._ffi  # type: ignore[attr-defined]


class Trimmed(Protocol):
    def trim(self) -> None:
        """It has said nothing for a while."""


class Quiet:
    """Knows which connections have said something lately."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._now = 0  # seconds, as of the last look
        self._said: dict[Trimmed, int] = {}  # when, the oldest first

    def spoke(self, one: Trimmed) -> None:
        """Not too much to be asked for each turn of a connection."""
        if self._said.get(one) == self._now:
            return
        if not self._said:
            self._now = int(self._clock.seconds())
            self._clock.callLater(1.0, self._look)
        self._said.pop(one, None)
        self._said[one] = self._now

    def left(self, one: Trimmed) -> None:
        self._said.pop(one, None)

    def _look(self) -> None:
        self._now = int(self._clock.seconds())
        due = [one for one, when in islice(self._said.items(), AT_ONCE) if when <= self._now - QUIET]
        for one in due:
            del self._said[one]
            one.trim()
        if self._said:
            self._clock.callLater(1.0 if len(due) < AT_ONCE else 0.05, self._look)


def renew_buffers(connection: SSL.Connection) -> None:
    """New memory BIOs for a connection, if nothing is in those that it has. pyOpenSSL has no call for that;
    where a later one does otherwise nothing is done."""
    into, out = getattr(connection, "_into_ssl", None), getattr(connection, "_from_ssl", None)
    ssl = getattr(connection, "_ssl", None)
    if not (into and out and ssl) or any(_lib.BIO_get_mem_data(bio, _ffi.new("char **")) for bio in (into, out)):
        return
    new = [_lib.BIO_new(_lib.BIO_s_mem()) for _ in range(2)]
    if _ffi.NULL in new:
        return
    connection._into_ssl, connection._from_ssl = new
    _lib.SSL_set_bio(ssl, *new)  # which frees the others
