"""The service tree: the one place where concrete classes meet.

`twistd gatewayd --config FILE` calls makeService; `Gateway` builds store, queue, core, couriers and listeners from the
configuration, and takes them down in the reverse order so that nothing acknowledged is lost.
"""

from __future__ import annotations

import fcntl
import gc
import ipaddress
import secrets
import shutil
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from OpenSSL import SSL
from twisted.application.service import Service
from twisted.internet import defer, threads
from twisted.internet.error import CannotListenError
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python import usage

from gatewayd.address import Address, Domain
from gatewayd.config import DAY, Config, ConfigError, load
from gatewayd.core.admission import Admission, Rates
from gatewayd.core.attempts import Patience
from gatewayd.core.authentication import Authenticator
from gatewayd.core.batch import Gathered
from gatewayd.core.consent import Consent, Policy
from gatewayd.core.contacts import Contacts
from gatewayd.core.delivery import PostOffice
from gatewayd.core.dmarc_reports import DMARCReporter
from gatewayd.core.examination import Examined, examine
from gatewayd.core.filtering import AfterTheData, Filter, Filters
from gatewayd.core.greylist import Greylist
from gatewayd.core.journal import Journal
from gatewayd.core.keys import KeyDirectory
from gatewayd.core.presence import Presence
from gatewayd.core.reception import Reception
from gatewayd.core.recipients import Recipients
from gatewayd.core.relay import Relay
from gatewayd.core.signing import DomainSigner
from gatewayd.core.story import Story
from gatewayd.crypto.domain_keys import KeyStore
from gatewayd.crypto.scram import derive
from gatewayd.database.sqlite import Database
from gatewayd.dns.resolver import Resolver
from gatewayd.errors import StoreError
from gatewayd.interfaces.dns import Endpoint
from gatewayd.interfaces.routes import Bridged, Mail, Origin, Parley
from gatewayd.metrics import Metrics
from gatewayd.net import clock, status
from gatewayd.net.dial import dial_parley
from gatewayd.net.filters import Asking, Place, ask_rspamd, place
from gatewayd.net.limits import Guesses, Limits
from gatewayd.net.listen import listen
from gatewayd.net.milter import MilterVisit
from gatewayd.net.threads import Threads
from gatewayd.net.threads import stop as stop_threads
from gatewayd.net.tls import Trust, server_context
from gatewayd.outbound import Outbound
from gatewayd.outcome import Outcome
from gatewayd.queue.sqlite import SQLiteQueue
from gatewayd.session.imap import IMAPSession
from gatewayd.session.link import Engine, Session
from gatewayd.session.parley_courier import ParleyCourier
from gatewayd.session.parley_peers import ParleyPeers
from gatewayd.session.parley_send import Accept
from gatewayd.session.parley_server import ParleyServerSession
from gatewayd.session.pop3 import POP3Session
from gatewayd.session.smtp_server import SMTPServerSession
from gatewayd.session.smtp_terms import Role, Terms
from gatewayd.store import epochs
from gatewayd.store.blobs import BlobStore
from gatewayd.store.dmarc import SQLiteSightings
from gatewayd.store.greylist import SQLiteAttempts
from gatewayd.store.sqlite import SQLiteStore
from gatewayd.store.trace import TraceLog
from gatewayd.wire.imap.connection import IMAPConnection
from gatewayd.wire.parley.connection import ParleyConnection
from gatewayd.wire.pop3.connection import POP3Connection
from gatewayd.wire.smtp.server import SMTPServer

log = Logger()
gc.set_threshold(100_000, 10, 10)  # messages under way live longer than 700 new objects, and would be walked each time
sys.setswitchinterval(0.0005)  # seconds: the writer thread and the reactor hand over often (Python waits 5 ms)

MAX_APPEND = 64 * 1024 * 1024  # octets
SWEEP = 3600.0  # seconds
LEAST_FREE = 64 * 1024 * 1024  # octets on the disk: with less, some message will soon find no room
TESTIFY = 60.0


class Options(usage.Options):
    """What `twistd gatewayd` takes."""

    optParameters = [["config", "c", "/etc/gatewayd/gatewayd.toml", "The configuration file"]]


def makeService(options: Options) -> Gateway:
    """Called by twistd. A bad configuration, or a state directory that does not serve, ends the start with one clear
    line."""
    from twisted.internet import reactor

    clock.make_steady(reactor)
    try:
        return Gateway(load(Path(options["config"])), reactor)
    except (ConfigError, StoreError, OSError) as error:
        raise SystemExit(f"gatewayd: {error}") from None


class Gateway(Service):
    """One gateway, from its configuration. Several may live in one process (tests, the demo)."""

    name = "gatewayd"

    def __init__(self, config: Config, reactor: Any) -> None:
        self.config = config
        self._reactor = reactor
        self._now = time.time
        self._ports: list[Any] = []
        try:
            tls = config.tls
            self._tls = server_context(tls.certificate, tls.key, parley=False)
            self._parley_tls = server_context(tls.certificate, tls.key, parley=True)
        except SSL.Error as error:
            raise ConfigError(f"[tls] certificate and key do not load or do not match: {error}") from None
        self._build()

    # -- building ---------------------------------------------------------------------------------------------------

    def _build(self) -> None:
        config, reactor, now, steady = self.config, self._reactor, self._now, self._reactor.seconds
        state, hostname = config.state_dir, config.hostname
        bind = config.relay.bind_address

        self.metrics = Metrics()
        limits = config.limits
        trusted = [ipaddress.ip_network(text) for text in config.incoming.trusted]
        guesses = Guesses(limits.sign_in_failures, steady, trusted)
        self._limits = Limits(
            limits.connections,
            limits.connections_per_address,
            limits.connections_per_network,
            guesses,
            limits.unfinished,
        )
        self._passwords = Threads(0, 4, name="passwords")
        self._signatures = Threads(1, 1, name="signatures")
        self._examiners = Threads(0, 16, name="examiners")
        self._filters: list[Threads] = []  # a pool for each
        self.database = Database(state / "gatewayd.sqlite", reactor.callFromThread)
        self._witness = state / "epoch"
        self.store = SQLiteStore(self.database, BlobStore(state / "blobs"), reactor, now)
        self.queue = SQLiteQueue(self.database, reactor, now)
        self.trace = TraceLog(self.database, reactor)
        story = Story(now, self.trace.record if config.trace_days else lambda event: None)
        self.resolver = Resolver(
            reactor, config.dns.nameservers, trust_ad=config.dns.trust_ad, timeout=config.dns.timeout
        )
        self.keys = KeyStore(state / "keys", now)
        self._secret = secrets.token_bytes(32)

        async def connect_parley(domain: Domain, endpoint: Endpoint, engine: Engine, session: Session) -> None:
            trust = Trust(config.tls.trust)
            await dial_parley(
                reactor, endpoint.host, endpoint.port, domain, trust, engine, session,
                tlsa=endpoint.tlsa, bind_address=bind,
            )  # fmt: skip

        async def in_thread(function: Callable[..., Any], *arguments: Any) -> Any:
            return await threads.deferToThreadPool(reactor, self._passwords, function, *arguments)

        self.authenticator = Authenticator(self.store, derive, in_thread, self._secret)
        out = Outbound(
            config, reactor, now, self.database, self.store, self.resolver, in_thread, self._notify, self._contact
        )
        router, smtp, self.tls_reporter = out.router, out.courier, out.reporter
        parley = ParleyCourier(connect_parley, router.route, self.keys, self.store, hostname, reactor, now)
        self.presence = Presence(self.store, router.route, parley, steady)
        zones = self.resolver if config.dns.trust_ad else None
        self.directory = KeyDirectory(self.store, parley.fetch_keys, steady, now, zones)
        limits = config.limits
        self.admission = Admission(
            self.resolver, steady, trusted=config.incoming.trusted, refused=config.incoming.refused,
            blocklists=config.incoming.blocklists, senders_exist=config.incoming.senders_exist,
            rates=Rates(
                limits.messages_per_address, limits.messages_per_network, limits.messages_per_domain,
                limits.recipients_per_account,
            ),
        )  # fmt: skip
        self.journal = Journal(reactor)
        sign_in_thread = partial(threads.deferToThreadPool, reactor, self._signatures)
        signer = DomainSigner(self.keys, self.directory, self.store, reactor, now, sign_in_thread)
        consent = Consent(self.store, steady, Policy(**msgspec.structs.asdict(config.consent)))
        self.post_office = PostOffice(
            self.store,
            self.queue,
            signer,
            hostname,
            now,
            secrets.token_bytes,
            postmaster=config.postmaster,
            reception=self._reception(),
            admission=self.admission,
            story=story,
            consent=consent,
            note=self.journal.note,
            largest=config.limits.object_size,
            largest_mail=config.limits.message_size,
            quota=config.limits.brought,
            bridges=out.bridges,
            srs=out.srs,
            steady=steady,
        )
        self._receive = Gathered(self.post_office.receive, reactor, self.post_office.takes_long).ask
        self._submit = Gathered(self.post_office.submit, reactor, self.post_office.takes_long)
        recipients = Recipients(self.store, hostname, config.postmaster, out.bridges, out.srs)
        self.contacts = Contacts(self.store, consent, recipients, router, ParleyPeers(parley), steady)
        self.signer = signer

        self.dmarc_reporter = DMARCReporter(
            SQLiteSightings(self.database), self.resolver, hostname, self._notify, self._contact, now
        )
        self.relay = Relay(
            self.queue,
            router,
            {Parley: parley, Mail: smtp, Bridged: smtp},
            self.post_office,
            reactor,
            now,
            patience=Patience(config.relay.retry, config.relay.give_up, config.relay.delay_notice or float("inf")),
            concurrency=config.relay.concurrency,
            observed=self.metrics.relayed,
            note=self.journal.note,
            story=story,
        )
        self._locks: set[int] = set()

    def _reception(self) -> Reception:
        incoming, filters, now = self.config.incoming, self.config.filters, self._now
        sealers = frozenset(name.lower() for name in incoming.arc_sealers)
        self.attempts = SQLiteAttempts(self.database, now)

        async def in_thread(function: Callable[..., Any], *arguments: Any) -> Any:
            return await threads.deferToThreadPool(self._reactor, self._examiners, function, *arguments)

        async def examined(mail: bytes, origin: Origin, reverse_path: Address | None) -> Examined:
            result: Examined = await in_thread(examine, mail, origin, reverse_path, self.resolver.lookup, sealers)
            self.dmarc_reporter.note(result, reverse_path)
            return result

        asked: list[Filter] = []
        here = self.config.hostname.name
        try:
            asked += [partial(MilterVisit, self._asking(at), at, here) for at in map(place, filters.milters)]
            asked += [
                partial(AfterTheData, partial(self._asking(at), ask_rspamd, at)) for at in map(place, filters.rspamd)
            ]
        except ValueError as error:
            raise ConfigError(f"[filters] {error}") from None
        return Reception(
            self.config.hostname,
            now,
            secrets.token_bytes,
            examine=examined if incoming.examine else None,
            filters=Filters(asked, when_down=filters.when_down) if asked else None,
            greylist=Greylist(self.attempts, now) if incoming.greylist else None,
            trusts=self.admission.trusts,
        )

    def _asking(self, at: Place) -> Asking:
        pool = Threads(0, 16, name=f"filter {at}")
        self._filters.append(pool)
        in_thread = partial(threads.deferToThreadPool, self._reactor, pool)
        return Asking(in_thread, at, self._reactor.seconds)

    async def _notify(self, mail: bytes, to: Address) -> Outcome:
        return await self.post_office.notify(mail, to)

    async def _contact(self) -> Address:
        """Who speaks in the gateway's own mail: of a domain of ours, so that SPF and DKIM can vouch for it."""
        domains = await self.store.domains()
        return self.config.postmaster or Address("postmaster", min(domains, key=str, default=self.config.hostname))

    # -- one engine and one session for each connection -------------------------------------------------------------

    def _smtp(self, role: Role) -> tuple[Engine, Session]:
        limits = self.config.limits
        self.metrics.session(role.value.lower())
        terms = Terms(
            role, starttls=True, max_size=limits.message_size, max_recipients=limits.recipients,
            max_transactions=limits.transactions, max_hold=limits.hold,
        )  # fmt: skip
        return SMTPServer(limits.message_size, lmtp=role is Role.LMTP), SMTPServerSession(
            self.config.hostname, self.post_office, self._receive, self.authenticator, self._now, terms
        )

    def _imap(self) -> tuple[Engine, Session]:
        self.metrics.session("imap")
        session = IMAPSession(self.store, self.authenticator, self.post_office.append, starttls=True)
        return IMAPConnection(MAX_APPEND), session

    def _pop3(self) -> tuple[Engine, Session]:
        self.metrics.session("pop3")
        return POP3Connection(), POP3Session(self.store, self.authenticator, self._locks, starttls=True)

    def _lane(self) -> Accept:
        """One for each peer: whose keys have to be fetched first holds up nobody else."""
        return Gathered(self.post_office.accept, self._reactor, self.post_office.takes_long)

    def _parley(self) -> tuple[Engine, Session]:
        self.metrics.session("parley")
        engine = ParleyConnection()
        return engine, ParleyServerSession(
            self.config.hostname, engine, self._submit, self._lane, self.post_office, self.authenticator, self.store,
            self.keys, self.directory, self._now, secrets.token_hex, self.presence, self.contacts,
            quota=self.config.limits.brought,
        )  # fmt: skip

    # -- Service ----------------------------------------------------------------------------------------------------

    def startService(self) -> None:
        """Ends the process with one line when an address is taken, or another gateway has the state directory."""
        super().startService()  # type: ignore[no-untyped-call]
        try:
            self._lock = (self.config.state_dir / "lock").open("w")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the queue's leases count on being the only one
        except OSError as failed:
            self.database.close()
            raise SystemExit(f"gatewayd: {self.config.state_dir} is not ours alone: {failed}") from None
        try:
            if epochs.begin(self.database.path, self._witness, self._now()):
                log.warn("this store is an older one than was here: clients read their mailboxes anew")
        except StoreError as failed:
            self.database.close()
            raise SystemExit(f"gatewayd: {failed}") from None
        try:
            self._listen()
        except CannotListenError as taken:
            self.database.close()
            raise SystemExit(f"gatewayd: {taken}") from None
        self._passwords.start()
        self._signatures.start()
        self._examiners.start()
        for pool in self._filters:
            pool.start()
        self.resolver.start()
        self.queue.follow()
        self.relay.start()
        self._sweeper = LoopingCall(self._sweep)
        self._sweeper.clock = self._reactor
        self._sweeper.start(SWEEP, now=False)
        self._testifying = LoopingCall(self._each_of, self._testify)
        self._testifying.clock = self._reactor
        self._testifying.start(TESTIFY, now=False)
        self._each_of(self.post_office.resume_receipts, self._renew_keys)

    def _listen(self) -> None:
        where = self.config.listen
        submission = partial(self._smtp, Role.SUBMISSION)
        proxies = [ipaddress.ip_network(text) for text in self.config.incoming.proxies]
        listeners: list[tuple[str, tuple[Endpoint, ...], Callable[[], tuple[Engine, Session]], dict[str, Any]]] = [
            ("SMTP", where.smtp, partial(self._smtp, Role.MX), {"starttls": self._tls}),
            ("LMTP", where.lmtp, partial(self._smtp, Role.LMTP), {"starttls": self._tls}),
            ("submission", where.submission, submission, {"starttls": self._tls}),
            ("submissions", where.submissions, submission, {"tls": self._tls}),
            ("IMAP", where.imap, self._imap, {"starttls": self._tls}),
            ("IMAPS", where.imaps, self._imap, {"tls": self._tls}),
            ("POP3", where.pop3, self._pop3, {"starttls": self._tls}),
            ("POP3S", where.pop3s, self._pop3, {"tls": self._tls}),
            ("Parley", where.parley, self._parley, {"tls": self._parley_tls}),
        ]
        for name, endpoints, make, tls in listeners:
            for at in endpoints:
                self._ports.append(listen(self._reactor, at.host, at.port, make, self._limits, proxies=proxies, **tls))
                log.info("{name} listens on {host}:{port}", name=name, host=at.host, port=at.port)
        site = status.site(self.metrics.registry, self._health, self._reactor)
        for at in where.http:
            self._ports.append(self._reactor.listenTCP(at.port, site, interface=at.host))
            log.info("health and metrics on http://{host}:{port}/", host=at.host, port=at.port)

    def stopService(self) -> defer.Deferred[None]:
        return defer.Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        """No new connections, running attempts end, what was acknowledged is committed."""
        super().stopService()  # type: ignore[no-untyped-call]
        self._sweeper.stop()
        self._testifying.stop()
        await defer.DeferredList([defer.maybeDeferred(port.stopListening) for port in self._ports])
        self.queue.stop()
        await self.relay.stop()
        try:
            await self.dmarc_reporter.flush()
            await self.tls_reporter.flush()
        except StoreError as error:
            log.error("what was counted for reports is lost: {error}", error=error)
        self.resolver.stop()
        pools = [self._passwords, self._signatures, self._examiners, *self._filters]
        for name in await threads.deferToThread(stop_threads, pools):
            log.warn("not waited for any longer: {name}", name=name)
        await self.trace.flush()
        self.journal.flush()
        await self._each_of(self._testify)
        await threads.deferToThread(self.database.close)
        self._lock.close()
        log.info("gatewayd has stopped")

    async def _health(self) -> dict[str, str]:
        self.metrics.connections.set(self._limits.total)
        wrong = await self.database.check()
        free = shutil.disk_usage(self.config.state_dir).free
        if not wrong and free < LEAST_FREE:
            wrong = f"only {free // 1024} KiB are left on the disk of {self.config.state_dir}"
        return {"store": wrong or "ok"}

    def _sweep(self) -> defer.Deferred[None]:
        return self._each_of(
            self._sweep_store,
            self.queue.sweep,
            self._sweep_trace,
            self._report,
            self.post_office.resume_receipts,
            self.attempts.sweep,
            self._renew_keys,
        )

    def _each_of(self, *works: Callable[[], Awaitable[None]]) -> defer.Deferred[None]:
        """What cannot be done now is done at the next sweep."""

        async def run() -> None:
            for work in works:
                try:
                    await work()
                except StoreError as error:
                    log.error("not done for now: {error}", error=error)

        return defer.Deferred.fromCoroutine(run())

    async def _testify(self) -> None:
        await threads.deferToThread(epochs.testify, self.database.path, self._witness)

    async def _sweep_trace(self) -> None:
        await self.trace.sweep(self._now() - self.config.trace_days * DAY)

    async def _renew_keys(self) -> None:
        """A year is long: nobody has to think of it, but who says the keys in a zone too."""
        for domain in await self.store.domains():
            if (key := self.keys.renew(domain)) is not None:
                log.info(
                    "{domain} has a new key, {kid}; if its zone says its keys, add it: gatewayctl dns {domain}",
                    domain=domain.name, kid=key.kid.hex(),
                )  # fmt: skip

    async def _sweep_store(self) -> None:
        await self.store.sweep(await self.queue.blobs())

    async def _report(self) -> None:
        await self.dmarc_reporter.flush()
        if self.config.incoming.dmarc_reports:
            await self.dmarc_reporter.send_due()
        await self.tls_reporter.flush()
        if self.config.relay.tls_reports:
            await self.tls_reporter.send_due()
