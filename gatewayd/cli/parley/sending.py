"""`parley send`: a message, with files, to one or many. It is kept in the outbox before anything is tried."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from gatewayd.cli.parley.account import Failed, Identity
from gatewayd.cli.parley.progress import Bars
from gatewayd.cli.parley.terminal import plain
from gatewayd.client import compose
from gatewayd.client.device import Device
from gatewayd.client.outbox import Outbox


async def send(reactor: Any, options: argparse.Namespace) -> None:
    who = Identity(options)
    text = " ".join(options.text) if options.text else "" if options.file else sys.stdin.read()
    draft = compose(who.user, options.to, text, now=time.time(), subject=options.subject, files=options.file)
    if options.later:
        archive = who.archive(reactor)
        await Outbox(archive).put(options.to, draft)
        archive.close()
        return
    async with Device(reactor, who.client(reactor), who.archive(reactor)) as device:
        try:
            with Bars() as device.progress:
                results = await device.send(options.to, draft)
        except OSError as error:
            print(f"parley: it waits in the outbox: {error}", file=sys.stderr)
            return
    for result in results:
        print(plain(f"{result.to}: {result.code} {result.text}"), file=sys.stderr)
    refused = [result for result in results if result.code.startswith("5")]
    if refused:
        raise Failed(f"{len(refused)} of {len(results)} recipients did not take it")


def add_commands(commands: Any) -> None:
    parser = commands.add_parser("send", help="send a message; without text, from standard input")
    parser.add_argument("to", type=lambda text: text.split(","), help="one or more addresses, with commas between")
    parser.add_argument("text", nargs="*")
    parser.add_argument("--subject", default="")
    parser.add_argument("--file", type=Path, action="append", default=[], help="a file to send; may be repeated")
    parser.add_argument("--later", action="store_true", help="only put it into the outbox; `sync` sends it")
    parser.set_defaults(run=send)
