"""A round passes every failpoint, and none is missing between two of its durable writes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from client.consent_service.registrar import Choice
from common import failpoints
from common.failpoints import Point
from server.aggregation import first_model
from simulations.faults.disk import fault_vfs
from simulations.provision import OpenRegion, open_region
from tests.support.cosigning import ask, witnessed
from tests.support.secure_regions import secure_regions
from tests.support.small_federation import home_of, make_federation

#: What changes names or makes anything durable.
SYSTEM = ("fsync", "replace", "rename", "unlink", "mkdir")
Event = Point | str


@contextmanager
def watched() -> Iterator[list[Event]]:
    """What happens within, in order: failpoints, and durable writes by their names."""
    events: list[Event] = []

    def noted(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def note(*arguments: Any, **options: Any) -> Any:
            events.append(name)
            return call(*arguments, **options)

        return note

    with ExitStack() as stack:
        vfs = stack.enter_context(fault_vfs())
        # A commit is a sync; the writes before it are nothing yet.
        vfs.fault = lambda _: "sync" in vfs.operation and events.append(vfs.operation)
        stack.enter_context(patch.object(failpoints, "hook", events.append))
        for name in SYSTEM:
            stack.enter_context(patch.object(os, name, noted(name, getattr(os, name))))
        yield events


def one_round(region: OpenRegion, header: dict[str, Any], leaving: bool) -> str:
    """Asks for a round; gives how it was answered."""
    if not leaving:
        return str(ask(region.engine, header, {})[0]["status"])
    request = witnessed(region.engine, header)
    customer = next(each for each in region.customers if region.registrar.consents(each))
    region.registrar.record([Choice.withdraw(customer)])
    return str(region.engine.call("train", request, {})[0]["reason"])


@pytest.fixture(scope="module")
def passed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Event]]:
    """What happens in a round that ends, and in one that is given up."""
    folder, plan, (set_up,) = make_federation(
        tmp_path_factory.mktemp("passed") / "run",
        regions=1,
        quorum=1,
        withdrawal_in_round="discard",
    )
    header = {
        "run": plan.run_id,
        "round": 1,
        "attempt": 1,
        "mechanism": "popularity",
        "plan": plan.digest,
        "cosignatures": [],
    }
    found = {}
    for ends in ("ok", "discarded-for-withdrawal"):
        home = home_of(folder)
        kept = home.root.with_name("kept")
        shutil.copytree(home.root, kept, symlinks=True)
        with watched() as events, open_region(home, set_up) as region:
            region.engine.data_quality()  # what is kept of the store is none of a round's
            opening = len(events)
            assert one_round(region, header, leaving=ends != "ok") == ends
            found[ends] = events[opening:]
        shutil.rmtree(home.root)
        kept.rename(home.root)
    found["masked"] = secure_rounds(tmp_path_factory.mktemp("secure") / "run")
    return found


def secure_rounds(root: Path) -> list[Event]:
    """What happens in a round of a secure sum, and when the next one begins."""
    folder, plan, _ = make_federation(root, regions=3, quorum=3, rule="secure-sum")
    with watched() as events, secure_regions(folder, plan) as regions:
        for engine in regions.engines.values():
            engine.data_quality()
        opening = len(events)
        regions.train()
        total = regions.sum(regions.roster())
        regions.train(2, first_model(total, plan))
        return events[opening:]


def test_every_point_is_passed_and_they_stand_in_the_order_of_a_round(
    passed: dict[str, list[Event]],
) -> None:
    rounds = (passed["ok"], passed["discarded-for-withdrawal"], passed["masked"])
    points = list(
        dict.fromkeys(event for events in rounds for event in events if isinstance(event, Point))
    )
    assert points == list(Point)


@pytest.mark.parametrize("ends", ["ok", "discarded-for-withdrawal", "masked"])
def test_before_and_after_each_durable_write_there_is_a_point(
    passed: dict[str, list[Event]], ends: str
) -> None:
    # A commit that begins a write-ahead log syncs it twice.
    events = [event for event, _ in groupby(passed[ends])]
    durable = [place for place, event in enumerate(events) if not isinstance(event, Point)]
    assert {events[place] for place in durable} >= {
        "fsync",
        "replace",
        "sync ledger.sqlite-wal",
        "sync log.sqlite-wal",
        "sync witness.sqlite-wal",
    }
    for place in durable:
        around = events[max(place - 1, 0) : place + 2]
        assert [isinstance(each, Point) for each in around] == [True, False, True], around
