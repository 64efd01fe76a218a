"""TLS-RPT (RFC 8460): how TLS to other domains' mail hosts went, told once a day to the domains that ask for it."""

from __future__ import annotations

import gzip
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

import msgspec
from twisted.logger import Logger

from gatewayd.address import Address, AddressError, Domain
from gatewayd.core.daily_reports import DAY, Contact, Send, Tally, report_mail
from gatewayd.core.mta_sts import FetchFailed
from gatewayd.core.tls_policy import Demand
from gatewayd.interfaces.dns import Endpoint, IResolver, ResolutionFailed

MEDIA_TYPE = "application/tlsrpt+gzip"  # §6.4
GIVE_UP = 2  # days that a report is tried for, where no place took it
MAX_PLACES = 10  # of one record
MAX_KINDS = 20_000  # kept in memory between two flushes; more are not counted

Kind = tuple[int, str, str]


class Sessions(Protocol):
    async def add(self, counts: Mapping[Kind, int]) -> None: ...
    async def finished(self, today: int) -> list[tuple[int, str]]: ...
    async def results(self, day: int, domain: str) -> list[tuple[str, int]]: ...
    async def reported(self, day: int, domain: str) -> None: ...


class Result(msgspec.Struct, frozen=True, array_like=True):
    """What is the same of all sessions that one line of a report counts (§4.4)."""

    kind: str  # tlsa, sts, no-policy-found
    policy: tuple[str, ...]  # its lines
    hosts: tuple[str, ...]  # the mx of an sts policy
    failure: str  # a result type; "": it went well
    host: str
    address: str


class TLSReporter:
    """Counts in memory and keeps what it counted; a killed gateway loses at most what came since the last flush."""

    log = Logger()

    def __init__(
        self, sessions: Sessions, resolver: IResolver, hostname: Domain,
        send: Send, post: Callable[[str, bytes, str], Awaitable[None]], contact: Contact, now: Callable[[], float],
    ) -> None:  # fmt: skip
        """`send` takes mail, `post` an https URI, a document and its media type; that raises FetchFailed."""
        self._sessions = sessions
        self._resolver = resolver
        self._hostname = hostname
        self._send = send
        self._post = post
        self._contact = contact
        self._now = now
        self._tally = Tally[Kind](sessions.add, MAX_KINDS)

    def note(self, domain: Domain, demand: Demand, endpoint: Endpoint, failure: str) -> None:
        """One session with a host of the domain."""
        kind, policy, hosts = "no-policy-found", tuple[str, ...](), tuple[str, ...]()
        if endpoint.tlsa:
            kind, policy = "tlsa", tuple(f"{r.usage} {r.selector} {r.matching} {r.data.hex()}" for r in endpoint.tlsa)
        elif demand.sts is not None:
            sts, kind = demand.sts, "sts"
            lines = ("version: STSv1", f"mode: {sts.mode}", *(f"mx: {name}" for name in sts.mx))
            policy, hosts = (*lines, f"max_age: {sts.max_age}"), sts.mx
        elif demand.trouble:
            kind, failure = "sts", failure or demand.trouble
        result = Result(kind, policy, hosts, failure, endpoint.name or endpoint.host, endpoint.host)
        self._tally.count((int(self._now()) // DAY, domain.name, msgspec.json.encode(result).decode()))

    async def flush(self) -> None:
        """Raises StoreError; then nothing is lost."""
        await self._tally.flush()

    async def send_due(self) -> None:
        """The reports of the days that are over. One that cannot be sent now is sent later. Raises StoreError."""
        today = int(self._now()) // DAY
        for day, domain in await self._sessions.finished(today):
            try:
                found = await self._resolver.txt(f"_smtp._tls.{domain}")
            except ResolutionFailed as error:
                self.log.info("the TLS report for {domain} waits: {error}", domain=domain, error=error)
                continue
            places = destinations([text for text in found.records if isinstance(text, bytes)])
            if not places or await self._report(day, domain, places) or today - day > GIVE_UP:
                await self._sessions.reported(day, domain)

    async def _report(self, day: int, domain: str, places: Sequence[Address | str]) -> bool:
        """Whether somebody took it."""
        rows = await self._sessions.results(day, domain)
        results = [(msgspec.json.decode(text, type=Result), count) for text, count in rows]
        contact = await self._contact()
        name = f"{day}.{domain}@{self._hostname}"
        octets = gzip.compress(document(self._hostname, contact, name, day, domain, results), mtime=0)
        taken = False
        for place in places:
            try:
                if isinstance(place, Address):
                    sent = await self._send(self._mail(contact, place, day, domain, name, octets), place)
                    said, ok = sent.text, sent.ok
                else:
                    await self._post(place, octets, MEDIA_TYPE)
                    said, ok = "taken", True
            except FetchFailed as error:
                said, ok = str(error), False
            taken = taken or ok
            self.log.info("TLS report for {d} to {to}: {text}", d=domain, to=str(place), text=said)
        return taken

    def _mail(self, contact: Address, place: Address, day: int, domain: str, name: str, octets: bytes) -> bytes:
        """§5.3."""
        mail = report_mail(self._hostname, contact, place, domain, name, self._now())
        mail["Message-ID"] = f"<tls.{name}>"
        mail["TLS-Report-Domain"] = domain
        mail["TLS-Report-Submitter"] = self._hostname.name
        mail.set_content(f"This is the TLS report of {self._hostname} about {domain} (RFC 8460).\n")
        filename = f"{self._hostname}!{domain}!{day * DAY}!{(day + 1) * DAY - 1}!{day}.json.gz"
        mail.add_attachment(octets, *MEDIA_TYPE.split("/"), filename=filename)
        mail.replace_header("Content-Type", 'multipart/report; report-type="tlsrpt"')
        return mail.as_bytes()


def destinations(records: list[bytes]) -> list[Address | str]:
    """The mail addresses and https URIs of the one record (§3)."""
    records = [text for text in records if text.startswith(b"v=TLSRPTv1")]
    found = re.search(rb";\s*rua=([^;]*)", records[0]) if len(records) == 1 else None
    places: list[Address | str] = []
    for uri in found[1].decode("ascii", "replace").split(",") if found else ():
        kind, _, text = uri.strip().partition(":")
        if kind.lower() == "https":
            places.append(uri.strip())
        elif kind.lower() == "mailto":
            try:
                places.append(Address.parse(text.strip()))
            except AddressError:
                continue
    return places[:MAX_PLACES]


def document(
    hostname: Domain, contact: Address, name: str, day: int, domain: str, results: list[tuple[Result, int]]
) -> bytes:
    """The JSON of §4.4."""
    by_policy: dict[tuple[Any, ...], list[tuple[Result, int]]] = {}
    for result, count in results:
        by_policy.setdefault((result.kind, result.policy, result.hosts), []).append((result, count))
    policies = []
    for (kind, policy, hosts), counted in by_policy.items():
        described = {"policy-type": kind, "policy-domain": domain}
        described |= {"policy-string": policy} if policy else {}
        described |= {"mx-host": hosts} if hosts else {}
        details = [
            {
                "result-type": result.failure,
                "receiving-mx-hostname": result.host,
                "receiving-ip": result.address,
                "failed-session-count": count,
            }
            for result, count in counted
            if result.failure
        ]
        failed = sum(count for result, count in counted if result.failure)
        good = sum(count for _, count in counted) - failed
        summary = {"total-successful-session-count": good, "total-failure-session-count": failed}
        told = {"policy": described, "summary": summary}
        policies.append(told | {"failure-details": details} if details else told)
    begin, end = (datetime.fromtimestamp(seconds, UTC) for seconds in (day * DAY, (day + 1) * DAY - 1))
    return msgspec.json.encode(
        {
            "organization-name": hostname.name,
            "date-range": {"start-datetime": begin, "end-datetime": end},
            "contact-info": str(contact),
            "report-id": name,
            "policies": policies,
        }
    )
