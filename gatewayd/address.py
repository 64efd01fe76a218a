"""Domains and mail addresses: floor 0, imported by everything, importing nothing of ours.

Sources: RFC 5321 §4.1.2 (Mailbox grammar), RFC 6531 §3.3 (SMTPUTF8 mailboxes), RFC 5890/5891 (IDNA).
`Domain.parse` and `Address.parse` are the only constructors that anything outside this module uses; what they
return is valid by construction.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import idna
import msgspec

MAX_LOCAL = 64  # octets, RFC 5321 §4.5.3.1.1
MAX_DOMAIN = 255  # octets, RFC 5321 §4.5.3.1.2
MAX_PATH = 254  # octets: a 256-octet path less its angle brackets, RFC 5321 §4.5.3.1.3

_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\Z")
# atext of RFC 5322 §3.2.3, widened by RFC 6531 §3.3 to every non-ASCII character that prints
_ATOM = re.compile(
    r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\-\u00a1-\U0010ffff]+(\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~\-\u00a1-\U0010ffff]+)*\Z"
)
_QUOTED = re.compile(r'"(?:[^"\\\x00-\x1f\x7f-\x9f]|\\[\x20-\x7e])*"\Z')


class AddressError(ValueError):
    """The text is not a domain or an address; its message says why, in words fit for a reply."""


class Domain(msgspec.Struct, frozen=True, cache_hash=True):
    """A DNS name in its one canonical form: lower-case A-labels, no trailing dot."""

    name: str

    @classmethod
    def parse(cls, text: str) -> Domain:
        """Read A-labels or U-labels (IDNA 2008, UTS 46 mapping). Raises AddressError."""
        if text.startswith("["):
            raise AddressError("a domain name is expected, not an address literal")
        text = text.removesuffix(".")
        if not text:
            raise AddressError("empty domain name")
        if not text.isascii():
            try:
                text = idna.encode(text, uts46=True).decode("ascii")
            except (idna.IDNAError, UnicodeError) as error:
                raise AddressError(f"not an internationalized domain name: {error}") from None
        name = text.lower()
        if len(name) > MAX_DOMAIN:
            raise AddressError("domain name longer than 255 octets")
        for label in name.split("."):
            if not _LABEL.match(label):
                raise AddressError(f"bad label {label[:63]!r} in domain name")
        if name.rsplit(".", 1)[-1].isdigit():
            raise AddressError("a domain name is expected, not an IP address")
        return cls(name)

    @property
    def unicode(self) -> str:
        """The name as people write it (U-labels where they decode)."""
        try:
            return idna.decode(self.name)
        except (idna.IDNAError, UnicodeError):
            return self.name

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Address:
    """A mailbox, local-part@domain. `local` is unquoted; equality is exact, as RFC 5321 §2.4 asks of relays."""

    __slots__ = ("_hash", "_text", "domain", "local")

    local: str
    domain: Domain
    # Asked for many times a message, so made once; ClassVar only says that they are no fields.
    _text: ClassVar[str]
    _hash: ClassVar[int]

    def __post_init__(self) -> None:
        local = self.local
        if not _ATOM.match(local):
            local = '"' + local.replace("\\", "\\\\").replace('"', '\\"') + '"'
        object.__setattr__(self, "_text", f"{local}@{self.domain.name}")
        object.__setattr__(self, "_hash", hash(self._text))

    def __hash__(self) -> int:
        return self._hash

    @classmethod
    @lru_cache(4096)
    def parse(cls, text: str) -> Address:
        """Read `local@domain` without angle brackets, source route or comment. Raises AddressError."""
        local, at, domain = text.rpartition("@")
        if not at:
            raise AddressError("an address needs an @")
        if local.startswith('"'):
            if not _QUOTED.match(local):
                raise AddressError("bad quoted local part")
            local = re.sub(r"\\(.)", r"\1", local[1:-1])
        elif not _ATOM.match(local):
            raise AddressError("bad local part")
        if not local.isprintable():  # what turns the direction, or shows nothing at all, only deceives
            raise AddressError("a character that does not print in the local part")
        parsed = cls(local, Domain.parse(domain))
        if len(local.encode("utf-8", "surrogatepass")) > MAX_LOCAL:
            raise AddressError("local part longer than 64 octets")
        try:
            octets = len(str(parsed).encode("utf-8"))
        except UnicodeEncodeError:
            raise AddressError("lone surrogate in address") from None
        if octets > MAX_PATH:
            raise AddressError("address longer than 254 octets")
        return parsed

    @property
    def key(self) -> tuple[str, str]:
        """What local accounts are looked up by: local parts that we host differ neither by case alone, nor by how a
        letter with its accent is written (RFC 6532 §3.1)."""
        if self.local.isascii():
            return self.local.lower(), self.domain.name
        return unicodedata.normalize("NFC", self.local.casefold()), self.domain.name

    @property
    def is_ascii(self) -> bool:
        """Whether it can be named to a server without SMTPUTF8 (RFC 6531 §3.4)."""
        return self.local.isascii()

    def __str__(self) -> str:
        return self._text
