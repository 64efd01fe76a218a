"""parley: the Parley client at the command line, for people, and with --json for scripts. One module a subject.

Only the module of the command that is asked for is imported, and nothing here before `main` runs: so it starts sooner,
and Ctrl-C ends it without a word at any moment.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

ENVIRONMENT = "PARLEY_USER and PARLEY_PASSWORD stand for the kept account and password."
SUBJECTS = {  # modules, and their commands
    "account": ("login", "logout", "accounts"),
    "chat": ("chat",),
    "sending": ("send", "edit", "retract", "react"),
    "reading": ("inbox", "watch", "search", "save"),
    "contacts": ("contacts", "grant", "revoke", "request", "cancel", "lookup"),
    "mailboxes": ("mailboxes",),
    "syncing": ("sync", "outbox"),
    "verifying": ("verify", "keys"),
}


def _parser(words: Iterable[str]) -> argparse.ArgumentParser:
    """Knows the commands that are among the words, or if there is none, all."""
    parser = argparse.ArgumentParser(prog="parley", description="Talk Parley.", epilog=ENVIRONMENT)
    parser.add_argument("--version", action=_Version, nargs=0, help="show which this is")
    _who_and_where(parser)
    commands = parser.add_subparsers(metavar="COMMAND")
    named = [subject for subject, known in SUBJECTS.items() if set(known).intersection(words)]
    for subject in named or SUBJECTS:
        importlib.import_module(f"gatewayd.cli.parley.{subject}").add_commands(commands)
    for command in commands.choices.values():
        _who_and_where(command, default=argparse.SUPPRESS)  # behind the command as well as before it
    return parser


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version  # slow to import, and seldom asked for

        print(f"parley {version('gatewayd')}")
        parser.exit()


def _who_and_where(parser: argparse.ArgumentParser, **default: Any) -> None:
    parser.add_argument("--user", **default, help="who you are: name@domain, if not the default account")
    parser.add_argument("--server", **default, metavar="HOST:PORT", help="instead of what the DNS says of your domain")
    parser.add_argument("--ca", **default, type=Path, metavar="FILE", help="authorities to believe, not the system's")
    parser.add_argument("--trace", **default, action="store_true", help="show every frame, on standard error")


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """argparse takes a message's words only where they stand together; here they may also follow an option."""
    parser = _parser(sys.argv[1:] if arguments is None else arguments)
    options, rest = parser.parse_known_args(arguments)
    end = rest.index("--") if "--" in rest else len(rest)
    if rest and (not hasattr(options, "text") or any(word.startswith("-") for word in rest[:end])):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        options.text += rest[:end] + rest[end + 1 :]
    if not hasattr(options, "run") and not hasattr(options, "foreground"):
        parser.print_help(sys.stderr)
        raise SystemExit(2)
    return options


async def run(reactor: Any, options: argparse.Namespace) -> None:
    """One command."""
    with _errors():
        await options.run(reactor, options)
        sys.stdout.flush()  # here it can be said that it failed


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    """Raises SystemExit with one line for what the user can mend."""
    from gatewayd.cli.parley.account import Failed
    from gatewayd.client import RequestFailed, TransferFailed
    from gatewayd.errors import StoreError

    try:
        yield
    except Failed as failed:
        print(f"parley: {failed}", file=sys.stderr)
        raise SystemExit(failed.status) from None
    except BrokenPipeError:  # who reads has enough, as `head` does
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115, else the interpreter tries once more, and complains
        raise SystemExit(128 + signal.SIGPIPE) from None
    except (RequestFailed, TransferFailed, StoreError, OSError, ValueError) as error:
        raise SystemExit(f"parley: {error}") from None


def main(arguments: Sequence[str] | None = None) -> None:
    try:
        options = parsed(arguments)
        if hasattr(options, "foreground"):  # it has a loop of its own
            with _errors():
                options.foreground(options)
        else:
            _react(options)
    except KeyboardInterrupt:
        raise SystemExit(128 + signal.SIGINT) from None


def _react(options: argparse.Namespace) -> None:
    from twisted.internet import defer, task

    interrupted = False

    def command(reactor: Any) -> defer.Deferred[None]:
        def interrupt(*_: object) -> None:
            nonlocal interrupted
            interrupted = True
            reactor.callFromThread(reactor.stop)

        reactor.callWhenRunning(signal.signal, signal.SIGINT, interrupt)  # behind the reactor, which sets its own
        return defer.Deferred.fromCoroutine(run(reactor, options))

    try:
        task.react(command)
    finally:
        if interrupted:
            raise KeyboardInterrupt
