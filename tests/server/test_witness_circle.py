from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from server.witness_circle import LEAST_WITNESSES, WitnessCircle

MANY = [f"region-{number}" for number in range(1, 65)]


def test_a_log_is_shown_to_a_few_others_and_each_region_sees_as_many_logs() -> None:
    circle = WitnessCircle("run-1", MANY, quorum=3)
    shown = {party: circle.witnesses_of(party) for party in MANY}
    assert all(len(set(others)) == LEAST_WITNESSES for others in shown.values())
    assert all(party not in others for party, others in shown.items())
    assert set(Counter(region for others in shown.values() for region in others).values()) == {
        LEAST_WITNESSES
    }
    assert not circle.whole


def test_the_coordinators_log_has_its_place_too() -> None:
    assert len(set(WitnessCircle("run-1", MANY, quorum=3).witnesses_of("server"))) == 8


@given(quorum=st.integers(0, 200), regions=st.integers(0, 200))
def test_twice_the_quorum_is_asked_if_there_are_as_many(quorum: int, regions: int) -> None:
    names = [f"r{number}" for number in range(regions)]
    circle = WitnessCircle("run-1", names, quorum)
    asked = circle.witnesses_of("server")
    assert len(asked) == min(regions, max(8, min(64, 2 * quorum)))
    assert circle.whole == (set(asked) == set(names))
    for name in names[:3]:
        others = circle.witnesses_of(name)
        assert name not in others
        assert len(others) == min(regions - 1, max(8, min(64, 2 * quorum)))


def test_few_regions_all_witness_each_other() -> None:
    circle = WitnessCircle("run-1", MANY[:5], quorum=3)
    assert circle.whole
    for party in MANY[:5]:
        assert set(circle.witnesses_of(party)) == set(MANY[:5]) - {party}


def test_neighbours_are_nobodys_choice_and_others_in_another_run() -> None:
    first = WitnessCircle("run-1", MANY, quorum=3)
    again = WitnessCircle("run-1", MANY[::-1], quorum=3)
    other = WitnessCircle("run-2", MANY, quorum=3)
    assert all(first.witnesses_of(each) == again.witnesses_of(each) for each in MANY)
    assert sum(first.witnesses_of(each) != other.witnesses_of(each) for each in MANY) > 60
    # A region that is not there changes only its neighbours' circles.
    without = WitnessCircle("run-1", MANY[1:], quorum=3)
    changed = [each for each in MANY[1:] if first.witnesses_of(each) != without.witnesses_of(each)]
    assert len(changed) == LEAST_WITNESSES
