"""What is counted for the operator (Prometheus names, https://prometheus.io/docs/practices/naming/)."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, PlatformCollector, ProcessCollector

from gatewayd.outcome import Outcome


class Metrics:
    """A registry of our own, so that two gateways in one process do not share counters."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self._relayed = Counter(
            "gatewayd_relayed",
            "Attempts of the relay, a recipient each",
            ["carrier", "outcome"],
            registry=self.registry,
        )
        self._sessions = Counter("gatewayd_sessions", "Connections accepted", ["protocol"], registry=self.registry)
        self.connections = Gauge("gatewayd_connections", "Connections now open", registry=self.registry)

    def relayed(self, carrier: str, outcome: Outcome) -> None:
        self._relayed.labels(carrier, type(outcome).__name__).inc()

    def session(self, protocol: str) -> None:
        self._sessions.labels(protocol).inc()
