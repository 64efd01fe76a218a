"""Listeners over real sockets."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from twisted.internet import threads

from gatewayd.net.limits import Limits
from gatewayd.net.listen import listen
from tests.test_net_protocol import EchoSession, LineEngine


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6 here")
def test_both_families_at_one_port(reactor: Any) -> None:
    """As the configuration that comes along has it; and an IPv4 client is known by its IPv4 address."""
    limits = Limits(10, 3)

    def start() -> list[Any]:
        def make() -> tuple[Any, Any]:
            return LineEngine(), EchoSession(reactor)

        first = listen(reactor, "0.0.0.0", 0, make, limits)
        return [first, listen(reactor, "::", first.getHost().port, make, limits)]

    ports = threads.blockingCallFromThread(reactor, start)
    number = ports[0].getHost().port
    with (
        socket.create_connection(("127.0.0.1", number), 10) as four,
        socket.create_connection(("::1", number), 10) as six,
    ):
        assert four.recv(6) == six.recv(6) == b"hello "
        assert {"127.0.0.1", "::1"} < set(limits.open)
    for port in ports:
        threads.blockingCallFromThread(reactor, port.stopListening)
