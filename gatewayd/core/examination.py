"""Who sent this mail, as far as the DNS can tell: SPF (RFC 7208), DKIM (RFC 6376, 8463), DMARC (RFC 7489).

pyspf and dkimpy do the two checks; DMARC is the few lines that join them, with the Mozilla public suffix list.
Blocking: called in a thread. A name server that does not answer gives "temperror", and the mail is taken.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import dkim
import spf
from publicsuffixlist import PublicSuffixList

from gatewayd.address import Address, AddressError, Domain
from gatewayd.interfaces import Origin, ResolutionFailed
from gatewayd.message import bridge

MAX_SIGNATURES = 5  # verified; more are an attack on our time
BUDGET = 20.0  # seconds for all look-ups of one mail (RFC 7208 §4.6.4)
STRICTNESS = {"none": 0, "quarantine": 1, "reject": 2}

# (name, type) -> TXT: tuples of bytes; A, AAAA, PTR: str; MX: (preference, host). [] for absence.
# Raises ResolutionFailed.
Lookup = Callable[[str, str], list[Any]]


@dataclass(frozen=True, slots=True)
class Signature:
    result: str  # pass, fail, temperror, policy (RFC 8601 §2.7.1)
    domain: str
    selector: str


@dataclass(frozen=True, slots=True)
class Examined:
    spf: str  # RFC 8601 §2.7.2
    spf_domain: str
    spf_identity: str  # "mailfrom" or "helo"
    signatures: tuple[Signature, ...]
    dmarc: str  # pass, fail, none, temperror
    author: str  # the domain of From, "" when there is none
    policy: str = "none"  # what that domain asks for when DMARC fails

    def field(self, hostname: Domain) -> bytes:
        """Authentication-Results with its CRLF (RFC 8601 §2.2)."""
        results = [f"spf={self.spf} smtp.{self.spf_identity}={_token(self.spf_domain)}"]
        results += [
            f"dkim={each.result} header.d={_token(each.domain)} header.s={_token(each.selector)}"
            for each in self.signatures
        ] or ["dkim=none"]
        results.append(f"dmarc={self.dmarc} (p={self.policy}) header.from={_token(self.author)}")
        return ";\r\n\t".join([f"Authentication-Results: {hostname}", *results]).encode("ascii", "replace") + b"\r\n"

    @property
    def summary(self) -> dict[str, str]:
        """What stands in a bridged object's "bridged"."""
        good = [each.domain for each in self.signatures if each.result == "pass"]
        return {"spf": self.spf, "dkim": f"pass {good[0]}" if good else "none", "dmarc": self.dmarc}


class _SPF(spf.query):  # type: ignore[misc]
    """pyspf over our resolver; the resolver follows aliases, pyspf counts."""

    def __init__(self, lookup: Lookup, ip: str, sender: str, helo: str) -> None:
        super().__init__(i=ip, s=sender, h=helo)
        self._lookup = lookup

    def dns(self, name: str, qtype: str, cnames: object = None, ignore_void: bool = False) -> list[Any]:
        try:
            found = self._lookup(str(name), qtype)
        except ResolutionFailed as error:
            raise spf.TempError(str(error)) from None
        if not found and not ignore_void:
            self.void_lookups += 1
            if self.void_lookups > spf.MAX_VOID_LOOKUPS:
                raise spf.PermError("too many void look-ups")  # RFC 7208 §4.6.4
        return found


def examine(mail: bytes, origin: Origin, reverse_path: Address | None, lookup: Lookup) -> Examined:
    """Raises nothing."""
    deadline = time.monotonic() + BUDGET

    def bounded(name: str, kind: str) -> list[Any]:
        if time.monotonic() > deadline:
            raise ResolutionFailed("the look-ups for one mail took too long")
        return lookup(name, kind)

    identity = "mailfrom" if reverse_path else "helo"
    sender = str(reverse_path) if reverse_path else f"postmaster@{origin.helo}"
    spf_domain = sender.rpartition("@")[2]
    try:
        spf_result = _SPF(bounded, origin.address, sender, origin.helo).check()[0]
    except Exception:  # the record is a stranger's; pyspf raises many things
        spf_result = "permerror"
    signatures = _signatures(mail, bounded)
    passed = [each.domain for each in signatures if each.result == "pass"]
    dmarc, author, policy = _dmarc(mail, spf_domain if spf_result == "pass" else "", passed, bounded)
    return Examined(spf_result, spf_domain, identity, signatures, dmarc, author, policy)


def _signatures(mail: bytes, lookup: Lookup) -> tuple[Signature, ...]:
    def txt(name: bytes, timeout: int = 5) -> bytes | None:
        found = lookup(name.decode("ascii", "replace"), "TXT")
        return b"".join(found[0]) if found else None

    found = []
    try:
        headers, _ = dkim.rfc822_parse(mail)
    except dkim.DKIMException:
        return ()
    count = sum(name.lower() == b"dkim-signature" for name, _ in headers)
    for number in range(min(count, MAX_SIGNATURES)):
        verifier = dkim.DKIM(mail)
        try:
            result = "pass" if verifier.verify(idx=number, dnsfunc=txt) else "fail"
        except ResolutionFailed:
            result = "temperror"
        except Exception:  # a stranger's field; dkimpy raises many things
            result = "fail"
        fields = verifier.signature_fields
        if result == "pass" and b"l" in fields:
            result = "policy"  # what stands behind a partial signature may be anybody's
        domain, selector = (fields.get(key, b"").decode("ascii", "replace").lower() for key in (b"d", b"s"))
        found.append(Signature(result, domain, selector))
    return tuple(found)


def _dmarc(mail: bytes, spf_domain: str, dkim_domains: Sequence[str], lookup: Lookup) -> tuple[str, str, str]:
    """(result, author's domain, policy). Of several authors the one with the strictest failing policy counts."""
    domains = list(dict.fromkeys(author.domain.name for author in bridge.authors(mail) if author is not None))
    verdicts = []
    for author in domains[:MAX_SIGNATURES]:
        organisation = organisational(author)
        try:
            record, asked = _record(author, lookup), "p"
            if not record and organisation != author:
                record, asked = _record(organisation, lookup), "sp"
        except ResolutionFailed:
            return "temperror", author, "none"
        policy = record.get(asked, record.get("p", "none"))
        if policy not in STRICTNESS or record.get("pct") == "0":
            policy = "none"
        spf_holds = _aligned(author, [spf_domain], record.get("aspf"))
        holds = spf_holds or _aligned(author, dkim_domains, record.get("adkim"))
        verdicts.append(("none" if not record else "pass" if holds else "fail", author, policy))
    failed = [verdict for verdict in verdicts if verdict[0] == "fail"]
    if failed:
        return max(failed, key=lambda verdict: STRICTNESS[verdict[2]])
    return verdicts[0] if verdicts else ("none", "", "none")


def _aligned(author: str, domains: Sequence[str], mode: str | None) -> bool:
    if mode == "s":
        return author in domains
    return any(domain and organisational(domain) == organisational(author) for domain in domains)


def _record(domain: str, lookup: Lookup) -> dict[str, str]:
    """The domain's DMARC record, {} when there is none or several (RFC 7489 §6.6.3)."""
    texts = [b"".join(strings).decode("utf-8", "replace") for strings in lookup(f"_dmarc.{domain}", "TXT")]
    found = []
    for text in texts:
        pairs = [pair.partition("=") for pair in text.split(";") if pair.strip()]
        tags = {name.strip().lower(): value.strip().lower() for name, _, value in pairs}
        if pairs and pairs[0][0].strip() == "v" and tags["v"] == "dmarc1" and "p" in tags:
            found.append(tags)
    return found[0] if len(found) == 1 else {}


@cache
def _suffixes() -> PublicSuffixList:
    return PublicSuffixList()


def organisational(domain: str) -> str:
    """The registered domain above it (RFC 7489 §3.2)."""
    return _suffixes().privatesuffix(domain) or domain


def _token(text: str) -> str:
    try:
        return Domain.parse(text).name
    except AddressError:
        return '"' + "".join(c for c in text if c.isascii() and (c.isalnum() or c in "._-"))[:255] + '"'
