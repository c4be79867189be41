"""The least noise with which steps on samples, and what else is released, stay within ε."""

from __future__ import annotations

import pytest

from common.calibration import calibrate_noise_multiplier
from common.errors import InputError
from common.privacy import GaussianEvent, calibrate_sigma, epsilon

DELTA = 1e-6


@pytest.mark.parametrize(
    ("target", "probability", "steps"), [(0.5, 0.02, 200), (2.0, 0.2, 20), (8.0, 0.5, 1)]
)
def test_what_is_spent_is_the_target_from_below(
    target: float, probability: float, steps: int
) -> None:
    sigma = calibrate_noise_multiplier(
        epsilon=target, delta=DELTA, sampling_probability=probability, steps=steps
    )
    spent = epsilon([GaussianEvent(sigma, probability, steps)], DELTA)
    assert target * (1 - 2e-4) <= spent <= target
    # So it is the least, to within what it says: with 1% less the target is missed.
    assert epsilon([GaussianEvent(0.99 * sigma, probability, steps)], DELTA) > target


def test_the_full_batch_is_calibrated_as_its_closed_form() -> None:
    sigma = calibrate_noise_multiplier(epsilon=2.0, delta=DELTA, sampling_probability=1.0, steps=4)
    assert sigma == pytest.approx(2 * calibrate_sigma(2.0, DELTA), rel=1e-3)


def test_what_else_is_released_is_paid_from_the_same_budget() -> None:
    others = [GaussianEvent(3.0)]
    arguments = {"epsilon": 4.0, "delta": DELTA, "sampling_probability": 0.2, "steps": 10}
    alone = calibrate_noise_multiplier(**arguments)  # type: ignore[arg-type]
    beside = calibrate_noise_multiplier(**arguments, others=others)  # type: ignore[arg-type]
    assert beside > alone
    spent = epsilon([*others, GaussianEvent(beside, 0.2, 10)], DELTA)
    assert 4 * (1 - 2e-4) <= spent <= 4


def test_a_budget_that_others_spend_alone_is_refused() -> None:
    with pytest.raises(InputError, match="nothing is left"):
        calibrate_noise_multiplier(
            epsilon=1.0,
            delta=DELTA,
            sampling_probability=0.1,
            steps=1,
            others=[GaussianEvent(1.0)],
        )


@pytest.mark.parametrize(
    "changed",
    [
        {"delta": 0.5},
        {"delta": float("nan")},
        {"sampling_probability": 0.0},
        {"sampling_probability": float("nan")},
        {"steps": 0},
        {"epsilon": 1e-9},
        {"epsilon": float("nan")},
    ],
)
def test_what_no_noise_can_reach_is_refused(changed: dict[str, float]) -> None:
    arguments = {"epsilon": 2.0, "delta": DELTA, "sampling_probability": 0.1, "steps": 5}
    with pytest.raises(InputError):
        calibrate_noise_multiplier(**{**arguments, **changed})  # type: ignore[arg-type]
