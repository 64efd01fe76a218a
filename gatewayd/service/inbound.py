"""Mail on its way in, joined from the configuration: who may send it, and what is found out about it."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from functools import partial
from typing import Any

from gatewayd.address import Address
from gatewayd.config import Config, ConfigError
from gatewayd.core.admission import Admission, Rates
from gatewayd.core.daily_reports import Contact, Send
from gatewayd.core.dmarc_reports import DMARCReporter
from gatewayd.core.examination import Examined, examine
from gatewayd.core.filtering import AfterTheData, Filter, Filters
from gatewayd.core.greylist import Greylist
from gatewayd.core.reception import Examine, Reception
from gatewayd.dns.resolver import Resolver
from gatewayd.interfaces.routes import Origin
from gatewayd.net.filters import Asking, Place, ask_rspamd, place
from gatewayd.net.milter import MilterVisit
from gatewayd.service.threads import Threads
from gatewayd.storage import Storage
from gatewayd.store.dmarc import SQLiteSightings
from gatewayd.store.greylist import SQLiteAttempts


class Inbound:
    """`notify` sends mail of the gateway's own, `contact` says in whose name. Raises ConfigError."""

    def __init__(
        self, config: Config, reactor: Any, storage: Storage, resolver: Resolver, threads: Threads,
        notify: Send, contact: Contact,
    ) -> None:  # fmt: skip
        incoming, limits, now, steady = config.incoming, config.limits, storage.now, reactor.seconds
        sightings = SQLiteSightings(storage.database)
        self.attempts = SQLiteAttempts(storage.database, now)
        self.reporter = DMARCReporter(sightings, resolver, config.hostname, notify, contact, now)
        self.admission = Admission(
            resolver, steady, trusted=incoming.trusted, refused=incoming.refused, blocklists=incoming.blocklists,
            senders_exist=incoming.senders_exist,
            rates=Rates(
                limits.messages_per_address, limits.messages_per_network, limits.messages_per_domain,
                limits.recipients_per_account,
            ),
        )  # fmt: skip
        filters = _filters(config, threads, steady)
        self.reception = Reception(
            config.hostname,
            now,
            secrets.token_bytes,
            examine=self._examiner(config, resolver, threads) if incoming.examine else None,
            filters=Filters(filters, when_down=config.filters.when_down) if filters else None,
            greylist=Greylist(self.attempts, now) if incoming.greylist else None,
            trusts=self.admission.trusts,
        )

    def _examiner(self, config: Config, resolver: Resolver, threads: Threads) -> Examine:
        in_thread = threads.pool("examiners", 16)
        sealers = frozenset(name.lower() for name in config.incoming.arc_sealers)

        async def examined(mail: bytes, origin: Origin, reverse_path: Address | None) -> Examined:
            result: Examined = await in_thread(examine, mail, origin, reverse_path, resolver.lookup, sealers)
            self.reporter.note(result, reverse_path)
            return result

        return examined


def _filters(config: Config, threads: Threads, steady: Callable[[], float]) -> list[Filter]:
    def asking(at: Place) -> Asking:
        return Asking(threads.pool(f"filter {at}", 16), at, steady)

    try:
        milters = [place(text) for text in config.filters.milters]
        rspamd = [place(text) for text in config.filters.rspamd]
    except ValueError as error:
        raise ConfigError(f"[filters] {error}") from None
    asked: list[Filter] = [partial(MilterVisit, asking(at), at, config.hostname.name) for at in milters]
    asked += [partial(AfterTheData, partial(asking(at), ask_rspamd, at)) for at in rspamd]
    return asked
