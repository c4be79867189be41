"""What is seen of the process that keeps profiles current: its metrics, its readiness, its log.

Nothing of it follows from customers: no number of profiles, and not when they were built, which
follows upon somebody's consent. When they were last refreshed is told in quarters of an hour, so
that how long a single look took does not show.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from client.profiles.making import Outcome
from common.errors import FedprefError
from common.metrics_http import Check
from common.structured_log import say

#: When profiles were last refreshed is told in steps of so many seconds.
STEP_S = 900.0
#: Profiles that were not refreshed for so long are behind: a build takes some minutes, not this.
BEHIND_S = 3600.0

_PREFIX = "fedpref_profiles"
_log = logging.getLogger("fedpref.profiles")


class ProfileMetrics(Collector):
    """Is told by the follower what comes of its looks; is asked by Prometheus.

    Args:
        region: The region's party name.
        every_s: How long it waits between two looks, in seconds.
        clock_s: Now, in seconds since the epoch.
    """

    def __init__(
        self, region: str, *, every_s: float, clock_s: Callable[[], float] = time.time
    ) -> None:
        self._region = region
        self._behind_s = max(BEHIND_S, 2 * every_s)
        self._clock_s = clock_s
        self._lock = threading.Lock()
        self._started_s = clock_s()
        self._refreshed_s: float | None = None
        self._failed = False
        self._failures = 0
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(self)

    def refreshed(self, outcome: Outcome) -> None:
        """Profiles are current; what came of it is not told on."""
        del outcome
        with self._lock:
            self._refreshed_s, self._failed = self._clock_s(), False

    def failed(self, error: FedprefError) -> None:
        """A look failed: counted."""
        del error
        with self._lock:
            self._failed = True
            self._failures += 1

    def checks(self) -> Mapping[str, Check]:
        """What must be well for profiles to be current."""
        return {"profiles": self._behind}

    def collect(self) -> Iterable[Metric]:
        """The metrics as they stand."""
        with self._lock:
            at_s, failures = self._refreshed_s, self._failures
        yield InfoMetricFamily(_PREFIX, "Whose profiles these are.", value={"region": self._region})
        yield GaugeMetricFamily(
            f"{_PREFIX}_started_timestamp_seconds", "When it was started.", value=self._started_s
        )
        yield GaugeMetricFamily(
            f"{_PREFIX}_refreshed_timestamp_seconds",
            "When profiles were last brought up to date, in quarters of an hour; 0 for never.",
            value=0.0 if at_s is None else at_s - at_s % STEP_S,
        )
        yield CounterMetricFamily(
            f"{_PREFIX}_refresh_failures", "Looks that failed; each is tried again.", value=failures
        )

    def _behind(self) -> str | None:
        with self._lock:
            if self._failed:
                return "refresh-failed"
            if self._refreshed_s is None:
                return "not-yet"
            late = self._clock_s() - self._refreshed_s > self._behind_s
        return "behind" if late else None


class LoggedMetrics(ProfileMetrics):
    """The same, where nobody sits in front of it: what fails is in the process's log, too."""

    def failed(self, error: FedprefError) -> None:
        """A look failed: counted, and logged by the kind of error alone, as its text may quote."""
        super().failed(error)
        reason = re.sub(r"(?<!^)(?=[A-Z])", "-", type(error).__name__).lower()
        say(_log, logging.ERROR, "profiles-not-refreshed", region=self._region, reason=reason)
