"""What a payload may say: whatever is accepted, a mail form can be made of it."""

from __future__ import annotations

import base64
from typing import Any

import cbor2
import pytest

from gatewayd.message.bridge import as_mail
from gatewayd.message.model import YEAR_10000, Content, ObjectError, Part, Payload

GOOD: dict[str, Any] = {"from": "alice@alpha.test", "to": ["bob@beta.test"], "date": 0, "nonce": b"\1" * 16}


@pytest.mark.parametrize("date", [0, 1, YEAR_10000 - 1])
def test_every_date_that_is_taken_can_be_said(date: int) -> None:
    payload = cbor2.dumps(GOOD | {"date": date})
    assert b"\r\nDate: " in as_mail(Content(b"", payload, b"", {}))


@pytest.mark.parametrize(
    "change",
    [
        {"date": YEAR_10000}, {"date": -1}, {"date": 2**63}, {"date": "0"}, {"type": "mail"},
        {"type": "mail", "parts": []}, {"nonce": base64.b64encode(b"\1" * 16).decode()}, {"to": "bob@beta.test"},
        {"parts": [{"hash": "AAAA", "type": "text/plain", "size": 0}]}, {"from": None},
    ],
    ids=repr,
)  # fmt: skip
def test_what_no_payload_says(change: dict[str, Any]) -> None:
    with pytest.raises(ObjectError, match="bad payload"):
        Payload.decode(cbor2.dumps(GOOD | change))


def test_what_is_encoded_is_decoded() -> None:
    payload = Payload("a@b.test", ("c@d.test",), 7, b"n" * 16, parts=(Part(b"h" * 32, "text/plain", 3, "x"),))
    assert Payload.decode(payload.encode()) == payload
