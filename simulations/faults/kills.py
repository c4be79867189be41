"""`kill -9` at every stage boundary and durable write, of a region's engine and the coordinator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from common.aggregation_rules import RuleName
from common.failpoints import CoordinatorPoint, Point
from simulations.faults.case import Case, Given
from simulations.faults.places import LEFT, Trap
from simulations.faults.trial import Trial

#: Passed only in a round that is given up, because a customer in it withdrew.
OF_A_DISCARD = (Point.GIVEN_UP, Point.SEAL_REMOVED)
#: Passed only where updates leave under masks.
OF_SECURE_SUMS = (Point.MASKING_KEY_KEPT, Point.MASK_LOGGED, Point.MASKING_KEYS_REMOVED)
#: The coordinator's durable writes, by its own code and by SQLite.
_COORDINATOR_WRITES = (
    Point.LOG_WRITTEN,
    Point.LOG_COMMITTED,
    Point.WITNESS_WRITTEN,
    Point.WITNESS_COMMITTED,
    Point.FILE_OPENED,
    Point.FILE_WRITTEN,
    Point.FILE_SYNCED,
    Point.FILE_RENAMED,
    Point.FOLDER_SYNCED,
)
_RANDOM_TRIALS = 3


def cases(rule: RuleName) -> list[Case]:
    """A row for each place of a region and of the coordinator, and some of both at random.

    Args:
        rule: By which rule updates become one: a secure sum has places of its own.
    """
    passed = [each for each in Point if rule == "secure-sum" or each not in OF_SECURE_SUMS]
    rows = [
        Case(
            "kill region",
            str(place),
            "the round goes on without it, and it takes part again",
            _region_killed(str(place)),
        )
        for place in (*passed, LEFT)
    ]
    rows += [
        Case(
            "kill coordinator",
            str(place),
            "the same round goes on; model bit-equal",
            _coordinator_killed(str(place)),
        )
        for place in (*CoordinatorPoint, *_COORDINATOR_WRITES)
    ]
    rows += [
        Case(
            "kill both",
            f"at random, trial {number}",
            "every round is aggregated once",
            _killed_at_random(passed),
        )
        for number in range(1, _RANDOM_TRIALS + 1)
    ]
    return rows


def _region_killed(place: str) -> Callable[[Trial, Given], None]:
    def act(trial: Trial, given: Given) -> None:
        rounds = range(1, min(3, trial.plan.total_rounds) + 1)
        victims = given.random.sample(trial.regions, len(rounds))
        trial.start(
            **{
                _option(victim): _life([Trap(place, server_round=number)], number)
                for victim, number in zip(victims, rounds, strict=True)
            }
        )
        ending = trial.coordinate_and_repeat()
        trial.hold(not ending.failed, f"the run was aborted: {ending.message}")
        trial.hold(bool(trial.sprung), f"no region ever passed {place!r}")
        last = trial.judge.aggregates(trial.judge.look())[-1]
        back = {used["region"] for used in last["regions"]}
        trial.hold(set(trial.regions) == back, f"of all regions only {sorted(back)} came back")
        trial.finish()

    def _life(traps: Sequence[Trap], number: int) -> dict[str, Any]:
        return {"traps": traps, "leaves_in_round": number if place in OF_A_DISCARD else None}

    return act


def _coordinator_killed(place: str) -> Callable[[Trial, Given], None]:
    def act(trial: Trial, given: Given) -> None:
        trial.start()
        rounds = range(1, trial.plan.total_rounds + 1)
        ending = trial.coordinate(
            traps=[Trap(place, server_round=number) for number in (0, *rounds)]
        )
        trial.hold(bool(trial.sprung), f"the coordinator never passed {place!r}")
        check_resumed(trial, given, ending.failed, ending.message)

    return act


def check_resumed(trial: Trial, given: Given, failed: str, message: str) -> None:
    """The run ended as if nothing had happened: every region in every round, the same model."""
    trial.hold(not failed, f"the run was aborted: {failed}: {message}")
    trial.ask_again()
    trial.finish()
    refused = {number: who for number, who in trial.judge.refused().items() if who}
    trial.hold(not refused, f"regions were left out: {refused}")
    if trial.home.model.exists():
        trial.hold(
            trial.model_sha256 == given.model_sha256,
            "the model is not that of the uninterrupted run",
        )


def _killed_at_random(places: Sequence[Point]) -> Callable[[Trial, Given], None]:
    def act(trial: Trial, given: Given) -> None:
        draw, rounds = given.random, range(1, trial.plan.total_rounds)
        lives: dict[str, list[Trap]] = {}
        for number in rounds:
            trap = Trap(str(draw.choice(places)), server_round=number)
            lives.setdefault(draw.choice(trial.regions), []).append(trap)
        trial.start(**{_option(region): {"traps": traps} for region, traps in lives.items()})
        places_there = list(CoordinatorPoint)
        ending = trial.coordinate_and_repeat(
            traps=[Trap(str(draw.choice(places_there)), server_round=each) for each in rounds]
        )
        trial.hold(not ending.failed, f"the run was aborted: {ending.message}")
        trial.finish()

    return act


def _option(region: str) -> str:
    return region.replace("-", "_")
