"""The coordinator's checkpoint: the model after the last closed round, and the log that proves it.

Three files: the model and the optimiser's state as safetensors, and ``checkpoint.json``, canonical
JSON with their digests and the log's position. The arrays are written first, before the round's
aggregate is logged; the JSON replaces the old one in one rename after it. So after a crash there is
the new checkpoint whole, or the old one and perhaps the next model, which counts if the log names
it. A checkpoint is believed only if the coordinator's log bears it out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common import canonical_json
from common.canonical_json import JsonValue
from common.durable_file import make_folder_durably, write_durably
from common.errors import FormatError, StorageError, VerificationError
from common.failpoints import CoordinatorPoint, reach
from common.parameters import array_file_parts, arrays_digest, load_arrays
from common.plan import RunPlan
from server.audit_trail import AuditTrail

_VERSION = "fedpref-server-checkpoint/1"
_MAX_JSON_BYTES = 1 << 20
_MAX_MODEL_BYTES = 4 << 30
_RESTORE = "Restore the coordinator's log and checkpoint from one backup, or remove the checkpoint."


@dataclass(frozen=True)
class Checkpoint:
    """The state after a closed round.

    Attributes:
        run: The run.
        plan: Digest of its plan.
        server_round: The last closed round.
        roster: The regions whose updates are in it, in order.
        aggregate: Leaf hash of the round's aggregate entry, in hex.
        log_size: Size of the coordinator's log when that entry was in it.
        log_root: The log's root at that size, in hex.
        model: The model after the round.
        optimizer: The coordinator's optimiser's state after it; empty without one.
    """

    run: str
    plan: str
    server_round: int
    roster: tuple[str, ...]
    aggregate: str
    log_size: int
    log_root: str
    model: Mapping[str, np.ndarray]
    optimizer: Mapping[str, np.ndarray]


class CheckpointStore:
    """The folder of a coordinator's newest checkpoint.

    Args:
        folder: It is made when first written to.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._index = folder / "checkpoint.json"

    def prepare(
        self,
        server_round: int,
        model: Mapping[str, np.ndarray],
        optimizer: Mapping[str, np.ndarray],
    ) -> None:
        """Writes a round's model and optimiser state durably, before the round is logged.

        Raises:
            StorageError: The disk is full or refuses; the old checkpoint is there still.
        """
        try:
            make_folder_durably(self._folder)
            # The model last: where it is, the state that belongs to it is too.
            write_durably(self._folder / _optimizer_file(server_round), array_file_parts(optimizer))
            write_durably(self._folder / _model_file(server_round), array_file_parts(model))
        except OSError as error:
            raise self._full(server_round, error) from error

    def write(self, checkpoint: Checkpoint) -> None:
        """Replaces the checkpoint, durably and whole; its model was prepared before.

        Raises:
            StorageError: The disk is full or refuses; the old checkpoint is there still.
        """
        names = {_model_file(checkpoint.server_round), _optimizer_file(checkpoint.server_round)}
        index = canonical_json.encode(
            {
                "v": _VERSION,
                "run": checkpoint.run,
                "plan": checkpoint.plan,
                "round": checkpoint.server_round,
                "roster": list(checkpoint.roster),
                "aggregate": checkpoint.aggregate,
                "log": {"size": checkpoint.log_size, "root": checkpoint.log_root},
                "model": arrays_digest(checkpoint.model),
                "optimizer": arrays_digest(checkpoint.optimizer),
            },
            max_bytes=_MAX_JSON_BYTES,
        )
        try:
            write_durably(self._index, index)
            reach(CoordinatorPoint.CHECKPOINT_REPLACED)
            for old in self._folder.glob("*-*.safetensors"):
                if old.name not in names:
                    old.unlink()
        except OSError as error:
            raise self._full(checkpoint.server_round, error) from error

    def read(self) -> Checkpoint | None:
        """Reads the checkpoint back, or None if there is none.

        Raises:
            StorageError: It is damaged; names the file and what is wrong.
        """
        try:
            index = canonical_json.decode(self._index.read_bytes(), max_bytes=_MAX_JSON_BYTES)
            return _parse(index, self._folder)
        except FileNotFoundError as error:
            if not self._index.exists():
                return None
            raise self._damaged(f"its model file is missing ({error.filename})") from error
        except OSError as error:
            raise self._damaged(f"it cannot be read: {error.strerror}") from error
        except (FormatError, KeyError, TypeError, ValueError) as error:
            raise self._damaged(str(error)) from error

    def load(self, trail: AuditTrail, plan: RunPlan) -> Checkpoint | None:
        """Reads the checkpoint back and believes it only as far as the log bears it out.

        Raises:
            StorageError: It is damaged.
            VerificationError: It does not match the log or the plan; names what differs.
        """
        checkpoint = self.read()
        if checkpoint is not None:
            _check(checkpoint, trail, plan, self._index)
        closed = checkpoint.server_round if checkpoint else 0
        prepared = self._prepared(closed + 1, trail)
        if prepared is None:
            return checkpoint
        checkpoint = make_checkpoint(trail, plan, closed + 1, *prepared)
        self.write(checkpoint)
        return checkpoint

    def _prepared(
        self, server_round: int, trail: AuditTrail
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]] | None:
        """The model and the state that were prepared for a logged round, if it is that model."""
        if server_round not in trail.aggregates:
            return None
        try:
            model = _read_arrays(self._folder / _model_file(server_round))
            optimizer = _read_arrays(self._folder / _optimizer_file(server_round))
        except (OSError, FormatError):
            # The regions have the round sealed: it is summed once more.
            return None
        _, aggregate = trail.aggregates[server_round]
        return (model, optimizer) if arrays_digest(model) == aggregate.model_out else None

    def _full(self, server_round: int, error: OSError) -> StorageError:
        return StorageError(
            f"The checkpoint of round {server_round} cannot be written to {self._folder}: "
            f"{error.strerror}.",
            remedy="Free disk space; the same command then goes on from here.",
        )

    def _damaged(self, what: str) -> StorageError:
        return StorageError(f"The checkpoint {self._index} is damaged: {what}.", remedy=_RESTORE)


def make_checkpoint(
    trail: AuditTrail,
    plan: RunPlan,
    server_round: int,
    model: Mapping[str, np.ndarray],
    optimizer: Mapping[str, np.ndarray],
) -> Checkpoint:
    """The checkpoint of a round that the log has."""
    leaf, aggregate = trail.aggregates[server_round]
    return Checkpoint(
        run=plan.run_id,
        plan=plan.digest,
        server_round=server_round,
        roster=tuple(used.region for used in aggregate.used),
        aggregate=leaf,
        log_size=trail.log.size,
        log_root=trail.log.root.hex(),
        model=model,
        optimizer=optimizer,
    )


def _model_file(server_round: int) -> str:
    return f"model-{server_round:04d}.safetensors"


def _optimizer_file(server_round: int) -> str:
    return f"optimizer-{server_round:04d}.safetensors"


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    return load_arrays(path.read_bytes(), max_bytes=_MAX_MODEL_BYTES)


def _parse(index: JsonValue, folder: Path) -> Checkpoint:
    if not isinstance(index, dict) or index["v"] != _VERSION:
        raise ValueError(f"it is not a {_VERSION}")
    log, roster, server_round = index["log"], index["roster"], index["round"]
    if not (isinstance(log, dict) and isinstance(roster, list) and isinstance(server_round, int)):
        raise TypeError("a field is of the wrong type")
    size = log["size"]
    if not isinstance(size, int):
        raise TypeError("the log's size is no number")
    model = _stated(folder / _model_file(server_round), index["model"])
    optimizer = _stated(folder / _optimizer_file(server_round), index["optimizer"])
    return Checkpoint(
        run=str(index["run"]),
        plan=str(index["plan"]),
        server_round=server_round,
        roster=tuple(str(region) for region in roster),
        aggregate=str(index["aggregate"]),
        log_size=size,
        log_root=str(log["root"]),
        model=model,
        optimizer=optimizer,
    )


def _stated(path: Path, digest: JsonValue) -> dict[str, np.ndarray]:
    arrays = _read_arrays(path)
    if arrays_digest(arrays) != digest:
        raise ValueError(f"{path.name} is not what checkpoint.json states")
    return arrays


def _check(checkpoint: Checkpoint, trail: AuditTrail, plan: RunPlan, path: Path) -> None:
    leaf, aggregate = trail.aggregates.get(checkpoint.server_round, ("", None))
    log_holds = checkpoint.log_size <= trail.log.size and (
        trail.log.root_at(checkpoint.log_size).hex() == checkpoint.log_root
    )
    differing = [
        what
        for what, holds in (
            (f"the run {checkpoint.run}", checkpoint.run == plan.run_id),
            ("the plan", checkpoint.plan == plan.digest),
            (f"the log's root at size {checkpoint.log_size}", log_holds),
            (f"round {checkpoint.server_round}, which the log lacks", aggregate is not None),
            ("the aggregate entry", aggregate is None or leaf == checkpoint.aggregate),
            (
                "the model",
                aggregate is None or aggregate.model_out == arrays_digest(checkpoint.model),
            ),
            (
                "the roster",
                aggregate is None
                or tuple(used.region for used in aggregate.used) == checkpoint.roster,
            ),
        )
        if not holds
    ]
    if differing:
        raise VerificationError(
            f"The checkpoint {path} does not match the coordinator's log: {', '.join(differing)} "
            "differ.",
            remedy=_RESTORE,
        )
