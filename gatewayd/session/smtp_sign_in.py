"""Signing in to a smart host: SCRAM-SHA-256-PLUS, SCRAM-SHA-256, else PLAIN; only under TLS (RFC 4954, 5802, 7677)."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from gatewayd.crypto.scram import ScramClient, ScramError
from gatewayd.outcome import Deferred
from gatewayd.session.link import TLSInfo
from gatewayd.wire.smtp.client import ServerReply

Ask = Callable[[str], Awaitable[ServerReply]]


@dataclass(frozen=True, slots=True)
class Credentials:
    user: str
    password: str
    nonce: Callable[[], str]


async def sign_in(ask: Ask, offered: str, tls: TLSInfo | None, who: Credentials) -> Deferred | None:
    """`offered` is what EHLO said after AUTH. None, or why not: mail waits until the operator has mended it."""
    mechanisms = offered.upper().split()
    if tls is None:
        return Deferred("4.7.5", "The smart host offers no TLS: the password is not sent")
    if "SCRAM-SHA-256-PLUS" in mechanisms and tls.exporter:
        return await _scram(ask, "SCRAM-SHA-256-PLUS", who, tls.exporter)
    if "SCRAM-SHA-256" in mechanisms:
        return await _scram(ask, "SCRAM-SHA-256", who, b"")
    if "PLAIN" in mechanisms:
        said = await ask(f"AUTH PLAIN {_plain(who)}")
        return _judge(said)
    return Deferred("4.7.0", f"The smart host offers no way to sign in that we know: {offered or 'nothing'}")


async def _scram(ask: Ask, mechanism: str, who: Credentials, exporter: bytes) -> Deferred | None:
    client = ScramClient(who.user, who.password, who.nonce(), exporter)
    said = await ask(f"AUTH {mechanism} {_base64(client.first())}")
    try:
        if said.code == 334:
            said = await ask(_base64(client.final(_decoded(said))))
        if said.code == 334:
            client.check(_decoded(said))  # the server knows the password too
            said = await ask("")
            return _judge(said)
        if said.code == 235:  # some servers say their proof with the success (RFC 4954 §4)
            client.check(_decoded(said))
    except ScramError as error:
        return Deferred("4.7.0", f"The smart host did not prove that it knows the password: {error}")
    return _judge(said)


def _judge(said: ServerReply) -> Deferred | None:
    if said.code == 235:
        return None
    return Deferred("4.7.8", f"The smart host did not let us sign in: {said.code} {said.text}")


def _plain(who: Credentials) -> str:
    return _base64(f"\0{who.user}\0{who.password}".encode())


def _base64(octets: bytes) -> str:
    return base64.b64encode(octets).decode("ascii")


def _decoded(said: ServerReply) -> bytes:
    try:
        return base64.b64decode(said.text, validate=True)
    except (binascii.Error, ValueError):
        raise ScramError("invalid-encoding") from None
