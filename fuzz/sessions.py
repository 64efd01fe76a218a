"""Whole sessions with a gateway in a process of its own: a valid beginning over a real socket, then spoiled input.

Afterwards the process lives, its log tells of no fault of its own, its memory is about what it was, and a client that
did nothing wrong has been served all the while.
"""

from __future__ import annotations

import base64
import secrets
import select
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import cbor2
from OpenSSL import SSL

from demo.clients import IMAPProgram, ParleyProgram
from demo.world import PASSWORD, Gateway, World
from fuzz import Finding, engines, frames, grammar, mutation, seeds
from gatewayd.address import Domain
from gatewayd.crypto import domain_auth
from gatewayd.crypto.domain_keys import KeyStore, SigningKey
from gatewayd.crypto.scram import ScramClient

ALPHA, BETA = Domain.parse("alpha.test"), Domain.parse("beta.test")
QUIET = 0.3  # seconds without a word after which we go on
SERVED_EVERY = 25  # inputs between two looks at how others are served
PLAIN = base64.b64encode(f"\0alice@alpha.test\0{PASSWORD}".encode())
FAULTS = ("Traceback", "Unhandled", "unexpected error")


class Wire:
    """A TLS connection that says octets, and hears what comes."""

    def __init__(self, gateway: Gateway, service: str, alpn: bytes = b"") -> None:
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.load_verify_locations(str(gateway.root / "ca.pem"))
        if alpn:
            context.set_alpn_protos([alpn])
        self._socket = socket.create_connection(gateway.port(service), timeout=20)
        self._tls = SSL.Connection(context, self._socket)
        self._tls.set_connect_state()
        self._socket.setblocking(False)
        self._until(self._tls.do_handshake, 20.0)
        self._heard = b""

    @property
    def exporter(self) -> bytes:
        return self._tls.export_keying_material(b"EXPORTER-Channel-Binding", 32, b"")

    def say(self, octets: bytes) -> None:
        """Raises OSError when the other side has closed."""
        view = memoryview(octets)
        while view:
            view = view[self._until(partial(self._tls.send, view[:16384].tobytes()), 20.0) :]

    def hear(self, wait: float) -> bytes:
        """Whatever comes next; nothing after `wait` seconds. Raises OSError at the end."""
        try:
            octets: bytes = self._until(lambda: self._tls.recv(65536), wait)
            return octets
        except TimeoutError:
            return b""

    def frame(self) -> Any:
        """One Parley frame. Raises OSError."""
        while len(self._heard) < 4 or len(self._heard) < 4 + int.from_bytes(self._heard[:4], "big"):
            octets = self.hear(20.0)
            if not octets:
                raise TimeoutError
            self._heard += octets
        end = 4 + int.from_bytes(self._heard[:4], "big")
        item, self._heard = self._heard[4:end], self._heard[end:]
        return cbor2.loads(item)

    def close(self) -> None:
        self._socket.close()

    def _until(self, work: Callable[[], Any], wait: float) -> Any:
        deadline = time.monotonic() + wait
        waiting: tuple[list[socket.socket], list[socket.socket]]
        while True:
            try:
                return work()
            except SSL.WantReadError:
                waiting = [self._socket], []
            except SSL.WantWriteError:
                waiting = [], [self._socket]
            except SSL.Error as error:
                raise ConnectionError(repr(error)) from None
            left = deadline - time.monotonic()
            if left <= 0 or not any(select.select(*waiting, [], left)):
                raise TimeoutError


class House:
    """Two gateways that know each other, and what is tried on the first of them."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.alpha = world.gateways["alpha.test"]
        self._beta_key: SigningKey = KeyStore(world.gateways["beta.test"].root / "state/keys", time.time).signing_key(
            BETA
        )
        self._inputs = 0
        self._read = 0  # characters of the log
        self._serve()

    # -- who speaks -------------------------------------------------------------------------------------------------

    def parley_stranger(self, random: Random) -> None:
        speaker = frames.Speaker(random, "alice@alpha.test", ["bob@alpha.test"])
        self._parley(random, speaker, lambda wire: None)

    def parley_user(self, random: Random) -> None:
        to = ["bob@alpha.test", "alice@alpha.test", "nobody@alpha.test"]
        self._parley(random, frames.Speaker(random, "alice@alpha.test", to), self._as_alice)

    def parley_domain(self, random: Random) -> None:
        to = ["bob@alpha.test", "alice@alpha.test", "nobody@alpha.test"]
        self._parley(random, frames.Speaker(random, "alice@beta.test", to, self._beta_key), self._as_beta)

    def parley_schema(self, random: Random) -> None:
        """Each request of either kind gets an answer, and what the schema does not allow an error."""
        rule = random.choice(("of-user", "of-domain"))
        wire = Wire(self.alpha, "parley", b"parley/1")
        try:
            wire.frame()
            wire.say(frames.frame(frames.GREETING))
            (self._as_alice if rule == "of-user" else self._as_beta)(wire)
            for stream in range(2, random.randint(3, 12)):
                good = random.random() < 0.5
                request = (grammar.GRAMMAR.make if good else grammar.GRAMMAR.spoil)(random, rule)
                if isinstance(request, list) and len(request) > 1 and grammar.GRAMMAR.matches("stream", request[1]):
                    request[1] = stream
                wire.say(frames.frame(request))
                said, error = self._answer(wire, stream)
                if error == "internal" or not (good or error):
                    raise Finding(f"{request} was answered {said}")
                if said[0] == frames.BYE:
                    if good:
                        raise Finding(f"{request} ended with {said}")
                    break
        finally:
            wire.close()
        self._tried()

    def _answer(self, wire: Wire, stream: int) -> tuple[Any, str]:
        """The frame, and what went wrong."""
        while True:
            said = wire.frame()
            if said[0] == frames.BYE:
                return said, said[3]["code"]
            if said[:2] == [frames.RES, stream]:
                results = said[3].get("results", [])
                refused = results and all(result["code"][0] != "2" for result in results)
                return said, said[3].get("error", "refused" if refused else "")

    def _as_alice(self, wire: Wire) -> None:
        scram = ScramClient("alice@alpha.test", PASSWORD, secrets.token_hex(8), wire.exporter)
        challenge = self._ask(wire, {"mechanism": "SCRAM-SHA-256-PLUS", "data": scram.first()})
        self._ask(wire, {"mechanism": "SCRAM-SHA-256-PLUS", "data": scram.final(challenge["data"])})

    def _as_beta(self, wire: Wire) -> None:
        proof = domain_auth.sign(self._beta_key, ALPHA, wire.exporter)
        names = {"domain": "beta.test", "to": "alpha.test", "kid": self._beta_key.kid}
        self._ask(wire, {"mechanism": "DOMAIN", "data": proof, **names})

    def smtp(self, random: Random) -> None:
        self._lines(random, "submissions", b"EHLO x\r\nAUTH PLAIN " + PLAIN + b"\r\n", seeds.SMTP_SCRIPT)

    def imap(self, random: Random) -> None:
        login = b"a LOGIN alice@alpha.test " + PASSWORD.encode() + b"\r\n"
        self._lines(random, "imaps", login + b"b SELECT INBOX\r\n", seeds.IMAP_SCRIPT)

    def pop3(self, random: Random) -> None:
        login = b"USER bob@alpha.test\r\nPASS " + PASSWORD.encode() + b"\r\n"
        self._lines(random, "pop3s", login, seeds.POP3_SCRIPT)

    @property
    def targets(self) -> dict[str, Callable[[Random], None]]:
        parley = (self.parley_stranger, self.parley_user, self.parley_domain, self.parley_schema)
        kinds = (*parley, self.smtp, self.imap, self.pop3)
        return {f"session_{kind.__name__}": kind for kind in kinds}

    # -- what is asked afterwards -----------------------------------------------------------------------------------

    def memory(self) -> int:
        """Octets resident in the gateway's process."""
        return int(self.alpha.metric("process_resident_memory_bytes"))

    def _tried(self) -> None:
        self._inputs += 1
        if self._inputs % SERVED_EVERY == 0:
            self._serve()

    def _serve(self) -> None:
        """One who does nothing wrong sends by Parley and reads by IMAP, and the log tells of no fault."""
        subject = secrets.token_hex(8)
        ParleyProgram(self.alpha, "carol", self.world.reactor).send("dave@alpha.test", subject, "as ever")
        IMAPProgram(self.alpha, "dave").receive(subject)
        if self.alpha.health() != {"store": "ok"}:
            raise Finding(f"not healthy: {self.alpha.health()}")
        log = (self.alpha.root / "gatewayd.log").read_text("utf-8", "replace")
        news, self._read = log[self._read :], len(log)
        for fault in FAULTS:
            if fault in news:
                at = news.index(fault)
                raise Finding(f"in the log: {news[max(0, at - 300) : at + 3000]}")

    # -- how it is said ---------------------------------------------------------------------------------------------

    def _ask(self, wire: Wire, auth: dict[str, Any]) -> dict[str, Any]:
        wire.say(frames.frame([frames.REQ, 1, "auth", auth]))
        reply: dict[str, Any] = wire.frame()[3]
        if "error" in reply:
            raise Finding(f"no valid beginning: {reply}")
        return reply

    def _parley(self, random: Random, speaker: frames.Speaker, sign_in: Callable[[Wire], None]) -> None:
        wire = Wire(self.alpha, "parley", b"parley/1")
        wire.frame()
        wire.say(frames.frame(frames.GREETING))
        sign_in(wire)
        said = b""
        for _ in range(random.randint(1, 6)):
            item = speaker.request()
            octets = frames.frame(item)
            match random.randrange(4):
                case 0:
                    octets = frames.frame(mutation.item(random, item))
                case 1:
                    octets = frames.frame([*item[:3], mutation.item(random, item[3])])
                case 2:
                    octets = mutation.octets(random, octets, [said])
            said += octets
        self._say_all(random, wire, said)

    def _lines(self, random: Random, service: str, prefix: bytes, script: Sequence[bytes]) -> None:
        wire = Wire(self.alpha, service)
        for line in prefix.splitlines(keepends=True):
            wire.hear(5.0)
            wire.say(line)
        wire.hear(5.0)
        self._say_all(random, wire, engines.script(random, script))

    def _say_all(self, random: Random, wire: Wire, said: bytes) -> None:
        """And listen a moment, or break off in the middle of it."""
        try:
            for chunk in engines.split(random, said):
                wire.say(chunk)
            if random.random() < 0.7:
                while wire.hear(QUIET if random.random() < 0.2 else 0.01):
                    pass
        except OSError:
            pass  # it has had enough of us
        finally:
            wire.close()
        self._tried()


@contextmanager
def house(root: Path) -> Iterator[House]:
    where = {"alpha.test": "127.0.0.71", "beta.test": "127.0.0.72"}
    world = World(root, where, {}, ["alice", "bob", "carol", "dave"])
    try:
        world.start()
        yield House(world)
    finally:
        world.stop()
