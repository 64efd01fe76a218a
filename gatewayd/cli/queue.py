"""gatewayctl queue: what waits to go out, and what the operator does to it. The gateway sees it within a second."""

from __future__ import annotations

import argparse
import string
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table

from gatewayd.address import Address, AddressError, Domain
from gatewayd.interfaces.queue import EVERYTHING, Picked
from gatewayd.message import mime
from gatewayd.message.bridge import as_mail, mail_bodies

WHAT = "a number of the list, an address (sender or recipient), a domain, a message id (16 hex digits), or all"
PIPED = 200  # columns where no terminal says how many
MESSAGE_ID = 16  # hex digits


def picked(words: list[str]) -> list[Picked]:
    """Raises AddressError for what is none of them."""
    found = [Picked(queue_ids=tuple(int(word) for word in words if _is_number(word)))]
    for word in words:
        if word == "all" or _is_number(word):
            continue
        try:
            if "@" in word:
                found.append(Picked(address=str(Address.parse(word))))
            elif len(word) == MESSAGE_ID and set(word) <= set(string.hexdigits):
                found.append(Picked(message=bytes.fromhex(word)))
            else:
                found.append(Picked(domain=Domain.parse(word).name))
        except AddressError as error:
            raise AddressError(f"{word[:80]!r}: {error}; say {WHAT}") from None
    if "all" in words:
        return [EVERYTHING]
    return found if found[0] != EVERYTHING else found[1:]


def many(text: str) -> int:
    """Of --limit: a number that argparse refuses when it is none, or less than 1."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"1 or more, not {number}")
    return number


def _is_number(word: str) -> bool:
    return word.isascii() and word.isdigit() and len(word) < MESSAGE_ID


def time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


async def listing(gateway: Any, options: argparse.Namespace) -> None:
    rows = {row.queue_id: row for one in _meant(options) for row in await gateway.queue.listing(options.limit, one)}
    table = Table()
    for name in ("Id", "Recipient", "Sender", "State", "Tries", "Next", "Last status"):
        table.add_column(name, overflow="fold")  # nothing is cut off
    for row in rows.values():
        when = "" if row.state == "held" else time(row.next_attempt)
        sender = row.reverse_path or "<>"
        table.add_row(str(row.queue_id), row.recipient, sender, row.state, str(row.attempts), when, row.last_status)
    Console(width=None if sys.stdout.isatty() else PIPED).print(table)


async def show(gateway: Any, options: argparse.Namespace) -> None:
    """Everything of some rows, and the header of their message."""
    count = 0
    for one in picked(options.what):
        rows = await gateway.queue.listing(options.limit, one)
        count += len(rows)
        messages = await gateway.queue.messages({row.message_key for row in rows})
        for row in rows:
            content, trace = messages[row.message_key]
            mail = as_mail(await gateway.store.blobs.load(content, mail_bodies(content)), trace)
            lines = [
                f"Queue id:   {row.queue_id}",
                f"Message:    {content.id.hex()[:MESSAGE_ID]}, {len(mail)} octets",
                f"From:       <{row.reverse_path}>",
                f"To:         <{row.recipient}>",
                f"Accepted:   {time(row.accepted)}",
                f"State:      {row.state}, tried {row.attempts} times",
                f"Next try:   {'when it is released' if row.state == 'held' else time(row.next_attempt)}",
                f"Last said:  {row.last_status.strip() or 'nothing yet'}",
                "",
            ]
            header = (mime.section(mail, (), "HEADER") or b"").decode("utf-8", "replace")
            print("\n".join(lines))
            print("".join(c for c in header if c.isprintable() or c == "\n"))
    if not count:
        raise ValueError(f"nothing in the queue fits {' '.join(options.what)}")


async def change(gateway: Any, options: argparse.Namespace) -> None:
    """hold, release, retry."""
    act: Callable[[Picked], Any] = getattr(gateway.queue, options.action)
    said = {"hold": "held", "release": "released", "retry": "due now"}[options.action]
    print(f"{sum([await act(one) for one in picked(options.what)])} {said}")


async def drop(gateway: Any, options: argparse.Namespace) -> None:
    from gatewayd.cli.office import bounce

    count = 0
    for one in picked(options.what):
        if options.bounce:
            await gateway.queue.hold(one)  # nothing goes out of what senders are told is not delivered
            rows = await gateway.queue.listing(2**31, one)
            for row in rows:
                if row.state == "held":
                    await bounce(gateway, row)
                    count += await gateway.queue.drop(replace(EVERYTHING, queue_ids=(row.queue_id,)))
        else:
            count += await gateway.queue.drop(one)
    print(f"{count} dropped")


def _meant(options: argparse.Namespace) -> list[Picked]:
    return picked(getattr(options, "what", [])) or [EVERYTHING]


def add_commands(parser: Any, command: Callable[..., argparse.ArgumentParser]) -> None:
    """`gatewayctl queue` alone lists."""
    parser.set_defaults(limit=1000)
    actions = parser.add_subparsers(metavar="ACTION")
    for name, run, nargs in (
        ("list", listing, "*"), ("show", show, "+"), ("hold", change, "+"), ("release", change, "+"),
        ("retry", change, "+"), ("drop", drop, "+"),
    ):  # fmt: skip
        made = command(actions, name, run)
        made.add_argument("what", nargs=nargs, metavar="WHAT", help=WHAT)
        if run in {listing, show}:
            made.add_argument("--limit", type=many, default=1000)
        if name == "drop":
            made.add_argument("--bounce", action="store_true", help="tell the senders")
