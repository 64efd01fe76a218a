"""What becomes of a message by what its recipient has said of its sender; the post office with it; floods."""

from __future__ import annotations

import secrets
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatewayd.address import Address, Domain
from gatewayd.core.accepting import Handover
from gatewayd.core.bridges import Behind, Bridges
from gatewayd.core.consent import DAY, INBOX, INTRODUCTIONS, JUNK, Consent, Policy, Provenance, fault, place
from gatewayd.core.delivery import PostOffice
from gatewayd.core.dmarc import Verdict
from gatewayd.core.examination import Examined, Signature
from gatewayd.core.receiving import Arrival
from gatewayd.core.reception import Reception
from gatewayd.core.submitting import Submission
from gatewayd.errors import StoreError, StoreFull
from gatewayd.interfaces.dns import Endpoint
from gatewayd.interfaces.queue import Envelope
from gatewayd.interfaces.records import Account, ContactState
from gatewayd.interfaces.routes import Bridged, Origin
from gatewayd.message import bridge
from gatewayd.message.mime import Mail
from gatewayd.message.model import Content, Part, Payload
from gatewayd.outcome import Deferred, Delivered, Outcome, Refused
from gatewayd.queue.sqlite import SQLiteQueue
from tests.test_store_sqlite import ALICE, BOB, CREDENTIALS, Stores

ALPHA, BETA = ALICE.domain, Domain.parse("beta.test")
CAROL, DAVE = Address.parse("carol@beta.test"), Address.parse("dave@gamma.test")
HERE, NATIVE, AUTHENTICATED, UNAUTHENTICATED, UNEXAMINED = Provenance
ORIGIN = Origin("192.0.2.1", "mx.beta.test")

# -- the decision ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("provenance", "mail", "where"),
    [
        (HERE, "authenticated", INBOX), (HERE, "all", INBOX), (HERE, "off", INBOX),
        (NATIVE, "authenticated", INTRODUCTIONS), (NATIVE, "all", INTRODUCTIONS), (NATIVE, "off", INTRODUCTIONS),
        (AUTHENTICATED, "authenticated", INBOX), (AUTHENTICATED, "all", INTRODUCTIONS), (AUTHENTICATED, "off", INBOX),
        (UNAUTHENTICATED, "authenticated", INTRODUCTIONS), (UNAUTHENTICATED, "all", INTRODUCTIONS),
        (UNAUTHENTICATED, "off", INBOX),
        (UNEXAMINED, "authenticated", INBOX), (UNEXAMINED, "all", INTRODUCTIONS), (UNEXAMINED, "off", INBOX),
    ],
)  # fmt: skip
def test_where_a_message_belongs(provenance: Provenance, mail: str, where: str) -> None:
    assert place("none", provenance, mail) == place("requested", provenance, mail) == where
    assert place("granted", provenance, mail) == INBOX
    assert place("revoked", provenance, mail) == JUNK


def native(author: object = CAROL, text: bytes = b"Hello", media_type: str = "text/plain", **fields: Any) -> Content:
    part = Part(sha256(text).digest(), media_type, len(text), fields.pop("name", None))
    payload = Payload(str(author), (str(BOB),), 0, secrets.token_bytes(16), parts=(part,), **fields)
    return Content(b"", payload.encode(), b"", {part.hash: text})


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({}, None),
        ({"media_type": "text/plain; charset=utf-8"}, None),
        ({"text": "\N{SNOWMAN}".encode() * 2000, "subject": "x" * 200}, None),
        ({"text": b"x" * 2001}, "2000 characters"),
        ({"text": b"\xff" * 2001}, "2000 characters"),
        ({"subject": "x" * 201}, "characters"),
        ({"to": "x" * 5000}, "characters"),
        ({"name": "a.txt"}, "only text"),
        ({"media_type": "text/html"}, "only text"),
        ({"media_type": "image/png"}, "only text"),
        ({"type": "mail"}, "plain messages"),
        ({"type": "edit"}, "plain messages"),
        ({"type": "receipt"}, "plain messages"),
        ({"replaces": b"x" * 32}, "plain messages"),
        ({"crit": ("x",)}, "plain messages"),
    ],
)
def test_what_a_stranger_may_say(fields: dict[str, Any], why: str | None) -> None:
    to = fields.pop("to", "")
    found = fault(native(**fields, ext={"to": to} if to else {}), 2000)
    assert found is None if why is None else why in str(found)


def examined(dmarc: str, spf: str = "fail", signer: str = "", **how: Any) -> Examined:
    signatures = (Signature("pass", signer, "s"),) if signer else (Signature("fail", "beta.test", "s"),)
    verdict = Verdict(dmarc, "beta.test")
    return Examined(spf, how.pop("spf_domain", "beta.test"), "mailfrom", signatures, verdict, "192.0.2.1", **how)


@pytest.mark.parametrize(
    ("result", "vouched"),
    [
        (examined("pass"), True),
        (examined("fail", spf="pass", signer="beta.test"), False),  # else DMARC had passed
        (examined("fail", overridden=True), True),
        (examined("none"), False),
        (examined("none", spf="pass"), True),
        (examined("none", spf="softfail"), False),
        (examined("none", spf="pass", spf_domain="bounces.beta.test"), True),
        (examined("none", spf="pass", spf_domain="lists.gamma.test"), False),
        (examined("none", signer="beta.test"), True),
        (examined("none", signer="gamma.test"), False),
        (examined("temperror"), False),
        (examined("temperror", signer="beta.test"), True),
        (Examined("pass", "", "helo", (), Verdict("none", ""), "192.0.2.1"), False),
    ],
)
def test_whether_anybody_vouches_for_the_author(result: Examined, vouched: bool) -> None:
    assert result.authenticated is vouched


# -- the post office ------------------------------------------------------------------------------------------------


NOTHING: Any = None  # is not asked


def stamp(name: str) -> bytes:
    return f"Received: by mx.alpha.test id {name}\r\n".encode()


class Signer:
    async def sign(self, domain: Domain, payload: bytes) -> tuple[bytes, bytes]:
        return b"", b""

    async def sign_all(self, payloads: Sequence[tuple[Domain, bytes]]) -> list[tuple[bytes, bytes]]:
        return [(b"", b"")] * len(payloads)

    async def verify_all(self, contents: Sequence[Content]) -> list[Domain]:
        said = [content.fields.ext.get("bridged") for content in contents]
        return [
            Domain(each["by"]) if each else Address.parse(content.fields.from_).domain
            for each, content in zip(said, contents, strict=True)
        ]

    async def verify(self, content: Content) -> Domain:
        return Address.parse(content.fields.from_).domain


class Office:
    """alice and bob at alpha.test. `examined` is what is found out about any mail."""

    def __init__(self, root: Path, **policy: Any) -> None:
        self.stores = Stores(root)
        self.one = self.stores.loop.one
        self.store, clock = self.stores.store, self.stores.clock
        self.bob: Account = self.one(self.store.add_account(BOB, CREDENTIALS))
        self.alice = Account(self.stores.alice, ALICE)
        self.queue = SQLiteQueue(self.stores.open[0], clock, clock.seconds)
        self.consent = Consent(self.store, clock.seconds, Policy(**policy))
        self.examined: Examined | None = None

        async def examine(*_: Any) -> Examined:
            assert self.examined is not None
            return self.examined

        hostname = Domain.parse("mx.alpha.test")
        self.office = PostOffice(
            self.store, self.queue, Signer(), hostname, clock.seconds, secrets.token_bytes, consent=self.consent,
            reception=Reception(
                hostname, clock.seconds, secrets.token_bytes, examine=examine, trusts=lambda _: self.examined is None
            ),
        )  # fmt: skip

    def object(self, content: Content, *to: Address, peer: Domain | None = None) -> Outcome:
        author = Address.parse(content.fields.from_)
        return self.alike(self.one(self.accepting(content, author if peer is None else CAROL, *to, peer=peer)))

    async def accepting(
        self, content: Content, reverse_path: Address, *to: Address, peer: Domain | None = None
    ) -> dict[Address, Outcome]:
        handover = Handover(peer or reverse_path.domain, content, reverse_path, to or (BOB,))
        (answers,) = await self.office.accept([handover])
        return answers

    def send(self, account: Account, sent: Content, to: tuple[Address, ...]) -> dict[Address, Outcome]:
        (answers,) = self.one(self.office.submit([Submission(account, sent, to)]))
        return answers

    def mail(self, author: str = str(CAROL), *to: Address, sender: Address | None = CAROL) -> Outcome:
        octets = f"From: <{author}>\r\nSubject: mail\r\n\r\nHello\r\n".encode()
        envelope = Envelope(sender, to or (BOB,))
        return self.alike(self.receive(envelope, octets))

    def receive(self, envelope: Envelope, mail: bytes, submitter: Account | None = None) -> dict[Address, Outcome]:
        (answers,) = self.one(self.office.receive([Arrival(envelope, Mail(mail), stamp, submitter, ORIGIN)]))
        return answers

    def alike(self, answers: dict[Address, Outcome]) -> Outcome:
        (answer,) = set(answers.values())
        return answer

    def set(self, address: Address, state: ContactState) -> None:
        self.one(self.store.set_contact(self.bob.account_id, address, state))

    def state(self, address: Address, account: Account | None = None) -> str:
        return str(self.one(self.consent.state((account or self.bob).account_id, address)))

    def counts(self, account: Account | None = None) -> dict[str, int]:
        account_id = (account or self.bob).account_id
        found: Counter[str] = Counter()
        for mailbox in self.one(self.store.mailboxes(account_id)):
            found[mailbox.name] += len(self.one(self.store.entries(account_id, mailbox.mailbox_id)))
        return dict(+found)


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    made = Office(tmp_path)
    yield made
    made.stores.close()


def test_a_strangers_object_waits(office: Office) -> None:
    content = native()
    for _ in range(2):
        assert office.object(content) == Delivered("2.0.0", "Received")
    assert (office.counts(), office.state(CAROL)) == ({"Introductions": 1}, "requested")
    office.set(CAROL, "granted")
    assert office.object(native()) == Delivered("2.0.0", "Delivered")
    assert office.object(content).ok  # it waited, and is in INBOX now
    assert office.counts() == {"INBOX": 2}


SAID: dict[str, Callable[[Address], Content]] = {
    "short": native,
    "long": lambda author: native(author, b"x" * 9999),
    "a file": lambda author: native(author, media_type="image/png", name="x.png"),
    "of tomorrow": lambda author: native(author, type="of tomorrow"),
}


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(list(SAID)) | st.integers(0, 5), min_size=1, max_size=12))
def test_a_revoked_sender_is_told_what_a_stranger_is(what: list[str | int]) -> None:
    """Whatever they try, and repeat: the answers tell nothing of the recipient's mind."""
    with tempfile.TemporaryDirectory() as root:
        office = Office(Path(root), per_domain=14)
        revoked = Address.parse("david@beta.test")
        office.set(revoked, "revoked")
        said: dict[Address, list[Content]] = {CAROL: [], revoked: []}
        for each in what:
            answers = []
            for author, before in said.items():
                if isinstance(each, str):
                    before.append(SAID[each](author))
                if before:
                    answers.append(office.object(before[-1] if isinstance(each, str) else before[each % len(before)]))
            assert len(set(answers)) <= 1
        assert set(office.counts()) <= {"Introductions", "Junk"}
        office.stores.close()


def test_how_many_a_stranger_may_say(office: Office) -> None:
    asked = [native(), native(), native(), native(), native(text=b"x" * 9999), native(type="of tomorrow")]
    answers = [office.object(content).code for content in asked]
    assert answers == ["2.0.0"] * 3 + ["4.7.1", "5.7.1", "5.7.1"]
    assert office.counts() == {"Introductions": 3}


def test_files_of_one_who_is_granted(office: Office) -> None:
    photo = native(media_type="image/png", name="photo.png", text=b"x" * 10_000)
    assert type(office.object(photo)) is Refused
    office.set(CAROL, "granted")
    assert office.object(photo).ok
    assert office.counts() == {"INBOX": 1}


def test_each_recipient_decides(office: Office) -> None:
    office.set(CAROL, "granted")
    nobody = Address.parse("nobody@alpha.test")
    answers = office.one(office.accepting(native(), CAROL, ALICE, BOB, nobody))
    assert [answers[each].text for each in (ALICE, BOB, nobody)] == ["Received", "Delivered", "No such user here"]
    assert (office.counts(office.alice), office.counts()) == ({"Introductions": 1}, {"INBOX": 1})


@pytest.mark.parametrize(
    ("result", "mail", "where"),
    [
        (examined("pass"), "authenticated", "INBOX"),
        (examined("none"), "authenticated", "Introductions"),
        (examined("fail"), "authenticated", "Introductions"),
        (None, "authenticated", "INBOX"),
        (examined("pass"), "all", "Introductions"),
        (None, "all", "Introductions"),
        (examined("fail"), "off", "INBOX"),
    ],
)
def test_a_strangers_mail(tmp_path: Path, result: Examined | None, mail: str, where: str) -> None:
    office = Office(tmp_path, mail=mail)
    office.examined = result
    for _ in range(5):  # as many as come: mail cannot be told to wait
        assert office.mail() == Delivered("2.0.0", "Delivered")
    assert office.counts() == {where: 5}
    assert office.state(CAROL) == "none"  # whoever sent it has not proved to be that
    office.set(CAROL, "granted")
    office.mail("CAROL@Beta.test")
    assert office.counts() == {"INBOX": 6}
    office.set(CAROL, "revoked")
    assert office.mail() == Delivered("2.0.0", "Delivered")
    assert office.counts() == {"INBOX": 6, "Junk": 1}
    office.mail("<broken", sender=None)  # a bounce
    assert office.counts() == {"INBOX": 7, "Junk": 1}
    office.stores.close()


def test_mail_that_its_authors_domain_wants_in_junk(office: Office) -> None:
    office.examined = Examined("fail", "beta.test", "mailfrom", (), Verdict("fail", "beta.test", "quarantine"), "::1")
    office.set(CAROL, "granted")
    office.mail()
    assert office.counts() == {"Junk": 1}


def test_postmaster_is_open_to_all(office: Office) -> None:
    postmaster = Address.parse("Postmaster@alpha.test")
    account = office.one(office.store.add_account(postmaster, CREDENTIALS))
    office.one(office.store.set_contact(account.account_id, CAROL, "revoked"))
    office.examined = examined("none")
    office.mail(str(CAROL), postmaster)
    assert office.object(native(), postmaster) == Delivered("2.0.0", "Delivered")
    assert office.counts(account) == {"INBOX": 2}


def bridged(author: str, peer: Domain, sender: Address | None = CAROL) -> Content:
    mail = f"From: {author}\r\n\r\nHello\r\n".encode()
    payload, bodies = bridge.bridged_payload(
        Mail(mail), by=peer, nonce=secrets.token_bytes(16), received_ms=0, reverse_path=sender
    )
    return Content(b"", payload.encode(), b"", bodies)


@pytest.mark.parametrize(
    ("author", "where"), [("carol@beta.test", "INBOX"), ("c@sub.beta.test", "INBOX"), ("d@g.test", "Introductions")]
)
def test_mail_by_parley_of_the_peers_own_users(office: Office, author: str, where: str) -> None:
    assert office.object(bridged(author, BETA), peer=BETA) == Delivered("2.0.0", "Delivered")
    assert office.counts() == {where: 1}


def test_an_object_that_names_another_author_than_its_mail(office: Office) -> None:
    content = bridged("dave@beta.test", BETA)
    forged = Content(b"", content.payload.replace(b"dave@beta.test", b"eve@@beta.test"), b"", content.bodies)
    answers = office.one(office.accepting(forged, CAROL))
    assert answers[BOB].code == "5.6.0"


def test_what_waits_for_a_disk_or_another_server_holds_up_nobody_else(office: Office) -> None:
    bridged = Domain.parse("behind.test")
    office.office._bridges = Bridges({bridged: Behind(Bridged(Endpoint("127.0.0.9", 25)))}, NOTHING, NOTHING)
    large = Part(sha256(b"x" * 100_000).digest(), "image/png", 100_000)
    heavy = Content(b"", Payload(str(BOB), (), 1, b"n" * 16, parts=(large,)).encode(), b"", {})
    for content, to, long in (
        (native(BOB), ALICE, False),
        (native(BOB), Address("carol", bridged), True),
        (heavy, ALICE, True),
        (Content(b"", b"no payload", b"", {}), ALICE, False),  # is refused at once
    ):
        assert office.office.takes_long(Submission(office.bob, content, (BOB, to))) is long


def test_writing_grants_the_answer(office: Office) -> None:
    office.set(CAROL, "requested")
    mail = b"From: <bob@alpha.test>\r\n\r\nHello\r\n"
    to = (CAROL, ALICE, BOB, Address.parse("carol@gamma.test"))
    office.receive(Envelope(BOB, to), mail, office.bob)
    sent = native(BOB)
    office.send(office.bob, sent, (DAVE, CAROL))
    contacts = office.one(office.store.contacts(office.bob.account_id))
    assert {str(each.address): each.state for each in contacts} == {
        "alice@alpha.test": "granted", "carol@beta.test": "granted", "carol@gamma.test": "granted",
        "dave@gamma.test": "granted",
    }  # fmt: skip
    for content in (native(CAROL), native(DAVE)):
        assert office.object(content) == Delivered("2.0.0", "Delivered")
    office.set(CAROL, "revoked")
    office.send(office.bob, sent, (CAROL,))
    assert office.state(CAROL) == "revoked"  # said aloud


@pytest.mark.parametrize(
    ("fields", "sender", "becomes"),
    [
        ("", BOB, "granted"),
        ("Auto-Submitted: no\r\n", BOB, "granted"),
        ("Auto-Submitted: auto-replied\r\n", BOB, "none"),
        ("", None, "none"),
    ],
)
def test_a_programs_answer_grants_nothing(office: Office, fields: str, sender: Address | None, becomes: str) -> None:
    """Else whoever writes while the user is away were let in."""
    mail = f"From: <bob@alpha.test>\r\n{fields}\r\nI am away.\r\n".encode()
    office.receive(Envelope(sender, (CAROL,)), mail, office.bob)
    assert office.state(CAROL) == becomes


def test_what_waits_comes_when_it_is_answered(office: Office) -> None:
    office.object(native())
    sent = native(BOB)
    office.send(office.bob, sent, (CAROL,))
    assert office.counts() == {"INBOX": 1, "Sent": 1}


def test_a_message_that_is_not_the_senders_grants_nothing(office: Office) -> None:
    sent = native(ALICE)
    answers = office.send(office.bob, sent, (CAROL,))
    assert answers[CAROL].code == "5.7.1"
    assert office.state(CAROL) == "none"


def test_users_of_one_gateway_are_no_strangers(office: Office) -> None:
    def send() -> None:
        sent = native(ALICE)
        office.send(office.alice, sent, (BOB,))

    send()
    office.set(ALICE, "revoked")
    send()
    assert office.counts() == {"INBOX": 1, "Junk": 1}


def test_a_store_that_cannot_tell(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: Any) -> Any:
        raise StoreError("the disk")

    sent = native(BOB)
    for name in ("contacts_among", "set_contact"):
        with monkeypatch.context() as patch:
            patch.setattr(office.store, name, broken)
            if name == "contacts_among":
                assert office.object(native()).code == "4.3.0"
            answers = office.send(office.bob, sent, (CAROL,))
            assert answers[CAROL].code == "4.3.0"
    assert office.object(native()).ok


def test_a_store_without_room(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(*_: Any) -> Any:
        raise StoreFull("no space")

    with monkeypatch.context() as patch:
        patch.setattr(office.store, "set_contact", full)
        assert office.send(office.bob, native(BOB), (CAROL,))[CAROL].code == "4.3.1"


# -- floods ---------------------------------------------------------------------------------------------------------


def rows(office: Office) -> int:
    query = "SELECT (SELECT count(*) FROM introduction) + (SELECT count(*) FROM contact)"
    count: int = office.one(office.stores.open[0].read(lambda db: db.execute(query).fetchone()[0]))
    return count


def test_ten_thousand_strangers_of_one_domain(office: Office) -> None:
    """From a thousand addresses and a hundred subdomains, to users who are here and one who is not."""
    nobody = Address.parse("nobody@alpha.test")
    assert office.object(native("s@flood.test")).ok

    def flood(number: int) -> Any:
        author = Address.parse(f"s{number % 1000}@{'abcdefghij'[number // 1000]}{number % 10}.flood.test")
        to = (ALICE, BOB, nobody)[number % 3]
        return office.accepting(native(author), author, to)

    codes = Counter({"2.0.0": 1})
    for begin in range(0, 10_000, 500):
        answers = office.stores.loop.all(*[flood(number) for number in range(begin, begin + 500)])
        codes.update(outcome.code for answer in answers for outcome in answer.values())
    per_domain, share = office.consent.policy.per_domain, office.consent.policy.per_account // 5
    assert codes["2.0.0"] <= 2 * share
    assert codes["2.0.0"] + codes["5.1.1"] == per_domain
    assert codes["4.7.28"] == 10_001 - per_domain
    assert rows(office) == 2 * codes["2.0.0"]
    assert len(office.consent._domains._levels) == 1
    assert len(office.consent._shares._levels) == 2  # with each of two users
    assert office.object(native()) == Delivered("2.0.0", "Received")  # others are served
    office.examined = None
    assert office.mail().ok
    refused = office.object(native("s@flood.test"))
    assert isinstance(refused, Deferred)
    assert refused.retry_after is not None
    assert 60 <= refused.retry_after <= DAY
    office.stores.clock.advance(refused.retry_after)
    assert office.object(native("s@flood.test")).ok  # some of it has come back


def test_a_repeat_does_not_count_and_is_answered_over_quota(tmp_path: Path) -> None:
    office = Office(tmp_path, per_domain=3, pending=9)
    contents = [native() for _ in range(4)]
    for content in contents[:2]:
        for _ in range(5):
            assert office.object(content) == Delivered("2.0.0", "Received")
    assert office.object(contents[2]).ok
    assert office.object(contents[3]).code == "4.7.28"
    assert office.object(contents[0]) == Delivered("2.0.0", "Received")
    office.stores.close()


def test_what_was_not_taken_does_not_count(tmp_path: Path) -> None:
    office = Office(tmp_path, per_domain=3, pending=1)
    assert office.object(native()).ok
    for _ in range(5):
        assert office.object(native()).code == "4.7.1"
    assert office.object(native("carla@beta.test")).ok
    office.stores.close()


def test_a_user_takes_so_many_strangers_a_day(tmp_path: Path) -> None:
    office = Office(tmp_path, per_account=5)
    answers = [office.object(native(f"s@d{number}.test")) for number in range(6)]
    assert [answer.code for answer in answers] == ["2.0.0"] * 5 + ["4.7.1"]
    assert office.object(native("s@d5.test"), ALICE).ok
    office.stores.close()
