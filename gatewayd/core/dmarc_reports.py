"""DMARC aggregate reports: what a domain's mail looked like here, told to the domain once a day (RFC 7489 §7.2)."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable, Mapping
from typing import Protocol
from xml.etree import ElementTree

import msgspec
from twisted.logger import Logger

from gatewayd.address import Address, AddressError, Domain
from gatewayd.core.daily_reports import DAY, Contact, Send, Tally, report_mail
from gatewayd.core.dmarc import Record, aligned
from gatewayd.core.examination import Examined, Signature
from gatewayd.interfaces.dns import IResolver, ResolutionFailed

MAX_KINDS = 50_000  # kept in memory between two flushes; more are not counted
MAX_DESTINATIONS = 2  # §6.2: at least two
_SIZES = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}

Kind = tuple[int, str, str, str]


class Sightings(Protocol):
    async def add(self, counts: Mapping[Kind, int]) -> None: ...
    async def finished(self, today: int) -> list[tuple[int, str]]: ...
    async def of(self, day: int, domain: str) -> list[tuple[str, str, int]]: ...
    async def forget(self, day: int, domain: str) -> None: ...


class Sighting(msgspec.Struct, frozen=True, array_like=True):
    """What is the same of all mails that one row of a report counts."""

    client: str
    disposition: str
    overridden: bool
    dkim_aligned: bool
    spf_aligned: bool
    author: str
    envelope_from: str
    spf: str
    spf_domain: str
    spf_identity: str
    signatures: tuple[Signature, ...]


class DMARCReporter:
    """Counts in memory and keeps what it counted; a killed gateway loses at most what came since the last flush."""

    log = Logger()

    def __init__(
        self, sightings: Sightings, resolver: IResolver, hostname: Domain,
        send: Send, contact: Contact, now: Callable[[], float],
    ) -> None:  # fmt: skip
        self._sightings = sightings
        self._resolver = resolver
        self._hostname = hostname
        self._send = send
        self._contact = contact
        self._now = now
        self._tally = Tally[Kind](sightings.add, MAX_KINDS)

    def note(self, examined: Examined, reverse_path: Address | None) -> None:
        """One mail. Costs no more than a dictionary."""
        verdict = examined.verdict
        if verdict.record is None or not destinations(verdict.record.rua):
            return
        sighting = Sighting(
            examined.client, examined.policy if verdict.result == "fail" else "none", examined.overridden,
            verdict.dkim_aligned, verdict.spf_aligned, verdict.author,
            reverse_path.domain.name if reverse_path else "", examined.spf, examined.spf_domain,
            examined.spf_identity, examined.signatures,
        )  # fmt: skip
        record = verdict.record
        self._tally.count((int(self._now()) // DAY, record.domain, _text(record), _text(sighting)))

    async def flush(self) -> None:
        """Raises StoreError; then nothing is lost."""
        await self._tally.flush()

    async def send_due(self) -> None:
        """The reports of the days that are over. One that cannot be sent now is sent later. Raises StoreError."""
        for day, domain in await self._sightings.finished(int(self._now()) // DAY):
            rows = await self._sightings.of(day, domain)
            record = msgspec.json.decode(rows[-1][0], type=Record)
            seen = [(msgspec.json.decode(text, type=Sighting), count) for _, text, count in rows]
            try:
                places = [place for place in destinations(record.rua) if await self._wanted(domain, place[0])]
            except ResolutionFailed as error:
                self.log.info("the DMARC report for {domain} waits: {error}", domain=domain, error=error)
                continue
            contact = await self._contact()
            name = f"{day}.{domain}@{self._hostname}"
            octets = gzip.compress(document(self._hostname, contact, name, day, record, seen), mtime=0)
            for place, limit in places[:MAX_DESTINATIONS]:
                if len(octets) <= limit:
                    sent = await self._send(self._mail(contact, place, day, domain, name, octets), place)
                    self.log.info("DMARC report for {d} to {to}: {text}", d=domain, to=str(place), text=sent.text)
            await self._sightings.forget(day, domain)

    async def _wanted(self, domain: str, place: Address) -> bool:
        """Another organisation says itself that it takes reports about this domain (§7.1)."""
        if aligned(place.domain.name, domain):
            return True
        found = await self._resolver.txt(f"{domain}._report._dmarc.{place.domain}")
        return any(isinstance(text, bytes) and re.match(rb"v=DMARC1\s*(;|$)", text) for text in found.records)

    def _mail(self, contact: Address, place: Address, day: int, domain: str, name: str, octets: bytes) -> bytes:
        mail = report_mail(self._hostname, contact, place, domain, name, self._now())
        mail["Message-ID"] = f"<dmarc.{name}>"
        mail.set_content(f"This is the DMARC aggregate report of {self._hostname} about {domain} (RFC 7489).\n")
        filename = f"{self._hostname}!{domain}!{day * DAY}!{(day + 1) * DAY - 1}.xml.gz"
        mail.add_attachment(octets, "application", "gzip", filename=filename)
        return mail.as_bytes()


def destinations(rua: str) -> list[tuple[Address, int]]:
    """(address, octets of the largest report) of each mailto (§6.2); others are nothing to us."""
    found = []
    for text in rua.split(","):
        uri = re.fullmatch(r"mailto:([^!]+)(?:!([0-9]{1,9})([kmgt]?))?", text.strip(), re.IGNORECASE)
        if uri is None:
            continue
        try:
            limit = int(uri[2]) * _SIZES[uri[3].lower()] if uri[2] else 10 * 2**20
            found.append((Address.parse(uri[1]), limit))
        except AddressError:
            continue
    return found


def document(
    hostname: Domain, contact: Address, name: str, day: int, record: Record, seen: list[tuple[Sighting, int]]
) -> bytes:
    """The XML of appendix C."""
    feedback = ElementTree.Element("feedback")
    _say(feedback, "version", "1.0")
    metadata = ElementTree.SubElement(feedback, "report_metadata")
    _say(metadata, "org_name", hostname.name)
    _say(metadata, "email", str(contact))
    _say(metadata, "report_id", name)
    dates = ElementTree.SubElement(metadata, "date_range")
    _say(dates, "begin", str(day * DAY))
    _say(dates, "end", str((day + 1) * DAY - 1))
    published = ElementTree.SubElement(feedback, "policy_published")
    for tag in ("domain", "adkim", "aspf", "p", "sp", "pct"):
        _say(published, tag, getattr(record, tag))
    _say(published, "fo", "0")
    for sighting, count in seen:
        _row(ElementTree.SubElement(feedback, "record"), sighting, count)
    octets: bytes = ElementTree.tostring(feedback, "utf-8", xml_declaration=True)
    return octets


def _row(element: ElementTree.Element, sighting: Sighting, count: int) -> None:
    row = ElementTree.SubElement(element, "row")
    _say(row, "source_ip", sighting.client)
    _say(row, "count", str(count))
    evaluated = ElementTree.SubElement(row, "policy_evaluated")
    _say(evaluated, "disposition", sighting.disposition)
    _say(evaluated, "dkim", "pass" if sighting.dkim_aligned else "fail")
    _say(evaluated, "spf", "pass" if sighting.spf_aligned else "fail")
    if sighting.overridden:
        reason = ElementTree.SubElement(evaluated, "reason")
        _say(reason, "type", "trusted_forwarder")
        _say(reason, "comment", "arc=pass")
    identifiers = ElementTree.SubElement(element, "identifiers")
    _say(identifiers, "envelope_from", sighting.envelope_from)
    _say(identifiers, "header_from", sighting.author)
    results = ElementTree.SubElement(element, "auth_results")
    for signature in sighting.signatures:
        dkim = ElementTree.SubElement(results, "dkim")
        for tag in ("domain", "selector", "result"):
            _say(dkim, tag, getattr(signature, tag))
    spf = ElementTree.SubElement(results, "spf")
    _say(spf, "domain", sighting.spf_domain)
    _say(spf, "scope", "helo" if sighting.spf_identity == "helo" else "mfrom")
    _say(spf, "result", sighting.spf)


def _say(element: ElementTree.Element, tag: str, text: str) -> None:
    ElementTree.SubElement(element, tag).text = re.sub(r"[^\x20-\x7e\x80-\ud7ff\ue000-\ufffd]", "?", text)


def _text(thing: object) -> str:
    return msgspec.json.encode(thing).decode()
