"""What aggregating takes of a coordinator's memory: ``… make|measure FOLDER REGIONS ITEMS RANK``.

``make`` acts out the regions once and writes what each answers to a folder, one file each: signed,
logged, digested. ``measure`` is the coordinator of that one round, a process of its own: replies
come through the very functions of a run, are read from the folder one by one (Flower's store is not
what is measured), validated, added, and the round is closed, its model written and encoded.
It prints JSON: resident bytes before it had the model, while it waited with it, and the most.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from common.messages import ARRAYS, HEADER, compose_message, encode_arrays, encode_message
from common.parameters import load_arrays, save_arrays, snap_to_grid
from common.plan import RunPlan
from common.strategies import change_of
from server.audit_trail import open_audit_trail
from server.checkpoint import CheckpointStore
from server.config import ServerHome
from server.grid_exchange import exchange
from server.rounds import OpenRound
from server.validation import ReplyValidator

ROUND = 2
_TIMEOUT_S = 600.0


def make(folder: Path, n_regions: int, items: int, rank: int) -> None:
    """Writes the coordinator's home, the model of the round, and every region's reply to it."""
    from tests.support.fake_federation import open_federation

    plan = _plan(n_regions, items, rank)
    generator = np.random.default_rng(1)
    model = {
        "item_factors": generator.normal(0, 0.1, (items, rank)).astype(np.float32),
        "item_weights": np.ones(items, np.float32),
        "popularity": np.ones(items, np.float32),
        "vocabulary": np.arange(items),
    }
    (folder / "model").write_bytes(save_arrays(model))
    exponent = plan.mechanism_of(ROUND).grid_exponent
    with open_federation(folder, plan) as federation:
        for number, (region, engine) in enumerate(federation.engines.items()):
            values = np.random.default_rng(number).normal(0, 0.01, (items, rank))
            released = {change_of("item_factors"): snap_to_grid(values, exponent)}
            engine.tamper_arrays = lambda _, released=released: released  # type: ignore[misc]
            engine.release = lambda _: {}  # type: ignore[method-assign]
            header, arrays = engine.call("train", _request(plan), model)
            engine.sealed.clear()
            _write_reply(folder / f"reply-{region}", encode_message(header, arrays))


def measure(folder: Path) -> dict[str, int]:
    """Runs the coordinator's side of the round and measures it."""
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
    home = ServerHome(folder / "server")
    plan, registry = home.read_plan(), home.read_registry()
    checkpoints = CheckpointStore(home.checkpoint)
    with open_audit_trail(home, plan, registry):
        bare = _resident("VmRSS")
        arrays = _model(folder)
        validator = ReplyValidator(plan, registry)
        current = OpenRound(
            plan,
            ROUND,
            arrays,
            validator=validator,
            optimizer={},
            logged=None,
            on_refused=_refused,
        )
        grid = _FolderGrid(folder)
        waiting = _resident("VmRSS")
        # From here on the kernel counts the most anew.
        Path("/proc/self/clear_refs").write_text("5")
        for reply in exchange(grid, _ask(current, plan, arrays), timeout_s=_TIMEOUT_S):
            if current.take(reply) is None:
                raise RuntimeError("a reply was refused")
            del reply
        closed = current.close()
        checkpoints.prepare(ROUND, closed.model, closed.optimizer)
        encoded = encode_arrays(closed.model)
        peak = _resident("VmHWM")
        if len(closed.aggregate.used) != len(plan.regions) or not encoded:
            raise RuntimeError("the round is not of all regions")
    return {"bare": bare, "waiting": waiting, "peak": peak}


def _plan(n_regions: int, items: int, rank: int) -> RunPlan:
    from tests.support.fake_federation import fake_plan
    from tests.support.local_plan import local_plan

    strategy = "matrix-factorisation"
    local = local_plan(strategy).to_record()
    fields = ("strategy", "training_rounds", "mechanisms", "local_training")
    changed = {name: local[name] for name in fields}
    sizes: dict[str, Any] = {"n_items": items, "vocabulary_size": items, "rank": rank}
    sizes |= {"epsilon": "1000", "popularity_share": "0.5"}
    plan = fake_plan(n_regions, quorum=n_regions).to_record()
    return RunPlan.from_record({**plan, **changed, **sizes})


def _request(plan: RunPlan) -> dict[str, Any]:
    return {
        "run": plan.run_id,
        "round": ROUND,
        "attempt": 1,
        "mechanism": plan.mechanism_of(ROUND).name,
        "plan": plan.digest,
        "cosignatures": [],
    }


def _write_reply(path: Path, content: RecordDict) -> None:
    config, record = content[HEADER], content[ARRAYS]
    if not isinstance(config, ConfigRecord) or not isinstance(record, ArrayRecord):
        raise TypeError("a reply has a header and arrays")
    ((name, array),) = record.items()
    facts = {"name": name, "dtype": array.dtype, "shape": array.shape, "stype": array.stype}
    path.with_suffix(".json").write_text(json.dumps(facts))
    path.with_suffix(".header").write_bytes(config["json"])  # type: ignore[arg-type]
    path.with_suffix(".body").write_bytes(array.data)


def _model(folder: Path) -> ArrayRecord:
    return encode_arrays(load_arrays((folder / "model").read_bytes(), max_bytes=1 << 30))


def _ask(current: OpenRound, plan: RunPlan, arrays: ArrayRecord) -> list[Message]:
    messages = []
    for node, region in enumerate(plan.regions, start=100):
        content = compose_message(_request(plan), arrays)
        message = Message(content, dst_node_id=node, message_type="train", group_id=region)
        current.ask(message, region)
        messages.append(message)
    return messages


def _refused(_: OpenRound, region: str | None, reason: str, detail: str) -> None:
    raise RuntimeError(f"{region}: {reason}: {detail}")


class _FolderGrid(Grid):
    """A Grid whose nodes' replies lie in files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sent: dict[str, Message] = {}

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        for message in messages:
            name = f"m-{message.metadata.dst_node_id}"
            message.metadata.__dict__["_message_id"] = name
            self._sent[name] = message
        return list(self._sent)

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        return [self._read(self._sent[name]) for name in message_ids]

    def _read(self, message: Message) -> Message:
        path = self._folder / f"reply-{message.metadata.group_id}"
        facts = json.loads(path.with_suffix(".json").read_text())
        body = path.with_suffix(".body").read_bytes()
        array = Array(facts["dtype"], tuple(facts["shape"]), facts["stype"], body)
        header = ConfigRecord({"json": path.with_suffix(".header").read_bytes()})
        record = ArrayRecord({facts["name"]: array})
        return Message(RecordDict({HEADER: header, ARRAYS: record}), reply_to=message)

    def set_run(self, *_: object) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Any:
        raise NotImplementedError

    def create_message(self, *_: object, **__: object) -> Message:
        raise NotImplementedError

    def get_node_ids(self) -> list[int]:
        raise NotImplementedError

    def get_nodes(self) -> Any:
        raise NotImplementedError

    def send_and_receive(self, *_: object, **__: object) -> list[Message]:
        raise NotImplementedError


def _resident(what: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{what}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"the kernel does not tell {what}")


def main(action: str, folder: Path, *numbers: str) -> None:
    """Makes the replies, or measures."""
    if action == "make":
        make(folder, *map(int, numbers))
    else:
        sys.stdout.write(f"{json.dumps(measure(folder))}\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
