"""The Parley client as a library: sign in as a user, send, read the log, stay on its live tail (docs/parley.rst).

A bot is ten lines: docs/bot.py. What each method does for a bot: docs/parley-client.rst.
"""

from gatewayd.client.connection import ParleyClient, connect
from gatewayd.client.dialling import locate
from gatewayd.client.message import Draft, Message, Receipt, compose
from gatewayd.session.parley_client import ConnectionGone, RequestFailed
from gatewayd.session.parley_transfer import TransferFailed
from gatewayd.wire.parley.schema import Contact

__all__ = [
    "ConnectionGone",
    "Contact",
    "Draft",
    "Message",
    "ParleyClient",
    "Receipt",
    "RequestFailed",
    "TransferFailed",
    "compose",
    "connect",
    "locate",
]
