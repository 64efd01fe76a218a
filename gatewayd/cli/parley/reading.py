"""`parley inbox` and `parley watch`: what is there, and what comes."""

from __future__ import annotations

import argparse
import json
import sys
from datetime import datetime
from typing import Any

from rich.console import Console

from gatewayd.cli.parley.account import signed_in
from gatewayd.client import Message


async def inbox(reactor: Any, options: argparse.Namespace) -> None:
    async with await signed_in(reactor, options) as parley:
        found = [message async for message in parley.messages(mailbox=options.mailbox)]
        asking = [contact.address for contact in await parley.contacts() if contact.state == "requested"]
    for message in found[-options.last :] if options.last else found:
        show(message, options)
    if asking:
        print(f"ask to write to you (parley grant, parley revoke): {plain(', '.join(asking))}", file=sys.stderr)


async def watch(reactor: Any, options: argparse.Namespace) -> None:
    async with await signed_in(reactor, options) as parley:
        since = options.since
        if since is None:  # from now on
            since = 0
            async for page in parley.changes():
                since = page.modseq
        seen: set[int] = set()
        async for message in parley.messages(since, live=True, mailbox=options.mailbox):
            if message.uid not in seen:  # a change of flags is not a message
                seen.add(message.uid)
                show(message, options)


def show(message: Message, options: argparse.Namespace) -> None:
    fields = message.content.fields
    when = datetime.fromtimestamp(fields.date / 1000).astimezone()
    if options.json:
        line = {
            "id": message.id.hex(), "mailbox": message.mailbox, "uid": message.uid, "modseq": message.modseq,
            "from": fields.from_, "to": fields.to, "date": when.isoformat(), "subject": fields.subject,
            "text": message.text, "flags": message.flags, "signed_by": str(message.signer), "bridged": message.bridged,
            "results": message.results,
            "files": [part.name for part in fields.parts if part.name],
        }  # fmt: skip
        print(json.dumps(line, ensure_ascii=False), flush=True)
        return
    results = "".join(f"; {name} {result}" for name, result in message.results.items())
    how = f"mail, taken in by {message.signer}{results}" if message.bridged else f"signed by {message.signer}"
    console = Console(highlight=False, markup=False)
    head = f"{when:%Y-%m-%d %H:%M}  {fields.from_}  ({how})  {fields.subject}".rstrip()
    console.print(plain(head), style="bold")
    for text in message.text.rstrip().splitlines():
        console.print("  " + plain(text))
    for part in fields.parts:
        if part.name:
            console.print(plain(f"  [{part.name}, {part.size} octets]"))


def plain(text: str) -> str:
    """For a terminal: without control characters, and without those that turn the direction of what stands beside."""
    return "".join(c if c.isprintable() else " " if c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in text)


def add_commands(commands: Any) -> None:
    parser = commands.add_parser("inbox", help="show the messages that are there")
    parser.add_argument("--last", type=int, default=20, help="how many; 0 for all")
    parser.set_defaults(run=inbox)
    tail = commands.add_parser("watch", help="show messages as they come")
    tail.add_argument("--since", type=int, help="from this modseq on, instead of from now on")
    tail.set_defaults(run=watch)
    for reading in (parser, tail):
        reading.add_argument("--mailbox", default="INBOX")
        reading.add_argument("--json", action="store_true", help="a line of JSON for each message")
