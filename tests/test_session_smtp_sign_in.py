"""Signing in to a smart host; the server's side of SCRAM is our own, which has its own tests."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from gatewayd.crypto.scram import ScramServer, derive
from gatewayd.outcome import Deferred
from gatewayd.session.link import TLSInfo
from gatewayd.session.smtp_sign_in import Credentials, sign_in
from gatewayd.wire.smtp.client import ServerReply
from tests.loop import Loop

WHO = Credentials("relay", "sesame", lambda: "nonce")
TLS = TLSInfo("TLSv1.3", "x", "", b"e" * 32)


class Host:
    """Knows one password; says its proof with a 334, or with the success."""

    def __init__(self, password: str = "sesame", *, early: bool = False) -> None:
        self.plain = b"\0relay\0" + password.encode()
        self.keys = derive(password, b"salt" * 4, 4096)
        self.early = early
        self.heard: list[str] = []
        self.scram: ScramServer | None = None

    async def ask(self, command: str) -> ServerReply:
        self.heard.append(command)
        words = command.split(" ")
        if words[:2] == ["AUTH", "PLAIN"]:
            return ServerReply(235 if base64.b64decode(words[2]) == self.plain else 535, ("5.7.8 no",))
        try:
            return self._scram(words)
        except ValueError:
            return ServerReply(535, ("5.7.8 no",))

    def _scram(self, words: list[str]) -> ServerReply:
        if words[0] == "AUTH":
            self.scram = ScramServer("host", TLS.exporter, plus=words[1].endswith("PLUS"))
            self.scram.first(base64.b64decode(words[2]))
            return self._say(334, self.scram.challenge(b"salt" * 4, 4096))
        if not words[0]:
            return ServerReply(235, ("2.7.0 welcome",))
        assert self.scram is not None
        proof = self.scram.final(base64.b64decode(words[0]), self.keys.stored_key, self.keys.server_key)
        return self._say(235 if self.early else 334, proof)

    def _say(self, code: int, octets: bytes) -> ServerReply:
        return ServerReply(code, (base64.b64encode(octets).decode(),))


def run(host: Host, offered: str, tls: TLSInfo | None = TLS) -> Any:
    return Loop().one(sign_in(host.ask, offered, tls, WHO))


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        ("PLAIN LOGIN", "PLAIN"),
        ("PLAIN SCRAM-SHA-256", "SCRAM-SHA-256"),
        ("plain scram-sha-256 scram-sha-256-plus", "SCRAM-SHA-256-PLUS"),
    ],
)
@pytest.mark.parametrize("early", [True, False])
def test_the_strongest_that_is_offered(offered: str, chosen: str, early: bool) -> None:
    host = Host(early=early)
    assert run(host, offered) is None
    assert host.heard[0].split()[1] == chosen


@pytest.mark.parametrize("offered", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"])
def test_a_wrong_password_waits_for_the_operator(offered: str) -> None:
    answer = run(Host("another"), offered)
    assert isinstance(answer, Deferred) and answer.code in {"4.7.8", "4.7.0"}


def test_no_password_without_tls_or_a_way() -> None:
    host = Host()
    assert run(host, "PLAIN", None).code == "4.7.5"
    assert run(host, "CRAM-MD5").code == "4.7.0"
    assert host.heard == []


def test_a_host_that_does_not_know_the_password() -> None:
    host = Host()
    honest = host.ask

    async def forged(command: str) -> ServerReply:
        said = await honest(command)
        return (
            ServerReply(235, (base64.b64encode(b"v=" + base64.b64encode(bytes(32))).decode(),))
            if len(host.heard) == 2
            else said
        )

    host.ask = forged  # type: ignore[method-assign]
    assert run(host, "SCRAM-SHA-256").code == "4.7.0"
