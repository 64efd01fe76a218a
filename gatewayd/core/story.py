"""Tells the operator what happens to each message, in plain words: the one place that knows them (gatewayctl trace)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from gatewayd.address import Address, Domain
from gatewayd.core.examination import Examined
from gatewayd.interfaces.records import Account
from gatewayd.interfaces.routes import Bridged, Local, Mail, Origin, Parley, Route
from gatewayd.interfaces.story import Event, Record
from gatewayd.message.dsn import Action
from gatewayd.message.model import Content
from gatewayd.outcome import Deferred, Delivered, Outcome, Refused

_TOLD: dict[Action, str] = {
    "failed": "that it could not be delivered",
    "delayed": "that it is delayed",
    "relayed": "that it went on to a server that sends no reports",
    "delivered": "that it was delivered",
}


class Story:
    def __init__(self, now: Callable[[], float], record: Record = lambda event: None) -> None:
        self._now = now
        self._record = record

    def mail(
        self, content: Content, origin: Origin, sender: Address | None, submitter: Account | None, size: int
    ) -> None:
        who = f"signed in as {submitter.address}" if submitter else "not signed in"
        words = f"received by {origin.protocol} from {origin}, sender <{sender or ''}>, {who}, {size} octets"
        self._say(content, sender, words)

    def turned_away(self, origin: Origin, sender: Address | None, recipients: Iterable[Address], why: Outcome) -> None:
        """It never was ours, and has no id."""
        for recipient in recipients:
            words = f"mail from <{sender or ''}> by {origin} was not taken: {_said(why)}"
            self._record(Event("", self._now(), str(recipient), words))

    def examined(self, content: Content, examined: Examined) -> None:
        spf, dkim, dmarc, why = examined.summary.values()
        self._say(content, None, f"examined: SPF {spf}, DKIM {dkim}, DMARC {dmarc}; {why}")

    def judged(self, content: Content, verdict: str, mailbox: str) -> None:
        self._say(content, None, f"{'taken' if mailbox == 'INBOX' else 'to be filed as Junk'}: {verdict}")

    def submitted(self, content: Content, account: Account) -> None:
        self._say(content, account.address, f"received by Parley from the user {account.address}, signed in")

    def handed_over(self, content: Content, peer: Domain, sender: Address | None) -> None:
        self._say(
            content, sender, f"received by Parley from the domain {peer}, which proved its name; its signature holds"
        )

    def made_here(self, content: Content) -> None:
        self._say(content, None, "written by this gateway itself")

    def posted(self, content: Content, recipient: Address, outcome: Outcome, mailbox: str) -> None:
        done = _said(outcome)
        if isinstance(outcome, Delivered) and outcome.text in ("Delivered", "Received"):
            done = "in the mailbox " + mailbox.removeprefix("\\")
        elif isinstance(outcome, Delivered) and outcome.text == "Queued":
            done = "waits in the queue"
        self._say(content, recipient, done)

    def sent_on(self, content: Content, alias: Address, as_ours: Content) -> None:
        """Another domain's object, from here on by another name."""
        self._say(content, alias, f"sent on as {as_ours.trace_id}")
        self._say(as_ours, alias, f"made of {content.trace_id} to be sent on")

    def attempted(
        self,
        content: Content,
        recipient: Address,
        number: int,
        route: Route | None,
        outcome: Outcome,
        wait: float = 0.0,
    ) -> None:
        match outcome, route:
            case Delivered(), Mail():
                fate = "handed over"  # what comes of it there is not ours to know
            case Delivered(), _:
                fate = "delivered"
            case Deferred(), _:
                fate = f"put off for {duration(wait)}"
            case Refused("5.4.7"), _:
                fate = "given up"
            case _:
                fate = "refused for good"
        self._say(content, recipient, f"attempt {number}{_way(route)}: {fate} ({_said(outcome)})")

    def told(self, content: Content, action: Action, sender: Address) -> None:
        self._say(content, sender, f"<{sender}> was told {_TOLD[action]}")

    def _say(self, content: Content, about: Address | None, words: str) -> None:
        self._record(Event(content.trace_id, self._now(), str(about or ""), words))


def _said(outcome: Outcome) -> str:
    return f"{outcome.code} {outcome.text}"


def _way(route: Route | None) -> str:
    match route:
        case Parley():
            return f", by Parley to {route.domain}"
        case Mail():
            hosts = dict.fromkeys(endpoint.name or endpoint.host for endpoint in route.endpoints)
            return f", by SMTP to {route.domain} ({', '.join(hosts)})"
        case Local():
            return ", to a mailbox here"
        case Bridged():
            return f", to the server behind us, {route.endpoint.host}"
    return ""


def duration(seconds: float) -> str:
    for unit, length in (("days", 2 * 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
