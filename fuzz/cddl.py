"""Values made of a CDDL grammar (RFC 8610): such as it allows, and such as miss it by a little; and which is which.

As much of CDDL as docs/parley.cddl uses: rules, choices, literals, ranges, arrays and maps with occurrences, a group by
its name, `.size` and `.regexp`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, NamedTuple

expressions: Any = vars(re)["_parser"]  # re's own: there is no other that says what a pattern is made of
regular: Any = vars(re)["_constants"]

TOKEN = re.compile(
    r"""(?:\s|;[^\n]*\n)*(?:(?P<text>"(?:\\.|[^"\\])*")|(?P<number>-?\d+)|(?P<control>\.(?:size|regexp))"""
    r"""|(?P<name>[A-Za-z][\w-]*)|(?P<mark>=>|\.\.|[]\[{}()=:,/*+?])|(?P<end>\Z))"""
)
MANY = 3  # items where any number may be
DEEP = 6
SIZES = [0, 1, 5, 23, 24, 31, 32, 33, 255, 256, 300]
OTHERS: list[Any] = [None, True, False, 0, 1, -1, 2**32, 2**63, 2**64 - 1, "", "x", b"", b"x", [], {}, [{}], {"x": 1}]
TEXTS = ["", "x", "INBOX", "\\Seen", "alice@alpha.test", "alpha.test", "é\u202e", "a" * 300, "\0", "../x", "0"]
NUMBERS = [0, 1, 23, 24, 255, 256, 65535, 65536, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1]


class Literal(NamedTuple):
    value: Any


class Range(NamedTuple):
    low: int
    high: int


class Name(NamedTuple):
    """A rule's, or one of the prelude (RFC 8610 appendix D)."""

    name: str


class Choice(NamedTuple):
    options: list[Any]


class Sized(NamedTuple):
    of: Any
    low: int
    high: int


class Regexp(NamedTuple):
    pattern: str


class Entry(NamedTuple):
    """Of an array (without a key), of a map, or a group's name."""

    low: int
    high: int
    key: Any
    value: Any


class Array(NamedTuple):
    entries: list[Entry]


class Map(NamedTuple):
    entries: list[Entry]


class Grammar:
    def __init__(self, text: str) -> None:
        """A rule that comes twice is the later one."""
        self.rules = _Parser(text).rules()

    # -- what it allows ---------------------------------------------------------------------------------------------

    def make(self, random: Random, rule: str) -> Any:
        return self._make(random, Name(rule), 0)

    def _make(self, random: Random, node: Any, depth: int) -> Any:
        match node:
            case Literal(value):
                return value
            case Range(low, high):
                return random.choice([low, high, random.randint(low, high), min(low + 1, high)])
            case Choice(options):
                return self._make(random, random.choice(options), depth)
            case Sized(_, low, high):
                return random.randbytes(random.choice([n for n in (low, high, *SIZES) if low <= n <= high]))
            case Regexp(pattern):
                return _text(random, pattern)
            case Array(entries):
                return [self._make(random, e.value, depth + 1) for e in entries for _ in range(_times(random, e))]
            case Map():
                return {
                    self._make(random, entry.key, depth + 1): self._make(random, entry.value, depth + 1)
                    for entry in self._entries(node)
                    for _ in range(_times(random, entry))
                }
            case Name(name) if name in self.rules:
                return self._make(random, self.rules[name], depth)
            case Name("tstr"):
                return random.choice(TEXTS)
            case Name("bstr"):
                return random.randbytes(random.choice(SIZES))
            case Name("bool"):
                return random.random() < 0.5
            case Name("uint" | "int" as name):
                return random.choice(NUMBERS) * random.choice((1, -1 if name == "int" else 1))
            case Name("any"):
                return self._make(random, Name(random.choice(("tstr", "bstr", "bool", "int"))), depth)
        raise ValueError(f"not known: {node}")

    def _entries(self, node: Map) -> list[Entry]:
        """With those of groups that it names; those whose key is any come last (pycddl understands no other order)."""
        found = []
        for entry in node.entries:
            if entry.key is None:
                found += self._entries(self.rules[entry.value.name])
            else:
                found.append(entry)
        return sorted(found, key=lambda entry: not isinstance(entry.key, Literal))

    # -- what it does not -------------------------------------------------------------------------------------------

    def spoil(self, random: Random, rule: str) -> Any:
        """Wrong in one place, mostly."""
        while True:
            value = self._spoil(random, Name(rule))
            if not self.matches(rule, value):
                return value

    def _spoil(self, random: Random, node: Any) -> Any:
        match node:
            case Literal(int() as value) if random.random() < 0.6:
                return value + random.choice((1, -1))
            case Literal(str() as value) if random.random() < 0.6:
                return random.choice((value.swapcase(), value[:-1], value + "x", value.encode()))
            case Range(low, high) if random.random() < 0.6:
                return random.choice((low - 1, min(high + 1, 2**64 - 1)))
            case Choice(options):
                return self._spoil(random, random.choice(options))
            case Sized(_, low, high) if random.random() < 0.6:
                return random.choice((bytes(max(low - 1, 0)), bytes(high + 1), "0" * low))
            case Regexp(pattern) if random.random() < 0.6:
                text = _text(random, pattern)
                at = random.randint(0, len(text))
                return text[:at] + random.choice(" \\\n\0é(5") + text[at:]
            case Array(entries) if random.random() < 0.9:
                made = self._make(random, node, 0)
                match random.randrange(6):
                    case 0:
                        return made[:-1]
                    case 1:
                        return [*made, self._make(random, Name("any"), 0)]
                at = random.randrange(len(entries))
                fixed = all(entry.low == entry.high == 1 for entry in entries)
                made[at if fixed else len(made) :] = [self._spoil(random, entries[at].value), *made[at + 1 :]]
                return made
            case Map(entries) if entries and random.random() < 0.9:
                made, entry = self._make(random, node, 0), random.choice(self._entries(node))
                key = self._make(random, entry.key, 0)
                match random.randrange(8):
                    case 0 | 1:
                        made.pop(key, None)
                        return made
                    case 2:
                        return {**made, random.choice((7, b"x")): 1}
                return {**made, key: self._spoil(random, entry.value)}
            case Name(name) if name in self.rules:
                return self._spoil(random, self.rules[name])
        return random.choice(OTHERS)

    # -- which it is ------------------------------------------------------------------------------------------------

    def matches(self, rule: str, value: Any) -> bool:
        return self._matches(Name(rule), value)

    def _matches(self, node: Any, value: Any) -> bool:
        match node:
            case Literal(wanted):
                return type(value) is type(wanted) and bool(value == wanted)
            case Range(low, high):
                return type(value) is int and low <= value <= high
            case Choice(options):
                return any(self._matches(option, value) for option in options)
            case Sized(of, low, high):
                return self._matches(of, value) and low <= len(value) <= high
            case Regexp(pattern):
                return type(value) is str and re.fullmatch(pattern, value) is not None
            case Array(entries):
                return type(value) is list and self._matches_items(entries, value)
            case Map():
                return type(value) is dict and self._matches_map(self._entries(node), value)
            case Name(name) if name in self.rules:
                return self._matches(self.rules[name], value)
            case Name(name):
                return _PRELUDE[name](value)
        raise ValueError(f"not known: {node}")

    def _matches_items(self, entries: Sequence[Entry], items: Sequence[Any]) -> bool:
        at = 0
        for entry in entries:
            begin = at
            while at < len(items) and at - begin < entry.high and self._matches(entry.value, items[at]):
                at += 1
            if at - begin < entry.low:
                return False
        return at == len(items)

    def _matches_map(self, entries: Sequence[Entry], items: dict[Any, Any]) -> bool:
        """A key that is named stands for itself alone (the cut of RFC 8610 §3.5.4)."""
        named = {entry.key.value: entry for entry in entries if isinstance(entry.key, Literal)}
        others = [entry for entry in entries if not isinstance(entry.key, Literal)]
        if any(entry.low and key not in items for key, entry in named.items()):
            return False
        return all(
            self._matches(named[key].value, value)
            if key in named
            else any(self._matches(o.key, key) and self._matches(o.value, value) for o in others)
            for key, value in items.items()
        )


_PRELUDE: dict[str, Callable[[Any], bool]] = {
    "any": lambda value: True,
    "null": lambda value: value is None,
    "tstr": lambda value: type(value) is str,
    "bstr": lambda value: type(value) is bytes,
    "bool": lambda value: type(value) is bool,
    "uint": lambda value: type(value) is int and 0 <= value < 2**64,
    "int": lambda value: type(value) is int and -(2**64) <= value < 2**64,
}


def _times(random: Random, entry: Entry) -> int:
    return entry.low if entry.low == entry.high else random.randint(entry.low, min(entry.high, entry.low + MANY))


def _text(random: Random, pattern: str) -> str:
    """Some text that matches all of it."""
    return "".join(_letters(random, expressions.parse(pattern)))


def _letters(random: Random, steps: Any) -> list[str]:
    made = []
    for kind, what in steps:
        if kind is regular.LITERAL:
            made.append(chr(what))
        elif kind is regular.IN:
            kind, what = random.choice(what)
            made.append(chr(what if kind is regular.LITERAL else random.randint(*what)))
        elif kind is regular.BRANCH:
            made += _letters(random, random.choice(what[1]))
        elif kind is regular.SUBPATTERN:
            made += _letters(random, what[-1])
        elif kind is regular.MAX_REPEAT:
            low, high, of = what
            for _ in range(random.randint(low, min(high, low + 5))):
                made += _letters(random, of)
        else:
            raise ValueError(f"not known: {kind}")
    return made


class _Parser:
    def __init__(self, text: str) -> None:
        self._tokens: list[tuple[str, str]] = []
        at = 0
        while not self._tokens or self._tokens[-1][0] != "end":
            found = TOKEN.match(text, at)
            if found is None or found.lastgroup is None:
                raise ValueError(f"no CDDL: {text[at : at + 40]!r}")
            self._tokens.append((found.lastgroup, found[found.lastgroup]))
            at = found.end()
        self._at = 0

    def rules(self) -> dict[str, Any]:
        found = {}
        while self._kind != "end":
            name = self._take()
            self._take("=")
            found[name] = self._type()
        return found

    @property
    def _kind(self) -> str:
        return self._tokens[self._at][0]

    @property
    def _next(self) -> str:
        return self._tokens[self._at][1]

    def _take(self, wanted: str = "") -> str:
        taken = self._next
        if wanted and taken != wanted:
            before = " ".join(text for _, text in self._tokens[max(0, self._at - 8) : self._at])
            raise ValueError(f"{wanted} was expected, not {taken}, after {before}")
        self._at += 1
        return taken

    def _may(self, wanted: str) -> bool:
        if self._kind in ("mark", "control") and self._next == wanted:
            self._at += 1
            return True
        return False

    def _type(self) -> Any:
        options = [self._one()]
        while self._may("/"):
            options.append(self._one())
        return options[0] if len(options) == 1 else Choice(options)

    def _one(self) -> Any:
        node = self._plain()
        if self._may(".."):
            return Range(node.value, int(self._take()))
        if self._may(".size"):
            if self._may("("):
                low = int(self._take())
                self._take("..")
                high = int(self._take())
                self._take(")")
                return Sized(node, low, high)
            size = int(self._take())
            return Sized(node, size, size)
        if self._may(".regexp"):
            return Regexp(_unquoted(self._take()))
        return node

    def _plain(self) -> Any:
        match self._kind:
            case "text":
                return Literal(_unquoted(self._take()))
            case "number":
                return Literal(int(self._take()))
            case "name":
                return Name(self._take())
        for begin, end, kind in (("[", "]", Array), ("{", "}", Map), ("(", ")", Map)):
            if self._may(begin):
                entries = []
                while not self._may(end):
                    entries.append(self._entry())
                    self._may(",")
                return kind(entries)
        raise ValueError(f"no type: {self._tokens[self._at : self._at + 5]}")

    def _entry(self) -> Entry:
        low, high = 1, 1
        for mark, occurrence in (("?", (0, 1)), ("*", (0, 1000)), ("+", (1, 1000))):
            if self._may(mark):
                low, high = occurrence
        value = self._type()
        if self._may(":"):
            return Entry(low, high, Literal(value.name if isinstance(value, Name) else value.value), self._type())
        if self._may("=>"):
            return Entry(low, high, value, self._type())
        return Entry(low, high, None, value)


def _unquoted(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text[1:-1])
