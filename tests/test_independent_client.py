"""A second implementation: a client written after docs/parley.rst alone, which shares no code with gatewayd.

It signs in, sends to two domains, follows its log, verifies signatures (those of a batch too), fetches a blob in chunks
and lets a stranger in, against real gateways. What it had to guess would be a fault of the document.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import socket
import struct
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cbor2
import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from OpenSSL import SSL

from demo.world import PASSWORD, World

HELLO, REQ, RES, PUSH, BYE = range(5)
CHUNK = 65536
INLINE, INLINE_TOTAL = 65536, 524288


class Refused(Exception):
    """An error of section 10.1."""


class Client:
    """Sections 3, 4, 6 and 7. `ca` is the authority that it trusts."""

    def __init__(self, at: tuple[str, int], domain: str, ca: Path) -> None:
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_min_proto_version(SSL.TLS1_3_VERSION)
        context.load_verify_locations(str(ca))
        context.set_verify(SSL.VERIFY_PEER)
        context.set_alpn_protos([b"parley/1"])
        connection = socket.create_connection(at, timeout=20)
        connection.settimeout(None)  # else OpenSSL would not wait
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 20, 0))
        self._tls = SSL.Connection(context, connection)
        self._tls.set_tlsext_host_name(domain.encode())
        self._tls.set_connect_state()
        self._tls.do_handshake()
        assert self._tls.get_alpn_proto_negotiated() == b"parley/1"
        self._check_name(domain)
        self._heard, self._stream = b"", 0
        self.pushed: deque[list[Any]] = deque()
        self.say([HELLO, 0, "", {"version": 1, "name": "independent", "frame": 1 << 20}])
        kind, _, _, self.hello = self.hear()
        assert kind == HELLO

    def _check_name(self, domain: str) -> None:
        """Section 4.1, for certificates without an SRV-ID."""
        certificate = self._tls.get_peer_certificate()
        assert certificate is not None
        names = certificate.to_cryptography().extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert domain in names.get_values_for_type(x509.DNSName)

    def say(self, *frames: list[Any]) -> None:
        self._tls.sendall(b"".join(len(item).to_bytes(4, "big") + item for item in map(cbor2.dumps, frames)))

    def hear(self) -> list[Any]:
        while len(self._heard) < 4 or len(self._heard) < 4 + int.from_bytes(self._heard[:4], "big"):
            self._heard += self._tls.recv(65536)
        end = 4 + int.from_bytes(self._heard[:4], "big")
        frame, self._heard = cbor2.loads(self._heard[4:end]), self._heard[end:]
        assert frame[0] != BYE, frame
        return list(frame)

    def ask(self, method: str, **body: Any) -> dict[str, Any]:
        return self.ask_all(method, [body])[0]

    def ask_all(self, method: str, bodies: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """In one write; the replies come in any order."""
        first = self._stream + 1
        self._stream += len(bodies)
        self.say(*([REQ, first + n, method, body] for n, body in enumerate(bodies)))
        replies: dict[int, dict[str, Any]] = {}
        while len(replies) < len(bodies):
            frame = self.hear()
            if frame[0] == PUSH:
                self.pushed.append(frame)
                continue
            assert frame[0] == RES
            assert frame[2] == method
            if "error" in frame[3]:
                raise Refused(frame[3]["error"])
            replies[frame[1]] = frame[3]
        return [replies[first + n] for n in range(len(bodies))]

    def sign_in(self, user: str, password: str) -> None:
        """Section 4.2: RFC 5802 with RFC 9266."""
        exporter = self._tls.export_keying_material(b"EXPORTER-Channel-Binding", 32, b"")
        header, nonce = "p=tls-exporter,,", base64.b64encode(os.urandom(18)).decode()
        bare = f"n={user},r={nonce}"
        mechanism = "SCRAM-SHA-256-PLUS"
        first = self.ask("auth", mechanism=mechanism, data=(header + bare).encode())
        assert first["done"] is False
        challenge = first["data"].decode()
        said = dict(field.split("=", 1) for field in challenge.split(","))
        assert said["r"].startswith(nonce)
        assert 4096 <= int(said["i"]) <= 100_000
        salted = hashlib.pbkdf2_hmac("sha256", password.encode(), base64.b64decode(said["s"]), int(said["i"]))
        binding = base64.b64encode(header.encode() + exporter).decode()
        final = f"c={binding},r={said['r']}"
        authed = ",".join((bare, challenge, final)).encode()
        key = hmac.digest(salted, b"Client Key", "sha256")
        signature = hmac.digest(hashlib.sha256(key).digest(), authed, "sha256")
        proof = base64.b64encode(bytes(a ^ b for a, b in zip(key, signature, strict=True))).decode()
        last = self.ask("auth", mechanism=mechanism, data=f"{final},p={proof}".encode())
        assert last["done"] is True
        server = hmac.digest(hmac.digest(salted, b"Server Key", "sha256"), authed, "sha256")
        assert last["data"] == b"v=" + base64.b64encode(server)

    def log(self, live: bool = False) -> Iterator[dict[str, Any]]:
        """The changes of section 7.4; with `live`, on and on."""
        since, epoch, more = 0, b"", True
        while more:
            page = self.ask("sync", since=since, epoch=epoch, live=live)
            since, epoch, more = page["modseq"], page["epoch"], page.get("more", False)
            yield from page["changes"]
        while live:
            while not self.pushed:
                self.pushed.append(self.hear())
            _, _, method, page = self.pushed.popleft()
            if method == "changes":
                yield from page["changes"]

    def await_message(self, subject: str) -> dict[str, Any]:
        for change in self.log(live=True):
            if change.get("signed") and payload_of(change)["subject"] == subject:
                return change
        raise AssertionError

    def put(self, blob: bytes) -> None:
        """Section 7.9, all chunks in flight."""
        about = {"hash": sha256(blob), "size": len(blob)}
        there = self.ask("put", **about, offset=0)["offset"]
        chunks = [{**about, "offset": at, "data": blob[at : at + CHUNK]} for at in range(there, len(blob), CHUNK)]
        assert self.ask_all("put", chunks)[-1]["offset"] == len(blob)

    def get(self, digest: bytes) -> bytes:
        """Section 7.10."""
        reply = self.ask("get", hash=digest, offset=0)
        blob = reply["data"]
        while len(blob) < reply["size"]:
            blob += self.ask("get", hash=digest, offset=len(blob))["data"]
        assert sha256(blob) == digest
        return blob


def sha256(octets: bytes) -> bytes:
    return hashlib.sha256(octets).digest()


def canonical(item: Any) -> bytes:
    return cbor2.dumps(item, canonical=True)


def payload_of(change: dict[str, Any]) -> dict[str, Any]:
    payload: dict[str, Any] = cbor2.loads(cbor2.loads(change["signed"])[2])
    return {"subject": "", "parts": [], **payload}


def compose(author: str, to: list[str], subject: str, *bodies: bytes) -> dict[str, Any]:
    """The body of a `send` (sections 7.3, 8, 8.6)."""
    parts, inline = [], []
    for number, body in enumerate(bodies):
        about: dict[str, Any] = {"hash": sha256(body), "type": "text/plain; charset=utf-8", "size": len(body)}
        if number:
            about |= {"type": "application/octet-stream", "name": f"{number}.bin"}
        parts.append(about)
        if len(body) <= INLINE and sum(map(len, inline)) + len(body) <= INLINE_TOTAL:
            inline.append(body)
    payload = {
        "from": author, "to": to, "date": int(time.time() * 1000), "nonce": os.urandom(16), "subject": subject,
        "parts": parts,
    }  # fmt: skip
    return {"to": to, "payload": canonical(payload), "bodies": inline}


def verify(signed: bytes, key_set: dict[str, Any], id: bytes) -> int:
    """Sections 8 and 8.5: which algorithm it was signed by. Raises InvalidSignature."""
    protected, unprotected, payload, signature = cbor2.loads(signed)
    header = cbor2.loads(protected)
    assert (unprotected, set(header), header["iss"]) == ({}, {1, 4, "iss"}, key_set["domain"])
    assert sha256(payload) == id
    (key,) = [key for key in key_set["keys"] if key["kid"] == header[4]]
    assert key["kid"] == sha256(key["key"])[:8]
    assert key["not_before"] <= time.time() <= key["not_after"]
    public = Ed25519PublicKey.from_public_bytes(key["key"])
    structure = cbor2.dumps(["Signature1", protected, b"", payload])
    if header[1] == -8:
        public.verify(signature, structure)
        return -8
    assert header[1] == -70001
    ed25519, sides, path = signature[:64], int.from_bytes(signature[64:68], "big"), signature[68:]
    assert path
    assert len(path) % 32 == 0
    node = sha256(b"\0" + structure)
    for at in range(0, len(path), 32):
        sibling = path[at : at + 32]
        node = sha256(b"\1" + (sibling + node if sides & 1 else node + sibling))
        sides >>= 1
    assert not sides
    public.verify(ed25519, canonical(["parley/1 batch", node]))
    return -70001


class Net:
    """Two domains, and how they are reached."""

    def __init__(self, world: World) -> None:
        self._gateways = world.gateways

    def dial(self, domain: str) -> Client:
        return Client(self._gateways[domain].port("parley"), domain, self._gateways[domain].root / "ca.pem")

    def user(self, address: str) -> Client:
        made = self.dial(address.partition("@")[2])
        made.sign_in(address, PASSWORD)
        return made

    def keys(self, domain: str) -> dict[str, Any]:
        """Section 5: before anybody has signed in."""
        key_set: dict[str, Any] = cbor2.loads(self.dial(domain).ask("keys", domain=domain)["keys"])
        assert key_set["domain"] == domain
        assert key_set["expires"] > time.time()
        return key_set


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory, reactor: Any) -> Iterator[Net]:
    where = {"alpha.test": "127.0.0.91", "beta.test": "127.0.0.92"}
    world = World(tmp_path_factory.mktemp("world"), where, {}, ["alice", "bob", "carol"])
    world.start()
    yield Net(world)
    world.stop()


def test_two_people_meet_and_send_files(net: Net) -> None:
    alice, bob = net.user("alice@alpha.test"), net.user("bob@beta.test")
    here, there = "carol@alpha.test", "bob@beta.test"
    blob = os.urandom(300_000)
    assert alice.ask("lookup", address=there)["way"] == "parley"
    hello = alice.ask("send", **compose("alice@alpha.test", [here, there], "hello", b"It is me"))
    assert [(result["to"], result["code"][0]) for result in hello["results"]] == [(here, "2"), (there, "2")]
    first = bob.await_message("hello")
    assert first["mailbox"] == "Introductions"
    (asking,) = bob.ask("consent", action="list")["contacts"]
    assert (asking["address"], asking["state"]) == ("alice@alpha.test", "requested")
    assert bob.ask("consent", action="grant", address="alice@alpha.test")["contacts"][0]["state"] == "granted"
    assert alice.ask("lookup", address=there)["granted"] is True
    send = compose("alice@alpha.test", [here, there], "a file", b"Look at this", blob)
    refused = alice.ask("send", **send)["results"]
    assert {result["code"] for result in refused} == {"5.6.0"}  # put it first
    alice.put(blob)
    alice.ask("send", **send)
    for reader in (bob, net.user(here)):
        change = reader.await_message("a file")
        assert verify(change["signed"], net.keys("alpha.test"), change["id"]) in (-8, -70001)
        text, file = payload_of(change)["parts"]
        assert (change["mailbox"], change["bodies"], text["hash"]) == (
            "INBOX",
            [b"Look at this"],
            sha256(b"Look at this"),
        )
        assert reader.get(file["hash"]) == blob
    assert bob.ask("mark", mailbox="INBOX", uids=[change["uid"]], add=["\\Seen"])["changes"] == []


def test_a_batch_has_one_signature_and_each_proves_itself(net: Net) -> None:
    alice, key_set = net.user("alice@alpha.test"), net.keys("alpha.test")
    to = ["carol@alpha.test"]
    replies = alice.ask_all("send", [compose("alice@alpha.test", to, f"{n} of a batch", b"x") for n in range(7)])
    assert {reply["results"][0]["code"][0] for reply in replies} == {"2"}
    sent = [c for c in alice.log() if c["mailbox"] == "Sent" and "of a batch" in payload_of(c)["subject"]]
    assert len(sent) == 7
    assert {verify(change["signed"], key_set, change["id"]) for change in sent} == {-70001}
    protected, _, payload, signature = cbor2.loads(sent[0]["signed"])
    for at in (0, 64, 70, len(signature) - 1):
        wrong = bytearray(signature)
        wrong[at] ^= 1
        with pytest.raises((InvalidSignature, AssertionError)):
            verify(cbor2.dumps([protected, {}, payload, bytes(wrong)]), key_set, sha256(payload))


def test_what_the_document_says_is_refused(net: Net) -> None:
    stranger = net.dial("alpha.test")
    with pytest.raises(Refused, match="auth-required"):
        stranger.ask("sync", since=0)
    with pytest.raises((Refused, KeyError), match="auth-failed"):
        stranger.sign_in("alice@alpha.test", "wrong")
    with pytest.raises(Refused, match="not-found"):
        stranger.ask("keys", domain="beta.test")
    alice = net.user("alice@alpha.test")
    forged = alice.ask("send", **compose("carol@alpha.test", ["carol@alpha.test"], "forged", b"x"))
    assert forged["results"][0]["code"] == "5.7.1"
    with pytest.raises(Refused, match="not-found"):
        alice.ask("get", hash=bytes(32), offset=0)
    with pytest.raises(Refused, match="resync"):
        alice.ask("sync", since=1, epoch=b"no such")
