"""The gateway, in the order in which its parts are built, started and stopped."""

from __future__ import annotations

import secrets
import time
from typing import Any

import msgspec
from twisted.application.service import Service
from twisted.internet import defer
from twisted.internet.error import CannotListenError
from twisted.logger import Logger

from gatewayd.address import Address, Domain
from gatewayd.config import Config
from gatewayd.core.attempts import Patience
from gatewayd.core.authentication import Authenticator
from gatewayd.core.consent import Consent, Policy
from gatewayd.core.contacts import Contacts
from gatewayd.core.delivery import PostOffice
from gatewayd.core.journal import Journal
from gatewayd.core.keys import KeyDirectory
from gatewayd.core.presence import Presence
from gatewayd.core.recipients import Recipients
from gatewayd.core.relay import Relay
from gatewayd.core.signing import DomainSigner
from gatewayd.core.story import Story
from gatewayd.crypto.scram import derive
from gatewayd.dns.resolver import Resolver
from gatewayd.errors import StoreError
from gatewayd.interfaces.dns import Endpoint
from gatewayd.interfaces.routes import Bridged, Mail, Parley
from gatewayd.metrics import Metrics
from gatewayd.net.dial import dial_parley
from gatewayd.net.tls import Trust
from gatewayd.outcome import Outcome
from gatewayd.service.inbound import Inbound
from gatewayd.service.listeners import Listeners
from gatewayd.service.outbound import Outbound
from gatewayd.service.sessions import Sessions
from gatewayd.service.threads import Threads
from gatewayd.service.upkeep import Upkeep
from gatewayd.session.link import Engine, Session
from gatewayd.session.parley_courier import ParleyCourier
from gatewayd.session.parley_peers import ParleyPeers
from gatewayd.storage import Storage


class Gateway(Service):
    """One gateway, from its configuration. Raises ConfigError, StoreError."""

    log = Logger()
    name = "gatewayd"

    def __init__(self, config: Config, reactor: Any) -> None:
        self._config = config
        self._reactor = reactor
        hostname, now, steady = config.hostname, time.time, reactor.seconds
        self._threads = Threads(reactor)
        self._storage = storage = Storage(config, reactor, now)
        store, queue, keys = storage.store, storage.queue, storage.keys
        self._journal = Journal(reactor)
        resolver = Resolver(
            self._threads.pool("dns", 16), config.dns.nameservers,
            trust_ad=config.dns.trust_ad, timeout=config.dns.timeout,
        )  # fmt: skip
        metrics = Metrics()
        story = Story(now, storage.trace.record if config.trace_days else lambda event: None)
        inbound = Inbound(config, reactor, storage, resolver, self._threads, self._notify, self._contact)
        outbound = Outbound(config, reactor, storage, resolver, self._threads, self._notify, self._contact)
        router = outbound.router
        parley = ParleyCourier(self._connect_parley, router.route, keys, store, hostname, reactor, now)
        zones = resolver if config.dns.trust_ad else None
        directory = KeyDirectory(store, parley.fetch_keys, steady, now, zones)
        consent = Consent(store, steady, Policy(**msgspec.structs.asdict(config.consent)))
        self._post_office = post_office = PostOffice(
            store,
            queue,
            DomainSigner(keys, directory, store, reactor, now, self._threads.pool("signatures", 1)),
            hostname,
            now,
            secrets.token_bytes,
            postmaster=config.postmaster,
            reception=inbound.reception,
            admission=inbound.admission,
            story=story,
            consent=consent,
            note=self._journal.note,
            largest=config.limits.object_size,
            largest_mail=config.limits.message_size,
            quota=config.limits.brought,
            bridges=outbound.bridges,
            srs=outbound.srs,
            steady=steady,
        )
        self._relay = Relay(
            queue,
            router,
            {Parley: parley, Mail: outbound.courier, Bridged: outbound.courier},
            post_office,
            reactor,
            now,
            patience=Patience(config.relay.retry, config.relay.give_up, config.relay.delay_notice or float("inf")),
            concurrency=config.relay.concurrency,
            observed=metrics.relayed,
            note=self._journal.note,
            story=story,
        )
        authenticator = Authenticator(store, derive, self._threads.pool("passwords", 4), secrets.token_bytes(32))
        presence = Presence(store, router.route, parley, steady)
        recipients = Recipients(store, hostname, config.postmaster, outbound.bridges, outbound.srs)
        contacts = Contacts(store, consent, recipients, router, ParleyPeers(parley), steady)
        sessions = Sessions(
            config, reactor, storage, post_office, authenticator, directory, presence, contacts, metrics
        )
        self._listeners = Listeners(config, reactor, sessions, metrics, storage.trouble)
        self._upkeep = Upkeep(config, reactor, storage, post_office, inbound, outbound)

    def startService(self) -> None:
        """Ends the process with one line when an address is taken, or another gateway has the state directory."""
        super().startService()  # type: ignore[no-untyped-call]
        try:
            self._storage.begin()
            self._listeners.open()
        except (StoreError, CannotListenError) as error:
            self._storage.database.close()
            raise SystemExit(f"gatewayd: {error}") from None
        self._threads.start()
        self._relay.start()
        self._upkeep.start()

    def stopService(self) -> defer.Deferred[None]:
        return defer.Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        """No new connections, running attempts end, what was acknowledged is committed."""
        super().stopService()  # type: ignore[no-untyped-call]
        self._upkeep.stop()
        await self._listeners.close()
        await self._relay.stop()
        await self._upkeep.finish()
        await self._threads.stop()
        self._journal.flush()
        await self._storage.end()
        self.log.info("gatewayd has stopped")

    # -- for the parts that are built before those that they need ---------------------------------------------------

    async def _connect_parley(self, domain: Domain, endpoint: Endpoint, engine: Engine, session: Session) -> None:
        await dial_parley(
            self._reactor, endpoint.host, endpoint.port, domain, Trust(self._config.tls.trust), engine, session,
            tlsa=endpoint.tlsa, bind_address=self._config.relay.bind_address,
        )  # fmt: skip

    async def _notify(self, mail: bytes, to: Address) -> Outcome:
        return await self._post_office.notify(mail, to)

    async def _contact(self) -> Address:
        """Who speaks in the gateway's own mail: of a domain of ours, so that SPF and DKIM can vouch for it."""
        domains = await self._storage.store.domains()
        return self._config.postmaster or Address("postmaster", min(domains, key=str, default=self._config.hostname))
