"""Who sent this mail, as far as the DNS can tell: SPF (RFC 7208), DKIM (RFC 6376, 8463), ARC (RFC 8617), iprev.

pyspf and dkimpy do the checks; dmarc.py joins them.
Blocking: called in a thread. A name server that does not answer gives "temperror", and the mail is taken.
"""

from __future__ import annotations

import ipaddress
import re
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import dkim
import spf

from gatewayd.address import Address, AddressError, Domain
from gatewayd.core import dmarc
from gatewayd.core.dmarc import Lookup, Verdict
from gatewayd.interfaces.dns import ResolutionFailed
from gatewayd.interfaces.routes import Origin
from gatewayd.message import bridge
from gatewayd.message.mime import Mail

MAX_SIGNATURES = 5  # verified; more are an attack on our time
BUDGET = 20.0  # seconds for all look-ups of one mail (RFC 7208 §4.6.4)
MAX_INSTANCES = 50  # RFC 8617 §4.2.1
MAX_NAMES = 10  # of an address; RFC 7208 §4.6.4 has the same limit
_DMARC_PASS = re.compile(rb"(?:^|;)\s*dmarc=pass\b", re.IGNORECASE)


_SPF_WORDS = {
    "none": "{domain} has no SPF record",
    "pass": "SPF speaks for {domain} only",
    "fail": "it does not come from where {domain} sends",
    "softfail": "it does not seem to come from where {domain} sends",
    "temperror": "the DNS does not answer for {domain}",
    "permerror": "the SPF record of {domain} is broken",
}
_DKIM_WORDS = {
    "none": "it has no DKIM signature",
    "pass": "the DKIM signature is that of {domain}",
    "fail": "the DKIM signature of {domain} does not hold",
    "policy": "the DKIM signature of {domain} covers a part only",
    "temperror": "the DKIM key of {domain} cannot be had now",
}


@dataclass(frozen=True, slots=True)
class Signature:
    result: str  # pass, fail, temperror, policy (RFC 8601 §2.7.1)
    domain: str
    selector: str


@dataclass(frozen=True, slots=True)
class Chain:
    """What those say who handed the mail on (ARC)."""

    result: str = "none"  # none, pass, fail, temperror
    sealer: str = ""  # the newest one's domain, when the chain holds
    dmarc: bool = False  # that it saw DMARC pass


@dataclass(frozen=True, slots=True)
class Examined:
    spf: str  # RFC 8601 §2.7.2
    spf_domain: str
    spf_identity: str  # "mailfrom" or "helo"
    signatures: tuple[Signature, ...]
    verdict: Verdict
    client: str  # its IP address
    arc: Chain = Chain()
    iprev: str = "permerror"  # RFC 8601 §2.7.3
    overridden: bool = False  # a trusted forwarder saw DMARC pass (RFC 8617 §7.2.1)

    @property
    def dmarc(self) -> str:
        return self.verdict.result

    @property
    def author(self) -> str:
        return self.verdict.author

    @property
    def policy(self) -> str:
        """What is done with it when DMARC fails."""
        return "none" if self.overridden else self.verdict.policy

    @property
    def authenticated(self) -> bool:
        """Whether anybody's word holds for the author: DMARC's, or where its domain has no policy, what DMARC looks at
        (RFC 7489 §3.1)."""
        if self.dmarc == "fail":
            return self.overridden
        spoke = [each.domain for each in self.signatures if each.result == "pass"]
        spoke += [self.spf_domain] if self.spf == "pass" else []
        return self.dmarc == "pass" or any(dmarc.aligned(domain, self.author) for domain in spoke if self.author)

    @property
    def vouched(self) -> str:
        """Who speaks for the author, or why nobody does: in words, for the reader."""
        author = self.author or "an author that it does not name"
        if self.overridden:
            return f"it fails DMARC of {author}, but {self.arc.sealer}, which this server trusts, saw it pass"
        passed = [each.domain for each in self.signatures if each.result == "pass"]
        signed = [domain for domain in passed if dmarc.aligned(domain, self.author)]
        sent = self.spf == "pass" and dmarc.aligned(self.spf_domain, self.author)
        if self.authenticated:
            by = [f"its signature ({domain})" for domain in signed[:1]]
            by += [f"where it comes from ({self.client})"] if sent else []
            return f"{author} vouches for it by {' and '.join(by)}"
        whys = [_SPF_WORDS.get(self.spf, "SPF says {spf} of {domain}").format(spf=self.spf, domain=self.spf_domain)]
        for each in self.signatures or (None,):
            result = "none" if each is None else each.result
            whys.append(_DKIM_WORDS[result].format(domain=each.domain if each else ""))
        begin = f"it fails DMARC of {author}" if self.dmarc == "fail" else f"nothing vouches for {author}"
        return f"{begin} ({', '.join(whys)})"

    def field(self, hostname: Domain) -> bytes:
        """Authentication-Results with its CRLF (RFC 8601 §2.2)."""
        results = [f"spf={self.spf} smtp.{self.spf_identity}={_token(self.spf_domain)}"]
        results += [
            f"dkim={each.result} header.d={_token(each.domain)} header.s={_token(each.selector)}"
            for each in self.signatures
        ] or ["dkim=none"]
        author = f" header.from={_token(self.author)}" if self.author else ""
        results.append(f"dmarc={self.dmarc} (p={self.policy}){author}")
        results.append(f"arc={self.arc.result}" + (f" header.d={_token(self.arc.sealer)}" if self.arc.sealer else ""))
        client = f'"{self.client}"' if ":" in self.client else self.client  # a colon is no token (RFC 8601 §2.2)
        results.append(f"iprev={self.iprev} policy.iprev={client}")
        return ";\r\n\t".join([f"Authentication-Results: {hostname}", *results]).encode("ascii", "replace") + b"\r\n"

    @property
    def summary(self) -> dict[str, str]:
        """What stands in a bridged object's "bridged"."""
        good = [each.domain for each in self.signatures if each.result == "pass"]
        signed = f"pass {good[0]}" if good else "none"
        return {"spf": self.spf, "dkim": signed, "dmarc": self.dmarc, "why": self.vouched}


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


def examine(
    mail: bytes, origin: Origin, reverse_path: Address | None, lookup: Lookup, trusted_sealers: Collection[str] = ()
) -> Examined:
    """`trusted_sealers`: domains whose word is taken for what they forward (ARC). Raises nothing."""
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
    authors = [author.domain.name for author in bridge.authors(Mail(mail)) if author is not None]
    verdict = dmarc.judge(authors, spf_domain if spf_result == "pass" else "", passed, bounded)
    arc = _chain(mail, bounded)
    overridden = verdict.result == "fail" and arc.dmarc and arc.sealer in trusted_sealers
    iprev = _iprev(origin.address, bounded)
    return Examined(
        spf_result, spf_domain, identity, signatures, verdict, origin.address, arc, iprev, overridden
    )  # fmt: skip


def _txt(lookup: Lookup) -> Callable[..., bytes | None]:
    def txt(name: bytes, timeout: int = 5) -> bytes | None:
        found = lookup(name.decode("ascii", "replace"), "TXT")
        return b"".join(found[0]) if found else None

    return txt


def _signatures(mail: bytes, lookup: Lookup) -> tuple[Signature, ...]:
    found = []
    try:
        headers, _ = dkim.rfc822_parse(mail)
    except dkim.DKIMException:
        return ()
    count = sum(name.lower() == b"dkim-signature" for name, _ in headers)
    for number in range(min(count, MAX_SIGNATURES)):
        verifier = dkim.DKIM(mail)
        try:
            result = "pass" if verifier.verify(idx=number, dnsfunc=_txt(lookup)) else "fail"
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


def _chain(mail: bytes, lookup: Lookup) -> Chain:
    """ARC (RFC 8617 §5.2)."""
    try:
        verifier = dkim.ARC(mail)
        newest, _ = verifier.sorted_arc_headers()
        if newest == 0:
            return Chain()
        if newest > MAX_INSTANCES:
            return Chain("fail")
        said, sets, _ = verifier.verify(dnsfunc=_txt(lookup))
        if said != b"pass":
            return Chain("fail")
    except ResolutionFailed:
        return Chain("temperror")
    except Exception:  # a stranger's fields; dkimpy raises many things
        return Chain("fail")
    said_dmarc = _DMARC_PASS.search(sets[0]["aar-value"]) is not None
    return Chain("pass", sets[0]["as-domain"].decode("ascii", "replace").lower(), said_dmarc)


def _iprev(address: str, lookup: Lookup) -> str:
    """A name of the address that has the address (RFC 8601 §3)."""
    try:
        client = ipaddress.ip_address(address)
        names = lookup(client.reverse_pointer, "PTR")[:MAX_NAMES]
        for name in names:
            if address in lookup(name, "AAAA" if client.version == 6 else "A"):
                return "pass"
    except ValueError:
        return "permerror"
    except ResolutionFailed:
        return "temperror"
    return "fail" if names else "permerror"


def _token(text: str) -> str:
    try:
        return Domain.parse(text).name
    except AddressError:
        return '"' + "".join(c for c in text if c.isascii() and (c.isalnum() or c in "._-"))[:255] + '"'
