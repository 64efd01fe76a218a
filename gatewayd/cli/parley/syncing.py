"""`parley sync` and `parley outbox`: the copy of the log on this device, and what waits to be sent."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from gatewayd.cli.parley.account import Failed, Identity
from gatewayd.cli.parley.terminal import plain
from gatewayd.client.outbox import Outbox
from gatewayd.message.model import Payload


async def sync(reactor: Any, options: argparse.Namespace) -> None:
    async with Identity(options).device(reactor) as device:
        new = await device.sync()
        waiting = await device.outbox.waiting()
    if options.json:
        print(json.dumps({"new": len(new), "waiting": len(waiting)}))
    else:
        print(f"{len(new)} new; {len(waiting)} in the outbox")


async def outbox(reactor: Any, options: argparse.Namespace) -> None:
    archive = Identity(options).archive(reactor)
    try:
        box = Outbox(archive)
        if options.cancel:
            found = [w.draft.id for w in await box.waiting() if w.draft.id.hex().startswith(options.cancel.lower())]
            if len(found) != 1 or not await box.cancel(found[0]):
                raise Failed(f"{len(found)} messages in the outbox begin with {options.cancel}")
        for waiting in await box.waiting():
            fields = Payload.decode(waiting.draft.payload)
            if options.json:
                _show(waiting.draft.id, waiting.to, fields.subject, "waits", waiting.trouble)
                continue
            line = f"{waiting.draft.id.hex()[:16]}  to {', '.join(waiting.to)}  {fields.subject}".rstrip()
            print(plain(line + (f"  ({waiting.trouble})" if waiting.trouble else "")))
        for failed in await box.undelivered():
            if options.json:
                _show(failed.id, [failed.recipient], "", "failed", failed.reason)
                continue
            print(
                plain(f"{failed.id.hex()[:16]}  not delivered to {failed.recipient}: {failed.reason}"), file=sys.stderr
            )
    finally:
        archive.close()


def _show(id: bytes, to: Sequence[str], subject: str, state: str, why: str) -> None:
    print(json.dumps({"id": id.hex(), "to": to, "subject": subject, "state": state, "why": why}, ensure_ascii=False))


def add_commands(commands: Any) -> None:
    parser = commands.add_parser("sync", help="send what waits, and bring the copy on this device up to date")
    parser.add_argument("--json", action="store_true", help="a line of JSON")
    parser.set_defaults(run=sync)
    parser = commands.add_parser("outbox", help="show what waits to be sent, and what could not be delivered")
    parser.add_argument("--cancel", metavar="ID", help="do not send this one")
    parser.add_argument("--json", action="store_true", help="a line of JSON for each")
    parser.set_defaults(run=outbox)
