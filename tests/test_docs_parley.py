"""The specification's test vectors are what the code makes; regenerate with `python -m tests.test_docs_parley`."""

from __future__ import annotations

import hashlib
import re
import sys
import textwrap
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec.structs import replace

from gatewayd import config
from gatewayd.address import Domain
from gatewayd.core.consent import MAX_PAYLOAD as INTRODUCTION
from gatewayd.core.consent import MAX_SUBJECT, Policy
from gatewayd.core.contacts import ANSWERED, ASKED
from gatewayd.core.keys import MAX_KEPT
from gatewayd.core.pulling import PER_PEER, QUOTA, TOTAL
from gatewayd.crypto import cose, domain_auth
from gatewayd.crypto.domain_keys import MAX_KEYS, KeySet, PublicKey, SigningKey
from gatewayd.crypto.merkle import MAX_STEPS
from gatewayd.interfaces.records import MAX_MAILBOXES, MAX_NAME
from gatewayd.message.model import INLINE, INLINE_TOTAL, MAX_PARENTS, MAX_PAYLOAD, Content, Part, Payload
from gatewayd.message.object_types import MAX_REACTION
from gatewayd.message.render import LARGEST
from gatewayd.outcome import outcome
from gatewayd.session import parley_server, parley_signal, parley_sync
from gatewayd.session.parley_send import MAX_RECIPIENTS
from gatewayd.session.parley_transfer import WINDOW
from gatewayd.session.smtp_server import as_reply
from gatewayd.store.holdings import MAX_FILES
from gatewayd.strict_cbor import MAX_DEPTH
from gatewayd.wire.parley.connection import FIRST_FRAME, MAX_FRAME, MAX_OPEN, MAX_REPLY, ParleyConnection, Request
from gatewayd.wire.parley.schema import CHUNK, MAX_FETCH, Hello, Keys
from tests.test_docs_parley_refused import refused

SPECIFICATION = Path(__file__).parent.parent / "docs/parley.rst"
MARK = ".. vectors\n"


def vectors() -> str:
    alpha, beta = Domain.parse("alpha.test"), Domain.parse("beta.test")
    key = SigningKey.of(alpha, Ed25519PrivateKey.from_private_bytes(b"\1" * 32))
    key_set = KeySet("alpha.test", 1767225600, (PublicKey(key.kid, key.public, 1735689600, 1798761600),))
    body = b"Hello, Bob.\n"
    digest = hashlib.sha256(body).digest()
    fields = Payload(
        from_="alice@alpha.test", to=("bob@beta.test",), date=1735689600000, nonce=b"\3" * 16, subject="Hello",
        parts=(Part(digest, "text/plain; charset=utf-8", len(body)),),
    )  # fmt: skip
    payload = fields.encode()
    batch = cose.sign_batch([replace(fields, nonce=nonce * 16).encode() for nonce in (b"\3", b"\4", b"\5")], key)
    protected, signature = cose.sign(payload, key)
    content = Content(protected, payload, signature, {digest: body})
    edit = Payload(
        from_="alice@alpha.test", to=("bob@beta.test",), date=1735689660000, nonce=b"\4" * 16, type="edit",
        parts=(Part(digest, "text/plain; charset=utf-8", len(body)),), replaces=content.id,
    )  # fmt: skip
    receipt = Payload(
        from_="bob@beta.test", to=("alice@alpha.test",), date=1735689720000, nonce=b"\5" * 16, type="receipt",
        parents=(content.id,),
        ext={"receipt": {"status": "displayed"}, "references": [f"{content.id.hex()}@alpha.test"]},
    )  # fmt: skip
    connection = ParleyConnection()
    values = [
        ("Public key", key.public),
        ("kid", key.kid),
        ("Key set", key_set.encode()),
        ("Signature of section 4.3, from alpha.test to beta.test", domain_auth.sign(key, beta, b"\2" * 32)),
        ("Body", body),
        ("Payload", payload),
        ("Object id", content.id),
        ("Protected header", protected),
        ("Signature", signature),
        ("Signed form", content.signed),
        ("Payload of an edit of it", edit.encode()),
        ("Payload of a receipt for it, by bob", receipt.encode()),
        ("Protected header in a batch", batch[0][0]),
        ("Signature in a batch of three: this payload, and it with nonces of 04 and of 05", batch[0][1]),
        ("Signature of the third", batch[2][1]),
        ("Frame HELLO", connection.send(Hello(1, "mx.alpha.test", 65536))),
        ("Frame REQ keys, stream 1", connection.send(Request(1, "keys", Keys("beta.test")))),
    ]
    return (
        "".join(
            f"\n{name}::\n\n" + textwrap.indent("\n".join(textwrap.wrap(octets.hex(), 96)), "    ") + "\n"
            for name, octets in values
        )
        + refused()
    )


def test_sections_rise_and_what_is_referred_to_is_there() -> None:
    text = SPECIFICATION.read_text()
    sections = re.findall(r"^(\d+(?:\.\d+)?)\.? [A-Za-z].*\n[-~]+$", text, re.MULTILINE)
    assert len(sections) > 30
    numbers = [tuple(map(int, section.split("."))) for section in sections]
    assert numbers == sorted(set(numbers))
    ours = re.sub(r"RFC \d+\s+section[^,.;)]*|section[^,.;)]*\s+of\s+RFC", "", text)
    assert set(re.findall(r"section\s+(\d+(?:\.\d+)?)", ours)) <= set(sections)
    assert not re.search(r"^(<<<<<<<|=======$|>>>>>>>)", text, re.MULTILINE)  # of a merge


def test_vectors_are_those_of_the_code() -> None:
    assert SPECIFICATION.read_text().partition(MARK)[2] == vectors()


GATEWAYD = SPECIFICATION.parent.parent / "gatewayd"


def rows(title: str) -> list[list[str]]:
    """The first table of a section, without its head."""
    text = SPECIFICATION.read_text()
    lines = iter(text[text.index(f"\n{title}\n") :].splitlines())
    rules = 0
    found = []
    for line in lines:
        if re.fullmatch(r"=[= ]+", line):
            rules += 1
        elif rules == 2:
            found.append(line.split())
        if rules == 3:
            break
    return found


def said(pattern: str, *globs: str) -> set[str]:
    """What stands in the code."""
    files = [path for glob in globs for path in GATEWAYD.glob(glob)]
    assert len(files) >= len(globs)
    return {found for path in files for found in re.findall(pattern, path.read_text())}


def test_the_registry_of_errors_is_whole() -> None:
    pattern = r'(?:Failed|RemoteProtocolError|_bye|_say_bye|Error)\(\s*"([a-z-]+)"'
    assert {row[0] for row in rows("10.1 Errors of requests and connections")} == said(
        pattern, "session/parley_*.py", "wire/parley/*.py"
    )


def test_the_registry_of_statuses_is_whole() -> None:
    """Each is said somewhere, and what the parts that Parley uses say stands there; SMTP answers as it tells."""
    pattern = r'(?:Delivered|Deferred|Refused)\(\s*"(\d\.\d+\.\d+)"'
    registry = {row[0]: int(row[1]) for row in rows("10.2 Statuses of recipients")}
    assert registry.keys() <= said(pattern, "core/*.py", "session/parley_*.py", "*.py")
    of_parley = said(pattern, "session/parley_*.py", "outcome.py", "routing.py", *CORE)
    assert of_parley - {"2.1.0", "2.1.5", "5.1.8", "5.7.27"} <= registry.keys()  # SMTP's own
    for code, number in registry.items():
        assert as_reply(outcome(code, "x")).code == number
    for row in rows("10.2 Statuses of recipients"):
        assert row[2] == {"2": "delivered", "4": "delayed", "5": "failed"}[row[0][0]]


def test_the_limits_are_those_of_the_code() -> None:
    limits = {
        "Octets of a frame before sign-in": FIRST_FRAME,
        "Octets of a frame that a listener takes": MAX_FRAME,
        "Octets of a frame that a dialler takes": MAX_REPLY,
        "Levels of a frame": MAX_DEPTH,
        "Seconds of silence before sign-in": parley_server.BEFORE_SIGN_IN,
        "Seconds to sign in, all in all": parley_server.SIGN_IN,
        "Failed sign-ins": parley_server.MAX_AUTH_FAILURES,
        "Open requests in one direction": MAX_OPEN,
        "Requests of a user worked on at once": parley_server.CONCURRENT,
        "Requests of a domain worked on at once": parley_server.OF_PEER,
        "Seconds of silence of a dialler": parley_server.IDLE,
        "Seconds of silence of one who owes an answer": parley_server.ANSWER,
        "Recipients of a send": MAX_RECIPIENTS,
        "Octets of a payload": MAX_PAYLOAD,
        "Octets of a body inline": INLINE,
        "Octets of all bodies inline": INLINE_TOTAL,
        "Parents of an object": MAX_PARENTS,
        "Octets of a reaction": MAX_REACTION,
        "Octets of the blobs of an object": config.Limits().object_size,
        "Octets of a chunk": CHUNK,
        "Chunks of one blob in flight": WINDOW,
        "Octets brought that no message names": QUOTA,
        "Blobs brought that no message names": MAX_FILES,
        "Objects fetched at once from one domain": PER_PEER,
        "Objects fetched at once from all": TOTAL,
        "Changes of a page": parley_sync.MAX_SYNC,
        "Octets of a page, or of fetched objects": parley_sync.PAGE,
        "Ids of a fetch": MAX_FETCH,
        "Characters of a mailbox name": MAX_NAME,
        "Mailboxes of an account": MAX_MAILBOXES,
        "Recipients of a signal": parley_signal.MAX_RECIPIENTS,
        "Seconds of a presence": parley_signal.LEASES["presence"],
        "Seconds of a typing": parley_signal.LEASES["typing"],
        "Look-ups a minute of a domain": ANSWERED,
        "Look-ups a minute of a user elsewhere": ASKED,
        "Keys of a set": MAX_KEYS,
        "Seconds that a set is kept": MAX_KEPT,
        "Steps of the proof in a batch": MAX_STEPS,
    }
    text = SPECIFICATION.read_text()
    section = text[text.index("\n11. Limits\n") : text.index("\n12. ")]
    table = re.findall(r"^(\S.*?)  +([\d,]+)  +\S", section, re.MULTILINE)
    assert {name: int(value.replace(",", "")) for name, value in table} == limits


def test_numbers_in_the_prose_are_those_of_the_code() -> None:
    text = " ".join(SPECIFICATION.read_text().split())
    policy = Policy()
    for phrase in (
        f"in this implementation {policy.text} characters",
        f"{MAX_SUBJECT} of a subject, {INTRODUCTION} octets of payload",
        f"of one sender to one user (here {policy.pending})",
        f"to one user (here {policy.per_account}, from one domain a fifth of it)",
        f"do not exist included (here {policy.per_domain})",
        f"at most {MAX_KEYS} keys",
        f"at most {MAX_PARENTS}",
        f"nesting at most {MAX_DEPTH} deep",
        f"A payload has at most {MAX_PAYLOAD:,} octets",
        f"is a body of more than {INLINE:,} octets",
        f"above {INLINE_TOTAL:,} octets together",
        f"{LARGEST // 1024**2} MiB is replaced by a text part",
        f"answers {ANSWERED} look-ups a minute",
    ):
        assert phrase in text, phrase


CORE = [f"core/{name}.py" for name in ("consent", "contacts", "delivery", "filing", "posting", "pulling", "relay")]


def test_no_merge_left_its_marks() -> None:
    lines = SPECIFICATION.read_text().splitlines()
    assert [number for number, line in enumerate(lines, 1) if re.match(r"[=<>]{7}( |$)", line)] == []


if __name__ == "__main__":
    text = SPECIFICATION.read_text().partition(MARK)[0] + MARK + vectors()
    sys.exit(None if SPECIFICATION.write_text(text) else "nothing written")
