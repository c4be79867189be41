"""Profiles that are kept current: what fails is tried again, and nothing of customers is told."""

from __future__ import annotations

import io
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from client.data.tables.rows import TableCounts
from client.profiles import region as module
from client.profiles.following import keep_current
from client.profiles.making import Outcome
from client.profiles.metrics import BEHIND_S, STEP_S, LoggedMetrics, ProfileMetrics
from common.errors import FedprefError, QualityGateError, StorageError
from common.metrics_http import Observed
from common.structured_log import JsonFormatter

Look = Outcome | FedprefError
WELL = Outcome(built=False, customers=3, purchases=TableCounts(), events=TableCounts(), judged=0)
SECRET = "customer-0007 has 99 carts"


class Told(threading.Event):
    """Is set after so many waits, and remembers how long each was to be."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most, self.waited = most, []

    def wait(self, timeout: float | None = None) -> bool:
        self.waited.append(timeout)
        if len(self.waited) >= self.most:
            self.set()
        return self.is_set()


@dataclass
class Scripted:
    """Profiles whose looks are given; each begins with whether they can be opened."""

    looks: list[list[Look]]
    opened: int = 0
    closed: int = 0
    refuses: list[FedprefError] = field(default_factory=list)

    @contextmanager
    def open(self) -> Iterator[Any]:
        if self.refuses:
            raise self.refuses.pop(0)
        self.opened += 1
        yield self
        self.closed += 1

    def look(self) -> Iterator[Outcome]:
        for each in self.looks.pop(0) if self.looks else [WELL]:
            if isinstance(each, FedprefError):
                raise each
            yield each


def follow(scripted: Scripted, told: Told, every_s: float = 5.0, **how: Any) -> ProfileMetrics:
    seen = ProfileMetrics("region-1", every_s=every_s)
    keep_current(scripted.open, told, seen, every_s=every_s, **how)
    return seen


def value(seen: ProfileMetrics, name: str) -> float:
    return next(
        sample.value
        for family in seen.registry.collect()
        for sample in family.samples
        if sample.name == name
    )


def test_it_looks_again_and_again_until_told_to_end() -> None:
    scripted, told = Scripted([]), Told(3)
    seen = follow(scripted, told)
    assert told.waited == [5.0, 5.0, 5.0]
    assert (scripted.opened, scripted.closed) == (1, 1)
    assert value(seen, "fedpref_profiles_refresh_failures_total") == 0


def test_what_fails_is_tried_again_less_and_less_often_and_then_as_before() -> None:
    wrong = QualityGateError("too many rows are wrong")
    scripted, told = Scripted([[WELL], [wrong], [wrong], [wrong], [WELL, WELL]]), Told(6)
    seen = follow(scripted, told, longest_wait_s=18.0)
    assert told.waited == [5.0, 10.0, 18.0, 18.0, 5.0, 5.0]
    # Opened once: what was read of consents and rows is not thrown away.
    assert scripted.opened == 1
    assert value(seen, "fedpref_profiles_refresh_failures_total") == 3
    assert seen.checks()["profiles"]() is None


def test_a_long_time_between_looks_is_not_shortened_by_a_failure() -> None:
    told = Told(2)
    follow(Scripted([[StorageError("gone")]]), told, every_s=900.0)
    assert told.waited == [900.0, 900.0]


def test_profiles_that_cannot_be_opened_yet_are_opened_later() -> None:
    scripted, told = Scripted([], refuses=[StorageError("no log yet")]), Told(2)
    seen = follow(scripted, told)
    assert scripted.opened == 1
    assert seen.checks()["profiles"]() is None


def test_no_build_is_begun_when_told_to_end() -> None:
    told = Told(9)
    begun: list[int] = []

    class Ending(Scripted):
        def look(self) -> Iterator[Outcome]:
            yield WELL
            begun.append(1)

    @dataclass
    class Ends:
        def refreshed(self, outcome: Outcome) -> None:
            told.set()

        def failed(self, error: FedprefError) -> None:
            raise error

    keep_current(Ending([]).open, told, Ends(), every_s=5.0)
    assert begun == []


def test_a_defect_ends_it_for_the_supervisor_to_start_it_anew() -> None:
    class Broken(Scripted):
        def look(self) -> Iterator[Outcome]:
            raise ZeroDivisionError
            yield WELL

    with pytest.raises(ZeroDivisionError):
        follow(Broken([]), Told(2))


def test_readiness_says_what_keeps_profiles_from_being_current() -> None:
    now = [10_000.0]
    seen = ProfileMetrics("region-1", every_s=5.0, clock_s=lambda: now[0])
    observed = Observed(seen.registry, seen.checks())
    assert observed.readiness() == {"profiles": "not-yet"}
    assert value(seen, "fedpref_profiles_refreshed_timestamp_seconds") == 0
    seen.refreshed(WELL)
    assert observed.readiness() == {"profiles": "ok"}
    seen.failed(StorageError("gone"))
    assert observed.readiness() == {"profiles": "refresh-failed"}
    seen.refreshed(WELL)
    now[0] += BEHIND_S + 1
    assert observed.readiness() == {"profiles": "behind"}
    # Whoever is to look once a day is not behind after an hour.
    daily = ProfileMetrics("region-1", every_s=86_400, clock_s=lambda: now[0])
    daily.refreshed(WELL)
    now[0] += BEHIND_S + 1
    assert daily.checks()["profiles"]() is None


def test_how_long_a_look_took_does_not_show() -> None:
    """A build, which takes longer, follows upon somebody's consent."""
    now = [10 * STEP_S + 1]
    seen = ProfileMetrics("region-1", every_s=5.0, clock_s=lambda: now[0])
    for seconds in (0.0, 5.0, 300.0):
        now[0] += seconds
        seen.refreshed(WELL)
        assert value(seen, "fedpref_profiles_refreshed_timestamp_seconds") == 10 * STEP_S


def test_the_log_has_the_kind_of_a_failure_and_nothing_that_it_quotes() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter("profiles"))
    logger = logging.getLogger("fedpref.profiles")
    logger.addHandler(handler)
    try:
        LoggedMetrics("region-1", every_s=5.0).failed(QualityGateError(SECRET, remedy=SECRET))
    finally:
        logger.removeHandler(handler)
    line = stream.getvalue()
    assert '"reason": "quality-gate-error"' in line
    assert '"event": "profiles-not-refreshed"' in line
    assert "carts" not in line


def test_a_due_build_is_made_once_an_hour_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    due = Outcome(
        built=False,
        customers=0,
        purchases=TableCounts(),
        events=TableCounts(),
        judged=0,
        build_due="somebody waits",
    )
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    profiles = module.RegionProfiles.__new__(module.RegionProfiles)
    profiles._built_s = float("-inf")
    refresh: Callable[[], Outcome] = lambda: due  # noqa: E731 - the method's stand-in
    monkeypatch.setattr(profiles, "refresh", refresh)
    monkeypatch.setattr(profiles, "_rebuilt", lambda: made.append("built") or WELL)
    for now[0], builds in ((0.0, 1), (3599.0, 1), (3600.0, 2), (3605.0, 2)):
        list(profiles.look())
        assert len(made) == builds
