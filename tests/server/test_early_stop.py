"""A run that ends early: by its released signals, in the log, after a crash, and never twice."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import FederationError, FormatError
from common.parameters import arrays_digest, snap_to_grid
from common.plan import EarlyStop, RunPlan
from common.strategies import change_of
from server.audit_trail import AuditTrail
from server.checkpoint import CheckpointStore
from server.early_stop import ends, kept_change, signal_of
from server.robust import total_of
from server.round_total import WholeTotal
from tests.support.fake_federation import FEDERATION, FakeEngine, FakeFederation, open_federation
from tests.support.local_plan import local_plan

STRATEGY = "matrix-factorisation"
CHANGE = change_of("item_factors")
RULE = {"patience_rounds": 2, "least_signal": "0.5"}
ROUNDS = 9
#: The last round whose changes go the same way; then there is only noise. Of 80 values its cosine
#: is within 0.5 by more than four deviations.
LEARNT = 4


def plan(**changes: Any) -> RunPlan:
    record = local_plan(STRATEGY).to_record()
    popularity, training = record["mechanisms"]  # type: ignore[misc]
    training |= {"rounds": [*range(2, ROUNDS + 1)]}  # type: ignore[operator]
    return local_plan(
        STRATEGY,
        **{
            "federation": FEDERATION,
            "early_stop": RULE,
            "training_rounds": ROUNDS - 1,
            "mechanisms": [popularity, training],
            "quorum": 2,
            "epsilon": "200",
            **changes,
        },
    )


PLAN = plan()


def total(*values: np.ndarray) -> WholeTotal:
    return WholeTotal.of([{CHANGE: each} for each in values])


@given(seed=st.integers(0, 10_000), n=st.integers(1, 4))
def test_a_signal_is_the_cosine_of_two_rounds_changes(seed: int, n: int) -> None:
    generator = np.random.default_rng(seed)
    common = generator.normal(size=(20, 4))
    one, other = (
        [(common + generator.normal(size=(20, 4))).astype(np.float32) for _ in range(n)]
        for _ in range(2)
    )
    kept = kept_change(2, total(*one), PLAN)
    a, b = (np.sum(each, axis=0, dtype=np.float64).ravel() for each in (one, other))
    expected = float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    stated = signal_of(3, total(*other), PLAN, kept)
    assert stated is not None
    assert float(stated) == pytest.approx(max(expected, 0.0), abs=2e-6)
    # It is of no size: neither a learning rate nor the number of regions enters.
    larger = signal_of(3, total(*[8 * each for each in other]), PLAN, kept)
    assert larger == stated


def test_where_there_is_no_signal() -> None:
    change = total(np.ones((20, 4), np.float32))
    never = local_plan(STRATEGY)
    assert kept_change(2, change, never) == {}
    assert signal_of(3, change, never, {}) is None
    assert kept_change(1, change, PLAN) == {}
    assert [signal_of(number, change, PLAN, {}) for number in (1, 2)] == [None, None]
    with pytest.raises(FormatError, match="no change of item_factors"):
        signal_of(3, change, PLAN, {})
    with pytest.raises(FormatError, match="no change of item_factors"):
        signal_of(3, change, PLAN, {"last/item_factors": np.zeros((4, 4), np.float32)})
    # Changes of nothing at all agree with nothing.
    nothing = total(np.zeros((20, 4), np.float32))
    assert signal_of(3, nothing, PLAN, kept_change(2, nothing, PLAN)) == "0.000000"
    opposed = signal_of(3, total(np.full((20, 4), -1.0)), PLAN, kept_change(2, change, PLAN))
    assert opposed == "0.000000"


def test_a_robust_rules_location_gives_the_signal() -> None:
    robust = plan(
        aggregation={"rule": "median", "tolerated": 1, "honest_survivors_min": 0}, quorum=3
    )
    honest = [np.ones((20, 4), np.float32)] * 4
    hostile = np.full((20, 4), -1e6, np.float32)
    median = total_of([{CHANGE: each} for each in [hostile, *honest]], robust.aggregation)
    kept = kept_change(2, total(*honest), robust)
    assert signal_of(3, median, robust, kept) == "1.000000"
    assert signal_of(3, total(hostile, *honest), robust, kept) == "0.000000"


@pytest.mark.parametrize(
    ("signals", "ended"),
    [
        ([], False),
        ([None], False),
        ([None, None], False),
        ([None, None, "0.499999"], False),
        ([None, None, "0.499999", "0.1"], True),
        ([None, None, "0.1", "0.500000"], False),
        ([None, None, "0.1", "0.6", "0.1"], False),
        ([None, None, "0.9", "0.0", "0.0"], True),
    ],
)
def test_when_a_run_ends(signals: list[str | None], ended: bool) -> None:
    assert ends(EarlyStop(**RULE), signals) is ended  # type: ignore[arg-type]
    assert not ends(None, signals)


def changes_until_learnt(engine: FakeEngine) -> None:
    """Lets an engine release what goes one way for some rounds, and then noise."""
    draw = engine.release

    def release(number: int) -> dict[str, np.ndarray]:
        if number == 1:
            return draw(number)
        noise = np.random.default_rng([engine.seed, number]).normal(size=(20, 4))
        way = np.random.default_rng(7).normal(size=(20, 4)) * (5.0 if number <= LEARNT else 0.0)
        exponent = engine.plan.mechanism_of(number).grid_exponent
        return {CHANGE: snap_to_grid(1e-3 * (way + noise), exponent)}

    engine.release = release  # type: ignore[method-assign]


def opened(federation: FakeFederation) -> FakeFederation:
    for engine in federation.engines.values():
        changes_until_learnt(engine)
    return federation


def test_a_run_ends_when_only_noise_is_left(tmp_path: Path) -> None:
    with open_federation(tmp_path, plan()) as federation:
        opened(federation).run()
        aggregates = federation.records("aggregate")
        signals = [each["signal"] for each in aggregates]
        # Round 5 is the first of noise; after rounds 5 and 6 the run is over, three rounds early.
        assert [each["round"] for each in aggregates] == [1, 2, 3, 4, 5, 6]
        assert signals[:2] == [None, None]
        assert all(float(str(each)) > 0.8 for each in signals[2:4])
        assert all(float(str(each)) < 0.5 for each in signals[4:])
        (model,) = federation.records("model")
        assert model["rounds"] == 6
        assert model["model"] == aggregates[-1]["model_out"]
        assert arrays_digest(federation.model()) == model["model"]
        assert federation.events()[-1]["event"] == "run-finished"
        asked = {number for engine in federation.engines.values() for _, number in engine.asked}
        assert 7 not in asked


def test_the_same_command_after_the_end_asks_nobody(tmp_path: Path) -> None:
    with open_federation(tmp_path, plan()) as federation:
        opened(federation).run()
        sizes = len(federation.records("aggregate")), len(federation.records("model"))
        for engine in federation.engines.values():
            engine.asked.clear()
        federation.run()
        assert (len(federation.records("aggregate")), len(federation.records("model"))) == sizes
        assert not any(engine.asked for engine in federation.engines.values())


@pytest.mark.parametrize("number", [4, 5, 6])
@pytest.mark.parametrize("lost", ["model", "checkpoint"])
def test_a_crash_near_the_end_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, lost: str
) -> None:
    with open_federation(tmp_path / "a", plan()) as federation:
        opened(federation).run()
        expected = federation.model()
    with open_federation(tmp_path / "b", plan()) as federation:
        opened(federation)
        with monkeypatch.context() as patch:
            crash_after(patch, number)
            with pytest.raises(RuntimeError, match="crash"):
                federation.run()
        if lost == "model":
            # The round is logged; neither its model nor an earlier one is there.
            shutil.rmtree(federation.home.checkpoint)
        federation.run()
        assert [each["round"] for each in federation.records("aggregate")] == [1, 2, 3, 4, 5, 6]
        assert all(np.array_equal(expected[name], x) for name, x in federation.model().items())
        assert len(federation.records("model")) == 1


def crash_after(patch: pytest.MonkeyPatch, number: int) -> None:
    """Crashes once the round's aggregate is logged, before its checkpoint is there."""
    write = CheckpointStore.write

    def crashing(self: CheckpointStore, checkpoint: Any) -> None:
        if checkpoint.server_round == number:
            raise RuntimeError("crash")
        write(self, checkpoint)

    patch.setattr(CheckpointStore, "write", crashing)


def test_a_pause_after_the_end_is_the_end(tmp_path: Path) -> None:
    with open_federation(tmp_path, plan()) as federation:
        federation.run_config["last-round"] = 5
        opened(federation).run()
        assert federation.events()[-1]["event"] == "run-paused"
        assert federation.records("model") == []
        federation.run_config["last-round"] = 8
        federation.run()
        assert federation.events()[-1]["event"] == "run-finished"
        assert [each["rounds"] for each in federation.records("model")] == [6]


def test_a_round_of_too_few_regions_does_not_end_a_run(tmp_path: Path) -> None:
    with open_federation(tmp_path, plan(quorum=3, round_timeout_s=3)) as federation:
        opened(federation)
        engine = federation.engines["region-2"]

        def refuse(number: int) -> None:
            if number == 6:
                raise FederationError("not now")

        engine.before_train = refuse
        with pytest.raises(FederationError):
            federation.run()
        assert len(federation.records("aggregate")) == 5
        assert federation.records("model") == []


def test_the_trail_reads_signals_back(tmp_path: Path) -> None:
    with open_federation(tmp_path, plan()) as federation:
        opened(federation).run()
        with federation.trail() as trail:
            assert isinstance(trail, AuditTrail)
            read = [trail.aggregates[number][1].signal for number in range(1, 7)]
        assert read == [each["signal"] for each in federation.records("aggregate")]
