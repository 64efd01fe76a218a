"""parley: the Parley client at the command line: send, inbox, watch. For people, and with --json for scripts."""

from __future__ import annotations

import argparse
import getpass
import json
import os
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from twisted.internet import defer, task

from gatewayd.address import Address, AddressError
from gatewayd.client import Message, ParleyClient, RequestFailed, connect
from gatewayd.config import endpoint


class Failed(Exception):
    """Ends the command with one line that says why."""


async def _send(parley: ParleyClient, options: argparse.Namespace) -> None:
    text = " ".join(options.text) if options.text else "" if options.file else sys.stdin.read()
    results = await parley.send(options.to, text, subject=options.subject, files=options.file)
    for result in results:
        print(f"{result.to}: {result.code} {result.text}", file=sys.stderr)
    refused = [result for result in results if not result.code.startswith("2")]
    if refused:
        raise Failed(f"{len(refused)} of {len(results)} recipients did not take it")


async def _inbox(parley: ParleyClient, options: argparse.Namespace) -> None:
    found = [message async for message in parley.messages(mailbox=options.mailbox)]
    for message in found[-options.last :] if options.last else found:
        _show(message, options)


async def _watch(parley: ParleyClient, options: argparse.Namespace) -> None:
    since = options.since
    if since is None:  # from now on
        since = 0
        async for page in parley.changes():
            since = page.modseq
    seen: set[int] = set()
    async for message in parley.messages(since, live=True, mailbox=options.mailbox):
        if message.uid not in seen:  # a change of flags is not a message
            seen.add(message.uid)
            _show(message, options)


def _show(message: Message, options: argparse.Namespace) -> None:
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
    console.print(f"{when:%Y-%m-%d %H:%M}  {fields.from_}  ({how})  {fields.subject}".rstrip(), style="bold")
    for text in message.text.rstrip().splitlines():
        console.print("  " + "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text))
    for part in fields.parts:
        if part.name:
            console.print(f"  [{part.name}, {part.size} octets]")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="parley", description="Talk Parley. The password is asked for, or taken from PARLEY_PASSWORD."
    )
    parser.add_argument("--user", default=os.environ.get("PARLEY_USER"), help="who you are: name@domain")
    parser.add_argument("--server", metavar="HOST:PORT", help="instead of what the DNS says of your domain")
    parser.add_argument("--ca", type=Path, metavar="FILE", help="authorities to believe, instead of the system's")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    send = commands.add_parser("send", help="send a message; without text, from standard input")
    send.add_argument("to", type=lambda text: text.split(","), help="one or more addresses, with commas between")
    send.add_argument("text", nargs="*")
    send.add_argument("--subject", default="")
    send.add_argument("--file", type=Path, action="append", default=[])
    send.set_defaults(run=_send)
    inbox = commands.add_parser("inbox", help="show the messages that are there")
    inbox.add_argument("--last", type=int, default=20, help="how many; 0 for all")
    inbox.set_defaults(run=_inbox)
    watch = commands.add_parser("watch", help="show messages as they come")
    watch.add_argument("--since", type=int, help="from this modseq on, instead of from now on")
    watch.set_defaults(run=_watch)
    for reading in (inbox, watch):
        reading.add_argument("--mailbox", default="INBOX")
        reading.add_argument("--json", action="store_true", help="a line of JSON for each message")
    return parser


async def run(reactor: Any, options: argparse.Namespace) -> None:
    """One command. Raises SystemExit with one line for what the user can mend."""
    try:
        if not options.user:
            raise Failed("who are you? --user name@domain, or PARLEY_USER")
        Address.parse(options.user)
        password = os.environ.get("PARLEY_PASSWORD") or getpass.getpass(f"Password of {options.user}: ")
        server = endpoint(options.server) if options.server else None
        async with await connect(reactor, options.user, password, server=server, authorities=options.ca) as parley:
            await options.run(parley, options)
    except (Failed, RequestFailed, AddressError, OSError, ValueError) as error:
        raise SystemExit(f"parley: {error}") from None


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    task.react(lambda reactor: defer.Deferred.fromCoroutine(run(reactor, options)))
