"""What MAIL and RCPT carry behind the path, and what is no such thing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatewayd.wire.smtp.parameters import (
    MailParameters,
    ParameterError,
    RcptParameters,
    from_xtext,
    mail_parameters,
    rcpt_parameters,
    xtext,
)


def test_all_of_mail() -> None:
    said = mail_parameters("SIZE=77 body=binarymime SMTPUTF8 AUTH=<> RET=full ENVID=QQ+2B314 REQUIRETLS HOLDFOR=60")
    given_ = frozenset({"SIZE", "BODY", "SMTPUTF8", "AUTH", "RET", "ENVID", "REQUIRETLS", "HOLDFOR"})
    assert said == MailParameters(given_, 77, "BINARYMIME", True, True, "FULL", "QQ+314", 60)
    assert mail_parameters("HOLDUNTIL=1970-01-02T01:00:00+01:00").hold_until == 86400.0
    assert mail_parameters("") == mail_parameters("  ") == MailParameters()


def test_all_of_rcpt() -> None:
    said = rcpt_parameters("NOTIFY=success,DELAY ORCPT=rfc822;Bob+2Btag@b.test")
    wanted = frozenset({"SUCCESS", "DELAY"})
    assert said == RcptParameters(frozenset({"NOTIFY", "ORCPT"}), wanted, "rfc822;Bob+tag@b.test")
    assert rcpt_parameters("NOTIFY=never").notify == {"NEVER"}
    assert rcpt_parameters("ORCPT=utf-8;\\x{E4}\u00f6\\x{2B}@b.test").orcpt == "utf-8;\u00e4\u00f6+@b.test"
    assert rcpt_parameters("") == RcptParameters()


@pytest.mark.parametrize(
    "words",
    [
        "SIZE", "SIZE=", "SIZE=-1", "SIZE=1e3", "SIZE=" + "9" * 21, "SIZE=1 SIZE=1", "BODY=9BIT", "BODY", "SMTPUTF8=1",
        "RET", "RET=BODY", "ENVID", "ENVID=" + "x" * 101, "ENVID=a+0Ab", "ENVID=a+b", "ENVID=+E4", "REQUIRETLS=yes",
        "HOLDFOR=0", "HOLDFOR=1000000000", "HOLDFOR=x", "HOLDUNTIL=tomorrow", "HOLDUNTIL=2026-11-25T10:00:00",
        "HOLDFOR=1 HOLDUNTIL=2026-11-25T10:00:00Z", "AUTH", "=x", "A=B=C", "SIZE=1\t", "\u00e4=1",
    ],
)  # fmt: skip
def test_bad_mail_parameters(words: str) -> None:
    with pytest.raises(ParameterError) as refused:
        mail_parameters(words)
    assert refused.value.known


@pytest.mark.parametrize(
    "words",
    [
        "NOTIFY", "NOTIFY=", "NOTIFY=NEVER,FAILURE", "NOTIFY=FAILURE,FAILURE", "NOTIFY=FAILURE,", "NOTIFY=ALWAYS",
        "ORCPT", "ORCPT=bob@b.test", "ORCPT=rfc822;", "ORCPT=;x", "ORCPT=rfc 822;x", "ORCPT=rfc822;x+0D+0ABcc:+20y",
        "ORCPT=rfc822;" + "x" * 500, "ORCPT=utf-8;\\x{D800}", "ORCPT=utf-8;\\x{0A}", "ORCPT=utf-8;\\x{FFFFFF}",
        "ORCPT=rfc822;\u00e4@b.test",
    ],
)  # fmt: skip
def test_bad_rcpt_parameters(words: str) -> None:
    with pytest.raises(ParameterError) as refused:
        rcpt_parameters(words)
    assert refused.value.known


@pytest.mark.parametrize("words", ["XCLIENT=1", "NOTIFY=NEVER", "MT-PRIORITY=3"])
def test_what_is_not_known(words: str) -> None:
    with pytest.raises(ParameterError) as refused:
        mail_parameters(words)
    assert not refused.value.known


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126)))
def test_xtext_there_and_back(text: str) -> None:
    encoded = xtext(text)
    assert from_xtext(encoded) == text
    assert " " not in encoded


@given(st.text(max_size=60))
def test_whatever_is_read_fits_a_header_field(text: str) -> None:
    """No parameter brings a line of its own into a report."""
    for words in (f"ORCPT=utf-8;{text}", f"ORCPT=rfc822;{text}", text):
        try:
            said = rcpt_parameters(words)
        except ParameterError:
            continue
        assert said.orcpt.isprintable()
