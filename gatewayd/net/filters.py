"""Where filters are, and rspamd, asked by HTTP. Blocking: called in a thread."""

from __future__ import annotations

import json
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from typing import Any, TypeVar

from twisted.logger import Logger

from gatewayd.address import Address
from gatewayd.core.filtering import FilterDown, Filtered
from gatewayd.interfaces.queue import Envelope
from gatewayd.interfaces.routes import Origin
from gatewayd.outcome import Deferred, Refused

T = TypeVar("T")
TIMEOUT = 60.0  # seconds without a word of the filter
PATIENCE = 300.0  # seconds for one answer, however often it asks for more time
REST = 30.0  # seconds that one is left alone that said nothing in time
MAX_ANSWER = 4 * 1024 * 1024  # octets of rspamd's
SYMBOLS = 5  # that a verdict names


@dataclass(frozen=True, slots=True)
class Place:
    """A filter's address: host and port, or the path of a UNIX socket."""

    host: str
    port: int = 0

    def __str__(self) -> str:
        return f"{self.host}:{self.port}" if self.port else self.host

    def connect(self) -> socket.socket:
        """Raises OSError."""
        if self.port:
            return socket.create_connection((self.host, self.port), TIMEOUT)
        made = socket.socket(socket.AF_UNIX)
        made.settimeout(TIMEOUT)
        try:
            made.connect(self.host)
        except OSError:
            made.close()
            raise
        return made


class Asking:
    """The threads in which one filter is asked: no other waits for them. Of one that said nothing in time nobody waits
    for the same: until it had its `REST`, it is down."""

    log = Logger()

    def __init__(self, in_thread: Callable[..., Awaitable[Any]], place: Place, steady: Callable[[], float]) -> None:
        self._in_thread = in_thread
        self._place = place
        self._steady = steady
        self._rests_until = float("-inf")

    async def __call__(self, function: Callable[..., T], *arguments: Any) -> T:
        """Raises FilterDown."""
        answer: T = await self._in_thread(self._ask, function, *arguments)
        return answer

    def _ask(self, function: Callable[..., T], *arguments: Any) -> T:
        if self._steady() < self._rests_until:
            raise FilterDown(f"filter {self._place}: gave no answer of late")
        try:
            return function(*arguments)
        except FilterDown as error:
            if error.silent:
                if self._steady() >= self._rests_until:
                    self.log.error("not asked for {rest:.0f} s: {error}", rest=REST, error=error)
                self._rests_until = self._steady() + REST
            raise


def ask_rspamd(place: Place, mail: bytes, envelope: Envelope, origin: Origin, submitter: Address | None) -> Filtered:
    """By its own protocol, POST /checkv2. Raises FilterDown."""
    headers = [("IP", origin.address), ("Helo", origin.helo), ("From", str(envelope.reverse_path or ""))]
    headers += [("Rcpt", str(to)) for to in envelope.recipients]
    if submitter is not None:
        headers.append(("User", str(submitter)))
    try:
        said = _post(place, mail, headers)
        action, score, wanted = str(said["action"]), float(said["score"]), float(said["required_score"])
        symbols = sorted(said.get("symbols", {}).values(), key=lambda each: -abs(float(each.get("score", 0))))
        names = ", ".join(str(each["name"])[:40] for each in symbols[:SYMBOLS])
    except (OSError, HTTPException, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FilterDown(f"rspamd {place}: {error!r}", silent=isinstance(error, TimeoutError)) from None
    why = f"rspamd: {action}, {score:.1f} of {wanted:.1f} ({names})"
    match action:
        case "reject":
            return Filtered("refuse", mail, why, Refused("5.7.1", "It looks like spam"))
        case "soft reject" | "greylist":
            return Filtered("defer", mail, why, Deferred("4.7.1", "Try again later"))
        case "add header" | "rewrite subject":
            return Filtered("junk", mail, why)
    return Filtered("take", mail, why)


def _post(place: Place, mail: bytes, headers: list[tuple[str, str]]) -> Any:
    connection = HTTPConnection("rspamd", timeout=TIMEOUT)
    connection.sock = place.connect()
    try:
        connection.putrequest("POST", "/checkv2")
        connection.putheader("Content-Length", str(len(mail)))
        for name, value in headers:
            connection.putheader(name, value.encode("utf-8"))
        connection.endheaders(mail)
        response = connection.getresponse()
        octets = response.read(MAX_ANSWER)
        if response.status != 200:
            raise HTTPException(f"{response.status} {octets[:200]!r}")
        return json.loads(octets)
    finally:
        connection.close()


def place(text: str) -> Place:
    """`host:port` or an absolute path. Raises ValueError."""
    if text.startswith("/"):
        return Place(text)
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"expected host:port or the path of a socket, got {text!r}")
    return Place(host.strip("[]"), int(port))
