"""`parley inbox`, `watch`, `search`, `save`: what is there, what comes, who said that, and the files of a message."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gatewayd.cli.parley import fates
from gatewayd.cli.parley.account import Failed, Identity
from gatewayd.cli.parley.telling import first_line, told
from gatewayd.cli.parley.terminal import BOLD, NORMAL, how, plain, signed_by_author, when, words
from gatewayd.client import Message, ParleyClient
from gatewayd.client.archive import Archive
from gatewayd.client.conversation import Said
from gatewayd.client.device import Device
from gatewayd.client.files import save as save_file
from gatewayd.client.pages import INTRODUCTIONS
from gatewayd.message.model import EDIT, Part

A_MOMENT = 3.0  # seconds


async def inbox(reactor: Any, options: argparse.Namespace) -> None:
    """From the copy on this device, brought up to date where the server can be reached."""
    who = Identity(options)
    archive = who.archive(reactor)
    device = Device(reactor, who.client(reactor), archive)
    try:
        if not options.offline:
            await _brought_up_to_date(device)
        if options.mailbox not in (await archive.mailboxes() or [options.mailbox]):
            raise Failed(f"there is no mailbox {options.mailbox}")
        found = await archive.mailbox(options.mailbox, -1 if options.unread else options.last or -1)
        if options.unread:
            found = [message for message in found if _unread(message)][-options.last :]
        await _show_all(device, found, options)
        asking = [contact.address for contact in await archive.contacts() if contact.state == "requested"]
        waiting = len(await archive.mailbox(INTRODUCTIONS))
    finally:
        device.close()
    if options.read:
        await _mark_read(who.client(reactor), options.mailbox, [one.uid for one in found if _unread(one)])
    if asking:
        print(f"ask to write to you (parley grant, parley revoke): {plain(', '.join(asking))}", file=sys.stderr)
    if waiting and options.mailbox != INTRODUCTIONS:
        print(f"what strangers wrote: {waiting}, see parley inbox --mailbox {INTRODUCTIONS}", file=sys.stderr)


async def _show_all(device: Device, found: Sequence[Message], options: argparse.Namespace) -> None:
    """What changes another of them is shown with it, other changes as what somebody did."""
    if options.json:
        for message in found:
            _print_json(message)
        return
    shown = {said.message.id: said for said in await device.shown(list(found))}
    laid = {id for said in shown.values() for id in said.changes}
    for message in found:
        if message.id not in laid:
            await _show(device, message, shown.get(message.id))


async def _show(device: Device, message: Message, said: Said | None, *, where: bool = False) -> None:
    what = await told(device, message)
    if what is not None:
        print(_deed(message, what, where=where), flush=True)
    elif said is not None:
        _print(said, device.parley.user, where=where)


async def _mark_read(parley: ParleyClient, mailbox: str, uids: Sequence[int]) -> None:
    async with parley:
        if uids:
            await parley.mark(mailbox, uids, add=["\\Seen"])


async def _brought_up_to_date(device: Device) -> None:
    """Who wants to read does not wait until large files have left."""
    try:
        await device.sync(large=False)
    except OSError as error:
        print(f"parley: offline, this is what was here: {error}", file=sys.stderr)
    finally:
        device.parley.close()


async def watch(reactor: Any, options: argparse.Namespace) -> None:
    """What comes to the mailbox, each message once; a change of its flags is not a message."""
    async with Identity(options).device(reactor) as device:
        archive, mailbox = device.archive, options.mailbox
        await device.sync(large=False)
        since, epoch = await archive.place()
        known = {id for id, modseq in await archive.ids(mailbox) if options.since is None or modseq <= options.since}
        if options.since is not None:
            since = options.since
        device.parley.on_state = Connection(reactor, device.parley).changed
        async for _ in device.follow():  # also what another program on this device was quicker to take
            place, now = await archive.place()
            if now != epoch:  # the server began again, or was restored: numbers may be others
                since, epoch = 0, now
            news = [id for id, modseq in await archive.ids(mailbox, since) if id not in known]
            known.update(news)
            since = place
            for id in news:
                message = await archive.message(id, mailbox)
                if message is not None:
                    await _show_one(device, message, options)


class Connection:
    """Says when it is gone for longer than a moment, and when it is there again."""

    def __init__(self, reactor: Any, parley: ParleyClient) -> None:
        self._reactor = reactor
        self._parley = parley
        self._gone = False

    def changed(self, why: Exception | None) -> None:
        if why is not None:
            self._reactor.callLater(A_MOMENT, self._say_gone, why)
        elif self._gone:
            self._gone = False
            print("parley: the server is there again", file=sys.stderr, flush=True)

    def _say_gone(self, why: Exception) -> None:
        if not (self._gone or self._parley.is_online or self._parley.closed):
            self._gone = True
            print(f"parley: the server is gone, and tried again and again: {why}", file=sys.stderr, flush=True)


async def _show_one(device: Device, message: Message, options: argparse.Namespace) -> None:
    if options.json:
        _print_json(message)
    else:
        await _show(device, message, next(iter(await device.shown([message])), None))


async def search(reactor: Any, options: argparse.Namespace) -> None:
    """Of the copy on this device, as `inbox`; exit status 1 if there is none, as `grep` does."""
    who = Identity(options)
    archive = who.archive(reactor)
    device = Device(reactor, who.client(reactor), archive)
    try:
        if not options.offline:
            await _brought_up_to_date(device)
        found = [message for _, message in await archive.search(" ".join(options.text), options.last or -1)][::-1]
        if options.json:
            for message in found:
                _print_json(message)
        else:
            await _show_found(device, found)
    finally:
        device.close()
    if not found:
        raise SystemExit(1)


async def _show_found(device: Device, found: Sequence[Message]) -> None:
    """What an edit says now is said by the message that it edits."""
    originals: dict[bytes, Message] = {}
    for message in found:
        edited = message.content.fields.replaces if message.type == EDIT else None
        original = await device.archive.message(edited) if edited else None
        if original is not None and message.replaces(original):
            message = original
        originals[message.id] = message
    for message in originals.values():
        said = next(iter(await device.shown([message])), None)
        await _show(device, message, said, where=message.mailbox != "INBOX")


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


def _print_json(message: Message) -> None:
    """As it stands in the log."""
    fields = message.content.fields
    line = {
        "id": message.id.hex(), "mailbox": message.mailbox, "uid": message.uid, "modseq": message.modseq,
        "type": message.type, "from": fields.from_, "to": fields.to, "date": when(message).isoformat(),
        "subject": fields.subject, "text": message.text, "flags": message.flags,
        "signed_by": str(message.signer), "bridged": message.bridged, "results": message.results,
        "files": [part.name for part in message.files], "answers": _hex(fields.parents[:1]),
        "replaces": _hex([fields.replaces] if fields.replaces else []),
    }  # fmt: skip
    print(json.dumps(line, ensure_ascii=False), flush=True)


def _deed(message: Message, what: str, *, where: bool) -> str:
    """Somebody did that; what an edit says stands below."""
    by = "" if signed_by_author(message) else f"  ({how(message)})"
    lines = [f"{_head(message, where=where)}{plain(by)}  {what}"]
    if message.type == EDIT:
        lines += [f"  {words(text)}" for text in message.text.rstrip().splitlines()]
        lines += [plain(f"  [{part.name}, {part.size} octets]") for part in message.files]
    return "\n".join(lines)


def _print(said: Said, user: str, *, where: bool) -> None:
    """What was not read yet has a star. Of ours stands there what became of it."""
    message, mine = said.message, said.message.sender == user
    to = f"  to {', '.join(said.recipients)}" if mine or len(said.recipients) > 1 else ""
    known = fates.state(said) if mine else how(message)
    known += "; edited" if said.version is not message else ""
    head = plain(f"{_head(message, where=where, unread=_unread(said.version))}{to}  ({known.removeprefix('; ')})")
    lines = [f"{head}  {words(said.subject)}".rstrip()]
    if said.answers is not None:
        lines.append(f"  > {plain(said.answers.message.sender)}: {words(first_line(said.answers.text))}".rstrip())
    lines += ["  " + words(text) for text in said.text.rstrip().splitlines()]
    lines += ["  (taken back by its author)"] if said.retracted else []
    lines += [] if said.understood else ["  (needs a newer program to be shown)"]
    lines += [plain(f"  [{part.name}, {part.size} octets]") for part in said.files]
    lines += [f"  {words(what)} {plain(who)}" for who, what in said.reactions]
    lines += [plain(f"  {line}") for line, _ in fates.troubles(said)]
    if sys.stdout.isatty():
        lines[0] = f"{BOLD}{lines[0]}{NORMAL}"
    print("\n".join(lines), flush=True)


def _head(message: Message, *, where: bool, unread: bool = False) -> str:
    number = f"{message.mailbox} {message.uid}" if where else str(message.uid)
    star = "*" if unread or _unread(message) else ""
    return plain(f"{number}{star}  {when(message):%Y-%m-%d %H:%M}  {message.sender}")


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
    parser.set_defaults(run=inbox)
    parser.add_argument("--unread", action="store_true", help="only those that were not read yet")
    parser.add_argument("--read", action="store_true", help="mark what is shown as read")
    finding = commands.add_parser("search", help="show the messages that have all the words")
    finding.add_argument("text", nargs="+", metavar="WORD")
    finding.add_argument("--last", type=_count, default=20, help="how many; 0 for all")
    finding.set_defaults(run=search)
    tail = commands.add_parser("watch", help="show messages as they come")
    tail.add_argument("--since", type=int, help="from this modseq on, instead of from now on")
    tail.set_defaults(run=watch)
    for reading in (parser, finding):
        reading.add_argument("--offline", action="store_true", help="only what is on this device")
    for reading in (parser, tail, finding):
        reading.add_argument("--json", action="store_true", help="a line of JSON for each message")
    files = commands.add_parser("save", help="save the files of a message")
    files.add_argument("message", help="its UID, or how its id begins")
    files.add_argument("--into", type=Path, default=Path(), metavar="DIRECTORY")
    files.set_defaults(run=save)
    for named in (parser, tail, files):
        named.add_argument("--mailbox", default="INBOX")
