"""The service that twistd starts: the one place where concrete classes meet, joined from the configuration.

`gateway` has the order in which everything is built, started and stopped; the others are its parts: what comes in
(`inbound`), what goes out (`outbound`), one session a connection (`sessions`), where connections come from
(`listeners`), what is done over and over (`upkeep`), and the threads for what would hold up the reactor (`threads`).
"""

from __future__ import annotations

import gc
import sys
from pathlib import Path

from twisted.python import usage

from gatewayd.config import ConfigError, load
from gatewayd.errors import StoreError
from gatewayd.net.clock import make_steady
from gatewayd.service.gateway import Gateway


class Options(usage.Options):
    """What `twistd gatewayd` takes."""

    optParameters = [["config", "c", "/etc/gatewayd/gatewayd.toml", "The configuration file"]]


def makeService(options: Options) -> Gateway:
    """Called by twistd. A bad configuration, or a state directory that does not serve, ends the start with one clear
    line."""
    from twisted.internet import reactor

    gc.set_threshold(100_000, 10, 10)  # messages under way outlive 700 new objects, and would be walked each time
    sys.setswitchinterval(0.0005)  # seconds: the writer thread and the reactor hand over often (Python waits 5 ms)
    make_steady(reactor)
    try:
        return Gateway(load(Path(options["config"])), reactor)
    except (ConfigError, StoreError, OSError) as error:
        raise SystemExit(f"gatewayd: {error}") from None
