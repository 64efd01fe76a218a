"""`parley sync` and `parley outbox`: the copy of the log on this device, and what waits to be sent."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from typing import Any

from gatewayd.cli.parley.account import Failed, Identity
from gatewayd.cli.parley.terminal import plain, words
from gatewayd.client import Message
from gatewayd.client.archive import Archive
from gatewayd.client.device import Device
from gatewayd.client.outbox import Outbox


async def sync(reactor: Any, options: argparse.Namespace) -> None:
    async with Identity(options).device(reactor) as device:
        new = [message for message in await device.sync() if message.sender != device.parley.user]
        waiting = await device.outbox.count()
        refused = len(await device.outbox.refused()) + len(await device.archive.reported())
    if options.json:
        print(json.dumps({"new": len(new), "waiting": waiting, "failed": refused}))
    else:
        said = f"; {refused} not delivered, see parley outbox" if refused else ""
        print(f"{len(new)} new; {waiting} in the outbox{said}")


async def outbox(reactor: Any, options: argparse.Namespace) -> None:
    who = Identity(options)
    archive = who.archive(reactor)
    try:
        box = Outbox(archive)
        for id in options.cancel:
            await _cancel(reactor, who, archive, await _named(box, archive, id))
        if options.again:
            await _send_again(reactor, who, archive, await _named(box, archive, options.again))
        for waiting in await box.waiting():
            why = {to: waiting.trouble for to in waiting.to}
            _show(options, waiting.draft.id, waiting.draft.message, "waits", why)
        for refused in await box.refused():
            what = refused.draft.message if refused.draft else None
            _show(options, refused.id, what, "failed", refused.reasons)
        for original, report in await archive.reported():
            why = {one.by: one.why for one in report.receipts if one.status == "failed"}
            _show(options, original.id, original, "failed", why)
    finally:
        archive.close()


async def _named(box: Outbox, archive: Archive, text: str) -> bytes:
    """Of those that wait, that somebody refused, and that a report is about."""
    ids = {*(one.draft.id for one in await box.waiting()), *(one.id for one in await box.refused())}
    ids |= {original.id for original, _ in await archive.reported()}
    found = [id for id in ids if id.hex().startswith(text.lower())]
    if len(found) != 1:
        raise Failed(f"{len(found)} messages in the outbox begin with {text}")
    return found[0]


async def _cancel(reactor: Any, who: Identity, archive: Archive, id: bytes) -> None:
    await Outbox(archive).cancel(id)
    reports = [report for original, report in await archive.reported() if original.id == id]
    if reports:
        device = Device(reactor, who.client(reactor), archive)
        try:
            await device.forget(reports)
            await device.sync()
        finally:
            device.parley.close()


async def _send_again(reactor: Any, who: Identity, archive: Archive, id: bytes) -> None:
    device = Device(reactor, who.client(reactor), archive)
    try:
        results = await device.send_again(id)
        await device.sync()
    except OSError as error:
        print(f"parley: it waits in the outbox: {error}", file=sys.stderr)
    else:
        refused = [f"{one.to}: {one.code} {one.text}" for one in results if one.code.startswith("5")]
        if refused:
            raise Failed(plain("; ".join(refused)))
    finally:
        device.parley.close()


def _show(options: argparse.Namespace, id: bytes, what: Message | None, state: str, why: Mapping[str, str]) -> None:
    """`why` by recipient."""
    subject = what.subject if what else ""
    if options.json:
        line = {"id": id.hex(), "to": list(why), "subject": subject, "state": state, "why": why}
        print(json.dumps(line, ensure_ascii=False))
        return
    said = (subject or (what.text if what else "(what it said is kept no more)")).splitlines()
    head = plain(f"{id.hex()[:16]}  {state:6}  to {', '.join(why)}")
    print(f"{head}  {words(said[0][:60]) if said else ''}".rstrip())
    for to, reason in why.items():
        if reason:
            print(plain(f"    {to}: {reason}"))


def add_commands(commands: Any) -> None:
    parser = commands.add_parser("sync", help="send what waits, and bring the copy on this device up to date")
    parser.add_argument("--json", action="store_true", help="a line of JSON")
    parser.set_defaults(run=sync)
    parser = commands.add_parser("outbox", help="show what waits to be sent, and what could not be delivered")
    parser.add_argument(
        "--cancel", metavar="ID", nargs="+", default=[], help="do not send these, or forget that they were refused"
    )
    parser.add_argument("--again", metavar="ID", help="send this one again to those who refused it")
    parser.add_argument("--json", action="store_true", help="a line of JSON for each")
    parser.set_defaults(run=outbox)
