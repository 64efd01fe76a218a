"""`parley send`: a message, with files, to one or many."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from gatewayd.cli.parley.account import Failed, signed_in


async def send(reactor: Any, options: argparse.Namespace) -> None:
    text = " ".join(options.text) if options.text else "" if options.file else sys.stdin.read()
    async with await signed_in(reactor, options) as parley:
        results = await parley.send(options.to, text, subject=options.subject, files=options.file)
    for result in results:
        print(f"{result.to}: {result.code} {result.text}", file=sys.stderr)
    refused = [result for result in results if not result.code.startswith("2")]
    if refused:
        raise Failed(f"{len(refused)} of {len(results)} recipients did not take it")


def add_commands(commands: Any) -> None:
    parser = commands.add_parser("send", help="send a message; without text, from standard input")
    parser.add_argument("to", type=lambda text: text.split(","), help="one or more addresses, with commas between")
    parser.add_argument("text", nargs="*")
    parser.add_argument("--subject", default="")
    parser.add_argument("--file", type=Path, action="append", default=[])
    parser.set_defaults(run=send)
