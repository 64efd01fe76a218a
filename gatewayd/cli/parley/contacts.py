"""`parley contacts`, `grant`, `revoke`, `request`, `cancel`, `lookup`: who may write to the user, and the other way."""

from __future__ import annotations

import argparse
import json
from datetime import datetime
from typing import Any

from msgspec.structs import asdict

from gatewayd.cli.parley.account import address, signed_in
from gatewayd.cli.parley.terminal import plain
from gatewayd.wire.parley.schema import Contact

MEANINGS = {
    "granted": "may write",
    "requested": "waits for your answer",
    "revoked": "may not write",
    "none": "is a stranger",
}
WAYS = {
    "local": "is a user of this server",
    "parley": "is reached by Parley",
    "mail": "is reached by mail",
    "none": "cannot be reached",
}


async def contacts(reactor: Any, options: argparse.Namespace) -> None:
    async with await signed_in(reactor, options) as parley:
        for contact in await parley.contacts():
            _show(contact, options)


async def consent(reactor: Any, options: argparse.Namespace) -> None:
    async with await signed_in(reactor, options) as parley:
        _show(await parley.consent(options.action, options.address), options)


async def lookup(reactor: Any, options: argparse.Namespace) -> None:
    async with await signed_in(reactor, options) as parley:
        found = await parley.lookup(options.address)
    if options.json:
        print(json.dumps({"address": options.address, **asdict(found)}))
        return
    print(f"{options.address} {WAYS[found.way or 'none']}")
    if found.way == "parley":
        print("you may write anything" if found.granted else f"first a text of up to {found.introduction} characters")
    print(f"{options.address} {MEANINGS[found.state]}")


def _show(contact: Contact, options: argparse.Namespace) -> None:
    when = datetime.fromtimestamp(contact.since / 1000).astimezone()
    if options.json:
        line = {"address": contact.address, "state": contact.state, "since": when.isoformat()}
        print(json.dumps(line, ensure_ascii=False), flush=True)
    elif contact.state == "none":
        print(plain(f"{contact.address} {MEANINGS[contact.state]}"))
    else:
        print(plain(f"{contact.address} {MEANINGS[contact.state]} since {when:%Y-%m-%d %H:%M}"))


def add_commands(commands: Any) -> None:
    listing = commands.add_parser("contacts", help="show who may write to you, who may not, and who asks")
    listing.set_defaults(run=contacts)
    found = [listing]
    for action, words in (
        ("grant", "let somebody write to you, and take in what waits of them"),
        ("revoke", "have what somebody writes filed as Junk"),
        ("request", "ask somebody for consent, without a message"),
        ("cancel", "forget a contact, and withdraw what was asked of them"),
    ):
        parser = commands.add_parser(action, help=words)
        parser.set_defaults(run=consent, action=action)
        found.append(parser)
    looking = commands.add_parser("lookup", help="how somebody is reached, and whether you may write anything to them")
    looking.set_defaults(run=lookup)
    for parser in (*found[1:], looking):
        parser.add_argument("address", type=address)
    for parser in (*found, looking):
        parser.add_argument("--json", action="store_true", help="a line of JSON for each")
