"""Waits are looked at often at first, and less often the longer they last."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from client.node.pacing import Pacing


def test_a_wait_adds_a_twentieth_of_itself_within_bounds() -> None:
    now = 0.0
    pacing = Pacing(least_s=0.2, most_s=3.0, clock=lambda: now)
    assert pacing.next_pause_s() == 0.2
    now = 4.0
    assert pacing.next_pause_s() == 0.2
    now = 20.0
    assert pacing.next_pause_s() == 1.0
    now = 1000.0
    assert pacing.next_pause_s() == 3.0
    pacing.arrived()
    assert pacing.next_pause_s() == 0.2


@given(st.lists(st.floats(0, 1e6), min_size=1))
def test_a_pause_is_never_outside_its_bounds(steps: list[float]) -> None:
    now = 0.0
    pacing = Pacing(least_s=0.05, most_s=1.0, clock=lambda: now)
    for step in steps:
        now += step
        assert 0.05 <= pacing.next_pause_s() <= 1.0
