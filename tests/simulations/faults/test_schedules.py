"""Random schedules of faults: whatever goes wrong in whatever order, the invariants hold.

And they bite: with a defence taken away, the same schedules find what it is there for.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest.mock import Mock, patch

import pytest
import torch

from server import app
from server.audit_trail import AuditTrail
from server.checkpoint import CheckpointStore
from server.rounds import OpenRound
from simulations.provision import OpenRegion
from tests.support.kill_life import CHARGE_AFTER, NO_SEAL, _uncommitted, undefended
from tests.support.schedule_fuzzer import Fuzzer, Region, Result

FAST_SEED, SLOW_SEED = 20261129, 1
#: How many schedules at most are tried till a planted defect is found.
TILL_FOUND = 25


@pytest.fixture(autouse=True)
def in_silence() -> Iterator[None]:
    """What the relays warn of is what is done to them."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture(scope="module")
def fuzzer(tmp_path_factory: pytest.TempPathFactory) -> Fuzzer:
    torch.set_num_threads(1)
    return Fuzzer(tmp_path_factory.mktemp("schedules"))


def carry_out(fuzzer: Fuzzer, first: int, count: int) -> list[Result]:
    results = [fuzzer.run(seed) for seed in range(first, first + count)]
    failed = [result for result in results if result.wrong]
    replay = "python -m tests.support.schedule_fuzzer --shrink --replay"
    assert failed == [], [f"{replay} {each.seed}: {each.wrong}" for each in failed]
    return results


@pytest.mark.timeout(900)
def test_twenty_schedules(fuzzer: Fuzzer) -> None:
    results = carry_out(fuzzer, FAST_SEED, 20)
    # They do go wrong: processes are killed, and the run goes on in further lives.
    assert sum(result.kills for result in results) >= 20
    assert sum(result.lives for result in results) >= 40
    assert sum(result.left for result in results) >= 100


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_thousand_schedules(fuzzer: Fuzzer) -> None:
    results = carry_out(fuzzer, SLOW_SEED, 1000)
    assert sum(result.kills for result in results) >= 1000


def test_a_seed_gives_the_same_schedule_again(fuzzer: Fuzzer) -> None:
    first, again = fuzzer.run(FAST_SEED + 1), fuzzer.run(FAST_SEED + 1)
    assert len(first.faults) >= 3
    assert (first.faults, first.lives, first.kills) == (again.faults, again.lives, again.kills)


@contextmanager
def begun_anew() -> Iterator[None]:
    """A coordinator that reads neither its log nor its checkpoint when it starts.

    Nor does it write a model's card, which would count the rounds.
    """
    with (
        patch.object(app, "card_of", lambda _: Mock()),
        patch.object(AuditTrail, "_read_back", lambda *_: None),
        patch.object(CheckpointStore, "load", lambda *_: None),
    ):
        yield


def charged_after_sending(plain: Any) -> Any:
    """The charge is committed once the update has left."""

    def ask(self: Region, region: OpenRegion, method: str, header: Any, arrays: Any) -> Any:
        with _uncommitted(region.engine) if method == "train" else nullcontext():
            return plain(self, region, method, header, arrays)

    return ask


@contextmanager
def charged_late() -> Iterator[None]:
    """So, and with nobody else who would see it."""
    with (
        patch.object(Region, "_ask", charged_after_sending(Region._ask)),
        undefended(CHARGE_AFTER),
    ):
        yield


DEFECTS: dict[str, tuple[Callable[[], Any], str]] = {
    "no seal": (lambda: undefended(NO_SEAL), "two payloads for one charge"),
    "charged after sending": (charged_late, "uncharged: "),
    "a log that is not read back": (
        begun_anew,
        "the rounds aggregated are",
    ),
    "no quorum": (
        lambda: patch.object(OpenRound, "complete", property(lambda self: bool(self.accepted))),
        "below the quorum",
    ),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_planted_defect_is_found(fuzzer: Fuzzer, defect: str) -> None:
    plant, words = DEFECTS[defect]
    with plant():
        for seed in range(FAST_SEED, FAST_SEED + TILL_FOUND):
            wrong = fuzzer.run(seed).wrong
            if any(words in each for each in wrong):
                return
    pytest.fail(f"{TILL_FOUND} schedules did not find it")
