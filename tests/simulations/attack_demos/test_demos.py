"""Each attack gets from Flower what it is for, and nothing here but a reason.

And each defence is what it fails by: with it taken away, the same attack succeeds here as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import server.rounds
import server.validation
from client.engine.egress_sums import MaskedReleases
from client.training.noise import SeededNoise
from common.double_masking.messages import Step
from common.double_masking.region import RegionExecution
from common.release_bounds import release_norm_bound
from common.secure_aggregation import roster
from simulations.attack_demos import (
    basket_recovery,
    key_substitution,
    norm_scaling,
    processes,
    unmask_twice,
)
from simulations.attack_demos.demo import Setting
from simulations.attack_demos.names import NAMES
from simulations.attack_demos.table import DEMOS, Shown

Carried = Callable[[str], Shown]


def test_the_attacks_are_those_of_the_command() -> None:
    assert [demo.name for demo in DEMOS] == list(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_an_attack_succeeds_against_flower_and_fails_here(name: str, shown: Carried) -> None:
    result = shown(name)
    assert result.flower.won, result.flower
    assert not result.ours.won, result.ours
    assert result.holds


def test_baskets_are_exact_by_a_plain_gradient_and_chance_by_a_release(shown: Carried) -> None:
    result = shown("basket-recovery")
    flower, ours = result.flower.figures, result.ours.figures
    assert flower["precision"] == flower["recall"] == flower["baskets_under_sparse_noise"] == 1.0
    assert ours["victims"] == flower["victims"] == 80
    assert ours["precision"] - ours["precision_by_popularity"] < 0.05
    assert ours["exact_baskets"] <= 1


def test_exposure_stays_within_twice_the_clean_one(shown: Carried) -> None:
    result = shown("shilling")
    assert result.flower.figures["attacked"] > 0.5
    for rule in ("median", "trimmed-mean"):
        measured = result.ours.figures[rule]
        assert 0 < measured["attacked"] <= 2 * measured["clean"]


def test_swapped_keys_are_refused_by_name_and_the_true_roster_is_answered(shown: Carried) -> None:
    figures = shown("key-substitution").ours.figures
    assert figures["reasons"] == ["wrong-signer"] * 3
    assert figures["true_roster_answered"]


def test_a_second_secret_is_refused_by_name_and_the_sum_is_opened_once(shown: Carried) -> None:
    figures = shown("unmask-twice").ours.figures
    assert figures["reasons"] == {
        "both at once": "malformed-request",
        "other survivors": "step-repeated",
        "unmask again": "unmasked-already",
    }
    assert figures["sum_opened"]


def test_a_scaled_update_is_refused_by_name_and_the_round_goes_on(shown: Carried) -> None:
    result = shown("norm-scaling")
    assert result.flower.figures["cosine_hostile"] > 0.999
    assert result.ours.figures["reason"] == "norm-too-large"
    assert result.ours.figures["regions_counted"] == 3


def test_old_messages_are_refused_by_name_and_repeated_ones_tell_nothing(shown: Carried) -> None:
    result = shown("replay")
    flower, ours = result.flower.figures, result.ours.figures
    assert flower["basket_precision_averaged"] == 1.0 > flower["basket_precision_once"]
    assert ours["reasons"] == {
        "reply": "other-round",
        "masked_reply": "other-round",
        "mask_question": "round-over",
    }
    assert ours["distinct_answers"] == 1 < ours["asked"]


class FaintNoise(SeededNoise):
    """A thirtieth of what the plan asks for: what has none at all does not leave a region."""

    def gaussian(self, shape: tuple[int, ...], stddev: float) -> npt.NDArray[np.float64]:
        return super().gaussian(shape, stddev / 30)


def test_without_noise_baskets_are_read_here_too(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "SeededNoise", FaintNoise)
    spoils = basket_recovery.on_ours(setting)
    assert spoils.won
    assert spoils.figures["precision"] > 0.95


def test_without_signatures_a_swapped_key_takes_the_masks_off(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    def believe(*_: Any, **__: Any) -> None:
        """Whoever signed."""

    monkeypatch.setattr(roster, "verify_statement", believe)
    spoils = key_substitution.on_ours(setting)
    assert spoils.won
    # Bit for bit, by the digest that the victim had signed.
    assert spoils.figures["recovered"]


def test_a_region_that_takes_steps_twice_loses_its_update(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def take(self: RegionExecution, step: Step) -> Iterator[None]:
        yield
        self._step = step

    monkeypatch.setattr(RegionExecution, "_taking", take)
    monkeypatch.setattr(RegionExecution, "_forget", lambda _: None)
    # The egress guard sees to it a second time.
    assert not unmask_twice.on_ours(setting).won
    monkeypatch.setattr(MaskedReleases, "_require_once", lambda *_: None)
    spoils = unmask_twice.on_ours(setting)
    assert spoils.won
    assert spoils.figures["recovered"]


def test_without_a_norm_bound_the_hostile_region_is_averaged_in(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wide(*plan: Any) -> float:
        return 1e7 * release_norm_bound(*plan)

    # It is held to twice: as a reply, and as something to be added up exactly.
    monkeypatch.setattr(server.validation, "release_norm_bound", wide)
    monkeypatch.setattr(server.rounds, "release_norm_bound", wide)
    assert norm_scaling.on_ours(setting).won
