"""Where connections come from."""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from OpenSSL import SSL
from twisted.internet import defer
from twisted.logger import Logger

from gatewayd.config import Config, ConfigError
from gatewayd.interfaces.dns import Endpoint
from gatewayd.metrics import Metrics
from gatewayd.net import status
from gatewayd.net.limits import Guesses, Limits
from gatewayd.net.listen import listen
from gatewayd.net.tls import server_context
from gatewayd.service.sessions import Sessions
from gatewayd.session.link import Engine, Session
from gatewayd.session.smtp_terms import Role

Make = Callable[[], tuple[Engine, Session]]


class Listeners:
    """All of a gateway's, with one set of limits. Raises ConfigError."""

    log = Logger()

    def __init__(
        self, config: Config, reactor: Any, sessions: Sessions, metrics: Metrics, trouble: Callable[[], Awaitable[str]]
    ) -> None:
        self._config = config
        self._reactor = reactor
        self._sessions = sessions
        self._metrics = metrics
        self._trouble = trouble
        self._ports: list[Any] = []
        limits = config.limits
        trusted = [ipaddress.ip_network(text) for text in config.incoming.trusted]
        self._limits = Limits(
            limits.connections,
            limits.connections_per_address,
            limits.connections_per_network,
            Guesses(limits.sign_in_failures, reactor.seconds, trusted),
            limits.unfinished,
        )
        try:
            self._tls = server_context(config.tls.certificate, config.tls.key, parley=False)
            self._parley_tls = server_context(config.tls.certificate, config.tls.key, parley=True)
        except SSL.Error as error:
            raise ConfigError(f"[tls] certificate and key do not load or do not match: {error}") from None

    def open(self) -> None:
        """Raises CannotListenError."""
        where, sessions = self._config.listen, self._sessions
        later, at_once, parley = {"starttls": self._tls}, {"tls": self._tls}, {"tls": self._parley_tls}
        submission = partial(sessions.smtp, Role.SUBMISSION)
        self._listen("SMTP", where.smtp, partial(sessions.smtp, Role.MX), later)
        self._listen("LMTP", where.lmtp, partial(sessions.smtp, Role.LMTP), later)
        self._listen("submission", where.submission, submission, later)
        self._listen("submissions", where.submissions, submission, at_once)
        self._listen("IMAP", where.imap, sessions.imap, later)
        self._listen("IMAPS", where.imaps, sessions.imap, at_once)
        self._listen("POP3", where.pop3, sessions.pop3, later)
        self._listen("POP3S", where.pop3s, sessions.pop3, at_once)
        self._listen("Parley", where.parley, sessions.parley, parley)
        site = status.site(self._metrics.registry, self._health, self._reactor)
        for at in where.http:
            self._ports.append(self._reactor.listenTCP(at.port, site, interface=at.host))
            self.log.info("health and metrics on http://{host}:{port}/", host=at.host, port=at.port)

    def _listen(self, name: str, places: tuple[Endpoint, ...], make: Make, tls: dict[str, SSL.Context]) -> None:
        proxies = [ipaddress.ip_network(text) for text in self._config.incoming.proxies]
        for at in places:
            self._ports.append(listen(self._reactor, at.host, at.port, make, self._limits, proxies=proxies, **tls))
            self.log.info("{name} listens on {host}:{port}", name=name, host=at.host, port=at.port)

    async def close(self) -> None:
        """No new connections; those that are open stay."""
        await defer.DeferredList([defer.maybeDeferred(port.stopListening) for port in self._ports])

    async def _health(self) -> dict[str, str]:
        self._metrics.connections.set(self._limits.total)
        return {"store": await self._trouble() or "ok"}
