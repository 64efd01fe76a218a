"""Frames as a person reads them."""

from __future__ import annotations

import io

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatewayd.cli.parley.trace import Traced, described, notation
from gatewayd.wire.parley import RemoteProtocolError
from gatewayd.wire.parley.connection import Bye, ParleyConnection, Push, Request, Response
from gatewayd.wire.parley.schema import Auth, Hello, Send, plain
from tests.test_client_archive import change


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"a": [1, -2, True, False, None]}, '{"a": [1, -2, true, false, null]}'),
        (b"\x01\xff", "h'01ff'"),
        (bytes(33), f"h'{'00' * 32}...' / 33 octets /"),
        ('"\\\n\x1b\u202e\U000e0001', '"\\"\\\\\\u000a\\u001b\\u202e\\udb40\\udc01"'),
        ("Grüße 🙂", '"Grüße 🙂"'),
    ],
)
def test_notation(value: object, text: str) -> None:
    assert notation(value) == text


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text() | st.binary(), st.lists))
def test_nothing_commands_the_terminal(value: object) -> None:
    assert notation(value).isprintable()


def test_what_is_encoded_is_opened() -> None:
    signed = change(1, "Hi").signed
    _protected, _, _payload, signature = cbor2.loads(signed)
    shown = described(Push("changes", {"changes": [{"signed": signed}]}))
    assert shown.startswith('PUSH changes {"changes": [{"signed": <<[<<{1: -8, 4: h\'')
    assert '<<{"to": ["bob@alpha.test"]' in shown
    assert signature[:32].hex() in shown
    assert notation({"payload": b"\xff", "signed": b"\xff"}) == "{\"payload\": h'ff', \"signed\": h'ff'}"


def test_secrets_are_masked() -> None:
    for event in (
        Request(1, "auth", plain(Auth("DOMAIN", b"proof", "a.test"))),
        Response(1, "auth", {"done": True, "data": b"proof"}),
    ):
        shown = described(event)
        assert b"proof".hex() not in shown
        assert '"data": ...' in shown


def test_a_method_is_somebody_elses_text() -> None:
    assert described(Push("\x1b[2J", {})) == 'PUSH "\\u001b[2J" {}'


def test_both_ways_and_no_other_than_the_engine() -> None:
    out = io.StringIO()
    traced, peer = Traced(out), ParleyConnection()
    events = peer.receive(traced.send(Hello(1, "test", 65536)))
    events += peer.receive(traced.send(Request(1, "send", plain(Send(("a@a.test",))))))
    octets = peer.send(Hello(1, "peer", 65536)) + peer.send(Bye("", "done"))
    for octet in octets:
        traced.receive(bytes([octet]))
    lines = out.getvalue().splitlines()
    assert [line.split(" {")[0] for line in lines] == ["-> HELLO", "-> REQ 1 send", "<- HELLO", "<- BYE"]
    assert len(events) == 2
    with pytest.raises(RemoteProtocolError):
        Traced(out).receive(bytes(4) + b"x")
