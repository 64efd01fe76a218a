"""parley: the Parley client at the command line, for people, and with --json for scripts. One module a subject."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from twisted.internet import defer, task

from gatewayd.cli.parley import account, chat, contacts, reading, sending, syncing, verifying
from gatewayd.client import RequestFailed, TransferFailed
from gatewayd.errors import StoreError

ENVIRONMENT = "PARLEY_USER and PARLEY_PASSWORD stand for the kept account and password."


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="parley", description="Talk Parley.", epilog=ENVIRONMENT)
    parser.add_argument("--user", help="who you are: name@domain, if not the default account")
    parser.add_argument("--server", metavar="HOST:PORT", help="instead of what the DNS says of your domain")
    parser.add_argument("--ca", type=Path, metavar="FILE", help="authorities to believe, instead of the system's")
    parser.add_argument("--trace", action="store_true", help="show every frame, on standard error")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in (account, chat, sending, reading, contacts, syncing, verifying):
        module.add_commands(commands)
    return parser


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """argparse takes a message's words only where they stand together; here they may also follow an option."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    end = rest.index("--") if "--" in rest else len(rest)
    if rest and (not hasattr(options, "text") or any(word.startswith("-") for word in rest[:end])):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        options.text += rest[:end] + rest[end + 1 :]
    return options


async def run(reactor: Any, options: argparse.Namespace) -> None:
    """One command."""
    with _errors():
        await options.run(reactor, options)


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    """Raises SystemExit with one line for what the user can mend."""
    try:
        yield
    except account.Failed as failed:
        print(f"parley: {failed}", file=sys.stderr)
        raise SystemExit(failed.status) from None
    except (RequestFailed, TransferFailed, StoreError, OSError, ValueError) as error:
        raise SystemExit(f"parley: {error}") from None


def main(arguments: Sequence[str] | None = None) -> None:
    options = parsed(arguments)
    if hasattr(options, "foreground"):  # it has a loop of its own
        with _errors():
            options.foreground(options)
    else:
        task.react(lambda reactor: defer.Deferred.fromCoroutine(run(reactor, options)))
