"""Who signed: what holds, what does not, and what cannot be told."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import pytest
from msgspec.structs import replace

from gatewayd.address import Domain
from gatewayd.client.message import Message
from gatewayd.client.verifying import verify
from gatewayd.crypto import cose
from gatewayd.crypto.domain_keys import KeySet, PublicKey, SigningKey
from gatewayd.message import bridge
from gatewayd.message.mime import Mail
from gatewayd.message.model import Content, Part, Payload

ALPHA = Domain.parse("alpha.test")
KEY = SigningKey.generate(ALPHA)
KEYS = KeySet("alpha.test", 2000, (PublicKey(KEY.kid, KEY.public, 0, 2000),))
PAYLOAD = Payload(
    "alice@alpha.test", ("bob@beta.test",), 0, bytes(16), parts=(Part(sha256(b"Hi").digest(), "text/plain", 2),)
)


def message(payload: bytes, bodies: dict[bytes, bytes], key: SigningKey = KEY) -> Message:
    protected, signature = cose.sign(payload, key)
    return Message("INBOX", 1, 1, (), Content(protected, payload, signature, bodies))


def native(**fields: Any) -> Message:
    return message(replace(PAYLOAD, **fields).encode(), {sha256(b"Hi").digest(): b"Hi"})


def test_what_holds() -> None:
    verdict = verify(native(), KEYS, 1000)
    assert verdict.holds is True
    assert verdict.said == (
        "Signed by alpha.test, the domain of its author alice@alpha.test.",
        "1 of 1 parts are here, and are what was signed.",
    )


def test_a_part_that_is_not_here_is_said_to_be_missing() -> None:
    verdict = verify(message(PAYLOAD.encode(), {}), KEYS, 1000)
    assert (verdict.holds, verdict.said[-1]) == (True, "0 of 1 parts are here, and are what was signed.")


def test_born_as_mail() -> None:
    mail = b"From: Boss <boss@alpha.test>\r\n\r\nPay!\r\n"
    payload, bodies = bridge.bridged_payload(
        Mail(mail), by=ALPHA, nonce=bytes(16), received_ms=0, reverse_path=None, auth={"spf": "fail", "dmarc": "fail"}
    )
    verdict = verify(message(payload.encode(), dict(bodies)), KEYS, 1000)
    assert verdict.holds is True
    assert verdict.said[:3] == (
        "Born as mail. alpha.test took it in, and signs for that and for nothing else.",
        "Who wrote it is what the mail says: boss@alpha.test.",
        "What alpha.test found: SPF fail, DMARC fail.",
    )
    other = replace(payload, ext={"bridged": {"by": "beta.test"}})
    assert verify(message(other.encode(), dict(bodies)), KEYS, 1000).holds is False


def test_what_does_not_hold() -> None:
    good = native()
    forged = [
        Content(good.content.protected, good.content.payload, bytes(64), good.content.bodies),
        Content(good.content.protected, replace(PAYLOAD, subject="x").encode(), good.content.signature, {}),
        Content(
            good.content.protected, good.content.payload, good.content.signature, {sha256(b"Hi").digest(): b"Ho"}
        ),
    ]  # fmt: skip
    for content in forged:
        verdict = verify(Message("INBOX", 1, 1, (), content), KEYS, 1000)
        assert verdict.holds is False
        assert verdict.said[0].startswith("Not what it says: ")


def test_a_domain_does_not_sign_for_users_of_others() -> None:
    for author in ("carol@beta.test", "nobody"):
        verdict = verify(native(from_=author), KEYS, 1000)
        assert verdict.holds is False


@pytest.mark.parametrize("when", [1000.0, 3000.0])
def test_a_key_that_is_not_shown(when: float) -> None:
    """Rotated away: nobody can tell. Shown still, but over: it does not hold."""
    assert verify(native(), KeySet("alpha.test", 2000, ()), when).holds is None
    assert verify(native(), KEYS, when).holds is (when < 2000)
