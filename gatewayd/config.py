"""The configuration: one TOML file read into typed records. An error names the file, the key and what was expected."""

from __future__ import annotations

import ipaddress
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from gatewayd.address import Address, AddressError, Domain
from gatewayd.interfaces.dns import Endpoint

DAY = 86400.0


class ConfigError(Exception):
    """The file cannot be read or says something that cannot be meant."""


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class TLS(_Section, frozen=True, kw_only=True):
    certificate: Path  # PEM, the chain included
    key: Path
    trust: Path | None = None  # PEM of the authorities believed; None: the system's


class Listen(_Section, frozen=True, kw_only=True):
    """`address:port` each; IPv6 in brackets."""

    smtp: tuple[Endpoint, ...] = ()
    submission: tuple[Endpoint, ...] = ()
    submissions: tuple[Endpoint, ...] = ()
    lmtp: tuple[Endpoint, ...] = ()
    imap: tuple[Endpoint, ...] = ()
    imaps: tuple[Endpoint, ...] = ()
    pop3: tuple[Endpoint, ...] = ()
    pop3s: tuple[Endpoint, ...] = ()
    parley: tuple[Endpoint, ...] = ()
    http: tuple[Endpoint, ...] = ()


class DNS(_Section, frozen=True, kw_only=True):
    nameservers: tuple[str, ...] | None = None  # None: the system's
    trust_ad: bool = False
    timeout: float = 10.0  # seconds for one question, retries included


class SmartHost(_Section, frozen=True, kw_only=True):
    """All mail goes to it; Parley does not."""

    host: str  # a name: its certificate has to have it before it sees the password
    port: int = 587
    tls: Literal["starttls", "implicit"] | None = None  # None: from the first octet on port 465 (RFC 8314 §3.3)
    user: str = ""  # "": without signing in
    password_file: Path | None = None  # its first line

    @property
    def implicit_tls(self) -> bool:
        return self.tls == "implicit" or (self.tls is None and self.port == 465)


class Bridge(_Section, frozen=True, kw_only=True):
    """Where the mailboxes of one of our domains stand."""

    server: str  # address:port
    protocol: Literal["smtp", "lmtp"] = "smtp"
    clients: tuple[str, ...] = ()  # networks from which that server sends its users' mail through us


class Relay(_Section, frozen=True, kw_only=True):
    smtp_port: int = 25
    bind_address: str | None = None
    helo: Domain | None = None  # None: hostname
    retry: tuple[float, ...] = (60.0, 300.0, 900.0, 1800.0, 3600.0, 7200.0, 14400.0)  # seconds; the last repeats
    give_up: float = 5 * DAY  # RFC 5321 §4.5.4.1: at least 4-5 days
    delay_notice: float = 4 * 3600.0  # seconds until the sender is told that it takes longer; 0: never
    concurrency: int = 50
    smart_host: SmartHost | None = None
    tls_reports: bool = True  # RFC 8460: to domains that ask for them


class Limits(_Section, frozen=True, kw_only=True):
    message_size: int = 52_428_800  # octets
    object_size: int = 4 * 1024**3  # octets of the blobs of one Parley message
    brought: int = 8 * 1024**3  # octets of blobs that one user or peer may have brought and no message names yet
    recipients: int = 1000  # of one transaction, RFC 5321 §4.5.3.1.8: at least 100
    transactions: int = 10_000  # of one SMTP connection
    hold: int = 30 * 86400  # seconds that a user may have a message held (RFC 4865); 0: not offered
    connections: int = 10_000
    connections_per_address: int = 100
    connections_per_network: int | None = None  # of a /24 or a /64; None: four times that of an address
    sign_in_failures: int = 20  # of one address, one forgiven every 30 s; then it is not let in; 0: any number
    messages_per_address: int = 600  # a minute, by SMTP from outside the trusted networks; 0: any number
    messages_per_network: int = 1800  # of a /24 or a /64
    messages_per_domain: int = 6000  # of the sender
    recipients_per_account: int = 0  # a minute, elsewhere, by a user of ours
    unfinished: int = 268_435_456  # octets of messages and frames that are still coming in, over all connections


class Incoming(_Section, frozen=True, kw_only=True):
    """How mail by SMTP from outside is judged."""

    examine: bool = True  # SPF, DKIM and DMARC, and do what the author's domain asks for
    trusted: tuple[str, ...] = ("127.0.0.0/8", "::1")  # networks whose mail is not examined
    proxies: tuple[str, ...] = ()  # networks whose connections begin with a PROXY header
    dmarc_reports: bool = True  # tell domains that ask for it, once a day, what their mail looked like
    refused: tuple[str, ...] = ()  # networks, and domains with those below them, from which nothing is taken
    blocklists: tuple[str, ...] = ()  # DNS zones; an address that they list is refused
    senders_exist: bool = True  # else they are refused; while the DNS does not answer, they are not
    greylist: bool = False  # whom nobody vouches for has to try again
    arc_sealers: tuple[str, ...] = ()  # domains, such as mailing lists', whose ARC seal excuses a DMARC failure


class Consent(_Section, frozen=True, kw_only=True):
    """What strangers may do (core/consent.py, Policy)."""

    mail: Literal["authenticated", "all", "off"] = "authenticated"  # whose mail waits in Introductions
    text: Annotated[int, msgspec.Meta(ge=1, le=65_536)] = 2000  # characters of a first Parley message
    pending: Annotated[int, msgspec.Meta(ge=1)] = 3  # undecided messages of one stranger to one user
    per_account: Annotated[int, msgspec.Meta(ge=1)] = 50  # strangers a day, for one user
    per_domain: Annotated[int, msgspec.Meta(ge=1)] = 100  # first messages a day, from one domain to all users


class Filters(_Section, frozen=True, kw_only=True):
    """Other programs that are shown every mail. Addresses: host:port, or the path of a socket."""

    milters: tuple[str, ...] = ()
    rspamd: tuple[str, ...] = ()
    when_down: Literal["defer", "take"] = "defer"


class DKIM(_Section, frozen=True, kw_only=True):
    selector: str
    key: Path


class Config(_Section, frozen=True, kw_only=True):
    hostname: Domain
    state_dir: Path
    postmaster: Address | None = None  # who reads postmaster's mail where no account has that name
    trace_days: float = 30.0  # that what became of each message is remembered; 0: not at all
    tls: TLS
    listen: Listen = Listen()
    dns: DNS = DNS()
    relay: Relay = Relay()
    limits: Limits = Limits()
    incoming: Incoming = Incoming()
    filters: Filters = Filters()
    consent: Consent = Consent()
    bridge: dict[Domain, Bridge] = {}
    dkim: dict[Domain, tuple[DKIM, ...]] = {}

    @property
    def database(self) -> Path:
        return self.state_dir / "gatewayd.sqlite"

    @property
    def blobs(self) -> Path:
        return self.state_dir / "blobs"

    @property
    def keys(self) -> Path:
        return self.state_dir / "keys"


def endpoint(text: str) -> Endpoint:
    """`host:port`, `[IPv6]:port`. Raises ValueError."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdecimal() or not int(port) < 65536:
        raise ValueError(f"expected address:port, got {text!r}")
    if ":" in host:
        if not (host.startswith("[") and host.endswith("]")):
            raise ValueError(f"expected [IPv6 address]:port, got {text!r}")
        host = str(ipaddress.IPv6Address(host[1:-1]))
    return Endpoint(host, int(port))


def load(path: Path) -> Config:
    """Relative paths in it count from its directory. Raises ConfigError."""
    try:
        raw = tomllib.loads(path.read_text("utf-8"))
        base = path.absolute().parent
        bridge = {_domain(f"bridge.{name}", name): text for name, text in _table(raw, "bridge").items()}
        dkim = {_domain(f"dkim.{name}", name): text for name, text in _table(raw, "dkim").items()}
        raw.pop("bridge", None)
        raw.pop("dkim", None)
        _name(raw, "hostname", "hostname")
        if "postmaster" in raw:
            raw["postmaster"] = _address("postmaster", raw["postmaster"])
        _name(_table(raw, "relay"), "helo", "relay.helo")
        listen = _table(raw, "listen")
        for key, texts in listen.items():
            if not isinstance(texts, list):
                raise ConfigError(f"listen.{key}: expected a list of address:port, got {texts!r}")
            listen[key] = [_place(f"listen.{key}", text) for text in texts]
        for key in ("trusted", "proxies"):
            for text in _table(raw, "incoming").get(key, ()):
                _network(f"incoming.{key}", text)
        for text in _table(raw, "incoming").get("refused", ()):
            if not isinstance(text, str) or "/" in text or text.replace(".", "").isdecimal() or ":" in text:
                _network("incoming.refused", text)
            else:
                _domain("incoming.refused", text)
        config = msgspec.convert(raw, Config, dec_hook=lambda kind, text: base / text if kind is Path else text)
        return msgspec.structs.replace(
            config,
            bridge={domain: _bridge(f"bridge.{domain}", table) for domain, table in bridge.items()},
            dkim={
                domain: msgspec.convert(
                    text if isinstance(text, list) else [text],
                    tuple[DKIM, ...],
                    dec_hook=lambda kind, text: base / text if kind is Path else text,
                )
                for domain, text in dkim.items()
            },
        )
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError, ConfigError) as error:
        raise ConfigError(f"{path}: {error}") from None


def _table(raw: dict[str, Any], key: str) -> dict[str, Any]:
    table = raw.get(key, {})
    if not isinstance(table, dict):
        raise ConfigError(f"{key}: expected a table [{key}], got {table!r}")
    return table


def _domain(key: str, text: object) -> Domain:
    try:
        return Domain.parse(text if isinstance(text, str) else "")
    except AddressError as error:
        raise ConfigError(f"{key}: expected a domain name, got {text!r}: {error}") from None


def _network(key: str, text: object) -> None:
    try:
        ipaddress.ip_network(str(text))
    except ValueError as error:
        raise ConfigError(f"{key}: expected a network such as 192.0.2.0/24, got {text!r}: {error}") from None


def _name(table: dict[str, Any], name: str, key: str) -> None:
    if name in table:
        table[name] = {"name": _domain(key, table[name]).name}


def _address(key: str, text: object) -> dict[str, Any]:
    try:
        address = Address.parse(text if isinstance(text, str) else "")
    except AddressError as error:
        raise ConfigError(f"{key}: expected an address, got {text!r}: {error}") from None
    return {"local": address.local, "domain": {"name": address.domain.name}}


def _bridge(key: str, table: object) -> Bridge:
    try:
        bridge = msgspec.convert(table, Bridge)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{key}: {error}") from None
    _place(f"{key}.server", bridge.server)
    for text in bridge.clients:
        _network(f"{key}.clients", text)
    return bridge


def _place(key: str, text: object) -> dict[str, Any]:
    try:
        place = endpoint(text if isinstance(text, str) else "")
    except ValueError as error:
        raise ConfigError(f"{key}: {error}") from None
    return {"host": place.host, "port": place.port}
