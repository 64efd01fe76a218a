"""The line above a mail, for ten kinds of mail and for each thing that a user may have said of the sender."""

from __future__ import annotations

import pytest

from gatewayd.address import Address
from gatewayd.core.consent import INBOX, INTRODUCTIONS, JUNK, Provenance, place
from gatewayd.core.examination import Examined
from gatewayd.core.verdict import UNEXAMINED, Findings, kept
from tests.test_core_examination import CAROL, GOOD_SPF, MAIL, SIGNER, examined

SIGNED = SIGNER.sign(MAIL) + MAIL
KEY = SIGNER.record
BANK = MAIL.replace(b"@good-shop.co.uk", b"@bank.test")
EVIL = Address.parse("x@evil.test")
HOW = "move it to INBOX to let them write, to Junk to refuse them"


def line(found: Examined) -> str:
    """Above the copy of one who does not know the sender."""
    provenance = Provenance.AUTHENTICATED if found.authenticated else Provenance.UNAUTHENTICATED
    mailbox = place("none", provenance, "authenticated")
    octets = Findings(found.vouched).field(mailbox, CAROL, "none", provenance)
    return octets.decode("ascii").removeprefix("Gatewayd-Verdict: ").removesuffix("\r\n")


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (examined(SIGNED, key=KEY, spf=GOOD_SPF, dmarc="v=DMARC1; p=reject"),
         "its signature (good-shop.co.uk) and where it comes from (192.0.2.7)"),
        (examined(spf=GOOD_SPF), "where it comes from (192.0.2.7)"),
        (examined(SIGNED, key=KEY), "its signature (good-shop.co.uk)"),
    ],
)  # fmt: skip
def test_what_somebody_vouches_for(found: Examined, said: str) -> None:
    assert line(found) == f"INBOX; good-shop.co.uk vouches for it by {said}"


@pytest.mark.parametrize(
    ("found", "begin", "whys"),
    [
        (examined(), "nothing vouches for good-shop.co.uk",
         "good-shop.co.uk has no SPF record, it has no DKIM signature"),
        (examined(spf="v=spf1 -all"), "nothing vouches for good-shop.co.uk",
         "it does not come from where good-shop.co.uk sends, it has no DKIM signature"),
        (examined(spf="v=spf1 ~all"), "nothing vouches for good-shop.co.uk",
         "it does not seem to come from where good-shop.co.uk sends, it has no DKIM signature"),
        (examined(spf="v=spf1 ?all"), "nothing vouches for good-shop.co.uk",
         "SPF says neutral of good-shop.co.uk, it has no DKIM signature"),
        (examined(spf="v=spf1 -all", dmarc="v=DMARC1; p=none"), "it fails DMARC of good-shop.co.uk",
         "it does not come from where good-shop.co.uk sends, it has no DKIM signature"),
        (examined(SIGNED.replace(b"Body", b"Other"), key=KEY), "nothing vouches for good-shop.co.uk",
         "good-shop.co.uk has no SPF record, the DKIM signature of good-shop.co.uk does not hold"),
        (examined(sender=EVIL, **{"evil.test": GOOD_SPF}), "nothing vouches for good-shop.co.uk",
         "SPF speaks for evil.test only, it has no DKIM signature"),
        (examined(SIGNER.sign(BANK) + BANK, key=KEY),
         "nothing vouches for bank.test",
         "good-shop.co.uk has no SPF record, the DKIM signature is that of good-shop.co.uk"),
        (examined(b"Subject: x\r\n\r\nx"), "nothing vouches for an author that it does not name",
         "good-shop.co.uk has no SPF record, it has no DKIM signature"),
        (examined(spf="v=spf1 include:broken.test -all"), "nothing vouches for good-shop.co.uk",
         "the DNS does not answer for good-shop.co.uk, it has no DKIM signature"),
    ],
)  # fmt: skip
def test_what_nobody_vouches_for(found: Examined, begin: str, whys: str) -> None:
    assert line(found) == f"Introductions; you do not know carol@good-shop.co.uk; {begin} ({whys}); {HOW}"


BAD, GOOD = "nothing vouches for it", "b.test vouches for it"
SPAM = Findings(GOOD, "rspamd: spam", JUNK)


@pytest.mark.parametrize(
    ("findings", "mailbox", "state", "provenance", "said"),
    [
        (Findings(BAD), INBOX, "granted", Provenance.UNAUTHENTICATED, f"INBOX; you know {CAROL}, but {BAD}"),
        (Findings(GOOD), INBOX, "granted", Provenance.AUTHENTICATED, f"INBOX; you know {CAROL}, and {GOOD}"),
        (Findings(GOOD), JUNK, "revoked", Provenance.AUTHENTICATED,
         f"Junk; you have refused {CAROL}; move a mail of theirs out of Junk to take them back"),
        (SPAM, JUNK, "none", Provenance.AUTHENTICATED, f"Junk; rspamd: spam; {GOOD}"),
        (SPAM, INBOX, "granted", Provenance.AUTHENTICATED,
         f"INBOX; you know {CAROL}, and {GOOD}; else it were Junk: rspamd: spam"),
        (Findings(GOOD), INTRODUCTIONS, "none", Provenance.AUTHENTICATED,
         f"Introductions; you do not know {CAROL}; {GOOD}; {HOW}"),
        (Findings("", "milter x: changed the body"), INBOX, "none", Provenance.HERE,
         "INBOX; milter x: changed the body"),
    ],
)  # fmt: skip
def test_what_the_user_has_said(
    findings: Findings, mailbox: str, state: str, provenance: Provenance, said: str
) -> None:
    octets = findings.field(mailbox, CAROL, state, provenance)  # type: ignore[arg-type]
    assert octets.decode() == f"Gatewayd-Verdict: {said}\r\n"


def test_it_is_one_line_whatever_a_filter_says() -> None:
    assert UNEXAMINED.field(INBOX, CAROL, "none", Provenance.UNEXAMINED) == b""
    octets = Findings("", "odd\r\nBcc: x\N{SNOWMAN}" + "y" * 2000).field(INBOX, CAROL, "none", Provenance.HERE)
    assert octets.startswith(b"Gatewayd-Verdict: INBOX; odd  Bcc: x?yyy")
    assert len(octets) < 998 and octets.count(b"\n") == 1 and octets.endswith(b"\r\n")


@pytest.mark.parametrize("provenance", Provenance)
def test_what_was_found_is_kept(provenance: Provenance) -> None:
    for findings in (SPAM, UNEXAMINED, Findings(BAD)):
        assert kept(findings.kept(provenance)) == (provenance, findings)
    assert kept("") == (Provenance.HERE, UNEXAMINED)
