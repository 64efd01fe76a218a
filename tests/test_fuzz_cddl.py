"""The schema is read as it stands, and what is made of it is judged by another reader of CDDL too."""

from __future__ import annotations

import re
from random import Random
from typing import Any

import cbor2
import pycddl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz import grammar
from fuzz.cddl import Grammar
from gatewayd.wire.parley import RemoteProtocolError

GRAMMAR = grammar.GRAMMAR
SCHEMA = pycddl.Schema(grammar.CDDL)
RULES = ["frame", *grammar.PARSED]
some = st.randoms(use_true_random=False)  # hypothesis draws what the grammar asks for


@given(some)
def test_valid_frames_are_taken(random: Random) -> None:
    frame = GRAMMAR.make(random, "frame")
    SCHEMA.validate_cbor(cbor2.dumps(frame))
    grammar.take(frame)


@given(some)
def test_what_misses_the_schema_by_a_little_is_one_clear_error(random: Random) -> None:
    frame = GRAMMAR.spoil(random, "frame")
    if grammar.TAKEN.matches("frame", frame):
        return  # the sessions see that
    with pytest.raises(RemoteProtocolError):
        grammar.take(frame)


@given(some, st.sampled_from(sorted(grammar.PARSED)))
def test_objects_and_key_sets(random: Random, rule: str) -> None:
    pycddl.Schema(f"root = {rule}\n{grammar.CDDL}").validate_cbor(cbor2.dumps(GRAMMAR.make(random, rule)))
    parse, error = grammar.PARSED[rule]
    spoiled = GRAMMAR.spoil(random, rule)
    if not grammar.TAKEN.matches(rule, spoiled):
        with pytest.raises(error):
            parse(cbor2.dumps(spoiled))


@pytest.mark.parametrize("rule", RULES)
def test_what_is_made_matches_and_what_is_spoiled_does_not(rule: str) -> None:
    for seed in range(300):
        assert GRAMMAR.matches(rule, GRAMMAR.make(Random(seed), rule))
        assert not GRAMMAR.matches(rule, GRAMMAR.spoil(Random(seed), rule))


def test_every_method_of_the_schema_is_made() -> None:
    made = {tuple(GRAMMAR.make(Random(seed), "frame")[0::2][:2]) for seed in range(2000)}
    wanted = {(1, name) for name in grammar.ASKED} | {(2, name) for name in grammar.ANSWERED}
    assert wanted < made
    assert {(0, ""), (3, "changes"), (3, "signal"), (4, "")} < made


SMALL = Grammar(
    r"""
    root = [kind, * tstr] ; a comment
    kind = 1..3 / "x\\y" / null-like
    null-like = { a: uint, ? b: bool, "c" => bstr .size (1..2), more, * tstr => any }
    more = ( ? d: tstr .regexp "[ab]{2}|c", )
    """
)


@pytest.mark.parametrize(
    ("value", "right"),
    [
        ([1], True), ([3, "a", ""], True), (["x\\y"], True), ([{"a": 1, "c": b"1"}], True),
        ([{"a": 1, "c": b"12", "b": False, "d": "ab", "e": []}], True), ([{"a": 1, "c": b"1", "d": "c"}], True),
        ([], False), ([0], False), ([4], False), ([True], False), ([1, 1], False), (["x"], False), ({}, False),
        ([{"a": 1}], False), ([{"a": 1, "c": b""}], False), ([{"a": 1, "c": b"1", "d": "abc"}], False),
        ([{"a": -1, "c": b"1"}], False), ([{"a": 1, "c": b"1", "b": None}], False),
        ([{"a": 1, "c": b"1", 7: 1}], False),
    ],
)  # fmt: skip
def test_matching(value: Any, right: bool) -> None:
    assert SMALL.matches("root", value) is right
    assert [SMALL.matches("root", SMALL.make(Random(seed), "root")) for seed in range(50)] == [True] * 50


@pytest.mark.parametrize("text", ["a", "a =", "a = [", "a = { b }x", "a = b .size", "= b", "a = %"])
def test_what_is_no_cddl(text: str) -> None:
    with pytest.raises((ValueError, KeyError)):
        Grammar(text).make(Random(1), "a")


def test_the_roles_are_the_schemas_requests() -> None:
    """What is said here beside the schema names the same methods."""
    for rules in (grammar.LATER, grammar.ROLES):
        assert set(re.findall(r'\[1, stream, "(\w+)"', rules)) | {"auth"} == grammar.ASKED.keys()
