"""gatewayctl tls: what is remembered of other domains' TLS, and forgetting it."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from gatewayd.address import Domain
from gatewayd.cli.queue import time
from gatewayd.core.tls_policy import Level

WORDS = {Level.ENCRYPTED: "encrypted", Level.VERIFIED: "verified"}


async def tls(gateway: Any, options: argparse.Namespace) -> None:
    if options.action == "forget":
        domain = Domain.parse(options.domain)
        if not await gateway.tls.forget(domain):
            raise ValueError(f"nothing is remembered of {domain}")
        print(f"{domain} begins anew")
        return
    for name, level, since in await gateway.tls.levels():
        print(f"{name} {WORDS[Level(level)]} since {time(since)}")


def add_commands(parser: Any, command: Callable[..., argparse.ArgumentParser]) -> None:
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    command(actions, "list", tls)
    command(actions, "forget", tls, "domain")
