"""`parley inbox`, `watch`, `search`, `save`: what is there, what comes, who said that, and the files of a message."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from gatewayd.cli.parley.account import Failed, Identity
from gatewayd.cli.parley.terminal import BOLD, NORMAL, how, plain, words
from gatewayd.client import Message, ParleyClient
from gatewayd.client.archive import Archive
from gatewayd.client.conversation import Said, is_change, laid_together
from gatewayd.client.device import Device
from gatewayd.client.files import save as save_file
from gatewayd.client.pages import INTRODUCTIONS
from gatewayd.interfaces.records import RECEIPTS
from gatewayd.message.model import Part


async def inbox(reactor: Any, options: argparse.Namespace) -> None:
    """From the copy on this device, brought up to date where the server can be reached."""
    who = Identity(options)
    archive = who.archive(reactor)
    try:
        if not options.offline:
            await _brought_up_to_date(Device(reactor, who.client(reactor), archive))
        if options.mailbox not in (await archive.mailboxes() or [options.mailbox]):
            raise Failed(f"there is no mailbox {options.mailbox}")
        found = await archive.mailbox(options.mailbox, -1 if options.unread else options.last or -1)
        if options.unread:
            found = [message for message in found if _unread(message)][-options.last :]
        changes = [message for message in await archive.beside(found) if is_change(message)]
        asking = [contact.address for contact in await archive.contacts() if contact.state == "requested"]
        waiting = len(await archive.mailbox(INTRODUCTIONS))
    finally:
        archive.close()
    if options.json or options.mailbox == RECEIPTS:
        for message in found:
            show(message, options)
    else:
        for said in laid_together(found, changes):
            _print(said)
    if options.read:
        await _mark_read(who.client(reactor), options.mailbox, [one.uid for one in found if _unread(one)])
    if asking:
        print(f"ask to write to you (parley grant, parley revoke): {plain(', '.join(asking))}", file=sys.stderr)
    if waiting and options.mailbox != INTRODUCTIONS:
        print(f"what strangers wrote: {waiting}, see parley inbox --mailbox {INTRODUCTIONS}", file=sys.stderr)


async def _mark_read(parley: ParleyClient, mailbox: str, uids: Sequence[int]) -> None:
    async with parley:
        if uids:
            await parley.mark(mailbox, uids, add=["\\Seen"])


async def _brought_up_to_date(device: Device) -> None:
    try:
        await device.sync()
    except OSError as error:
        print(f"parley: offline, this is what was here: {error}", file=sys.stderr)
    finally:
        device.parley.close()


async def watch(reactor: Any, options: argparse.Namespace) -> None:
    """What comes to the mailbox, each message once; a change of its flags is not a message."""
    async with Identity(options).device(reactor) as device:
        since, epoch, newest = options.since, b"", 0
        if since is None:  # from now on
            await device.sync()
            since, epoch = await device.archive.place()
            newest = await device.archive.highest_uid(options.mailbox)
        seen: set[int] = set()
        async for message in device.parley.messages(since, epoch=epoch, live=True, mailbox=options.mailbox):
            if message.uid > newest and message.uid not in seen:
                seen.add(message.uid)
                show(message, options)


async def search(reactor: Any, options: argparse.Namespace) -> None:
    """On this device; exit status 1 if there is none, as `grep` does."""
    archive = Identity(options).archive(reactor)
    try:
        found = await archive.search(" ".join(options.text), options.last or -1)
    finally:
        archive.close()
    for _, message in reversed(found):
        show(message, options, where=message.mailbox != "INBOX")
    if not found:
        raise SystemExit(1)


async def save(reactor: Any, options: argparse.Namespace) -> None:
    """A large file is not on this device: it is fetched."""
    who = Identity(options)
    archive = who.archive(reactor)
    try:
        message = await find(reactor, who, archive, options.message, options.mailbox)
    finally:
        archive.close()
    if not message.files:
        raise Failed("the message has no files")
    parley: ParleyClient | None = None

    async def download(part: Part, path: Path) -> None:
        from gatewayd.cli.parley.progress import Bars  # slow to import, and mostly not needed

        nonlocal parley
        parley = parley or who.client(reactor)
        with Bars() as bars:
            await parley.download(part, path, bars)

    try:
        for part in message.files:
            print(await save_file(message, part, options.into, download))
    finally:
        if parley is not None:
            parley.close()


async def find(reactor: Any, who: Identity, archive: Archive, text: str, mailbox: str) -> Message:
    """By its UID in the mailbox, or by how its id begins; what is not on this device may be at the server. Raises
    Failed, RequestFailed, StoreError."""
    if await _found(archive, text, mailbox) is None:
        await _brought_up_to_date(Device(reactor, who.client(reactor), archive))
    message = await _found(archive, text, mailbox)
    if message is None:
        raise Failed(f"no message {text} in {mailbox}, and none whose id begins so")
    return message


async def _found(archive: Archive, text: str, mailbox: str) -> Message | None:
    ids: list[bytes] = []
    if text.isdecimal() and len(text) <= 10:
        at = await archive.at(mailbox, int(text))
        ids = [at] if at else []
    if not ids and len(text) >= 4 and all(c in "0123456789abcdefABCDEF" for c in text):
        ids = await archive.named(text)
    if len(ids) > 1:
        raise Failed(f"several messages begin with {text}: say more of the id")
    return await archive.message(ids[0]) if ids else None


def show(message: Message, options: argparse.Namespace, *, where: bool = False) -> None:
    """As it stands in the log; what was not read yet has a star."""
    if options.json:
        fields = message.content.fields
        when = datetime.fromtimestamp(fields.date / 1000).astimezone()
        line = {
            "id": message.id.hex(), "mailbox": message.mailbox, "uid": message.uid, "modseq": message.modseq,
            "type": message.type, "from": fields.from_, "to": fields.to, "date": when.isoformat(),
            "subject": fields.subject, "text": message.text, "flags": message.flags,
            "signed_by": str(message.signer), "bridged": message.bridged, "results": message.results,
            "files": [part.name for part in message.files], "answers": _hex(fields.parents[:1]),
            "replaces": _hex([fields.replaces] if fields.replaces else []),
        }  # fmt: skip
        print(json.dumps(line, ensure_ascii=False), flush=True)
        return
    _print(Said(message, message, message.text, message.subject), where=where)


def _print(said: Said, *, where: bool = False) -> None:
    message = said.message
    when = datetime.fromtimestamp(message.content.fields.date / 1000).astimezone()
    number = f"{message.mailbox} {message.uid}" if where else str(message.uid)
    unread = "*" if _unread(message) or _unread(said.version) else ""
    known = how(message) + ("; edited" if said.version is not message else "")
    head = plain(f"{number}{unread}  {when:%Y-%m-%d %H:%M}  {message.sender}  ({known})")
    lines = [
        f"{head}  {words(said.subject)}".rstrip(),
        *("  " + words(text) for text in said.text.rstrip().splitlines()),
    ]
    lines += ["  (taken back by its author)"] if said.retracted else []
    lines += [plain(f"  [{part.name}, {part.size} octets]") for part in said.files]
    lines += [f"  {words(what)} {plain(who)}" for who, what in said.reactions]
    if sys.stdout.isatty():
        lines[0] = f"{BOLD}{lines[0]}{NORMAL}"
    print("\n".join(lines), flush=True)


def _unread(message: Message) -> bool:
    return "\\Seen" not in message.flags


def _hex(ids: Sequence[bytes]) -> str | None:
    return ids[0].hex() if ids else None


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"a number, got {text!r}")
    return int(text)


def add_commands(commands: Any) -> None:
    parser = commands.add_parser("inbox", help="show the messages that are there")
    parser.add_argument("--last", type=_count, default=20, help="how many; 0 for all")
    parser.add_argument("--offline", action="store_true", help="only what is on this device")
    parser.set_defaults(run=inbox)
    parser.add_argument("--unread", action="store_true", help="only those that were not read yet")
    parser.add_argument("--read", action="store_true", help="mark what is shown as read")
    finding = commands.add_parser("search", help="show the messages on this device that have all the words")
    finding.add_argument("text", nargs="+", metavar="WORD")
    finding.add_argument("--last", type=_count, default=20, help="how many; 0 for all")
    finding.set_defaults(run=search)
    tail = commands.add_parser("watch", help="show messages as they come")
    tail.add_argument("--since", type=int, help="from this modseq on, instead of from now on")
    tail.set_defaults(run=watch)
    for reading in (parser, tail, finding):
        reading.add_argument("--json", action="store_true", help="a line of JSON for each message")
    files = commands.add_parser("save", help="save the files of a message")
    files.add_argument("message", help="its UID, or how its id begins")
    files.add_argument("--into", type=Path, default=Path(), metavar="DIRECTORY")
    files.set_defaults(run=save)
    for named in (parser, tail, files):
        named.add_argument("--mailbox", default="INBOX")
