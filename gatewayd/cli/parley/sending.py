"""`parley send`, `edit`, `retract`, `react`: a message, with files, to one or many, and what its author or a reader has
to say of it later. All is kept in the outbox before anything is tried."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gatewayd.cli.parley.account import Failed, Identity, address
from gatewayd.cli.parley.reading import find
from gatewayd.cli.parley.terminal import plain
from gatewayd.client import Draft, compose
from gatewayd.client.device import Device
from gatewayd.client.outbox import Outbox
from gatewayd.message.model import EDIT, REACTION, RETRACT


async def send(reactor: Any, options: argparse.Namespace) -> None:
    who = Identity(options)
    text = " ".join(options.text) if options.text else "" if options.file else _standard_input()
    if not (text.strip() or options.file or options.subject):
        raise Failed("there is nothing to send: no text, no file and no subject")
    archive = who.archive(reactor)
    try:
        answers = None
        if options.answers:
            answers = await find(reactor, who, archive, options.answers, options.mailbox)
        draft = compose(
            who.user, options.to, text, now=time.time(), subject=options.subject, files=options.file, answers=answers
        )
        if options.later:
            await Outbox(archive).put(options.to, draft)
            if options.json:
                print(json.dumps({"id": draft.id.hex(), "waiting": True, "results": []}))
            return
        await _send(Device(reactor, who.client(reactor), archive), options.to, draft, options)
    finally:
        archive.close()


async def change(reactor: Any, options: argparse.Namespace) -> None:
    """An edit, a retraction or a reaction: to all whom the message names."""
    who = Identity(options)
    text = " ".join(options.text) if options.type != RETRACT else ""
    if options.type == EDIT and not options.text:
        text = _standard_input()
    archive = who.archive(reactor)
    try:
        message = await find(reactor, who, archive, options.message, options.mailbox)
        device = Device(reactor, who.client(reactor), archive)
        draft = await device.about(options.type, message.id, text, getattr(options, "subject", None))
        await _send(device, await device.whom(draft), draft, options)
    finally:
        archive.close()


def _standard_input() -> str:
    try:
        text = sys.stdin.read()
        text.encode()
        return text
    except UnicodeError:
        raise Failed("what came on standard input is no text in UTF-8; --file sends it as it is") from None


async def _send(device: Device, to: Sequence[str], draft: Draft, options: argparse.Namespace) -> None:
    from gatewayd.cli.parley.progress import Bars  # slow to import, and mostly not needed

    said: dict[str, Any] = {"id": draft.id.hex(), "waiting": False, "results": []}
    try:
        try:
            with Bars() as device.progress:
                results = await device.send(to, draft)
        except OSError as error:
            print(f"parley: it waits in the outbox: {error}", file=sys.stderr)
            results = ()
    finally:
        device.parley.close()
    for result in results:
        print(plain(f"{result.to}: {result.code} {result.text}"), file=sys.stderr)
    if options.json:
        said["waiting"] = not results or any(result.code.startswith("4") for result in results)
        said["results"] = [{"to": one.to, "code": one.code, "text": one.text} for one in results]
        print(json.dumps(said))
    refused = [result for result in results if result.code.startswith("5")]
    if refused:
        raise Failed(f"{len(refused)} of {len(results)} recipients did not take it; parley outbox has it")


def _addresses(text: str) -> list[str]:
    return [address(one) for one in text.split(",") if one.strip()]


def add_commands(commands: Any) -> None:
    parser = commands.add_parser("send", help="send a message; without text, from standard input")
    parser.add_argument("to", type=_addresses, help="one or more addresses, with commas between")
    parser.add_argument("text", nargs="*")
    parser.add_argument("--subject", default="")
    parser.add_argument("--file", type=Path, action="append", default=[], help="a file to send; may be repeated")
    parser.add_argument("--answers", metavar="MESSAGE", help="the one that is answered: its UID, or how its id begins")
    parser.add_argument("--mailbox", default="INBOX", help="where that one stands")
    parser.add_argument("--later", action="store_true", help="only put it into the outbox; `sync` sends it")
    parser.set_defaults(run=send)
    edit = commands.add_parser("edit", help="give a message of yours another text; without one, from standard input")
    edit.add_argument("--subject", help="another subject, too")
    retract = commands.add_parser("retract", help="take back a message, an edit or a reaction of yours")
    react = commands.add_parser("react", help="react to a message with an emoji")
    for changing, type, mailbox in ((edit, EDIT, "Sent"), (retract, RETRACT, "Sent"), (react, REACTION, "INBOX")):
        changing.add_argument("message", help="its UID, or how its id begins")
        changing.add_argument("--mailbox", default=mailbox, help=f"where it stands, if not in {mailbox}")
        changing.set_defaults(run=change, type=type)
    edit.add_argument("text", nargs="*")
    react.add_argument("text", nargs="+", metavar="EMOJI")
    for command in (parser, edit, retract, react):
        command.add_argument(
            "--json", action="store_true", help="a line of JSON: the id, and a result for each recipient"
        )
