"""The dialling side, where a listener does not do what it should."""

from __future__ import annotations

from twisted.internet import task
from twisted.internet.testing import StringTransport

from gatewayd.net.protocol import LinkProtocol
from gatewayd.session.parley_client import TIMEOUT, ParleyClientSession
from gatewayd.wire.parley.connection import ParleyConnection, Push
from gatewayd.wire.parley.schema import Hello


def test_a_listener_that_talks_but_lets_nobody_in_is_left() -> None:
    """It may push what it likes: until we are signed in that is no answer."""
    clock, engine, listener = task.Clock(), ParleyConnection(), ParleyConnection()
    session = ParleyClientSession("test", engine)
    link = LinkProtocol(engine, session, clock, implicit_tls=False)
    transport = StringTransport()
    link.makeConnection(transport)
    link.dataReceived(listener.send(Hello(1, "mx.alpha.test", 1 << 20)))
    for _ in range(int(TIMEOUT)):
        assert session.usable
        link.dataReceived(listener.send(Push("news", {})))
        clock.advance(1)
    assert not session.usable
    assert transport.disconnecting or transport.disconnected
