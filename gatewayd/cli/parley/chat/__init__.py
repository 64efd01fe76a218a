"""`parley chat`: conversations on the whole screen.

Two loops: textual draws with asyncio on the main thread, and Twisted's reactor runs in a thread of its own, where the
connection, the archive and the outbox live. So a screen that is slow to draw holds up no frame, and nothing of either
has to know the other's loop; `bridge.py` is the only place where they meet. (Twisted's asyncioreactor would put both on
one loop, but has to be installed before anything imports the reactor, and shares its delays.)
"""

from __future__ import annotations

import argparse
import sys
import threading
from pathlib import Path
from typing import Any

from gatewayd.address import Address
from gatewayd.cli.parley.account import Failed, Identity


def chat(options: argparse.Namespace) -> None:
    """On the main thread; returns when the user leaves."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise Failed("chat needs a terminal; `parley watch` shows messages without one")
    from twisted.internet import reactor as global_reactor

    from gatewayd.cli.parley.chat.app import ChatApp

    if options.trace:
        raise Failed("--trace would write over the screen; `parley --trace watch` shows the same frames")
    reactor: Any = global_reactor
    who = Identity(options)
    first = str(Address.parse(options.with_)) if options.with_ else ""
    device = who.device(reactor)
    thread = threading.Thread(target=reactor.run, kwargs={"installSignalHandlers": False}, daemon=True)
    thread.start()
    try:
        ChatApp(reactor, device, first, downloads=options.into, tell=options.displayed, signal=not options.quiet).run()
    finally:
        reactor.callFromThread(device.parley.close)
        reactor.callFromThread(reactor.stop)
        thread.join(10)
        device.archive.close()


def add_commands(commands: Any) -> None:
    parser = commands.add_parser("chat", help="conversations on the whole screen")
    parser.add_argument("with_", metavar="address", nargs="?", help="whom to begin with")
    parser.add_argument("--into", type=Path, default=Path(), metavar="DIRECTORY", help="where files are saved")
    parser.add_argument("--displayed", action="store_true", help="let authors who ask know what you have read")
    parser.add_argument("--quiet", action="store_true", help="tell nobody that you are there, or writing")
    parser.set_defaults(foreground=chat)
