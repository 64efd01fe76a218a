"""The post office of the commands that send or file: a running gateway's, without its peers.

It takes a third of a command's start, so it is imported by those that need it.
"""

from __future__ import annotations

import os
from typing import Any

from twisted.internet import threads

from gatewayd.address import Domain
from gatewayd.core.delivery import PostOffice
from gatewayd.core.reports import Fate
from gatewayd.core.signing import DomainSigner
from gatewayd.crypto.domain_keys import KeySet
from gatewayd.interfaces.queue import Queued
from gatewayd.outcome import Refused


class NoPeers:
    """A directory for work that verifies nothing that others signed."""

    async def key_set(self, domain: Domain, kid: bytes) -> KeySet:
        raise LookupError(f"no keys of {domain} at hand")


def post_office(gateway: Any) -> PostOffice:
    signer = DomainSigner(gateway.keys, NoPeers(), gateway.store, gateway.clock, gateway.now, threads.deferToThread)
    return PostOffice(gateway.store, gateway.queue, signer, gateway.config.hostname, gateway.now, os.urandom)


async def bounce(gateway: Any, row: Queued) -> None:
    """Tell the sender that the operator took this recipient out."""
    content, trace = (await gateway.queue.messages([row.message_key]))[row.message_key]
    result = Refused("5.7.1", f"Taken out of the queue by the operator; last: {row.last_status.strip() or 'not tried'}")
    (to,) = row.envelope.recipients
    fate = Fate("failed", content, trace, row.envelope, {to: result}, row.accepted)
    await post_office(gateway).report(fate)
