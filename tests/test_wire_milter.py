"""Whatever a filter sends: packets in any pieces, a conversation that goes on or breaks off with one error."""

from __future__ import annotations

import contextlib
import itertools
import struct
from collections.abc import Generator
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gatewayd.wire.milter import RemoteProtocolError
from gatewayd.wire.milter.conversation import Conversation
from gatewayd.wire.milter.packets import Packet, PacketReader

PACKETS = st.lists(st.builds(Packet, st.sampled_from("cartdfypshim+-2eqbO4?"), st.binary(max_size=40)), max_size=20)
GREETING = st.integers(0, 2**32 - 1).map(lambda steps: Packet("O", struct.pack(">III", 6, 0xFF, steps)))


def read(octets: list[bytes]) -> list[Packet]:
    reader, packets = PacketReader(), []
    for chunk in octets:
        reader.feed(chunk)
        while (packet := reader.next()) is not None:
            packets.append(packet)
    return packets


@given(PACKETS, st.lists(st.integers(0, 1000), max_size=8))
def test_any_split_gives_the_same_packets(packets: list[Packet], cuts: list[int]) -> None:
    octets = b"".join(packet.encode() for packet in packets)
    bounds = sorted({0, len(octets), *(cut for cut in cuts if cut < len(octets))})
    assert read([octets[a:b] for a, b in itertools.pairwise(bounds)]) == packets


@given(GREETING, PACKETS)
def test_a_conversation_ends_in_an_answer_or_in_one_error(greeting: Packet, packets: list[Packet]) -> None:
    """What is sent are whole packets, each of a step that the filter did not leave out."""
    said = iter([greeting, *packets])
    sent = bytearray()

    def run(step: Generator[bytes, Packet, Any]) -> None:
        with contextlib.suppress(StopIteration):
            sent.extend(next(step))
            while True:
                sent.extend(step.send(next(said)))

    talk = Conversation({"j": "mx"})
    with contextlib.suppress(RemoteProtocolError):
        run(talk.begin("2001:db8::1", "client"))
        run(talk.mail("a@b.test"))
        run(talk.rcpt("c@d.test"))
        run(talk.end([(b"From", b" x\r\n y\0")], b"z" * 70000))
    (steps,) = struct.unpack_from(">I", greeting.data, 8)
    letters = {packet.letter for packet in read([bytes(sent)])}
    assert letters <= set("OCHMRTLNBED")
    assert not (steps & 0x8 and "R" in letters) and not (steps & 0x10 and "B" in letters)
