"""Who the user is, and the connection for one command."""

from __future__ import annotations

import argparse
import getpass
import os
from typing import Any

from gatewayd.address import Address
from gatewayd.client import ParleyClient, connect
from gatewayd.config import endpoint


class Failed(Exception):
    """Ends the command with one line that says why."""


async def signed_in(reactor: Any, options: argparse.Namespace) -> ParleyClient:
    """Raises Failed, RequestFailed, AddressError, OSError."""
    if not options.user:
        raise Failed("who are you? --user name@domain, or PARLEY_USER")
    Address.parse(options.user)
    password = os.environ.get("PARLEY_PASSWORD") or getpass.getpass(f"Password of {options.user}: ")
    server = endpoint(options.server) if options.server else None
    return await connect(reactor, options.user, password, server=server, authorities=options.ca)
