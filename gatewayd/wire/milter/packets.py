"""Packets: a 4-octet big-endian length, a letter, and its data."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from gatewayd.wire.milter import RemoteProtocolError

MAX_PACKET = 1024 * 1024  # octets of one packet from the filter; libmilter's are at most 65,536 and a header field


@dataclass(frozen=True, slots=True)
class Packet:
    letter: str
    data: bytes = b""

    def encode(self) -> bytes:
        return struct.pack(">I", len(self.data) + 1) + self.letter.encode("ascii") + self.data

    def strings(self, data: bytes | None = None) -> list[bytes]:
        """Data that is strings, each ended by NUL."""
        data = self.data if data is None else data
        if not data.endswith(b"\0"):
            raise RemoteProtocolError(f"{self.letter!r} holds a string without an end")
        return data[:-1].split(b"\0")


class PacketReader:
    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def next(self) -> Packet | None:
        """None until one is whole. Raises RemoteProtocolError."""
        if len(self._buffer) < 4:
            return None
        (length,) = struct.unpack_from(">I", self._buffer)
        if not 1 <= length <= MAX_PACKET:
            raise RemoteProtocolError(f"a packet of {length} octets")
        if len(self._buffer) < 4 + length:
            return None
        packet = Packet(chr(self._buffer[4]), bytes(self._buffer[5 : 4 + length]))
        del self._buffer[: 4 + length]
        return packet
