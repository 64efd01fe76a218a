"""What a session and the transport know of each other. net/protocol.py provides Link; sessions provide Session."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

from cryptography import x509


@dataclass(frozen=True, slots=True)
class TLSInfo:
    version: str  # "TLSv1.3"
    cipher: str
    alpn: str  # "" for none
    exporter: bytes  # 32 octets of tls-exporter (RFC 9266); b"" below TLS 1.3
    shown: tuple[x509.Certificate, ...] = ()  # where we dialled: the server's chain, its own first
    faults: tuple[int, ...] = ()  # what OpenSSL found wrong with that chain: its X509_V_ERR numbers


class Engine(Protocol):
    """A sans-IO wire engine. Any split of the input gives the same events."""

    def receive(self, data: bytes) -> list[Any]:
        """Events that `data` completes. Raises RemoteProtocolError (each wire package has its own)."""

    def send(self, event: Any) -> bytes:
        """Octets for one event. Raises LocalProtocolError when the state does not allow it."""

    def tls_started(self) -> None:
        """The transport is now TLS: forget everything that came before (RFC 3207 §4.2). Not called for implicit TLS."""


class Link(Protocol):
    """The transport as a session sees it."""

    peer_address: str  # the IP address of the other side
    tls: TLSInfo | None  # None while the connection is plaintext
    full: bool  # the other side has yet to read what was sent

    def send(self, event: Any) -> None:
        """Give the engine an event; all octets of one turn leave in one write."""

    async def drained(self) -> None:
        """Returns when the other side has read enough of what was sent. To be awaited in loops that send much, so that
        a slow reader costs its own time and not our memory. Raises ConnectionError when it is gone: nothing else breaks
        work off."""

    def start_tls(self) -> None:
        """After what was sent: drop unread input, start TLS, then engine.tls_started() and session.tls_started()."""

    def close(self) -> None:
        """Close when what was sent is out."""

    def abort(self) -> None:
        """Close at once."""

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run beside handle(); an unexpected exception ends this link only, and is logged once."""

    def guard(self, call: Callable[[], None]) -> None:
        """As `spawn`, for what does not wait."""

    def guessed(self) -> None:
        """The client failed to sign in: from who does so often no connection is taken for a while."""

    def when_gone(self, call: Callable[[Exception | None], None]) -> None:
        """Call when the connection is gone, at once: what waits for the other side's word ends then, so that
        `Session.closed` can follow."""

    def set_timeout(self, seconds: float | None) -> None:
        """Call session.timed_out() after so long without input."""

    def set_deadline(self, seconds: float | None) -> None:
        """Call session.timed_out() in so long, whatever comes. At the session's opening there is none."""


class Session(Protocol):
    """The thin part between an engine and the core: one for each protocol and direction."""

    def opened(self, link: Link) -> None:
        """The connection (with implicit TLS: the handshake) is up."""

    def tls_started(self) -> None:
        """The handshake that start_tls() asked for is done; link.tls is set."""

    async def handle(self, event: Any) -> None:
        """One event at a time, in order; the link reads no further while this waits."""

    def protocol_error(self, error: Exception) -> None:
        """engine.receive() raised: say goodbye; the link closes after this returns."""

    def failed(self, why: str = "internal error") -> None:
        """handle() raised something unexpected, or the service cannot keep this connection (already logged): say
        goodbye; the link closes after this returns."""

    def timed_out(self) -> None:
        """Say goodbye and close."""

    def closed(self, reason: Exception | None) -> None:
        """The connection is gone, and all work for it is done: release everything. Called exactly once."""
