"""Domains and addresses: what is one, how it is written, and what is none."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatewayd.address import MAX_LOCAL, MAX_PATH, Address, AddressError, Domain

PRINTABLE = st.characters(min_codepoint=0x20, max_codepoint=0x7E)
TEXT = st.text(st.characters(codec="utf-8"), max_size=80)
DOMAINS = st.sampled_from(["alpha.test", "b\u00fccher.test", "XN--BCHER-KVA.test", "a.b.c.d", "_x.test", "a-b.test."])


@given(st.text(PRINTABLE, max_size=MAX_LOCAL // 2), DOMAINS)
def test_any_printable_local_part_there_and_back_quoted(local: str, domain: str) -> None:
    quoted = '"' + local.replace("\\", "\\\\").replace('"', '\\"') + '"'
    address = Address.parse(f"{quoted}@{domain}")
    assert address.local == local
    assert Address.parse(str(address)) == address
    assert str(address).isprintable()


@given(TEXT)
def test_what_is_parsed_is_valid_and_stays_what_it_is(text: str) -> None:
    try:
        address = Address.parse(text)
    except AddressError as error:
        assert str(error)
        return
    assert Address.parse(str(address)) == address
    assert len(address.local.encode()) <= MAX_LOCAL
    assert len(str(address).encode()) <= MAX_PATH
    assert address.domain.name.isascii() and address.domain.name == address.domain.name.lower()
    assert str(address).isprintable()
    if address.is_ascii:
        assert str(address).isascii()


@given(TEXT)
def test_a_domain_has_one_form(text: str) -> None:
    try:
        domain = Domain.parse(text)
    except AddressError:
        return
    assert Domain.parse(domain.name) == Domain.parse(domain.name.upper()) == Domain.parse(f"{domain.name}.") == domain


@pytest.mark.parametrize(
    "text",
    [
        "", "@", "a", "a@", "@a", "a@b@c.test", "a b@c.test", "a..b@c.test", ".a@c.test", "a.@c.test", "a@c..test",
        "a@-c.test", "a@c-.test", "a@" + "c" * 64 + ".test", "a" * 65 + "@c.test", "a@[127.0.0.1]", "a@127.0.0.1",
        "a@[IPv6:::1]", '"a@c.test', 'a"@c.test', '"a"b@c.test', '"a\n"@c.test', '"a\0"@c.test', '"a\\\n"@c.test',
        "a\0@c.test", "a@c.test\r", "a@c.test\n", "<a@c.test>", "a(comment)@c.test", "a@c.test (comment)", "a,b@c.test",
        "a@c\u3000.test", "a@\u2024.test", "\ud800@c.test", "a@c\u200b\u202e.test", "a\u0085@c.test",
        "@hop.test:a@c.test", "ali\u202ece@c.test", "a\u200b@c.test", "a\u2028@c.test", '"a\u202e"@c.test',
        "\ufeffa@c.test",
    ],
)  # fmt: skip
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(AddressError):
        Address.parse(text)


def test_homographs_are_what_they_are() -> None:
    latin, cyrillic = Domain.parse("alpha.test"), Domain.parse("\u0430lpha.test")
    assert cyrillic.name == "xn--lpha-43d.test" and cyrillic != latin
    assert Domain.parse("\uff41\uff4c\uff50\uff48\uff41.test") == latin  # full width is the same letter (UTS 46)
    assert Domain.parse("a\u3002test") == Domain.parse("a.test")  # so is the ideographic full stop
    assert Address.parse("\u0430lice@alpha.test").key != Address.parse("alice@alpha.test").key


def test_whom_we_host_is_looked_up_by_one_key() -> None:
    composed = Address.parse("J\u00fcrgen@Alpha.test")
    decomposed = Address.parse(unicodedata.normalize("NFD", "j\u00fcrgen") + "@ALPHA.TEST")
    assert composed.key == decomposed.key == ("j\u00fcrgen", "alpha.test")
    assert composed != decomposed  # a relay changes nothing (RFC 5321 §2.4)
    assert Address.parse('"alice"@alpha.test') == Address.parse("alice@alpha.test")
