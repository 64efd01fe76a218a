"""DMARC (RFC 7489): what an author's domain asks for, and whether SPF or DKIM speaks for that domain.

The Mozilla public suffix list tells which domains belong together (§3.2). Blocking, as the look-up is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from publicsuffixlist import PublicSuffixList

from gatewayd.interfaces.dns import ResolutionFailed

MAX_AUTHORS = 5  # judged; more are an attack on our time
STRICTNESS = {"none": 0, "quarantine": 1, "reject": 2}

# (name, type) -> TXT: tuples of bytes; A, AAAA, PTR: str; MX: (preference, host). [] for absence.
# Raises ResolutionFailed.
Lookup = Callable[[str, str], list[Any]]


@dataclass(frozen=True, slots=True)
class Record:
    """What a domain publishes (§6.3), as far as it is used here and in reports."""

    domain: str  # where it stands
    p: str
    sp: str
    adkim: str = "r"
    aspf: str = "r"
    pct: str = "100"
    rua: str = ""  # as it was written


@dataclass(frozen=True, slots=True)
class Verdict:
    result: str  # pass, fail, none, temperror
    author: str  # the domain of From, "" when there is none
    policy: str = "none"  # what that domain asks for when DMARC fails
    record: Record | None = None
    spf_aligned: bool = False
    dkim_aligned: bool = False


def judge(authors: Sequence[str], spf_domain: str, dkim_domains: Sequence[str], lookup: Lookup) -> Verdict:
    """The domains of From, the domain for which SPF passed ("" for none), those whose DKIM signatures hold. Of several
    authors the one with the strictest failing policy counts (§6.6.1 leaves it open)."""
    verdicts = []
    for author in list(dict.fromkeys(authors))[:MAX_AUTHORS]:
        try:
            record = discover(author, lookup)
        except ResolutionFailed:
            return Verdict("temperror", author)
        if record is None:
            verdicts.append(Verdict("none", author))
            continue
        spf = _aligned(author, [spf_domain], record.aspf)
        dkim = _aligned(author, dkim_domains, record.adkim)
        policy = record.p if record.domain == author else record.sp
        if policy not in STRICTNESS or record.pct == "0":
            policy = "none"
        verdicts.append(Verdict("pass" if spf or dkim else "fail", author, policy, record, spf, dkim))
    failed = [verdict for verdict in verdicts if verdict.result == "fail"]
    if failed:
        return max(failed, key=lambda verdict: STRICTNESS[verdict.policy])
    return verdicts[0] if verdicts else Verdict("none", "")


def discover(author: str, lookup: Lookup) -> Record | None:
    """The author's record or its organisation's (§6.6.3). Raises ResolutionFailed."""
    organisation = organisational(author)
    return _record(author, lookup) or (_record(organisation, lookup) if organisation != author else None)


def organisational(domain: str) -> str:
    """The registered domain above it (§3.2)."""
    return _suffixes().privatesuffix(domain) or domain


def aligned(one: str, other: str) -> bool:
    return organisational(one) == organisational(other)


def _aligned(author: str, domains: Sequence[str], mode: str) -> bool:
    if mode == "s":
        return author in domains
    return any(domain and aligned(domain, author) for domain in domains)


def _record(domain: str, lookup: Lookup) -> Record | None:
    """None when there is none, or several (§6.6.3)."""
    texts = [b"".join(strings).decode("utf-8", "replace") for strings in lookup(f"_dmarc.{domain}", "TXT")]
    found = []
    for text in texts:
        pairs = [pair.partition("=") for pair in text.split(";") if pair.strip()]
        tags = {name.strip().lower(): value.strip() for name, _, value in pairs}
        if not pairs or pairs[0][0].strip() != "v" or tags["v"].upper() != "DMARC1" or "p" not in tags:
            continue
        low = {name: value.lower() for name, value in tags.items()}
        found.append(
            Record(
                domain, low["p"], low.get("sp", low["p"]), low.get("adkim", "r"), low.get("aspf", "r"),
                low.get("pct", "100"), tags.get("rua", ""),
            )
        )  # fmt: skip
    return found[0] if len(found) == 1 else None


@cache
def _suffixes() -> PublicSuffixList:
    return PublicSuffixList()
