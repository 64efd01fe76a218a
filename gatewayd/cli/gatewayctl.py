"""gatewayctl: what an operator does to a gateway, running or not: domains, accounts, keys, the queue, DNS, import."""

from __future__ import annotations

import argparse
import getpass
import os
import sys
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from cryptography import x509
from msgspec.structs import astuple
from rich.console import Console
from rich.progress import Progress
from twisted.internet import defer, task
from twisted.internet.interfaces import IReactorTime

from gatewayd.address import Address, AddressError, Domain
from gatewayd.cli import addresses, importing, init, keys, queue, tls, trace
from gatewayd.config import Config, ConfigError, load
from gatewayd.crypto.dane import TLSA, Usage
from gatewayd.crypto.scram import derive
from gatewayd.errors import StoreError
from gatewayd.interfaces.records import Account, ScramCredentials
from gatewayd.storage import Storage

ITERATIONS = 4096  # RFC 7677 §4


class Failed(Exception):
    """Ends the command with one line that says why."""


class Gateway(Storage):
    """What commands work on."""

    def __init__(self, config: Config, reactor: Any) -> None:
        super().__init__(config, reactor, time.time)
        self.clock: IReactorTime = reactor

    async def add_domain(self, domain: Domain) -> None:
        """With a key, unless it has one. Doing it again changes nothing."""
        try:
            self.keys.signing_key(domain)
        except KeyError:
            self.keys.create(domain)
        await self.store.add_domain(domain)

    async def add_account(self, address: Address, password: str) -> Account:
        if address.domain not in await self.store.domains():
            raise Failed(f"{address.domain} is not served here; add it first: gatewayctl domain add {address.domain}")
        try:
            return await self.store.add_account(address, credentials(password))
        except ValueError:
            raise Failed(f"{address} exists") from None

    async def account(self, text: str) -> Account:
        account = await self.store.account(Address.parse(text))
        if account is None:
            raise Failed(f"no account {text}")
        return account


@asynccontextmanager
async def _opened(config: Config, reactor: Any) -> AsyncIterator[Gateway]:
    gateway = Gateway(config, reactor)
    try:
        yield gateway
    finally:
        gateway.database.close()


def credentials(password: str) -> ScramCredentials:
    """Raises Failed for a password that no client could send."""
    salt = os.urandom(16)
    try:
        keys = derive(password, salt, ITERATIONS)
    except ValueError as error:
        raise Failed(f"this password cannot be used: {error}") from None
    if not password:
        raise Failed("the password is empty")
    return ScramCredentials(salt, ITERATIONS, keys.stored_key, keys.server_key)


def _password(options: argparse.Namespace) -> str:
    if options.password_stdin:
        return sys.stdin.readline().rstrip("\r\n")
    first = getpass.getpass("Password: ")
    if getpass.getpass("Again: ") != first:
        raise Failed("the passwords differ")
    return first


async def _domain(gateway: Gateway, options: argparse.Namespace) -> None:
    if options.action == "add":
        await gateway.add_domain(Domain.parse(options.domain))
    else:
        for domain in sorted(await gateway.store.domains(), key=str):
            print(domain)


async def _account(gateway: Gateway, options: argparse.Namespace) -> None:
    if options.action == "add":
        await gateway.add_account(Address.parse(options.address), _password(options))
    elif options.action == "password":
        account = await gateway.account(options.address)
        await gateway.store.set_credentials(account.account_id, credentials(_password(options)))
    else:
        for account in await gateway.store.accounts():
            print(account.address)


async def _import(gateway: Gateway, options: argparse.Namespace) -> None:
    from gatewayd.cli.office import post_office

    account = await gateway.account(options.account)
    if options.mailbox not in {m.name for m in await gateway.store.mailboxes(account.account_id)}:
        await gateway.store.create_mailbox(account.account_id, options.mailbox)
    office = post_office(gateway)
    done = 0
    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task(str(options.path), total=sum(1 for _ in importing.read(options.path)))
        for found in importing.read(options.path):
            await office.append(account, options.mailbox, found.mail, found.flags, found.internal_date_ms)
            done += 1
            progress.advance(bar)
    print(f"{done} messages imported")


async def _dns(gateway: Gateway, options: argparse.Namespace) -> None:
    from gatewayd.crypto.dkim import DKIMSigners

    domain, config = Domain.parse(options.domain), gateway.config
    if domain not in await gateway.store.domains():
        raise Failed(f"{domain} is not served here: gatewayctl domain add {domain}")
    port = config.listen.parley[0].port if config.listen.parley else 5299
    print(f"_parley._tcp.{domain}. SRV 0 0 {port} {config.hostname}.")
    shown = x509.load_pem_x509_certificates(config.tls.certificate.read_bytes())
    record = TLSA.of(shown[0], usage=Usage.DANE_EE)
    print(f"_{port}._tcp.{config.hostname}. TLSA {record}  ; only in a zone that is signed by DNSSEC")
    for line in keys.records(gateway.keys, domain):
        print(f"{line}  ; not needed; only in a zone that is signed by DNSSEC, and changed with the keys")
    print(f"{domain}. MX 10 {config.hostname}.")
    print(f'{domain}. TXT "v=spf1 mx -all"')
    if domain in config.dkim:
        for name, value in DKIMSigners.load(domain, map(astuple, config.dkim[domain])).records:
            print(f'{name}. TXT "{value}"')
        print(f'_dmarc.{domain}. TXT "v=DMARC1; p=quarantine"')


async def _init(reactor: Any, options: argparse.Namespace) -> None:
    domain, hostname = Domain.parse(options.domain), Domain.parse(options.hostname)
    ports = dict(init.LOOPBACK_PORTS if options.loopback else init.PORTS)
    for text in options.ports:
        name, _, number = text.partition("=")
        if name not in ports or not number.isdecimal():
            raise Failed(f"--ports: expected NAME=PORT with a name of {', '.join(ports)}; got {text!r}")
        ports[name] = int(number)
    address = options.address or ("127.0.0.1" if options.loopback else "0.0.0.0")
    path = init.make_directory(
        options.directory,
        domain,
        hostname,
        address,
        ports,
        postmaster=f"{options.account[0].partition(':')[0]}@{domain}" if options.account else "",
        smtp_port=options.smtp_port,
        nameservers=tuple(options.nameserver),
    )
    config = load(path)
    users = []
    async with _opened(config, reactor) as gateway:
        await gateway.add_domain(domain)
        for text in options.account:
            name, colon, password = text.partition(":")
            if not colon:
                raise Failed("--account: expected NAME:PASSWORD")
            account = Address.parse(f"{name}@{domain}")
            users.append((str(account), password))
            if await gateway.store.account(account) is None:
                await gateway.add_account(account, password)
    print(f"{path} is ready")
    if options.first_steps and len(users) > 1:
        print(init.first_steps(options.directory, config, users), flush=True)


def command_line() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gatewayctl", description=__doc__)
    parser.add_argument("--config", type=Path, default=Path("/etc/gatewayd/gatewayd.toml"))
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(group: Any, name: str, run: Any, *arguments: str) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = group.add_parser(name)
        made.set_defaults(run=run, action=name)
        for argument in arguments:
            made.add_argument(argument)
        return made

    domains = commands.add_parser("domain").add_subparsers(required=True)
    command(domains, "add", _domain, "domain")
    command(domains, "list", _domain)
    accounts = commands.add_parser("account").add_subparsers(required=True)
    for name in ("add", "password"):
        command(accounts, name, _account, "address").add_argument("--password-stdin", action="store_true")
    command(accounts, "list", _account)
    tls.add_commands(commands.add_parser("tls"), command)
    trace.add_commands(command(commands, "trace", trace.trace))
    addresses.add_commands(commands, command)
    keys.add_commands(commands.add_parser("keys"), command)
    queue.add_commands(command(commands, "queue", queue.listing), command)
    imports = command(commands, "import", _import, "account")
    imports.add_argument("path", type=Path)
    imports.add_argument("--mailbox", default="INBOX")
    command(commands, "dns", _dns, "domain")
    made = command(commands, "init", _init)
    made.add_argument("directory", type=Path)
    made.add_argument("--domain", required=True)
    made.add_argument("--hostname", required=True)
    made.add_argument("--account", action="append", default=[], metavar="NAME:PASSWORD")
    made.add_argument("--loopback", action="store_true", help="127.0.0.1 and ports above 1024")
    made.add_argument("--first-steps", action="store_true", help="tell where it will listen, and what to try")
    made.add_argument("--address", help="listen here")
    made.add_argument("--ports", nargs="*", default=[], metavar="NAME=PORT")
    made.add_argument("--smtp-port", type=int, default=25, help="the port of other domains' mail servers")
    made.add_argument("--nameserver", action="append", default=[], metavar="ADDRESS[:PORT]")
    return parser


async def run(reactor: Any, options: argparse.Namespace) -> None:
    """One command. Raises SystemExit with one line for what the operator can mend."""
    try:
        if options.run is _init:
            await _init(reactor, options)
        else:
            async with _opened(load(options.config), reactor) as gateway:
                await options.run(gateway, options)
    except (Failed, ConfigError, AddressError, StoreError, OSError, ValueError) as error:
        raise SystemExit(f"gatewayctl: {error}") from None


def main(arguments: Sequence[str] | None = None) -> None:
    options = command_line().parse_args(arguments)

    def start(reactor: Any) -> defer.Deferred[None]:
        work: Coroutine[Any, Any, None] = run(reactor, options)
        return defer.Deferred.fromCoroutine(work)

    task.react(start)
