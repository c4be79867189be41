"""Replies that are not what was asked for: each is refused by its reason, its region is named."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from common.aggregation_rules import RuleName
from common.messages import ARRAYS, HEADER, decode_message, encode_message
from simulations.faults.case import Case, Given
from simulations.faults.coordinator_host import Forge, Forgery
from simulations.faults.kills import check_resumed
from simulations.faults.recordings import Recordings
from simulations.faults.trial import Trial

Header = dict[str, Any]
Arrays = dict[str, np.ndarray]
#: In which round replies are forged: one of the training rounds.
ROUND = 3
_BELOW_QUORUM = 9


@dataclass(frozen=True)
class _Kind:
    """A kind of forged reply.

    Attributes:
        name: What it is.
        reason: The reason that it must be refused for.
        forge: Makes it of the trial, the region and what the case is given.
        impostor: Whether its carrier is passed over for the rest of the run.
        of_arrays: Whether it is about arrays, which a secure sum's reply does not have.
    """

    name: str
    reason: str
    forge: Callable[[Trial, str, Given], Forge]
    impostor: bool = False
    of_arrays: bool = True


def cases(rule: RuleName) -> list[Case]:
    """A row for each kind of forged reply, and one for too many of them.

    Args:
        rule: By which rule updates become one: for a secure sum a reply has no arrays.
    """
    open_arrays = rule != "secure-sum"
    rows = [
        Case(
            "reply",
            kind.name,
            f"refused as {kind.reason}, region named, the round survives",
            _one_forged(kind),
        )
        for kind in _KINDS
        if open_arrays or not kind.of_arrays
    ]
    rows.append(
        Case(
            "reply",
            "the same reply twice",
            "the first stands, the second is refused as duplicate-reply",
            _twice,
        )
    )
    if not open_arrays:
        return rows
    rows.append(
        Case(
            "reply",
            "NaN from more regions than the quorum can spare",
            "nothing published, each named; going on gives the same model",
            _too_many,
        )
    )
    return rows


def _one_forged(kind: _Kind) -> Callable[[Trial, Given], None]:
    def act(trial: Trial, given: Given) -> None:
        victim = given.random.choice(trial.regions)
        trial.start()
        forge = kind.forge(trial, victim, given)
        ending = trial.coordinate(forgeries=[Forgery(victim, ROUND, forge)])
        trial.hold(not ending.failed, f"the run was aborted: {ending.message}")
        check_refused(trial, victim, kind.reason)
        if not kind.impostor:
            last = trial.judge.refused().get(trial.plan.total_rounds)
            trial.hold(last == {}, f"the last round lacks {last}")
        trial.ask_again()
        trial.finish()

    return act


def check_refused(trial: Trial, victim: str, reason: str, server_round: int = ROUND) -> None:
    """A round went on without exactly one region, which aggregate and incident name."""
    refused = trial.judge.refused().get(server_round)
    trial.hold(refused == {victim: reason}, f"round {server_round} names {refused}")
    trial.hold(
        (server_round, victim, reason) in trial.judge.incidents(),
        f"no incident names {victim}, {reason}: {trial.judge.incidents()}",
    )


def _twice(trial: Trial, given: Given) -> None:
    victim = given.random.choice(trial.regions)

    def twice(request: Message, reply: Message) -> list[Message]:
        return [reply, rebuilt(request, *decode_message(reply.content))]

    trial.start()
    ending = trial.coordinate(forgeries=[Forgery(victim, ROUND, twice)])
    incident = (ROUND, victim, "duplicate-reply")
    trial.hold(incident in trial.judge.incidents(), "the second reply is not named")
    check_resumed(trial, given, ending.failed, ending.message)


def _too_many(trial: Trial, given: Given) -> None:
    victims = given.random.sample(trial.regions, len(trial.regions) - trial.plan.quorum + 1)
    trial.start()
    ending = trial.coordinate(
        forgeries=[Forgery(each, ROUND, _released(_with_nan)) for each in victims]
    )
    trial.hold(ending.code == _BELOW_QUORUM, f"it ended with {ending.code}: {ending.message}")
    for victim in victims:
        trial.hold(f"{victim}: not-finite" in ending.message, f"{victim} is not named")
    trial.hold(not trial.home.model.exists(), "a model was published below the quorum")
    ending = trial.coordinate()
    check_resumed(trial, given, ending.failed, ending.message)


def rebuilt(request: Message, header: Mapping[str, Any], arrays: Mapping[str, Any]) -> Message:
    """A reply of this content."""
    return _sent(encode_message(dict(header), dict(arrays)), request)


def _sent(content: RecordDict, request: Message) -> Message:
    reply = Message(content, reply_to=request)
    # As Flower's runtime does when it sends one.
    reply.metadata.__dict__["_message_id"] = uuid.uuid4().hex
    return reply


def _released(change: Callable[[Arrays], Arrays]) -> Forge:
    """Changes what was released."""

    def forge(request: Message, reply: Message) -> Sequence[Message]:
        header, arrays = decode_message(reply.content)
        return [rebuilt(request, header, change({k: v.copy() for k, v in arrays.items()}))]

    return forge


def _said(change: Callable[[Header], Header]) -> Forge:
    """Changes what the header says."""

    def forge(request: Message, reply: Message) -> Sequence[Message]:
        header, arrays = decode_message(reply.content)
        return [rebuilt(request, change(header), arrays)]

    return forge


def _raw(change: Callable[[RecordDict], RecordDict]) -> Forge:
    """Changes Flower's records, past what our own codec would send."""

    def forge(request: Message, reply: Message) -> Sequence[Message]:
        return [_sent(change(RecordDict(dict(reply.content))), request)]

    return forge


def _always(forge: Forge) -> Callable[[Trial, str, Given], Forge]:
    return lambda _trial, _victim, _given: forge


def _with_nan(arrays: Arrays) -> Arrays:
    for array in arrays.values():
        array.flat[0] = np.nan
    return arrays


def _with_infinity(arrays: Arrays) -> Arrays:
    for array in arrays.values():
        array.flat[-1] = np.inf
    return arrays


def _each(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Arrays], Arrays]:
    return lambda arrays: {name: change(array) for name, array in arrays.items()}


def _renamed(arrays: Arrays) -> Arrays:
    return {f"{name}_": array for name, array in arrays.items()}


def _with_more(arrays: Arrays) -> Arrays:
    return {**arrays, "num_examples": np.asarray([10**9], dtype="<i8")}


def _with_weight(content: RecordDict) -> RecordDict:
    content["metrics"] = MetricRecord({"num-examples": 10**9})
    return content


def _with_objects(content: RecordDict) -> RecordDict:
    """An array of a dtype that would run code when it is read."""
    record = ArrayRecord()
    for name, array in content.array_records[ARRAYS].items():
        record[name] = Array("object", array.shape, array.stype, array.data)
    content[ARRAYS] = record
    return content


def _without_header(content: RecordDict) -> RecordDict:
    content[HEADER] = ConfigRecord({"json": b"{}"})
    return content


def _unsigned(header: Header) -> Header:
    """The signed round entry with one bit of its signature changed."""
    entry = bytearray(base64.b64decode(header["round_entry"]))
    place = entry.rindex(b'"sig":"') + len(b'"sig":"')
    entry[place] = ord("A") if entry[place] != ord("A") else ord("B")
    return {**header, "round_entry": base64.b64encode(bytes(entry)).decode()}


def _recorded(recordings: Recordings, region: str, server_round: int, **changes: int) -> Forge:
    """A reply that was recorded in its time, with changes of its header."""

    def forge(request: Message, reply: Message) -> Sequence[Message]:
        del reply
        recorded = recordings.read("reply", region, server_round)
        if recorded is None:
            raise LookupError(f"nothing of {region} in round {server_round} was recorded")
        header, arrays = recorded
        return [rebuilt(request, {**header, **changes}, arrays)]

    return forge


def _of_another_region(trial: Trial, victim: str, given: Given) -> Forge:
    other = given.random.choice([each for each in trial.regions if each != victim])
    # Its last round's: that of this one may not have come yet.
    return _recorded(trial.recordings, other, ROUND - 1, round=ROUND)


_KINDS = (
    _Kind("NaN", "not-finite", _always(_released(_with_nan))),
    _Kind("infinity", "not-finite", _always(_released(_with_infinity))),
    _Kind("a transposed shape", "wrong-shape", _always(_released(_each(lambda x: x.T)))),
    _Kind(
        "one value that would broadcast",
        "wrong-shape",
        _always(_released(_each(lambda x: x.reshape(-1)[:1]))),
    ),
    _Kind(
        "another dtype",
        "wrong-dtype",
        _always(_released(_each(lambda x: x.astype("<i4")))),
    ),
    _Kind("a dtype of objects", "malformed-reply", _always(_raw(_with_objects))),
    _Kind("an unknown array's name", "wrong-arrays", _always(_released(_renamed))),
    _Kind("an array too many", "wrong-arrays", _always(_released(_with_more))),
    _Kind(
        "a weight of 10^9 examples",
        "malformed-reply",
        _always(_raw(_with_weight)),
        of_arrays=False,
    ),
    _Kind("no header", "malformed-reply", _always(_raw(_without_header)), of_arrays=False),
    _Kind(
        "a norm of a million times the noise",
        "norm-too-large",
        _always(_released(_each(lambda x: x * np.float32(2**20)))),
    ),
    _Kind(
        "values off the public grid",
        "off-grid",
        _always(_released(_each(lambda x: x + np.float32(2**-14)))),
    ),
    _Kind(
        "other values than were signed",
        "wrong-digest",
        _always(_released(_each(lambda x: np.roll(x, 1)))),
    ),
    _Kind(
        "a signature that does not hold",
        "wrong-signer",
        _always(_said(_unsigned)),
        impostor=True,
        of_arrays=False,
    ),
    _Kind(
        "another attempt",
        "other-attempt",
        _always(_said(lambda header: {**header, "attempt": 2})),
        of_arrays=False,
    ),
    _Kind(
        "an earlier round's reply, replayed",
        "other-round",
        lambda trial, victim, _: _recorded(trial.recordings, victim, ROUND - 1),
        of_arrays=False,
    ),
    _Kind(
        "another run's reply, replayed",
        "other-run",
        lambda _, victim, given: _recorded(given.other_run, victim, ROUND),
        of_arrays=False,
    ),
    _Kind(
        "another region's reply",
        "other-region",
        _of_another_region,
        impostor=True,
        of_arrays=False,
    ),
)
