"""Things take turns, and a ratio is that within a turn."""

from __future__ import annotations

import pytest

from benchmarks.steps import alternating
from benchmarks.steps.alternating import Times, alternate, quickest


def test_each_is_warmed_up_once_and_then_all_take_turns_there_and_back() -> None:
    done: list[str] = []
    times = alternate({"a": lambda: done.append("a"), "b": lambda: done.append("b")}, turns=3)
    assert done == ["a", "b", "a", "b", "b", "a", "a", "b"]
    assert {name: len(each) for name, each in times.seconds.items()} == {"a": 3, "b": 3}


def test_a_ratio_is_the_median_of_those_within_a_turn() -> None:
    # The machine was ten times slower in the second turn; neither ratio nor order shows it.
    times = Times({"a": [1.0, 10.0, 1.2], "b": [2.0, 20.0, 2.0]})
    assert times.ratio("a", "b") == pytest.approx(0.5)
    assert times.median_s("a") == pytest.approx(1.2)


def test_the_baseline_is_the_quickest(monkeypatch: pytest.MonkeyPatch) -> None:
    took = {"slow": 2.0, "quick": 1.0, "middling": 1.5}
    works = {name: (lambda name=name: name) for name in took}
    monkeypatch.setattr(alternating, "cpu_s", lambda work: took[work()])
    assert quickest(works) == "quick"
