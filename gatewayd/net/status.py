"""Health and metrics over HTTP, for the operator's eyes: bind it to loopback (Prometheus text format 0.0.4)."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.twisted import MetricsResource
from twisted.internet import defer
from twisted.internet.interfaces import IReactorTime
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

Health = Callable[[], Awaitable[Mapping[str, str]]]  # part -> "ok", or what is wrong


class _Health(Resource):
    """200 when every part says ok, else 503; the body names each part."""

    isLeaf = True

    def __init__(self, health: Health) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._health = health

    def render_GET(self, request: Request) -> int:
        defer.Deferred.fromCoroutine(self._answer(request)).addErrback(lambda _: None)  # the asker hung up
        return NOT_DONE_YET

    async def _answer(self, request: Request) -> None:
        parts = dict(await self._health())
        request.setResponseCode(200 if all(state == "ok" for state in parts.values()) else 503)
        request.setHeader(b"content-type", b"application/json")
        request.write(json.dumps(parts).encode() + b"\n")
        request.finish()


def site(registry: CollectorRegistry, health: Health, clock: IReactorTime) -> Site:
    root = Resource()
    root.putChild(b"health", _Health(health))
    root.putChild(b"metrics", MetricsResource(registry))
    return Site(root, reactor=clock)
