"""The coordinator's metrics, for Prometheus: worked out from what lies in its home and deployment.

A process of its own, so that a run's coordinator serves nothing: it goes on when the coordinator
ends, and a restart of either loses no count, since counts come from the log. Of customers it has
what round entries state to all parties, between which powers of two their number lies.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from server.config import ServerHome
from server.observed_home import LoggedRun, ObservedEvents, ObservedLog
from server.run_figures import epsilon_after, update_bytes

ROUND_SECONDS_BUCKETS = (1, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200)
STATES = ("waiting", "running", "paused", "failed", "finished")

#: Counted from zero on for each region: of a count that appears as 1 Prometheus sees no increase.
ALERTED_REASONS = (
    "below-quorum",
    "conflict-claimed",
    "engine-unreachable",
    "message-unavailable",
    "no-node",
    "no-reply",
    "node-unavailable",
    "other-node",
    "other-region",
    "split-view",
    "wrong-signer",
)

_PREFIX = "fedpref_server"


class _Run:
    """A run of the home: what was planned, and what happens."""

    def __init__(self, home: ServerHome) -> None:
        self.plan = home.read_plan()
        self.events = ObservedEvents(home.events)
        self._epsilon = (0, 0.0)

    def epsilon_after(self, rounds: int) -> float:
        """See the function; accounting takes a while, and is done once a round."""
        if self._epsilon[0] != rounds:
            self._epsilon = (rounds, epsilon_after(self.plan, rounds))
        return self._epsilon[1]


class ServerMetrics(Collector):
    """Reads on in a coordinator's home whenever it is asked.

    Args:
        home: The home, of one run or of many.
        more: Gives metrics of what is around the home, such as its deployment's.
        clock_s: Now, in seconds since the epoch.
    """

    def __init__(
        self,
        home: ServerHome,
        *,
        more: Callable[[], Iterable[Metric]] = tuple,
        clock_s: Callable[[], float] = time.time,
    ) -> None:
        self._home = home
        self._more = more
        self._clock_s = clock_s
        self._lock = threading.Lock()
        self._log = ObservedLog(home.log)
        self._runs: dict[str, _Run] = {}
        self.registry = CollectorRegistry(auto_describe=False)
        self._round_seconds = Histogram(
            f"{_PREFIX}_round_seconds",
            "From a round's first request till its model was made.",
            buckets=ROUND_SECONDS_BUCKETS,
            registry=None,
        )
        self.registry.register(self)

    def collect(self) -> Iterable[Metric]:
        """The metrics as the home has them now.

        Raises:
            FedprefError: The home cannot be read; then there are none, and an alert says so.
        """
        with self._lock:
            self._read_on()
            return [*self._of_log(), *self._of_runs(), *self._of_regions(), *self._more()]

    def check(self) -> str | None:
        """Whether the home can be read."""
        with self._lock:
            self._read_on()
        return None

    def _read_on(self) -> None:
        for name in self._home.runs() or (None,):
            home = ServerHome(self._home.root, name)
            if str(home.folder) not in self._runs and home.plan.is_file():
                self._runs[str(home.folder)] = _Run(home)
        self._log.read_on()
        while self._log.new_rounds:
            self._round_seconds.observe(self._log.new_rounds.pop(0).seconds)
        for run in self._runs.values():
            run.events.read_on()

    def _of_log(self) -> Iterator[Metric]:
        federations = sorted({run.plan.federation for run in self._runs.values()})
        yield InfoMetricFamily(
            _PREFIX, "Whose coordinator this is.", value={"federation": ",".join(federations)}
        )
        yield _gauge("log_size", "Entries of the coordinator's own log.", self._log.size)
        incidents = CounterMetricFamily(
            f"{_PREFIX}_incidents",
            "Refusals and faults that the log has; of all regions where none is named.",
            labels=["region", "reason"],
        )
        regions = {name for run in self._runs.values() for name in run.plan.regions}
        zeros = {(region, reason): 0 for region in ("", *regions) for reason in ALERTED_REASONS}
        for (region, reason), count in sorted({**zeros, **self._log.incidents}.items()):
            incidents.add_metric([region, reason], count)
        yield incidents
        yield from self._round_seconds.collect()
        witnessed = [run.events.witnessed_ms for run in self._runs.values()]
        newest_ms = max((at_ms for at_ms in witnessed if at_ms is not None), default=None)
        if newest_ms is not None:
            yield _gauge(
                "witness_lag_seconds",
                "Since enough other parties have last cosigned the coordinator's log.",
                max(self._clock_s() - newest_ms / 1000, 0.0),
            )

    def _of_runs(self) -> Iterator[Metric]:
        families = _RunFamilies()
        updates = num_bytes = 0
        for run in self._runs.values():
            logged = self._log.runs.get(run.plan.run_id, LoggedRun())
            families.add(run, logged)
            updates += sum(done.updates for done in logged.rounds)
            num_bytes += sum(
                done.updates * update_bytes(run.plan, done.mechanism) for done in logged.rounds
            )
        yield _counter("updates", "Regions' updates that were made into models.", updates)
        yield _counter("update_bytes", "Bytes of these updates' arrays.", num_bytes)
        yield from families.metrics

    def _of_regions(self) -> Iterator[Metric]:
        customers = _labelled(
            "region_customers_at_least",
            "A power of two: the customers of the region's newest update are fewer than twice as "
            "many.",
            "region",
        )
        spent = _labelled(
            "region_epsilon_spent", "ε spent in the budget year, as the region states.", "region"
        )
        newest = sorted(self._runs.values(), key=lambda run: run.events.last_ms or 0)
        stated = {name: each for run in newest for name, each in run.events.stated.items()}
        for region, each in sorted(stated.items()):
            if each.customers_at_least is not None:
                customers.add_metric([region], each.customers_at_least)
            if each.epsilon_spent is not None:
                spent.add_metric([region], each.epsilon_spent)
        yield from (customers, spent)


class _RunFamilies:
    """The metrics that each run has one value of."""

    def __init__(self) -> None:
        texts = {
            "run_round": "The run's newest round that is done.",
            "run_rounds_planned": "The run's rounds by its plan.",
            "run_epsilon_spent": "ε that the rounds done have cost each region's customers.",
            "run_epsilon_planned": "ε that the run's plan states.",
            "run_last_event_timestamp_seconds": "When the run was last heard of.",
            "run_last_round_timestamp_seconds": "When the run's newest round was done.",
            "run_published_timestamp_seconds": "When the run's model was published.",
            "run_round_timeout_seconds": "For how long a round waits for replies, by the plan.",
        }
        self._gauges = {name: _labelled(name, text, "run") for name, text in texts.items()}
        self._state = GaugeMetricFamily(
            f"{_PREFIX}_run_state", "1 for the state that the run is in.", labels=["run", "state"]
        )

    @property
    def metrics(self) -> list[Metric]:
        """All of them."""
        return [*self._gauges.values(), self._state]

    def add(self, run: _Run, logged: LoggedRun) -> None:
        """Adds a run's values; what is not known yet is left out."""
        plan, events, done = run.plan, run.events, len(logged.rounds)
        newest_ms = logged.rounds[-1].end_ms if done else None
        values: Mapping[str, float | None] = {
            "run_round": done,
            "run_rounds_planned": plan.total_rounds,
            "run_epsilon_spent": run.epsilon_after(done),
            "run_epsilon_planned": float(plan.epsilon),
            "run_last_event_timestamp_seconds": _seconds(events.last_ms),
            "run_last_round_timestamp_seconds": _seconds(newest_ms),
            "run_published_timestamp_seconds": _seconds(logged.published_ms),
            "run_round_timeout_seconds": plan.round_timeout_s,
        }
        for name, value in values.items():
            if value is not None:
                self._gauges[name].add_metric([plan.run_id], value)
        for state in STATES:
            self._state.add_metric([plan.run_id, state], float(state == events.state))


def _seconds(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000


def _labelled(name: str, documentation: str, label: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"{_PREFIX}_{name}", documentation, labels=[label])


def _gauge(name: str, documentation: str, value: float) -> Metric:
    return GaugeMetricFamily(f"{_PREFIX}_{name}", documentation, value=value)


def _counter(name: str, documentation: str, value: float) -> Metric:
    return CounterMetricFamily(f"{_PREFIX}_{name}", documentation, value=value)
