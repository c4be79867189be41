"""Regions that hang, replies lost or late: a round ends, and whoever is missing is named."""

from __future__ import annotations

import time
from collections.abc import Callable

from flwr.app import Message

from common.failpoints import Point
from simulations.faults.case import Case, Given
from simulations.faults.coordinator_host import Forge, Forgery
from simulations.faults.federation import ROUND_TIMEOUT_S
from simulations.faults.kills import check_resumed
from simulations.faults.places import Trap
from simulations.faults.trial import Ending, Trial

#: What a round may take beyond its timeout, in seconds.
_SLACK_S = 10.0
_BELOW_QUORUM = 9


def cases() -> list[Case]:
    """One row for each way not to answer."""
    later = "named; the round closes at its timeout, later rounds pay nothing"
    rows = [
        ("hang", "region stopped in training, back after two rounds", later, _hangs),
        ("hang", "region stopped as it publishes its checkpoint", later, _hangs_publishing),
        (
            "hang",
            "too many regions stopped",
            "each named, nothing published; going on gives the same model",
            _quorum_hangs,
        ),
        ("drop", "reply lost", later, _one_reply(lambda _request, _reply: [])),
        ("drop", "reply after the round's timeout", later, _one_reply(_late)),
    ]
    return [Case(*row, waits=True) for row in rows]


def _hangs(trial: Trial, given: Given) -> None:
    victim = given.random.choice(trial.regions)
    trial.continues_in = {victim: 3}
    trial.start(**{victim.replace("-", "_"): {"traps": [Trap(Point.BEGUN, "stop", 1)]}})
    ending = trial.coordinate_and_repeat()
    refused = trial.judge.refused()
    trial.hold(refused[1] == {victim: "no-reply"}, f"round 1 names {refused[1]}")
    trial.hold(set(refused[2]) == {victim}, f"round 2 names {refused[2]}")
    trial.hold(refused[trial.plan.total_rounds] == {}, f"{victim} is not back")
    _check_times(trial, ending, paying=1)
    trial.finish()


def _hangs_publishing(trial: Trial, given: Given) -> None:
    victim = given.random.choice(trial.regions)
    # The last entries of a region's log that is in the model are cosigned before a run may end.
    trial.continues_in = {victim: trial.plan.total_rounds - 1}
    trial.start(**{victim.replace("-", "_"): {"traps": [Trap(Point.PUBLISHED, "stop", 2)]}})
    ending = trial.coordinate()
    refused = trial.judge.refused()
    trial.hold(refused[2] == {victim: "no-reply"}, f"round 2 names {refused[2]}")
    # It is asked for its checkpoint, and then for its cosignatures: two waits, in one round.
    _check_times(trial, ending, paying=2, waits=2)
    trial.finish()


def _quorum_hangs(trial: Trial, given: Given) -> None:
    victims = given.random.sample(trial.regions, len(trial.regions) - trial.plan.quorum + 1)
    trial.start(
        **{each.replace("-", "_"): {"traps": [Trap(Point.BEGUN, "stop", 1)]} for each in victims}
    )
    ending = trial.coordinate()
    trial.hold(ending.code == _BELOW_QUORUM, f"it ended with {ending.code}: {ending.message}")
    for victim in victims:
        trial.hold(victim in ending.message, f"{victim} is not named: {ending.message}")
    trial.hold(not trial.home.model.exists(), "a model was published below the quorum")
    trial.hold(
        trial.judge.aggregates(trial.judge.look()) == [], "a round was aggregated below the quorum"
    )
    trial.let_all_continue()
    ending = trial.coordinate()
    check_resumed(trial, given, ending.failed, ending.message)


def _one_reply(forge: Forge) -> Callable[[Trial, Given], None]:
    def act(trial: Trial, given: Given) -> None:
        victim = given.random.choice(trial.regions)
        trial.start()
        ending = trial.coordinate(forgeries=[Forgery(victim, 2, forge)])
        refused = trial.judge.refused()
        trial.hold(refused[2] == {victim: "no-reply"}, f"round 2 names {refused[2]}")
        last = refused[trial.plan.total_rounds]
        trial.hold(last == {}, f"the last round lacks {last}")
        _check_times(trial, ending, paying=2)
        trial.ask_again()
        trial.finish()

    return act


def _late(request: Message, reply: Message) -> list[Message]:
    del request
    # Hardly later: its node is busy meanwhile, and the other rounds are short.
    time.sleep(ROUND_TIMEOUT_S + 0.1)
    return [reply]


def _check_times(trial: Trial, ending: Ending, *, paying: int, waits: int = 1) -> None:
    """One round pays for who does not answer, within its bound; the others do not.

    Args:
        trial: The trial.
        ending: How the coordinator ended.
        paying: The round that waits.
        waits: How often it waits for its timeout.
    """
    trial.hold(not ending.failed, f"the run was aborted: {ending.message}")
    for number, took_s in (ending.rounds_s or {}).items():
        bound_s = waits * ROUND_TIMEOUT_S + _SLACK_S if number == paying else ROUND_TIMEOUT_S
        trial.hold(took_s <= bound_s, f"round {number} took {took_s:g} s, its bound is {bound_s:g}")
