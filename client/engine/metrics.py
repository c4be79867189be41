"""An engine's metrics, for Prometheus: what its observer was told, and no more.

Everything here is in the region's round entries or published checkpoints too, or is told to the
coordinator as a reason code. So whoever may read the metrics learns of customers what the other
parties learn: between which powers of two the number of those in a round lies. There are no figures
of the process either: how its memory and processor time move from day to day follows how many
customers there are.
"""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from client.engine.home import RegionHome
from client.engine.journal import EngineJournal
from client.engine.observing import EngineObserver, Observers
from client.engine.provenance import engine_digest
from common.disk import disk_check
from common.loopback import LoopbackAddress
from common.metrics_http import Check, Observed, serve_metrics
from common.validate import is_power_of_two_interval

#: Kinds of refusals that are told apart; any further one counts as ``other``.
MAX_REASONS = 64
ROUND_SECONDS_BUCKETS = (0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)

#: Counted from zero on, for the alerts: of a count that appears as 1 Prometheus sees no increase.
ALERTED_REASONS = (
    "attempt-used",
    "budget-exhausted",
    "clock-behind",
    "configuration",
    "data-quality",
    "egress-refused",
    "engine-busy",
    "engine-failure",
    "frame-refused",
    "key-reflected",
    "key-shared",
    "key-weak",
    "malformed-request",
    "masked-already",
    "not-permitted",
    "not-survivors",
    "other-mechanism",
    "other-model",
    "other-plan",
    "other-quantiser",
    "other-round",
    "other-run",
    "own-keys-differ",
    "own-records-do-not-verify",
    "own-shares-differ",
    "own-statement",
    "peer-refused",
    "region-twice",
    "rosters-differ",
    "storage-failure",
    "survivors-differ",
    "threshold-differs",
    "unknown-region",
    "unmasked-already",
    "wrong-signer",
)

_REASON = re.compile(r"[a-z][a-z0-9]*(?:-[a-z0-9]+){0,7}")
_OTHER = "other"


class EngineMetrics(Collector):
    """Is told by the engine as its `EngineObserver`; is asked by Prometheus.

    Args:
        region: The region's party name.
        engine: The installed engine's digest.
        clock_s: Now, in seconds since the epoch.
    """

    def __init__(
        self, region: str, engine: str, *, clock_s: Callable[[], float] = time.time
    ) -> None:
        self._region = region
        self._engine = engine
        self._clock_s = clock_s
        self._lock = threading.Lock()
        self._started_s = clock_s()
        self._refusals = Counter(dict.fromkeys(ALERTED_REASONS, 0))
        self._rounds = 0
        self._bytes = 0
        self._last_round: tuple[str, int, float] | None = None
        self._customers_at_least: int | None = None
        self._budget: tuple[float, float] | None = None
        self._log_size: int | None = None
        self._witnessed_s: float | None = None
        self.registry = CollectorRegistry(auto_describe=False)
        self._round_seconds = Histogram(
            "fedpref_engine_round_seconds",
            "From the request of a round till its release was logged.",
            buckets=ROUND_SECONDS_BUCKETS,
            registry=self.registry,
        )
        self.registry.register(self)

    def refused(self, reason: str) -> None:
        """A request was refused, or a peer at the socket."""
        with self._lock:
            known = _REASON.fullmatch(reason) is not None
            room = reason in self._refusals or len(self._refusals) < MAX_REASONS
            self._refusals[reason if known and room else _OTHER] += 1

    def round_done(
        self, run: str, server_round: int, seconds: float, num_bytes: int, bucket: str
    ) -> None:
        """A round's update was trained, sealed and logged."""
        self._round_seconds.observe(seconds)
        with self._lock:
            self._rounds += 1
            self._bytes += num_bytes
            self._last_round = (run, server_round, self._clock_s())
            # What is no such interval may be a count: then nothing is told.
            interval = is_power_of_two_interval(bucket)
            self._customers_at_least = int(bucket.partition("-")[0]) if interval else None

    def charged(self, epsilon_spent: float, epsilon_cap: float) -> None:
        """What the year's budget stands at."""
        with self._lock:
            self._budget = (epsilon_spent, epsilon_cap)

    def log_size(self, size: int) -> None:
        """A checkpoint of the region's log was published."""
        with self._lock:
            self._log_size = size

    def witness_lag(self, seconds: float) -> None:
        """A round's checkpoint was found cosigned by enough others."""
        with self._lock:
            self._witnessed_s = self._clock_s() - seconds

    def collect(self) -> Iterable[Metric]:
        """The metrics as they stand; what was not told of yet is left out."""
        with self._lock:
            return [*self._families()]

    def _families(self) -> Iterable[Metric]:
        yield InfoMetricFamily(
            "fedpref_engine",
            "Which engine this is.",
            value={"region": self._region, "engine": self._engine},
        )
        yield _gauge("started_timestamp_seconds", "When it was started.", self._started_s)
        yield _counter("rounds", "Rounds trained, sealed and logged.", self._rounds)
        yield _counter("released_bytes", "Bytes of the arrays sealed for release.", self._bytes)
        refusals = CounterMetricFamily(
            "fedpref_engine_refusals", "Requests and peers refused.", labels=["reason"]
        )
        for reason, count in sorted(self._refusals.items()):
            refusals.add_metric([reason], count)
        yield refusals
        yield from self._of_last_round()
        yield from self._of_budget()
        yield from self._of_log()

    def _of_last_round(self) -> Iterable[Metric]:
        if self._last_round is None:
            return
        run, server_round, at_s = self._last_round
        last = GaugeMetricFamily(
            "fedpref_engine_last_round", "The newest round done.", labels=["run"]
        )
        last.add_metric([run], server_round)
        yield last
        yield _gauge("last_round_timestamp_seconds", "When the newest round was done.", at_s)
        if self._customers_at_least is not None:
            yield _gauge(
                "customers_at_least",
                "A power of two: the customers of the newest round are fewer than twice as many.",
                self._customers_at_least,
            )

    def _of_budget(self) -> Iterable[Metric]:
        if self._budget is None:
            return
        spent, cap = self._budget
        yield _gauge("epsilon_spent", "ε spent in the running budget year.", spent)
        yield _gauge("epsilon_cap", "ε that may be spent in a budget year.", cap)
        yield _gauge("epsilon_left", "ε left in the running budget year.", max(cap - spent, 0.0))

    def _of_log(self) -> Iterable[Metric]:
        if self._log_size is not None:
            yield _gauge(
                "published_log_size",
                "Entries of the log at its newest published checkpoint.",
                self._log_size,
            )
        if self._witnessed_s is not None:
            yield _gauge(
                "witness_lag_seconds",
                "Since enough other parties have last cosigned the log.",
                max(self._clock_s() - self._witnessed_s, 0.0),
            )


def _gauge(name: str, documentation: str, value: float) -> Metric:
    return GaugeMetricFamily(f"fedpref_engine_{name}", documentation, value=value)


def _counter(name: str, documentation: str, value: float) -> Metric:
    return CounterMetricFamily(f"fedpref_engine_{name}", documentation, value=value)


@dataclass(frozen=True)
class Watching:
    """Who is told what an engine does, and where it can be looked at.

    Attributes:
        observer: For `client.engine.service.open_engine`.
        address: Where metrics are served; None for nowhere.
    """

    observer: EngineObserver
    address: LoopbackAddress | None


@contextmanager
def watched(home: RegionHome, socket: Path, address: LoopbackAddress | None) -> Iterator[Watching]:
    """An observer for an engine that is about to be opened: its journal, and metrics if wanted.

    Served from before the engine is open till after it is closed, so that its absence is seen.

    Args:
        home: The region's home.
        socket: Where the engine will listen to its relay.
        address: Where to serve the metrics; None for nowhere.

    Raises:
        InputError: The address cannot be used.
    """
    journal = EngineJournal(home.region)
    if address is None:
        yield Watching(journal, None)
        return
    metrics = EngineMetrics(home.region, engine_digest())
    observed = Observed(metrics.registry, engine_checks(home, socket))
    with serve_metrics(observed, address) as taken:
        yield Watching(Observers(journal, metrics), taken)


def engine_checks(home: RegionHome, socket: Path) -> Mapping[str, Check]:
    """What an engine needs to do its work, by name."""
    return {
        "disk": lambda: disk_check(home.root),
        "relay-socket": lambda: None if socket.is_socket() else "gone",
    }
