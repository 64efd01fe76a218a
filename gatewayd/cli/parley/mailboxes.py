"""`parley mailboxes`: which there are, and what is in them; makes, renames, subscribes and deletes them."""

from __future__ import annotations

import argparse
import json
from typing import Any

from msgspec.structs import asdict

from gatewayd.cli.parley.account import signed_in
from gatewayd.cli.parley.terminal import plain
from gatewayd.wire.parley.schema import Mailbox

ACTIONS = {  # with what each is about
    "create": ("name",),
    "rename": ("name", "to"),
    "delete": ("name",),
    "subscribe": ("name",),
    "unsubscribe": ("name",),
}


async def mailboxes(reactor: Any, options: argparse.Namespace) -> None:
    async with await signed_in(reactor, options) as parley:
        for mailbox in await parley.mailboxes(options.action, options.name, options.to):
            _show(mailbox, options)


def _show(mailbox: Mailbox, options: argparse.Namespace) -> None:
    if options.json:
        print(json.dumps(asdict(mailbox), ensure_ascii=False), flush=True)
        return
    marks = [mailbox.use.removeprefix("\\")] if mailbox.use else []
    marks += [] if mailbox.subscribed else ["not subscribed"]
    said = f" ({', '.join(marks)})" if marks else ""
    print(plain(f"{mailbox.messages or 0:>7} {mailbox.unseen or 0:>7} unread  {mailbox.name}{said}"))


def add_commands(commands: Any) -> None:
    parser = commands.add_parser("mailboxes", help="show, make, rename, subscribe and delete mailboxes")
    parser.add_argument("--json", action="store_true", help="a line of JSON for each")
    parser.set_defaults(run=mailboxes, action="list", name="", to="")
    actions = parser.add_subparsers(metavar="ACTION")
    for action, words in ACTIONS.items():
        doing = actions.add_parser(action)
        doing.set_defaults(action=action)
        for word in words:
            doing.add_argument(word)
