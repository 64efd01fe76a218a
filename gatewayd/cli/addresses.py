"""gatewayctl alias, gatewayctl quota: whom an address reaches, and how much an account may keep."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from gatewayd.address import Address, Domain


def catch_all_or_address(text: str) -> Address:
    """`@example.org` is the domain's catch-all. Raises AddressError."""
    return Address("", Domain.parse(text[1:])) if text.startswith("@") else Address.parse(text)


async def listing(gateway: Any, options: argparse.Namespace) -> None:
    for alias, target in await gateway.store.aliases():
        print(alias if alias.local else f"@{alias.domain}", target)


async def add(gateway: Any, options: argparse.Namespace) -> None:
    """Raises ValueError for what would reach nobody."""
    alias, targets = catch_all_or_address(options.alias), [Address.parse(text) for text in options.target]
    ours = await gateway.store.domains()
    if alias.domain not in ours:
        raise ValueError(f"{alias.domain} is not served here; add it first: gatewayctl domain add {alias.domain}")
    known = {name.key for name, _ in await gateway.store.aliases()}
    for target in targets:
        if target.domain in ours and target.key not in known and await gateway.store.account(target) is None:
            raise ValueError(f"{target} is no account and no alias here")
    for target in targets:
        await gateway.store.add_alias(alias, target)


async def remove(gateway: Any, options: argparse.Namespace) -> None:
    alias = catch_all_or_address(options.alias)
    targets: list[Address | None] = [Address.parse(text) for text in options.target]
    if not sum([await gateway.store.remove_alias(alias, target) for target in targets or [None]]):
        raise ValueError(f"no such alias: {options.alias}")


async def quota(gateway: Any, options: argparse.Namespace) -> None:
    """Shows, or sets what is given; "none" takes a limit away."""
    account = await gateway.account(options.address)
    known = await gateway.store.quota(account.account_id)
    if options.octets is not None or options.messages is not None:
        octets = known.max_octets if options.octets is None else options.octets[0]
        messages = known.max_messages if options.messages is None else options.messages[0]
        await gateway.store.set_quota(account.account_id, octets, messages)
        known = await gateway.store.quota(account.account_id)
    for name, used, limit in (
        ("octets", known.octets, known.max_octets),
        ("messages", known.messages, known.max_messages),
    ):
        print(f"{name}: {used} of {'any number' if limit is None else limit}")


def _limit(text: str) -> tuple[int | None]:
    """A number with K, M or G (1024 each), or "none"; in a tuple, so that "none" differs from not said."""
    if text.lower() == "none":
        return (None,)
    number, power = (text[:-1], "KMG".index(text[-1].upper()) + 1) if text[-1:].upper() in set("KMG") else (text, 0)
    if not (number.isascii() and number.isdigit()):
        raise argparse.ArgumentTypeError(f"a number, perhaps with K, M or G, or none; got {text!r}")
    return (int(number) * 1024**power,)


def add_commands(commands: Any, command: Callable[..., argparse.ArgumentParser]) -> None:
    aliases = commands.add_parser("alias", help="@example.org is the catch-all").add_subparsers(required=True)
    command(aliases, "add", add, "alias").add_argument("target", nargs="+")
    command(aliases, "remove", remove, "alias").add_argument("target", nargs="*")
    command(aliases, "list", listing)
    quotas = command(commands, "quota", quota, "address")
    quotas.add_argument("--octets", type=_limit, metavar="N[KMG]|none")
    quotas.add_argument("--messages", type=_limit, metavar="N|none")
