"""A DNS server of a few records, so that two domains find each other (section 2)."""

import asyncio
import random

import dns.asyncresolver
import dns.flags
import dns.message
import dns.rcode
import dns.rrset


class Zone(asyncio.DatagramProtocol):
    """Answers from its records, each "name ttl class type data"; what it does not have does not exist."""

    def __init__(self, *records: str) -> None:
        self.records: list[str] = list(records)
        self.secure = False  # whether all is said to be validated

    async def listen(self, address: str) -> int:
        """The port."""
        loop = asyncio.get_running_loop()
        self.transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=(address, 0))
        port: int = self.transport.get_extra_info("sockname")[1]
        return port

    def datagram_received(self, octets: bytes, peer: tuple[str, int]) -> None:  # type: ignore[override]
        query = dns.message.from_wire(octets)
        reply = dns.message.make_response(query)
        reply.flags |= dns.flags.AA | dns.flags.RA | (dns.flags.AD if self.secure else 0)
        question = query.question[0]
        name, kind = question.name.to_text().lower(), dns.rdatatype.to_text(question.rdtype)
        rows = [record.split(None, 4) for record in self.records]
        reply.answer = [
            dns.rrset.from_text(name, int(ttl), class_, type_, data)
            for owner, ttl, class_, type_, data in rows
            if owner == name and type_ == kind
        ]
        if not any(owner == name or owner.endswith("." + name) for owner, *_ in rows):
            reply.set_rcode(dns.rcode.NXDOMAIN)
        if not reply.answer:  # RFC 2308 section 3
            reply.authority = [dns.rrset.from_text(".", 1, "IN", "SOA", ". . 1 1 1 1 1")]
        self.transport.sendto(reply.to_wire(), peer)


async def locate(domain: str, nameserver: tuple[str, int]) -> list[tuple[str, int]]:
    """Address and port of the hosts of a domain, in the order of RFC 2782; none, if it has no Parley."""
    resolver = dns.asyncresolver.Resolver(configure=False)
    resolver.nameservers, resolver.port = [nameserver[0]], nameserver[1]
    try:
        answer = list(await resolver.resolve(f"_parley._tcp.{domain}.", "SRV"))
    except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
        return []
    if len(answer) == 1 and answer[0].target == dns.name.root:
        return []
    hosts = []
    for record in sorted(answer, key=lambda r: (r.priority, -(random.random() ** (1 / (r.weight or 0.001))))):
        addresses = await resolver.resolve(record.target, "A")
        hosts += [(address.to_text(), record.port) for address in addresses]
    return hosts
