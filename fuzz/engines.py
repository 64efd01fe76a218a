"""Fuzzers in this process: each takes a Random, makes one input of it, and raises what should not have been raised."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256
from random import Random
from typing import Any

import cbor2
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fuzz import Finding, frames, grammar, mutation, seeds
from gatewayd.address import Address, AddressError, Domain
from gatewayd.crypto import cose
from gatewayd.crypto.domain_keys import KeySet, KeySetError, PublicKey, SigningKey
from gatewayd.crypto.scram import ScramClient, ScramError, ScramServer
from gatewayd.message import bridge, mime, object_types, structure, submission
from gatewayd.message.mime import Mail
from gatewayd.message.model import Content, ObjectError
from gatewayd.wire import imap, parley, smtp
from gatewayd.wire.imap import connection as imap_connection
from gatewayd.wire.imap import syntax
from gatewayd.wire.parley import connection as parley_connection
from gatewayd.wire.parley import schema
from gatewayd.wire.pop3 import connection as pop3_connection
from gatewayd.wire.smtp import client as smtp_client
from gatewayd.wire.smtp import commands
from gatewayd.wire.smtp.server import SMTPServer

ALPHA = Domain.parse("alpha.test")
KEY = SigningKey.of(ALPHA, Ed25519PrivateKey.from_private_bytes(bytes(32)))


def split(random: Random, octets: bytes) -> list[bytes]:
    cuts = sorted(random.randint(0, len(octets)) for _ in range(random.randint(0, 12)))
    return [octets[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(octets)], strict=True)]


def both_ways(random: Random, octets: bytes, run: Callable[[Sequence[bytes]], Any]) -> Any:
    """Any split of the input gives the same."""
    whole, parts = run([octets]), run(split(random, octets))
    if whole != parts:
        raise Finding(f"split otherwise, it is otherwise: {whole!r} and {parts!r}")
    return whole


# -- Parley ---------------------------------------------------------------------------------------------------------


def parley_frames(random: Random) -> None:
    """A valid prefix up to some state, then spoiled frames, then valid ones."""
    speaker = frames.Speaker(
        random, "alice@alpha.test", ["bob@alpha.test", "carol@beta.test"], random.choice((None, KEY))
    )
    prefix = [frames.GREETING, *(speaker.request() for _ in range(random.randint(0, 3)))][: random.randint(0, 4)]
    valid = [frames.frame(item) for item in prefix]
    asked, trusted = random.randint(0, 2), random.random() < 0.5
    spoiled = []
    for _ in range(random.randint(1, 3)):
        item: Any = random.choice([
            frames.GREETING,
            speaker.request(),
            [frames.RES, random.randint(1, 3), "sync", speaker.body(random.choice(["changes", "error", "sendreply"]))],
            [frames.PUSH, 0, "changes", speaker.body("changes")],
            [frames.BYE, 0, "", {"code": "", "text": ""}],
        ])  # fmt: skip
        if random.random() < 0.7:
            spoiled.append(frames.frame(mutation.item(random, item)))
        else:
            spoiled.append(mutation.octets(random, frames.frame(item), valid))
    octets = b"".join([*valid, *spoiled, frames.frame(speaker.request())])

    def run(chunks: Sequence[bytes]) -> tuple[list[Any], str]:
        engine = parley_connection.ParleyConnection()
        if trusted:
            engine.trust()
        engine.send(schema.Hello(1, "fuzz", 65536))
        for stream in range(1, asked + 1):
            engine.send(parley_connection.Request(stream, "sync", {"since": 0}))
        events: list[Any] = []
        try:
            for chunk in [*chunks, b""]:
                events += engine.receive(chunk)
                held, limit = len(engine._reader._buffer), engine._reader.limit
                if held > limit + 4 + len(chunk):
                    raise Finding(f"{held} octets are held, the limit is {limit}")
        except parley.RemoteProtocolError as error:
            return events, str(error)
        return events, ""

    events, _ = both_ways(random, octets, run)
    for event in events:
        if isinstance(event, parley_connection.Request | parley_connection.Response | parley_connection.Push):
            _body(event)


def _body(event: Any) -> None:
    kind = frames.BODIES.get(event.method)
    if kind is None:
        return
    try:
        body = schema.read(kind, event.body)
    except parley.RemoteProtocolError:
        return
    if isinstance(body, schema.Send):
        if body.signed:
            _content(body.signed, body.bodies)
        else:
            _content(cbor2.dumps([*cose.sign(body.payload, KEY)[:1], {}, body.payload, bytes(64)]), body.bodies)


def _content(signed: bytes, bodies: Sequence[bytes]) -> None:
    try:
        content = Content.from_signed(signed, {sha256(body).digest(): body for body in bodies})
        content.check_bodies()
        object_types.check(content)
        cose.signer(content.protected)
        mail = bridge.as_mail(content)
    except (ObjectError, cose.SignatureError):
        return
    structure.summarize(mail)
    restored = bridge.restore(Mail(mail))
    if restored is not None and restored.id != content.id and content.fields.type != "mail":
        raise Finding("a rendered object comes back as another")


def parley_objects(random: Random) -> None:
    speaker = frames.Speaker(random, "alice@alpha.test", ["bob@alpha.test"], KEY)
    body = speaker.body("send")
    signed = body["signed"]
    spoiled = mutation.item(random, signed) if random.random() < 0.7 else mutation.octets(random, signed)
    if isinstance(spoiled, bytes):
        _content(spoiled, body["bodies"])


def parley_key_sets(random: Random) -> None:
    key = PublicKey(KEY.kid, KEY.public, 0, 2_000_000_000)
    octets = KeySet("alpha.test", 2_000_000_000, (key,) * random.randint(0, 17)).encode()
    spoiled = mutation.item(random, octets) if random.random() < 0.6 else mutation.octets(random, octets)
    try:
        found = KeySet.decode(spoiled, ALPHA) if isinstance(spoiled, bytes) else None
    except KeySetError:
        return
    if found is not None:
        found.find(KEY.kid, 1.7e9)
        found.encode()


def scram(random: Random) -> None:
    exporter = bytes(32)
    client = ScramClient("alice@alpha.test", "password", "nonce", exporter)
    server = ScramServer("server", exporter, plus=True)
    try:
        first = client.first()
        server.first(mutation.octets(random, first) if random.random() < 0.5 else first)
        challenge = server.challenge(bytes(16), 4096)
        if random.random() < 0.5:
            # the iterations stay small: what a server may ask for is not the question here
            client.final(mutation.octets(random, challenge.replace(b"4096", b"9" * 60)))
        server.final(mutation.octets(random, b"c=cD10bHMtZXhwb3J0ZXIsLA==,r=nonceserver,p=AAAA"), bytes(32), bytes(32))
    except ScramError:
        pass


# -- classic mail ---------------------------------------------------------------------------------------------------


def script(random: Random, lines: Sequence[bytes]) -> bytes:
    """Most of it as it should be."""
    said = []
    for line in random.choices(lines, k=random.randint(1, 12)):
        said.append(mutation.octets(random, line, lines) if random.random() < 0.3 else line)
    return b"".join(said)


def smtp_server(random: Random) -> None:
    state = commands.State
    states = {
        commands.Hello: state.READY, commands.MailFrom: state.MAIL, commands.RcptTo: state.RCPT,
        commands.StartData: state.DATA, commands.Message: state.READY, commands.Chunk: state.CHUNKS,
        commands.RefusedMessage: state.READY, commands.AuthResponse: state.READY,
    }  # fmt: skip

    def run(chunks: Sequence[bytes]) -> list[Any]:
        engine, events = SMTPServer(2000), []
        for chunk in [*chunks, b""]:
            found = engine.receive(chunk)
            while found:
                (event,) = found
                events.append(event)
                after = states.get(type(event))
                if isinstance(event, commands.Auth):
                    after = state.READY if event.initial else state.AUTH
                engine.send(commands.reply(250, "2.0.0", "\0ü\r\n", state=after))
                found = engine.receive(b"")
        return events

    both_ways(random, script(random, seeds.SMTP_SCRIPT), run)


def smtp_replies(random: Random) -> None:
    tls = random.random() < 0.3

    def run(chunks: Sequence[bytes]) -> tuple[list[Any], str]:
        engine, replies = smtp_client.SMTPClient(), []
        if tls:
            engine.send(smtp_client.Command("STARTTLS"))
        try:
            for chunk in chunks:
                replies += engine.receive(chunk)
        except smtp.RemoteProtocolError:
            return replies, "error"
        said = [one.reply if isinstance(one, smtp_client.Unasked) else one for one in replies]
        return [(reply.code, reply.enhanced, reply.text) for reply in said], ""

    octets = script(random, seeds.SMTP_REPLIES)
    for chunks in ([octets], split(random, octets)):  # an error may come earlier or later, as the octets come
        run(chunks)


def imap_commands(random: Random) -> None:
    def run(chunks: Sequence[bytes]) -> list[Any]:
        engine, events = imap_connection.IMAPConnection(5000), []
        try:
            for chunk in [*chunks, b""]:
                found = engine.receive(chunk)
                while found:
                    (event,) = found
                    events.append(_imap_event(engine, event))
                    found = engine.receive(b"")
        except imap.RemoteProtocolError:
            events.append("error")
        return events

    both_ways(random, script(random, seeds.IMAP_SCRIPT), run)


def _imap_event(engine: imap_connection.IMAPConnection, event: Any) -> Any:
    """Answers as a session does; a command's arguments are read in every way there is."""
    state = imap_connection.State
    match event:
        case imap_connection.NeedLiteral():
            engine.send(imap_connection.Continue(b"go on"))
            return "literal"
        case imap_connection.Line(text):
            engine.send(imap_connection.Tagged(b"x", b"OK", state.SELECTED))
            return text
        case imap_connection.BadCommand(tag, text):
            engine.send(imap_connection.Tagged(tag, b"BAD"))
            return tag, text
        case imap_connection.Command(tag, name, uid, arguments):
            line = arguments._line
            for read in (
                "atom",
                "word",
                "number",
                "string",
                "astring",
                "mailbox",
                "list_mailbox",
                "sequence_set",
                "flags",
            ):
                try:
                    getattr(syntax.Reader(line), read)()
                except syntax.BadSyntax:
                    pass
            if name == "IDLE":
                engine.send(imap_connection.Continue(b"", state.IDLE))
            else:
                engine.send(
                    imap_connection.Tagged(tag, b"OK", {"LOGIN": state.SELECTED, "LOGOUT": state.OVER}.get(name))
                )
            return tag, name, uid, line
    raise Finding(f"no such event: {event!r}")


def pop3_commands(random: Random) -> None:
    def run(chunks: Sequence[bytes]) -> list[Any]:
        engine, events = pop3_connection.POP3Connection(), []
        state = pop3_connection.State
        try:
            for chunk in [*chunks, b""]:
                found = engine.receive(chunk)
                while found:
                    events += found
                    verb = getattr(found[0], "verb", "")
                    after = {"PASS": state.TRANSACTION, "AUTH": state.RESPONSE, "QUIT": state.OVER}.get(verb)
                    engine.send(pop3_connection.Answer(True, "ok\r\n\0", b".\r\n.x", after))
                    found = engine.receive(b"")
        except pop3_connection.RemoteProtocolError:
            events.append("error")  # type: ignore[arg-type]
        return events

    both_ways(random, script(random, seeds.POP3_SCRIPT), run)


def addresses(random: Random) -> None:
    text = mutation.octets(random, random.choice(seeds.ADDRESSES), seeds.ADDRESSES).decode("utf-8", "surrogateescape")
    for kind in (Address, Domain):
        try:
            found = kind.parse(text)
        except AddressError:
            continue
        if kind.parse(str(found)) != found:
            raise Finding(f"{found!r} does not come back")


def mails(random: Random) -> None:
    """Nothing that comes as mail raises anything."""
    mail = mutation.octets(random, random.choice(seeds.MAILS), seeds.MAILS)
    read = Mail(mail)
    for entity in mime.walk(read.root):
        mime.decoded_text(mail, entity)
    for what in ("", "HEADER", "TEXT", "MIME"):
        mime.section(mail, (1, 1), what)
    structure.summarize(mail)
    bridge.authors(read)
    payload, bodies = bridge.bridged_payload(
        Mail(mail), by=ALPHA, nonce=bytes(16), received_ms=10**12, reverse_path=None
    )
    content = Content(b"", payload.encode(), b"", bodies)
    content.check_bodies()
    if bridge.as_mail(content) != mail:
        raise Finding("a mail does not come back as it was")
    bridge.restore(read)
    submission.completed(read, 1e9, "1@alpha.test", Address("a", ALPHA))
    submission.claimed(read)
    bridge.without_results_of(read, ALPHA)


TARGETS: dict[str, Callable[[Random], None]] = {
    function.__name__: function
    for function in (
        parley_frames, parley_objects, parley_key_sets, scram, smtp_server, smtp_replies, imap_commands, pop3_commands,
        addresses, mails, grammar.parley_schema, grammar.parley_schema_of_objects,
    )
}  # fmt: skip
