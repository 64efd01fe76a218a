"""The content, after DATA found, unstuffed and judged strictly (RFC 5321 §4.1.1.4, §4.5.2, §2.3.8), or by BDAT counted
(RFC 3030 §2).

Only CRLF.CRLF ends it. A CR or LF that stands alone anywhere makes the whole message refused: no two servers agree what
it means, and that disagreement is SMTP smuggling.
"""

from __future__ import annotations

_END = b"\r\n.\r\n"


def has_bare(octets: bytes | bytearray) -> bool:
    """Whether a CR or LF stands alone: three counts are ten times as fast as one regular expression."""
    pairs = octets.count(b"\r\n")
    return octets.count(b"\r") != pairs or octets.count(b"\n") != pairs


class DataReader:
    """Fed in chunks; each octet is searched once. `limit` counts the message unstuffed, as SIZE does (RFC 1870 §3);
    once it is surely passed nothing more is kept."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer = bytearray(b"\r\n")  # so that a first line of "." is found like any other
        self._searched = 0
        self._stuffed = 0  # lines
        self.too_big = False
        self.bare = False

    def feed(self, data: bytes | bytearray) -> bytes | None:
        """None until the end is there; then what follows it. The message is then in `message()`."""
        self._buffer += data
        end = self._buffer.find(_END, self._searched)
        if end < 0:
            self._searched = max(0, len(self._buffer) - len(_END) + 1)
            if len(self._buffer) > self._limit * 4 // 3 + 2 + len(_END):  # at worst every line is a dot, stuffed
                self._drop()
            return None
        rest = bytes(self._buffer[end + len(_END) :])
        del self._buffer[end + 2 :]
        self._stuffed = self._buffer.count(b"\r\n.")
        if len(self._buffer) - 2 - self._stuffed > self._limit:
            self.too_big = True
        self.bare = has_bare(self._buffer)
        return rest

    def message(self) -> bytes:
        """The unstuffed content: CRLF lines."""
        if self._stuffed:
            return bytes(self._buffer).replace(b"\r\n.", b"\r\n")[2:]
        with memoryview(self._buffer) as buffer:
            return bytes(buffer[2:])

    def _drop(self) -> None:
        """Too big: keep only what may be the beginning of the end."""
        self.too_big = True
        keep = len(_END) - 1
        del self._buffer[:-keep]
        self._searched = 0


class ChunkReader:
    """BDAT: `expect` so many octets, then `feed` until nothing is wanting. Beyond `limit` nothing is kept."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept = bytearray()
        self.wanting = False
        self._missing = 0  # octets of this chunk
        self.size = 0  # of this chunk
        self.last = False
        self.too_big = False

    def expect(self, size: int, last: bool) -> None:
        self.size = self._missing = size
        self.last = last
        self.wanting = True
        self.too_big = self.too_big or len(self._kept) + size > self._limit

    def feed(self, data: bytes | bytearray) -> int:
        """How many octets belong to the chunk."""
        taken = min(self._missing, len(data))
        if self.too_big:
            self._kept.clear()
        else:
            self._kept += data[:taken]
        self._missing -= taken
        self.wanting = self._missing > 0
        return taken

    @property
    def held(self) -> int:
        """Octets in memory."""
        return len(self._kept)

    @property
    def bare(self) -> bool:
        return has_bare(self._kept)

    def message(self) -> bytes:
        return bytes(self._kept)


def stuff(message: bytes) -> bytes:
    """The content as it goes on the wire, its end included. Raises ValueError for a bare CR or LF."""
    if has_bare(message):
        raise ValueError("the message holds a bare CR or LF; it is not sent (RFC 5321 §2.3.8)")
    if message and not message.endswith(b"\r\n"):
        message += b"\r\n"
    if message.startswith(b"."):
        message = b"." + message
    return message.replace(b"\r\n.", b"\r\n..") + b".\r\n"
