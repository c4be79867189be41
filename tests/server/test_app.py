"""The ServerApp: from a home folder to a published model, or a clear reason why not."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from common.errors import FederationError, InputError, StorageError
from common.parameters import arrays_digest
from common.plan import RunPlan
from server import app as app_module
from tests.support.fake_federation import fake_plan, open_federation


def test_a_run_ends_with_a_published_model(tmp_path: Path) -> None:
    with open_federation(tmp_path, fake_plan()) as federation:
        federation.run()
        # Between the two the closing checkpoints are cosigned.
        published, witnessed, finished = federation.events()[-3:]
        assert witnessed["event"] == "log-witnessed"
        assert published["event"] == "model-published"
        assert published["model"] == arrays_digest(federation.model())
        assert finished["event"] == "run-finished"
        assert {(s.name, s.shape) for s in federation.plan.model_arrays(99)} == {
            (name, array.shape) for name, array in federation.model().items()
        }


def test_a_run_pauses_where_it_is_told_to_and_goes_on_from_there(tmp_path: Path) -> None:
    with open_federation(tmp_path / "whole", fake_plan()) as federation:
        federation.run()
        expected = arrays_digest(federation.model())
    with open_federation(tmp_path / "paused", fake_plan(), witness_quorum=2) as federation:
        for last_round in (2, 2):
            federation.run_config["last-round"] = last_round
            federation.run()
            assert federation.events()[-1]["event"] == "run-paused"
            assert [each["round"] for each in federation.records("aggregate")] == [1, 2]
            assert not federation.records("model")
            assert not federation.home.model.exists()
            # All that is logged so far is cosigned: nobody knows when the run goes on.
            for engine in federation.engines.values():
                assert max(engine.kept) == engine.log.size
        federation.run_config["last-round"] = 9
        federation.run()
        assert federation.events()[-1]["event"] == "run-finished"
        assert [each["round"] for each in federation.records("aggregate")] == [1, 2, 3]
        assert arrays_digest(federation.model()) == expected


def test_a_run_that_fails_says_why_to_whoever_follows(tmp_path: Path) -> None:
    with open_federation(tmp_path, fake_plan(), nodes_wait_s=3.0) as federation:
        del federation.engines["region-1"], federation.engines["region-2"]
        with pytest.raises(FederationError, match="missing: region-1, region-2"):
            federation.run()
        last = federation.events()[-1]
        assert (last["event"], last["error"]) == ("run-failed", "FederationError")
        assert "region-1, region-2" in str(last["reason"])
        assert last["remedy"]


def test_without_a_home_there_is_one_clear_message(tmp_path: Path) -> None:
    with open_federation(tmp_path, fake_plan()) as federation:
        federation.run_config["server-home"] = str(tmp_path / "elsewhere")
        with pytest.raises(InputError, match=r"plan\.json cannot be read"):
            federation.run()
        federation.run_config["server-home"] = ""
        with pytest.raises(InputError, match="server-home"):
            federation.run()


def test_a_full_disk_at_the_end_publishes_nothing_and_the_run_goes_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes, **options: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with open_federation(tmp_path, fake_plan()) as federation:
        with monkeypatch.context() as patch:
            patch.setattr(app_module, "write_durably", full)
            with pytest.raises(StorageError, match="No space left"):
                federation.run()
        assert federation.records("model") == []
        federation.run()
        assert len(federation.records("model")) == 1


def test_two_coordinators_do_not_share_a_home(tmp_path: Path) -> None:
    with (
        open_federation(tmp_path, fake_plan()) as federation,
        federation.trail(),
        pytest.raises(StorageError, match="rocess"),
    ):
        federation.run()


def test_a_plan_whose_sums_might_not_be_exact_stops_before_anybody_is_asked(
    tmp_path: Path,
) -> None:
    record = fake_plan().to_record()
    # Of so many customers on so fine a grid a sum may be past 64 bits.
    popularity, *training = record["mechanisms"]  # type: ignore[misc]
    later = [{**each, "clipping_norm": "1000000000", "grid_exponent": -24} for each in training]
    record |= {"mechanisms": [popularity, *later], "planned_customers": 10**10}
    with open_federation(tmp_path, RunPlan.from_record(record)) as federation:
        with pytest.raises(InputError, match="might not be exact"):
            federation.run()
        assert all(engine.asked == [] for engine in federation.engines.values())
