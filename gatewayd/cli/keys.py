"""gatewayctl keys: a domain's keys, rotated and revoked (docs/parley.rst §5). The gateway sees it at once."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.table import Table

from gatewayd.address import Domain
from gatewayd.cli.queue import time
from gatewayd.crypto.domain_keys import KeyStore, PublicKey, record_name

HOUR = 3600
TTL = HOUR  # seconds: no longer than a set that was asked for


async def _domain(gateway: Any, options: argparse.Namespace) -> Domain:
    domain = Domain.parse(options.domain)
    if domain not in await gateway.store.domains():
        raise ValueError(f"{domain} is not served here")
    return domain


async def listing(gateway: Any, options: argparse.Namespace) -> None:
    _show(gateway, await _domain(gateway, options))


async def rotate(gateway: Any, options: argparse.Namespace) -> None:
    domain = await _domain(gateway, options)
    new = gateway.keys.rotate(domain, int(gateway.now() + options.after * HOUR)).kid
    print(f"{new.hex()} is shown from now on")
    _show(gateway, domain)
    (key,) = [key for key in gateway.keys.key_set(domain).keys if key.kid == new]
    print(f"If the zone says the keys, all resolvers have to know this one by {time(key.not_before)}:")
    print(_line(domain, key))


async def revoke(gateway: Any, options: argparse.Namespace) -> None:
    domain = await _domain(gateway, options)
    try:
        signs = gateway.keys.revoke(domain, bytes.fromhex(options.kid))
    except (KeyError, ValueError):
        raise ValueError(f"{domain} has no key {options.kid}") from None
    print(f"{options.kid} is shown no longer; {signs.kid.hex()} signs from now on")
    _show(gateway, domain)
    print("If the zone says the keys, let it say these now, and no others:")
    for record in records(gateway.keys, domain):
        print(record)


def records(keys: KeyStore, domain: Domain) -> list[str]:
    """The domain's keys for its zone: none without keys."""
    try:
        return [_line(domain, key) for key in keys.key_set(domain).keys]
    except KeyError:
        return []


def _line(domain: Domain, key: PublicKey) -> str:
    return f'{record_name(domain)}. {TTL} TXT "{key.record}"'


def _show(gateway: Any, domain: Domain) -> None:
    keys: KeyStore = gateway.keys
    try:
        signs, shown, now = keys.signing_key(domain), keys.key_set(domain), gateway.now()
    except KeyError:
        raise ValueError(f"{domain} has no key that is good now; gatewayctl domain add {domain} makes one") from None
    table = Table("Key", "State", "Good from", "Until")
    for key in shown.keys:
        state = "signs" if key.kid == signs.kid else "next" if key.not_before > now else "good for what it signed"
        table.add_row(key.kid.hex(), state, time(key.not_before), time(key.not_after))
    Console().print(table)


def add_commands(parser: Any, command: Callable[..., argparse.ArgumentParser]) -> None:
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    command(actions, "list", listing, "domain")
    rotating = command(actions, "rotate", rotate, "domain")
    rotating.add_argument("--after", type=float, default=0.0, metavar="HOURS", help="it signs no sooner")
    command(actions, "revoke", revoke, "domain", "kid")
