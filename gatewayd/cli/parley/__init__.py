"""parley: the Parley client at the command line, for people, and with --json for scripts. One module a subject."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twisted.internet import defer, task

from gatewayd.address import AddressError
from gatewayd.cli.parley import contacts, reading, sending
from gatewayd.cli.parley.account import Failed
from gatewayd.client import RequestFailed


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="parley", description="Talk Parley. The password is asked for, or taken from PARLEY_PASSWORD."
    )
    parser.add_argument("--user", default=os.environ.get("PARLEY_USER"), help="who you are: name@domain")
    parser.add_argument("--server", metavar="HOST:PORT", help="instead of what the DNS says of your domain")
    parser.add_argument("--ca", type=Path, metavar="FILE", help="authorities to believe, instead of the system's")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in (sending, reading, contacts):
        module.add_commands(commands)
    return parser


async def run(reactor: Any, options: argparse.Namespace) -> None:
    """One command. Raises SystemExit with one line for what the user can mend."""
    try:
        await options.run(reactor, options)
    except (Failed, RequestFailed, AddressError, OSError, ValueError) as error:
        raise SystemExit(f"parley: {error}") from None


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    task.react(lambda reactor: defer.Deferred.fromCoroutine(run(reactor, options)))
