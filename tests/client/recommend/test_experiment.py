"""Arms are drawn by a keyed hash: evenly, for good, and known to nobody else."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import pytest
from scipy.stats import chisquare

from client.engine.home import RegionHome
from client.recommend.experiment import KEY_NAME, Assignment, experiment_key
from client.recommend.settings import ExperimentSettings
from common.errors import StorageError


def experiment(name: str = "trial-1", *shares: float) -> ExperimentSettings:
    parts = shares or (0.5, 0.3, 0.2)
    arms = [{"name": f"arm-{number}", "share": share} for number, share in enumerate(parts)]
    return ExperimentSettings.model_validate({"name": name, "arms": arms})


SIDS = [hashlib.sha256(b"%d" % number).hexdigest() for number in range(4000)]
KEY = bytes(range(32))


def test_arms_have_their_shares() -> None:
    assignment = Assignment(experiment(), KEY)
    sizes = Counter(assignment.arm(sid).name for sid in SIDS)
    counts = [sizes[f"arm-{number}"] for number in range(3)]
    assert chisquare(counts, [2000, 1200, 800]).pvalue > 0.001


def test_an_arm_stays_and_another_experiment_or_key_draws_anew() -> None:
    first = [Assignment(experiment(), KEY).arm(sid).name for sid in SIDS]
    assert first == [Assignment(experiment(), KEY).arm(sid).name for sid in SIDS]
    for other in (Assignment(experiment("trial-2"), KEY), Assignment(experiment(), KEY[::-1])):
        drawn = [other.arm(sid).name for sid in SIDS]
        alike = sum(one == two for one, two in zip(first, drawn, strict=True)) / len(SIDS)
        # As two independent draws are: .5² + .3² + .2².
        assert 0.33 < alike < 0.43


def test_shares_that_round_to_less_than_one_leave_nobody_out() -> None:
    thirds = Assignment(experiment("t", *[1 / 7] * 7), KEY)
    assert {thirds.arm(sid).name for sid in SIDS} == {f"arm-{number}" for number in range(7)}


def test_the_pseudonym_of_an_exposure_is_none_of_the_consent_log() -> None:
    assignment = Assignment(experiment(), KEY)
    pseudonym = assignment.pseudonym(SIDS[0])
    assert len(pseudonym) == 16
    assert pseudonym.hex() not in SIDS[0]
    assert pseudonym != Assignment(experiment("trial-2"), KEY).pseudonym(SIDS[0])
    assert len({assignment.pseudonym(sid) for sid in SIDS}) == len(SIDS)


def test_the_key_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    home = RegionHome(tmp_path, "region-1", "small.example")
    key = experiment_key(home)
    path = tmp_path / "recommend" / KEY_NAME
    assert path.stat().st_mode & 0o777 == 0o600
    assert experiment_key(home) == key
    path.write_bytes(key[:-1])
    with pytest.raises(StorageError, match="32 bytes"):
        experiment_key(home)
