"""A small authoritative DNS server on a loopback address, for the demo and the tests: zones in, answers out.

RFC 1034 §4.3.2 (the algorithm, without delegation), RFC 1035 §4.2 (UDP and TCP), RFC 2308 §3 (SOA in negative answers).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdatatype
import dns.zone
from twisted.internet import defer
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import DatagramProtocol, Factory
from twisted.protocols.basic import Int16StringReceiver

CHAIN = 8  # CNAMEs followed


class DNSServer:
    """Serves master-file texts by their origin. `port` is the one it listens on (0: asked of the system)."""

    def __init__(self, zones: Mapping[str, str]) -> None:
        self.port = 0
        self._zones: dict[dns.name.Name, dns.zone.Zone] = {}
        self._ports: list[IListeningPort] = []
        self.replace(zones)

    def replace(self, zones: Mapping[str, str]) -> None:
        """From now on exactly these. Raises dns.exception.DNSException for a bad text, and nothing has changed."""
        read = [dns.zone.from_text(text, origin=name, relativize=False) for name, text in zones.items()]
        self._zones = {zone.origin: zone for zone in read if zone.origin is not None}

    def listen(self, reactor: Any, interface: str = "127.0.0.1", port: int = 0) -> None:
        """TCP and UDP on the same port. Raises CannotListenError."""
        tcp = reactor.listenTCP(port, Factory.forProtocol(lambda: _Stream(self)), interface=interface)
        self._ports.append(tcp)
        self.port = tcp.getHost().port
        self._ports.append(reactor.listenUDP(self.port, _Datagrams(self), interface=interface))

    async def stop(self) -> None:
        ports, self._ports = self._ports, []
        for port in ports:
            await defer.maybeDeferred(port.stopListening)

    def answer(self, query: bytes, limit: int | None = None) -> bytes | None:
        """The answer's octets; `limit` is what a UDP answer may have without EDNS. None: not a query."""
        try:
            asked = dns.message.from_wire(query)
        except dns.exception.DNSException:
            return None
        if asked.flags & dns.flags.QR:
            return None
        response = dns.message.make_response(asked)
        if asked.opcode() != dns.opcode.QUERY or len(asked.question) != 1:
            response.set_rcode(dns.rcode.NOTIMP)
        else:
            question = asked.question[0]
            self._resolve(response, question.name, question.rdtype)
        if limit is None:
            return response.to_wire(max_size=65535)
        size = max(limit, asked.payload if asked.edns >= 0 else 0)
        try:
            return response.to_wire(max_size=size)
        except dns.exception.TooBig:
            truncated = dns.message.make_response(asked)
            truncated.flags |= dns.flags.TC | dns.flags.AA
            return truncated.to_wire()

    def _resolve(self, response: dns.message.Message, name: dns.name.Name, kind: dns.rdatatype.RdataType) -> None:
        for _ in range(CHAIN):
            zone = self._zone(name)
            if zone is None:
                if not response.answer:
                    response.set_rcode(dns.rcode.REFUSED)
                return
            response.flags |= dns.flags.AA
            node = zone.get_node(name)
            found = node.get_rdataset(zone.rdclass, kind) if node else None
            alias = node.get_rdataset(zone.rdclass, dns.rdatatype.CNAME) if node and found is None else None
            if found is not None or alias is not None:
                rrset = response.find_rrset(
                    response.answer, name, zone.rdclass, kind if found else dns.rdatatype.CNAME, create=True
                )
                rrset.update(found or alias)  # type: ignore[no-untyped-call]
                if found is not None:
                    return
                name = rrset[0].target
                continue
            if node is None and not any(other.is_subdomain(name) for other in zone.nodes):  # RFC 8020: else it exists
                response.set_rcode(dns.rcode.NXDOMAIN)
            assert zone.origin is not None
            response.authority.append(zone.find_rrset(zone.origin, dns.rdatatype.SOA))
            return

    def _zone(self, name: dns.name.Name) -> dns.zone.Zone | None:
        """The one with the longest origin."""
        around = [origin for origin in self._zones if name.is_subdomain(origin)]
        return self._zones[max(around, key=len)] if around else None


class _Datagrams(DatagramProtocol):
    noisy = False

    def __init__(self, server: DNSServer) -> None:
        self._server = server

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        response = self._server.answer(datagram, limit=512)
        if response is not None and self.transport is not None:
            self.transport.write(response, addr)


class _Stream(Int16StringReceiver):
    def __init__(self, server: DNSServer) -> None:
        self._server = server

    def stringReceived(self, string: bytes) -> None:
        response = self._server.answer(string)
        if response is None:
            self.transport.abortConnection()  # type: ignore[union-attr]
        else:
            self.sendString(response)  # type: ignore[no-untyped-call]
