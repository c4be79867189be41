"""A checkpoint is whole or as before, and believed only as far as the log bears it out."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from common import canonical_json
from common.canonical_json import JsonValue
from common.durable_file import write_durably
from common.errors import StorageError, VerificationError
from common.parameters import arrays_digest, save_arrays
from server import checkpoint as checkpoint_module
from server.audit_trail import Aggregate, AuditTrail, UsedRound
from server.checkpoint import Checkpoint, CheckpointStore, make_checkpoint
from tests.support.fake_federation import FakeFederation, fake_plan, open_federation

MODEL = {"item_weights": np.arange(4, dtype="<f4"), "vocabulary": np.arange(4, dtype="<i8")}
NEXT = {"item_weights": np.arange(4, 8, dtype="<f4"), "vocabulary": np.arange(4, dtype="<i8")}
STATE = {"first/item_factors": np.arange(4, 12, dtype="<f4")}


def aggregate(number: int, model_in: str, model_out: str) -> Aggregate:
    return Aggregate(
        server_round=number,
        attempt=1,
        mechanism="popularity" if number == 1 else "factors",
        used=tuple(UsedRound(region, "1" * 64, "2" * 64) for region in ("region-1", "region-2")),
        refused=(("region-3", "no-reply"),),
        model_in=model_in,
        model_out=model_out,
        start="2024-01-01T00:00:00.000Z",
        end="2024-01-01T00:00:01.000Z",
    )


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[FakeFederation]:
    with open_federation(tmp_path, fake_plan()) as federation:
        yield federation


@pytest.fixture
def trail(federation: FakeFederation) -> Iterator[AuditTrail]:
    with federation.trail() as trail:
        trail.log_aggregate(aggregate(1, arrays_digest({}), arrays_digest(MODEL)))
        yield trail


@pytest.fixture
def store(federation: FakeFederation) -> CheckpointStore:
    return CheckpointStore(federation.home.checkpoint)


def write(store: CheckpointStore, checkpoint: Checkpoint) -> None:
    store.prepare(checkpoint.server_round, checkpoint.model, checkpoint.optimizer)
    store.write(checkpoint)


def index_of(federation: FakeFederation) -> Path:
    return federation.home.checkpoint / "checkpoint.json"


def edit(federation: FakeFederation, change: Callable[[dict[str, JsonValue]], None]) -> None:
    """Changes checkpoint.json, in canonical form still."""
    index = canonical_json.decode(index_of(federation).read_bytes())
    assert isinstance(index, dict)
    change(index)
    write_durably(index_of(federation), canonical_json.encode(index))


def test_what_is_written_is_read_and_believed(
    federation: FakeFederation, trail: AuditTrail, store: CheckpointStore
) -> None:
    written = make_checkpoint(trail, federation.plan, 1, MODEL, STATE)
    write(store, written)
    loaded = store.load(trail, federation.plan)
    assert loaded is not None
    assert loaded.roster == ("region-1", "region-2")
    assert (loaded.server_round, loaded.log_size) == (1, trail.log.size)
    assert arrays_digest(loaded.model) == arrays_digest(MODEL)
    assert arrays_digest(loaded.optimizer) == arrays_digest(STATE)
    modes = {path.stat().st_mode & 0o777 for path in federation.home.checkpoint.iterdir()}
    assert modes == {0o600}


def test_without_any_checkpoint_a_run_is_at_its_start(
    federation: FakeFederation, store: CheckpointStore
) -> None:
    with federation.trail() as trail:
        assert store.load(trail, federation.plan) is None


def test_only_the_newest_model_is_kept(
    federation: FakeFederation, trail: AuditTrail, store: CheckpointStore
) -> None:
    write(store, make_checkpoint(trail, federation.plan, 1, MODEL, STATE))
    trail.log_aggregate(aggregate(2, arrays_digest(MODEL), arrays_digest(NEXT)))
    write(store, make_checkpoint(trail, federation.plan, 2, NEXT, STATE))
    names = sorted(path.name for path in federation.home.checkpoint.iterdir())
    assert names == ["checkpoint.json", "model-0002.safetensors", "optimizer-0002.safetensors"]


def test_a_prepared_model_counts_once_the_log_names_it(
    federation: FakeFederation, trail: AuditTrail, store: CheckpointStore
) -> None:
    write(store, make_checkpoint(trail, federation.plan, 1, MODEL, STATE))
    store.prepare(2, NEXT, STATE)
    before = store.load(trail, federation.plan)
    assert before is not None
    assert before.server_round == 1
    trail.log_aggregate(aggregate(2, arrays_digest(MODEL), arrays_digest(NEXT)))
    after = store.load(trail, federation.plan)
    assert after is not None
    assert after.server_round == 2
    assert arrays_digest(after.model) == arrays_digest(NEXT)
    written = store.read()
    assert written is not None
    assert written.server_round == 2


@pytest.mark.parametrize("content", [save_arrays(MODEL), b"torn", b""])
def test_a_prepared_model_that_the_log_does_not_name_is_left_aside(
    content: bytes, federation: FakeFederation, trail: AuditTrail, store: CheckpointStore
) -> None:
    write(store, make_checkpoint(trail, federation.plan, 1, MODEL, STATE))
    trail.log_aggregate(aggregate(2, arrays_digest(MODEL), arrays_digest(NEXT)))
    (federation.home.checkpoint / "model-0002.safetensors").write_bytes(content)
    loaded = store.load(trail, federation.plan)
    assert loaded is not None
    assert loaded.server_round == 1


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"torn")])
def test_a_prepared_model_without_its_optimizer_state_is_left_aside(
    damage: Callable[[Path], object],
    federation: FakeFederation,
    trail: AuditTrail,
    store: CheckpointStore,
) -> None:
    write(store, make_checkpoint(trail, federation.plan, 1, MODEL, STATE))
    store.prepare(2, NEXT, STATE)
    trail.log_aggregate(aggregate(2, arrays_digest(MODEL), arrays_digest(NEXT)))
    damage(federation.home.checkpoint / "optimizer-0002.safetensors")
    loaded = store.load(trail, federation.plan)
    assert loaded is not None
    assert loaded.server_round == 1


MISMATCHES: dict[str, tuple[str, Callable[[dict[str, JsonValue]], None]]] = {
    "run": ("the run run-2", lambda index: index.update(run="run-2")),
    "plan": ("the plan", lambda index: index.update(plan="0" * 64)),
    "entry": ("the aggregate entry", lambda index: index.update(aggregate="0" * 64)),
    "roster": ("the roster", lambda index: index.update(roster=["region-1"])),
    "size": (
        "the log's root at size 99",
        lambda index: index["log"].update(size=99),  # type: ignore[union-attr,call-arg]
    ),
    "root": (
        "the log's root at size 2",
        lambda index: index["log"].update(root="0" * 64),  # type: ignore[union-attr,call-arg]
    ),
}


@pytest.mark.parametrize("mismatch", MISMATCHES)
def test_a_checkpoint_that_does_not_match_its_log_is_refused(
    mismatch: str, federation: FakeFederation, trail: AuditTrail, store: CheckpointStore
) -> None:
    write(store, make_checkpoint(trail, federation.plan, 1, MODEL, STATE))
    expected, change = MISMATCHES[mismatch]
    edit(federation, change)
    with pytest.raises(VerificationError, match=expected):
        store.load(trail, federation.plan)


def test_another_model_than_the_log_names_is_refused(
    federation: FakeFederation, trail: AuditTrail, store: CheckpointStore
) -> None:
    write(store, make_checkpoint(trail, federation.plan, 1, NEXT, STATE))
    with pytest.raises(VerificationError, match="the model differ"):
        store.load(trail, federation.plan)


def test_a_log_rolled_back_behind_its_checkpoint_is_noticed(tmp_path: Path) -> None:
    with open_federation(tmp_path, fake_plan()) as federation:
        store = CheckpointStore(federation.home.checkpoint)
        with federation.trail() as trail:
            trail.log_aggregate(aggregate(1, arrays_digest({}), arrays_digest(MODEL)))
            write(store, make_checkpoint(trail, federation.plan, 1, MODEL, STATE))
        for path in federation.home.root.glob("log.sqlite*"):
            path.unlink()
        with federation.trail() as trail, pytest.raises(VerificationError, match="log lacks"):
            store.load(trail, federation.plan)


DAMAGE: dict[str, Callable[[FakeFederation], None]] = {
    "index-torn": lambda f: truncate(index_of(f)),
    "index-empty": lambda f: write_durably(index_of(f), b""),
    "index-list": lambda f: write_durably(index_of(f), b"[]"),
    "index-version": lambda f: edit(f, lambda index: index.update(v="fedpref-server-checkpoint/2")),
    "index-field-missing": lambda f: edit(f, lambda index: index.pop("log") and None),
    "index-field-type": lambda f: edit(f, lambda index: index.update(round="1")),
    "optimizer-missing": lambda f: (f.home.checkpoint / "optimizer-0001.safetensors").unlink(),
    "optimizer-bit": lambda f: flip(f.home.checkpoint / "optimizer-0001.safetensors"),
    "model-missing": lambda f: (f.home.checkpoint / "model-0001.safetensors").unlink(),
    "model-torn": lambda f: truncate(f.home.checkpoint / "model-0001.safetensors"),
    "model-bit": lambda f: flip(f.home.checkpoint / "model-0001.safetensors"),
}


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_refused_not_skipped(
    damage: str, federation: FakeFederation, trail: AuditTrail, store: CheckpointStore
) -> None:
    write(store, make_checkpoint(trail, federation.plan, 1, MODEL, STATE))
    DAMAGE[damage](federation)
    with pytest.raises(StorageError, match="damaged"):
        store.load(trail, federation.plan)


@pytest.mark.parametrize("step", ["prepare", "write"])
def test_a_full_disk_leaves_the_old_checkpoint(
    step: str,
    federation: FakeFederation,
    trail: AuditTrail,
    store: CheckpointStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write(store, make_checkpoint(trail, federation.plan, 1, MODEL, STATE))
    trail.log_aggregate(aggregate(2, arrays_digest(MODEL), arrays_digest(NEXT)))
    following = make_checkpoint(trail, federation.plan, 2, NEXT, STATE)

    def full(path: Path, data: bytes, **options: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_module, "write_durably", full)
        with pytest.raises(StorageError, match="No space left"):
            store.prepare(2, NEXT, STATE) if step == "prepare" else store.write(following)
    loaded = store.load(trail, federation.plan)
    assert loaded is not None
    assert loaded.server_round == 1
