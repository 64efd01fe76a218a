"""`parley verify` and `parley keys`: who signed a message, checked here and now."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from gatewayd.address import Domain
from gatewayd.cli.parley.account import Failed, Identity
from gatewayd.cli.parley.reading import find
from gatewayd.cli.parley.terminal import plain
from gatewayd.client import Message
from gatewayd.client.archive import Archive
from gatewayd.client.verifying import fetch_keys, verify
from gatewayd.crypto.cose import signer
from gatewayd.crypto.domain_keys import KeySet

DOES_NOT_HOLD, CANNOT_BE_TOLD = 1, 3  # exit statuses


async def verify_message(reactor: Any, options: argparse.Namespace) -> None:
    who = Identity(options)
    archive = who.archive(reactor)
    try:
        message = await find(reactor, who, archive, options.message, options.mailbox)
        key_set = await _key_set(reactor, who, archive, message, options.keys)
    finally:
        archive.close()
    verdict = verify(message, key_set, time.time())
    if options.json:
        found: dict[str, Any] = {"id": message.id.hex(), "holds": verdict.holds, "signed_by": str(message.signer)}
        found |= {"bridged": message.bridged, "results": message.results, "said": verdict.said}
        print(json.dumps(found, ensure_ascii=False))
    else:
        print("\n".join(map(plain, verdict.said)))
    if not verdict.holds:
        raise SystemExit(DOES_NOT_HOLD if verdict.holds is False else CANNOT_BE_TOLD)


async def _key_set(reactor: Any, who: Identity, archive: Archive, message: Message, file: Path | None) -> KeySet:
    """From the file, else from the domain that signed, else as it was when it was last asked."""
    domain, kid = signer(message.content.protected)
    if file is not None:
        return KeySet.decode(file.read_bytes(), domain)  # noqa: ASYNC240, a small file, and nothing else runs
    try:
        octets = await fetch_keys(reactor, domain, **who.where_is(domain))
        key_set = KeySet.decode(octets, domain)
        await archive.keep_key_set(domain.name, octets, time.time())
        return key_set
    except OSError as error:
        kept = await archive.key_set(domain.name)
        if kept is None or not KeySet.decode(kept[0], domain).knows(kid):
            raise Failed(f"the keys of {domain} cannot be had now: {error}", CANNOT_BE_TOLD) from None
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(kept[1]))
        print(f"parley: offline; with the keys that {domain} showed at {when}", file=sys.stderr)
        return KeySet.decode(kept[0], domain)


async def keys(reactor: Any, options: argparse.Namespace) -> None:
    domain = Domain.parse(options.domain)
    octets = await fetch_keys(reactor, domain, **Identity(options).where_is(domain))
    key_set = KeySet.decode(octets, domain)
    if options.out:
        options.out.write_bytes(octets)
    for key in key_set.keys:
        if options.json:
            line = {"kid": key.kid.hex(), "key": key.key.hex()}
            print(json.dumps(line | {"not_before": key.not_before, "not_after": key.not_after}))
            continue
        begin, end = (time.strftime("%Y-%m-%d", time.gmtime(t)) for t in (key.not_before, key.not_after))
        print(f"{key.kid.hex()}  {key.key.hex()}  {begin} to {end}")


def add_commands(commands: Any) -> None:
    parser = commands.add_parser(
        "verify", help="say who signed a message; exit status 0 if it holds, 1 if not, 3 if it cannot be told"
    )
    parser.add_argument("message", help="its UID, or how its id begins")
    parser.add_argument("--mailbox", default="INBOX")
    parser.add_argument("--keys", type=Path, metavar="FILE", help="the signing domain's key set, from `parley keys`")
    parser.add_argument("--json", action="store_true", help="a line of JSON")
    parser.set_defaults(run=verify_message)
    parser = commands.add_parser("keys", help="the keys that a domain shows")
    parser.add_argument("domain")
    parser.add_argument("--out", type=Path, metavar="FILE", help="keep the key set, as it came")
    parser.add_argument("--json", action="store_true", help="a line of JSON for each")
    parser.set_defaults(run=keys)
