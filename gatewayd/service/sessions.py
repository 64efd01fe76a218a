"""An engine and a session for each connection, over what all of them share."""

from __future__ import annotations

import secrets
from typing import Any

from gatewayd.config import Config
from gatewayd.core.authentication import Authenticator
from gatewayd.core.batch import Gathered
from gatewayd.core.contacts import Contacts
from gatewayd.core.delivery import PostOffice
from gatewayd.core.keys import KeyDirectory
from gatewayd.core.presence import Presence
from gatewayd.metrics import Metrics
from gatewayd.session.imap import IMAPSession
from gatewayd.session.link import Engine, Session
from gatewayd.session.parley_send import Accept
from gatewayd.session.parley_server import ParleyServerSession
from gatewayd.session.pop3 import POP3Session
from gatewayd.session.smtp_server import SMTPServerSession
from gatewayd.session.smtp_terms import Role, Terms
from gatewayd.storage import Storage
from gatewayd.wire.imap.connection import IMAPConnection
from gatewayd.wire.parley.connection import ParleyConnection
from gatewayd.wire.pop3.connection import POP3Connection
from gatewayd.wire.smtp.server import SMTPServer

MAX_APPEND = 64 * 1024 * 1024  # octets


class Sessions:
    """One batch takes what comes in one turn of the reactor, from whomever."""

    def __init__(
        self, config: Config, reactor: Any, storage: Storage, post_office: PostOffice, authenticator: Authenticator,
        directory: KeyDirectory, presence: Presence, contacts: Contacts, metrics: Metrics,
    ) -> None:  # fmt: skip
        self._config = config
        self._reactor = reactor
        self._storage = storage
        self._post_office = post_office
        self._authenticator = authenticator
        self._directory = directory
        self._presence = presence
        self._contacts = contacts
        self._metrics = metrics
        self._receive = Gathered(post_office.receive, reactor, post_office.takes_long).ask
        self._submit = Gathered(post_office.submit, reactor, post_office.takes_long)
        self._locks: set[int] = set()  # maildrops that POP3 has open

    def smtp(self, role: Role) -> tuple[Engine, Session]:
        limits = self._config.limits
        self._metrics.session(role.value.lower())
        terms = Terms(
            role, starttls=True, max_size=limits.message_size, max_recipients=limits.recipients,
            max_transactions=limits.transactions, max_hold=limits.hold,
        )  # fmt: skip
        return SMTPServer(limits.message_size, lmtp=role is Role.LMTP), SMTPServerSession(
            self._config.hostname, self._post_office, self._receive, self._authenticator, self._storage.now, terms
        )

    def imap(self) -> tuple[Engine, Session]:
        self._metrics.session("imap")
        session = IMAPSession(self._storage.store, self._authenticator, self._post_office.append, starttls=True)
        return IMAPConnection(MAX_APPEND), session

    def pop3(self) -> tuple[Engine, Session]:
        self._metrics.session("pop3")
        return POP3Connection(), POP3Session(self._storage.store, self._authenticator, self._locks, starttls=True)

    def parley(self) -> tuple[Engine, Session]:
        self._metrics.session("parley")
        engine = ParleyConnection()
        return engine, ParleyServerSession(
            self._config.hostname, engine, self._submit, self._lane, self._post_office, self._authenticator,
            self._storage.store, self._storage.keys, self._directory, self._storage.now, secrets.token_hex,
            self._presence, self._contacts, quota=self._config.limits.brought,
        )  # fmt: skip

    def _lane(self) -> Accept:
        """One for each peer: whose keys have to be fetched first holds up nobody else."""
        return Gathered(self._post_office.accept, self._reactor, self._post_office.takes_long)
