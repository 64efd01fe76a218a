"""The server's engine: octets to commands, replies to octets. Which command may come when is one table."""

from __future__ import annotations

import re
from functools import lru_cache

from msgspec.structs import replace

from gatewayd.wire.smtp import LocalProtocolError, commands
from gatewayd.wire.smtp.commands import (
    BadCommand,
    Chunk,
    Event,
    MailFrom,
    Message,
    RefusedMessage,
    Reply,
    StartChunk,
    StartData,
    State,
)
from gatewayd.wire.smtp.data import ChunkReader, DataReader

MAX_LINE = 2048  # octets of a command line: RFC 5321 §4.5.3.1.4 asks for 512, extensions add
MAX_AUTH_LINE = 12288  # RFC 4954 §4
_CONTROLS = re.compile(r"[\x00-\x1f\x7f]+")

# Which commands each state allows; all else is 503 (RFC 5321 §4.1.4).
ALLOWED = {
    State.NEW: {"EHLO", "HELO", "NOOP", "HELP", "RSET", "VRFY", "QUIT"},
    State.READY: {"EHLO", "HELO", "MAIL", "AUTH", "STARTTLS", "NOOP", "HELP", "RSET", "VRFY", "QUIT"},
    State.MAIL: {"EHLO", "HELO", "RCPT", "NOOP", "HELP", "RSET", "VRFY", "QUIT"},
    State.RCPT: {"EHLO", "HELO", "RCPT", "DATA", "BDAT", "NOOP", "HELP", "RSET", "VRFY", "QUIT"},
    State.CHUNKS: {"EHLO", "HELO", "BDAT", "NOOP", "HELP", "RSET", "VRFY", "QUIT"},  # RFC 3030 §2: never DATA
}


class SMTPServer:
    """`receive` gives one event; the session answers it with one Reply, which also moves the state. What is pipelined
    behind waits in the buffer until then: what it means depends on the answer (RFC 2920 §3.1). `receive(b"")` asks for
    the next."""

    def __init__(self, max_size: int, *, lmtp: bool = False) -> None:
        self.state = State.NEW
        self._strange = {"EHLO", "HELO"} if lmtp else {"LHLO"}  # RFC 2033 §4.1
        self._max_size = max_size
        self._forget()

    def _forget(self) -> None:
        self._buffer = bytearray()
        self._searched = 0
        self._overlong = False
        self._data: DataReader | None = None
        self._chunks: ChunkReader | None = None  # of the transaction
        self._refused_chunk: BadCommand | None = None  # the answer, once its octets are skipped
        self._binary = False  # the last MAIL said BODY=BINARYMIME
        self._waiting = False  # for the reply to the last event

    @property
    def held(self) -> int:
        """Octets of a message of which some chunks came to their end (BDAT), and not the last one."""
        return self._chunks.held if self._chunks is not None else 0

    def receive(self, data: bytes) -> list[Event]:
        if self.state is State.OVER:
            return []
        self._buffer += data
        if self._waiting or not self._buffer:
            return []
        event = self._next()
        self._waiting = event is not None
        return [] if event is None else [event]

    def send(self, event: Reply) -> bytes:
        """One reply, in as many lines as it has."""
        if not event.lines:
            raise LocalProtocolError("a reply has at least one line")
        self._waiting = not event.final
        if event.state is State.DATA:
            self._data = DataReader(self._max_size)
        if event.state is not None:
            self.state = event.state
            if event.state is State.OVER:
                self._forget()
            if event.state is not State.CHUNKS:
                self._chunks = None
        return _octets(event.code, event.enhanced, event.lines)

    def tls_started(self) -> None:
        """Nothing said in the clear counts, least of all commands sent ahead of the handshake (RFC 3207 §4.2, §6)."""
        self.state = State.NEW
        self._forget()

    # -- inside -----------------------------------------------------------------------------------------------------

    def _next(self) -> Event | None:
        if self._data is not None:
            return self._content(self._data)
        if self._chunks is not None and self._chunks.wanting:
            return self._chunk(self._chunks)
        line = self._line()
        if not isinstance(line, bytes):
            return line
        if self.state is State.AUTH:
            response = commands.auth_response(line)
            if isinstance(response, BadCommand):
                self.state = State.READY
            return response
        words = commands.split(line)
        if isinstance(words, BadCommand):
            return words
        verb, rest = words
        if verb in self._strange:
            return BadCommand(500, "5.5.1", "Command not recognized")
        verb = "EHLO" if verb == "LHLO" else verb
        bad = None if verb in ALLOWED[self.state] else BadCommand(503, "5.5.1", f"{verb} is not allowed now")
        if bad is not None and verb != "BDAT":
            return bad
        event = commands.event(verb, rest)
        if isinstance(event, MailFrom):
            self._binary = event.parameters.body == "BINARYMIME"
        if isinstance(event, StartData) and self._binary:
            return BadCommand(503, "5.5.1", "BODY=BINARYMIME comes by BDAT (RFC 3030 3)")
        if not isinstance(event, StartChunk):
            return event
        if bad is not None:  # its octets come all the same, and are no commands (RFC 3030 §2)
            self._refused_chunk = bad
        if self._chunks is None:
            self._chunks = ChunkReader(self._max_size)
        self._chunks.expect(event.size, event.last)
        return self._chunk(self._chunks)

    def _line(self) -> bytes | BadCommand | None:
        """The next line, its end included; None until it is there."""
        end = self._buffer.find(b"\n", self._searched)
        if end < 0:
            if len(self._buffer) > self._limit():  # the rest is dropped until a line end comes
                self._buffer.clear()
                self._overlong = True
            self._searched = len(self._buffer)
            return None
        overlong = self._overlong or (end >= MAX_LINE and end >= self._limit())
        line = bytes(self._buffer[: end + 1])
        del self._buffer[: end + 1]
        self._searched = 0
        self._overlong = False
        if overlong:
            if self.state is State.AUTH:
                self.state = State.READY
            return BadCommand(500, "5.5.2", "Line too long")
        return line

    def _limit(self) -> int:
        """Octets of the line that begins the buffer."""
        auth = self.state is State.AUTH or self._buffer[:4].upper() == b"AUTH"
        return MAX_AUTH_LINE if auth else MAX_LINE

    def _content(self, data: DataReader) -> Event | None:
        rest = data.feed(self._buffer)
        self._buffer.clear()
        if rest is None:
            return None
        self._buffer += rest
        self._data = None
        self.state = State.READY
        return self._judged(data)

    def _chunk(self, chunks: ChunkReader) -> Event | None:
        taken = chunks.feed(self._buffer)
        del self._buffer[:taken]
        if chunks.wanting:
            return None
        if self._refused_chunk is not None:
            refused, self._refused_chunk, self._chunks = self._refused_chunk, None, None
            return refused
        if not chunks.too_big and not chunks.last:
            return Chunk(chunks.size)
        self._chunks = None  # a refused one ends the transaction: those that follow are 503 (RFC 3030 §2)
        self.state = State.READY
        judged = self._judged(chunks)
        if isinstance(judged, RefusedMessage) and not chunks.last:
            return replace(judged, chunk=True)
        return judged

    def _judged(self, content: DataReader | ChunkReader) -> Message | RefusedMessage:
        if content.too_big:
            return RefusedMessage(552, "5.3.4", f"Message larger than {self._max_size} octets")
        if content.bare and not self._binary:
            return RefusedMessage(550, "5.6.0", "A bare CR or LF in the message; lines end in CRLF (RFC 5321 2.3.8)")
        return Message(content.message())


@lru_cache(64)  # most are said again and again
def _octets(code: int, enhanced: str, lines: tuple[str, ...]) -> bytes:
    """UTF-8 is not for every client (RFC 6531 §3.7.4)."""
    texts = [f"{enhanced} {_clean(line)}" if enhanced else _clean(line) for line in lines]
    said = "".join(f"{code}-{text}\r\n" for text in texts[:-1]) + f"{code} {texts[-1]}\r\n"
    return said.encode("ascii", "backslashreplace")


def _clean(text: str) -> str:
    if not text.isprintable():
        text = _CONTROLS.sub(" ", text)
    return text[:450]  # a reply line has 512 octets, RFC 5321 §4.5.3.1.5
