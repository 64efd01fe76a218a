"""To a domain's own server: where the DNS says that it is, and only if it proves to be it, by PKIX or by DANE.

The resolver of the system is believed to have validated what it says (RFC 6840 section 5.8), if the way to it is safe:
it is on this machine, or /etc/resolv.conf has the option `trust-ad`, by which the C library too is told so.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from pathlib import Path
from typing import Any

from OpenSSL import SSL
from twisted.internet.threads import deferToThread

from gatewayd.address import Domain
from gatewayd.interfaces.dns import Endpoint, ResolutionFailed
from gatewayd.net.dial import dial_parley
from gatewayd.net.tls import Trust
from gatewayd.session.parley_client import ParleyClientSession
from gatewayd.wire.parley.connection import ParleyConnection

RESOLV_CONF = Path("/etc/resolv.conf")


async def locate(domain: Domain) -> list[Endpoint]:
    """Where the domain's server listens: SRV `_parley._tcp`. Hosts with DNSSEC-secure TLSA records come as addresses.
    Raises OSError when there is none, or no answer."""
    from gatewayd.dns.resolver import Resolver  # slow to import, and not needed where the server is told
    from gatewayd.routing import located

    resolver = Resolver(deferToThread, trust_ad=_resolver_is_trusted())
    try:
        found = await resolver.srv(f"_parley._tcp.{domain}")
        endpoints = [record for record in found.records if isinstance(record, Endpoint)]
        if found.secure:
            endpoints = [
                one if one.tlsa else Endpoint(one.name or one.host, one.port)
                for one in await located(resolver, endpoints, secure=True)
            ]
    except ResolutionFailed as error:
        raise ConnectionError(str(error)) from None
    if not endpoints:
        raise ConnectionError(f"{domain} publishes no Parley service (SRV _parley._tcp.{domain})")
    return list(dict.fromkeys(endpoints))


def _resolver_is_trusted() -> bool:
    try:
        lines = [line.split() for line in RESOLV_CONF.read_text("utf-8", "replace").splitlines()]
    except OSError:
        return False
    if any(words[:1] == ["options"] and "trust-ad" in words for words in lines):
        return True
    servers = [words[1] for words in lines if words[:1] == ["nameserver"] and len(words) > 1]
    return bool(servers) and all(map(_is_here, servers))


def _is_here(server: str) -> bool:
    try:
        return ipaddress.ip_address(server).is_loopback
    except ValueError:
        return False


async def dial(
    reactor: Any, domain: Domain, server: Endpoint | None, authorities: Path | None,
    engine: Callable[[], ParleyConnection],
) -> ParleyClientSession:  # fmt: skip
    """To the first of the domain's servers that answers and proves to be it. Raises OSError."""
    failed: OSError = ConnectionError(f"no server of {domain}")
    for endpoint in [server] if server else await locate(domain):
        made = engine()
        session = ParleyClientSession("gatewayd.client", made)
        try:
            await dial_parley(
                reactor, endpoint.host, endpoint.port, domain, Trust(authorities), made, session, tlsa=endpoint.tlsa
            )
        except SSL.Error:  # before anything was dialled
            raise ConnectionError(f"{authorities}: no certificates can be read from it") from None
        except OSError as error:
            failed = error
            continue
        return session
    raise failed
