"""What a payload may say: whatever is accepted, a mail form can be made of it."""

from __future__ import annotations

import base64
from hashlib import sha256
from typing import Any

import cbor2
import pytest
from msgspec.structs import replace

from gatewayd.message.bridge import as_mail
from gatewayd.message.model import INLINE, INLINE_TOTAL, YEAR_10000, Content, ObjectError, Part, Payload

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


def made(*sizes: int) -> Content:
    parts = tuple(Part(bytes([number]) * 32, "text/plain", size) for number, size in enumerate(sizes))
    return Content(b"", Payload("a@b.test", (), 0, b"n" * 16, parts=parts).encode(), b"", {})


@pytest.mark.parametrize(
    ("sizes", "blobs"),
    [
        ((), []),
        ((0, INLINE), []),
        ((INLINE + 1, 1), [0]),
        ((INLINE,) * 9, [8]),
        ((INLINE,) * 8 + (0, 1, 0), [9]),
        ((INLINE - 1,) * 9 + (8,), [8]),
        ((2**40, 1), [0]),
    ],
    ids=repr,
)
def test_what_is_a_blob_follows_from_the_payload(sizes: tuple[int, ...], blobs: list[int]) -> None:
    content = made(*sizes)
    assert [digest[0] for digest in content.blobs] == blobs
    assert [part.hash[0] for part in content.absent] == blobs
    assert sum(size for number, size in enumerate(sizes) if number not in blobs) <= INLINE_TOTAL


def test_bodies_are_checked_but_blobs_may_be_elsewhere() -> None:
    body = b"x" * 100
    part = Part(sha256(body).digest(), "text/plain", len(body))
    large = Part(bytes(32), "video/mp4", 10**9)

    def check(*parts: Part, bodies: tuple[bytes, ...] = (body,)) -> None:
        payload = Payload("a@b.test", (), 0, b"n" * 16, parts=parts).encode()
        Content(b"", payload, b"", {sha256(body).digest(): body for body in bodies}).check_bodies()

    check(part)
    check(part, part, large)
    for parts, bodies, why in (
        ((part,), (), "missing"),
        ((part,), (body, b"more"), "does not match"),
        ((part, replace(part, size=101)), (body,), "two sizes"),
        ((replace(part, size=-1),), (body,), "does not match"),
        ((replace(part, hash=b"short"),), (body,), "without a SHA-256"),
        ((large, replace(large, size=10**9 + 1)), (), "two sizes"),
    ):
        with pytest.raises(ObjectError, match=why):
            check(*parts, bodies=bodies)


def test_what_is_encoded_is_decoded() -> None:
    payload = Payload("a@b.test", ("c@d.test",), 7, b"n" * 16, parts=(Part(b"h" * 32, "text/plain", 3, "x"),))
    assert Payload.decode(payload.encode()) == payload


@pytest.mark.parametrize("value", ["d81c81d81d00", "f93c00", "c249ffffffffffffffffff", "f7", "9fff", "81" * 15 + "01"])
def test_payloads_are_strict_cbor(value: str) -> None:
    """What is in `ext` is anybody's: a list that holds itself, a float, a tag, too deep."""
    fields = {"from": "a@a.test", "to": ["b@b.test"], "date": 1, "nonce": bytes(16), "ext": {"x": 1}}
    octets = cbor2.dumps(fields)
    assert Payload.decode(octets).ext == {"x": 1}
    with pytest.raises(ObjectError):
        Payload.decode(octets[:-1] + bytes.fromhex(value))
