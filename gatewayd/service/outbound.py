"""Mail on its way out, joined from the configuration: the router, the courier by SMTP, what it demands, who it asks."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import secrets
from pathlib import Path
from typing import Any

from msgspec.structs import astuple
from twisted.logger import Logger

from gatewayd.address import Domain
from gatewayd.config import Bridge, Config, ConfigError, SmartHost, endpoint
from gatewayd.core.bridges import Behind, Bridges
from gatewayd.core.daily_reports import Contact, Send
from gatewayd.core.mta_sts import PolicyDirectory
from gatewayd.core.srs import SRS
from gatewayd.core.tls_policy import TLSPolicies
from gatewayd.core.tls_reports import TLSReporter
from gatewayd.crypto import cose
from gatewayd.crypto.dkim import DKIMSigners
from gatewayd.interfaces.dns import Endpoint, IResolver
from gatewayd.interfaces.routes import Bridged
from gatewayd.message.bridge import as_mail, mail_bodies
from gatewayd.message.downgrade import seven_bit
from gatewayd.message.model import Content
from gatewayd.net.dial import dial_smtp
from gatewayd.net.https import HTTPS
from gatewayd.net.tls import Trust
from gatewayd.routing import Router
from gatewayd.service.threads import Threads
from gatewayd.session.link import Engine, Session
from gatewayd.session.smtp_courier import Render, SMTPCourier
from gatewayd.session.smtp_sign_in import Credentials
from gatewayd.storage import Storage
from gatewayd.store.bodies import Blobs

log = Logger()


class Outbound:
    """`notify` sends mail of the gateway's own, `contact` says in whose name. Raises ConfigError."""

    def __init__(
        self, config: Config, reactor: Any, storage: Storage, resolver: IResolver, threads: Threads, notify: Send,
        contact: Contact,
    ) -> None:  # fmt: skip
        hostname, relay, trust = config.hostname, config.relay, Trust(config.tls.trust)
        memory, now, steady = storage.tls, storage.now, reactor.seconds
        behind = {domain: _behind(bridge) for domain, bridge in config.bridge.items()}
        smart = relay.smart_host

        async def connect(host: str, port: int, name: str, engine: Engine, session: Session) -> None:
            await dial_smtp(
                reactor, host, port, engine, session, trust=trust, name=name, bind_address=relay.bind_address,
                implicit_tls=smart is not None and smart.implicit_tls and (name, port) == (smart.host, smart.port),
            )  # fmt: skip

        https = HTTPS(reactor, resolver, trust)
        directory = PolicyDirectory(memory, resolver, https.fetch, steady, now)
        self.reporter = TLSReporter(memory, resolver, hostname, notify, https.post, contact, now)
        self.router = Router(
            storage.store, resolver, steady, now, relay.smtp_port,
            {domain: one.route for domain, one in behind.items()}, hostname,
            Endpoint(smart.host, smart.port) if smart else None,
        )  # fmt: skip
        self.courier = SMTPCourier(
            connect, resolver, relay.helo or hostname, _renderer(config, threads, storage.store.blobs), reactor,
            policies=TLSPolicies(memory, directory, steady, now), reports=self.reporter,
            credentials={smart.host: _credentials(smart)} if smart and smart.user else None,
        )  # fmt: skip
        self.bridges = Bridges(behind, self.courier.probe, steady)
        self.srs = SRS(_secret(config.state_dir / "srs.secret"), now)


def _renderer(config: Config, threads: Threads, blobs: Blobs) -> Render:
    in_thread = threads.pool("DKIM", 4)
    try:
        signers = {domain: DKIMSigners.load(domain, map(astuple, keys)) for domain, keys in config.dkim.items()}
    except (OSError, ValueError) as error:
        raise ConfigError(f"[dkim] key: {error}") from None

    async def render(content: Content, trace: bytes, seven: bool) -> bytes:
        """As mail; signed for an author of ours whose domain has a DKIM key, sealed by who hands it on."""
        mail = as_mail(await blobs.load(content, mail_bodies(content)))
        mail = seven_bit(mail) if seven else mail
        signer = signers.get(Domain(content.fields.from_.rpartition("@")[2]))
        try:
            if signer is not None:
                field: bytes = await in_thread(signer.sign, mail)
                return field + trace + mail
        except ValueError as error:
            log.warn("{id} goes without DKIM: {error}", id=content.trace_id, error=error)
        sealer = signers.get(cose.signer(content.protected)[0])
        if signer is None and sealer is not None and b"Authentication-Results:" in trace:
            sealed: bytes = await in_thread(sealer.seal, trace + mail, config.hostname)
            return sealed + trace + mail
        return trace + mail

    return render


def _behind(bridge: Bridge) -> Behind:
    networks = tuple(ipaddress.ip_network(text) for text in bridge.clients)
    return Behind(Bridged(endpoint(bridge.server), bridge.protocol == "lmtp"), networks)


def _credentials(smart: SmartHost) -> Credentials:
    try:
        password = smart.password_file.read_text("utf-8").split("\n")[0] if smart.password_file else ""
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"relay.smart_host.password_file: {error}") from None
    return Credentials(smart.user, password, secrets.token_hex)


def _secret(path: Path) -> bytes:
    """Made once, and kept: what was signed with it comes back for weeks."""
    with contextlib.suppress(FileExistsError):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(handle, secrets.token_bytes(32))
        finally:
            os.close(handle)
    return path.read_bytes()
