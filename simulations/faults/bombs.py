"""Messages that are small on the wire and large in memory, or larger than they may be."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from common.messages import ARRAYS, decode_message
from simulations.faults.case import Case, Given
from simulations.faults.coordinator_host import Forge, Forgery
from simulations.faults.memory import PeakMemory
from simulations.faults.replies import ROUND, check_refused, rebuilt
from simulations.faults.trial import Trial

_CHUNK_BYTES = 5_000_000
#: 5 MB name themselves so often that they would inflate to more than a gigabyte.
_REPEATS = 215
_OVERSIZE_BYTES = 64_000_000
#: The name of an array in a reply that is to have none.
_NO_ARRAY = "sum"
#: What a process's memory moves by while nothing of note happens.
_JITTER_BYTES = 3_000_000


def cases() -> list[Case]:
    """Bombs at the coordinator, and one at a region."""
    bound = "refused as oversize; memory ≤ 2× the wire"
    return [
        Case("bomb", "5 MB of chunks that inflate to 1 GB", bound, _chunk_bomb),
        Case("bomb", "an array of 64 MB in the place of the update", bound, _oversize),
        Case(
            "bomb",
            "a coordinator's model of 64 MB, at a region",
            "refused, nothing charged or trained; memory ≤ 2× the wire",
            _oversize_model,
        ),
    ]


def _chunk_bomb(trial: Trial, given: Given) -> None:
    memory = PeakMemory()
    _explode(trial, given, memory, _bomb(memory), wire_bytes=_CHUNK_BYTES)


def _oversize(trial: Trial, given: Given) -> None:
    memory = PeakMemory()

    def forge(request: Message, reply: Message) -> Sequence[Message]:
        header, arrays = decode_message(reply.content)
        large = np.zeros(_OVERSIZE_BYTES // 4, dtype="<f4")
        large_ones = dict.fromkeys(arrays or [_NO_ARRAY], large)
        name, contents = _on_the_wire(rebuilt(request, header, large_ones))
        del large, large_ones, arrays
        memory.begin()
        return [_arrived(name, contents, request)]

    _explode(trial, given, memory, forge, wire_bytes=_OVERSIZE_BYTES)


def _explode(
    trial: Trial, given: Given, memory: PeakMemory, forge: Forge, *, wire_bytes: int
) -> None:
    victim = given.random.choice(trial.regions)
    trial.start()
    ending = trial.coordinate(forgeries=[Forgery(victim, ROUND, forge)], memory=memory)
    trial.hold(not ending.failed, f"the run was aborted: {ending.message}")
    check_refused(trial, victim, "oversize")
    # What came over the wire is in memory once before growth is measured.
    grown = ending.peak_bytes
    trial.hold(
        grown is not None and grown <= wire_bytes + _JITTER_BYTES,
        f"memory grew by {grown} bytes beside the {wire_bytes} on the wire",
    )
    trial.finish()


def _bomb(memory: PeakMemory) -> Forge:
    def forge(request: Message, reply: Message) -> Sequence[Message]:
        header, arrays = decode_message(reply.content)
        bomb = rebuilt(request, header, arrays)
        record = ArrayRecord()
        for name in arrays or [_NO_ARRAY]:
            record[name] = Array("float32", (1,), "numpy.ndarray", b"\0" * _CHUNK_BYTES)
            chunks = list(record[name].slice_array())
            record[name].__dict__["_chunks"] = chunks * (_REPEATS // len(chunks))
        bomb.content[ARRAYS] = record
        name, contents = _on_the_wire(bomb)
        del bomb, record
        memory.begin()
        return [_arrived(name, contents, request)]

    return forge


def _on_the_wire(message: Message) -> tuple[str, dict[str, bytes]]:
    """What Flower sends of a message, object by object, and the message's own name."""
    objects = get_all_nested_objects(message)
    return message.object_id, {name: each.deflate() for name, each in objects.items()}


def _arrived(name: str, contents: dict[str, bytes], request: Message) -> Message:
    """What Flower makes of it at the other end."""
    inflated = inflate_object_from_contents(name, contents)
    if not isinstance(inflated, Message):
        raise TypeError("a message inflates to a message")
    content: RecordDict = inflated.content
    reply = Message(content, reply_to=request)
    reply.metadata.__dict__["_message_id"] = name
    return reply


def _oversize_model(trial: Trial, given: Given) -> None:
    victim = given.random.choice(trial.regions)
    trial.start(**{victim.replace("-", "_"): {"measures_memory": True}})
    large = np.zeros(_OVERSIZE_BYTES // 4, dtype="<f4")
    answer = trial.ask_region(victim, trial.request(1), {"popularity": large})
    trial.hold(answer.get("reason") == "malformed-request", f"the region answered {answer}")
    trial.hold(trial.trained == [], f"it trained: {trial.trained}")
    grown = trial.grown_bytes.get(victim)
    trial.hold(
        grown is not None and grown <= 2 * _OVERSIZE_BYTES + _JITTER_BYTES,
        f"memory grew by {grown} bytes for {_OVERSIZE_BYTES} on the wire",
    )
    trial.finish(published=False)
    charges = trial.judges[victim].look().charges
    trial.hold(charges == (), f"it was charged: {charges}")
