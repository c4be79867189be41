"""The recommender's metrics, for Prometheus.

A request is mostly somebody who looks at a shop just now, so answers are told of in lots: what is
shown never changes by one of them. Whose lists were personal, and how many, is not told at all, nor
memory or processor time (docs/decisions/0034). What the service itself fails at is told one by one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from common.metrics_http import Check

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: So many answers are told of together.
LOT = 100
SECONDS_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)

_PREFIX = "fedpref_recommender"
_NOT_ADMITTED = 401
_FAILED_FROM = 500


class RecommenderMetrics(Collector):
    """Is told by the service what it does; is asked by Prometheus.

    Args:
        region: The region's party name.
        model: Gives the digest of the model that is served.
        clock_s: Now, in seconds since the epoch.
    """

    def __init__(
        self, region: str, model: Callable[[], str], *, clock_s: Callable[[], float] = time.time
    ) -> None:
        self._region = region
        self._model = model
        self._clock_s = clock_s
        self._lock = threading.Lock()
        self._lot: list[float] = []
        self._not_admitted = self._failures = self._refresh_failures = 0
        self._started_s = self._refreshed_s = clock_s()
        self.registry = CollectorRegistry(auto_describe=False)
        self._seconds = Histogram(
            f"{_PREFIX}_request_seconds",
            "From a request's arrival till its answer was sent.",
            buckets=SECONDS_BUCKETS,
            registry=self.registry,
        )
        self.registry.register(self)

    def answered(self, status: int, seconds: float) -> None:
        """A request was answered, or refused."""
        with self._lock:
            self._not_admitted += status == _NOT_ADMITTED
            self._failures += status >= _FAILED_FROM
            self._lot.append(seconds)
            if len(self._lot) < LOT:
                return
            lot, self._lot = self._lot, []
        for each in lot:
            self._seconds.observe(each)

    def refreshed(self, well: bool) -> None:
        """Store and model were read anew, or could not be."""
        with self._lock:
            if well:
                self._refreshed_s = self._clock_s()
            else:
                self._refresh_failures += 1

    def collect(self) -> Iterable[Metric]:
        """The metrics as they stand."""
        with self._lock:
            return [*self._families()]

    def _families(self) -> Iterable[Metric]:
        yield InfoMetricFamily(
            _PREFIX,
            "Whose recommender this is, and the model that it serves.",
            value={"region": self._region, "model": self._model()},
        )
        for name, what, at_s in (
            ("started", "When it was started.", self._started_s),
            ("refreshed", "When store and model were last read.", self._refreshed_s),
        ):
            yield GaugeMetricFamily(f"{_PREFIX}_{name}_timestamp_seconds", what, value=at_s)
        for name, what, count in (
            ("not_admitted", "Requests without the token.", self._not_admitted),
            ("failures", "Requests that the service failed at.", self._failures),
            ("refresh_failures", "Refreshes that failed.", self._refresh_failures),
        ):
            yield CounterMetricFamily(f"{_PREFIX}_{name}", what, value=count)


def recommender_checks(faults: Callable[[], Sequence[str]]) -> Mapping[str, Check]:
    """What must be well for every answer to be as personal as it could be.

    Args:
        faults: What is wrong; only whether anything is is told on.
    """
    return {"answers": lambda: "less-personal" if faults() else None}


class Measured:
    """ASGI middleware: tells of the requests to the API, but for those that read all anew.

    Args:
        app: The application.
        api: What the paths of the API begin with.
        unmeasured: Paths whose answers take as long as they take.
        answered: Is told each answer's status and its seconds.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        api: str,
        unmeasured: frozenset[str],
        answered: Callable[[int, float], None],
    ) -> None:
        self._app = app
        self._api = api
        self._unmeasured = unmeasured
        self._answered = answered

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request."""
        path = scope["path"] if scope["type"] == "http" else ""
        if not path.startswith(self._api) or path in self._unmeasured:
            await self._app(scope, receive, send)
            return
        began_s, status = time.perf_counter(), _FAILED_FROM

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            self._answered(status, time.perf_counter() - began_s)
