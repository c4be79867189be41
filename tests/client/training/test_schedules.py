from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.training.schedules import Schedule
from common.errors import InputError


def factors(schedule: Schedule, steps: int) -> list[float]:
    return [schedule.factor(step, steps) for step in range(steps)]


def test_known_factors() -> None:
    assert factors(Schedule(), 3) == [1, 1, 1]
    assert factors(Schedule("linear"), 4) == [1, 0.75, 0.5, 0.25]
    assert factors(Schedule("linear", final_share=0.2), 4) == pytest.approx([1, 0.8, 0.6, 0.4])
    half = 0.5**0.5 / 2
    assert factors(Schedule("cosine"), 4) == pytest.approx([1, 0.5 + half, 0.5, 0.5 - half])
    assert factors(Schedule(warm_up_steps=3), 5) == [0.25, 0.5, 0.75, 1, 1]
    assert factors(Schedule("linear", warm_up_steps=1), 5) == [0.5, 1, 0.75, 0.5, 0.25]


def test_a_range_longer_than_a_round_goes_on_where_it_was() -> None:
    whole = factors(Schedule("cosine", warm_up_steps=2), 12)
    rounds = [
        factors(Schedule("cosine", warm_up_steps=2, first_step=first, total_steps=12), 4)
        for first in (0, 4, 8)
    ]
    assert list(itertools.chain(*rounds)) == pytest.approx(whole)


def test_beyond_its_range_a_schedule_stays_at_its_end() -> None:
    schedule = Schedule("linear", final_share=0.1, first_step=8, total_steps=10)
    assert factors(schedule, 4) == pytest.approx([0.28, 0.19, 0.1, 0.1])


@given(
    shape=st.sampled_from(["constant", "linear", "cosine"]),
    share=st.floats(0, 1),
    warm_up=st.integers(0, 30),
    steps=st.integers(1, 50),
)
def test_factors_rise_and_then_fall_within_their_bounds(
    shape: Any, share: float, warm_up: int, steps: int
) -> None:
    found = factors(Schedule(shape, share, warm_up_steps=warm_up), steps)
    assert all(0 < factor <= 1 for factor in found)
    rising, falling = found[:warm_up], found[warm_up:]
    assert rising == sorted(rising)
    assert falling == sorted(falling, reverse=True)
    assert not falling or falling[0] == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"shape": "steps"},
        {"final_share": -0.1},
        {"final_share": 1.1},
        {"final_share": float("nan")},
        {"warm_up_steps": -1},
        {"first_step": -1},
        {"total_steps": -1},
    ],
)
def test_a_senseless_schedule_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="is no schedule"):
        Schedule(**wrong)
