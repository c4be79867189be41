from __future__ import annotations

from itertools import pairwise
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulations.evaluation.picture import apart, picture

SVG = "{http://www.w3.org/2000/svg}"


def row(method: str, protocol: str, mean: float) -> dict[str, Any]:
    return {
        "setting": "everyone",
        "method": method,
        "protocol": protocol,
        "metric": "ndcg@10",
        "mean": mean,
        "ci_low": 0.9 * mean,
        "ci_high": 1.1 * mean,
    }


def result(protocols: tuple[str, ...] = ("new", "all")) -> dict[str, Any]:
    methods = [
        {
            "method": f"{strategy}/{mode}/{epsilon}",
            "label": f"{strategy}, {mode} noise, ε = {epsilon}",
            "kind": "private",
            "strategy": strategy,
            "mode": mode,
            "epsilon": epsilon,
        }
        for strategy in ("factors", "gram <&>")
        for mode in ("local", "distributed")
        for epsilon in ("8", "3", "1")
    ]
    for name in ("popularity", "ease", "implicit/bpr"):
        kind = {"kind": "reference", "strategy": None, "mode": None, "epsilon": None}
        methods.append({"method": name, "label": name.upper(), **kind})
    rows = [
        row(method["method"], protocol, 0.05 + 0.001 * place)
        for protocol in protocols
        for place, method in enumerate(methods)
    ]
    return {
        "data": {"title": "Some <shop> & its customers"},
        "protocol": "temporal",
        "seeds": [1, 2],
        "delta": "0.000001",
        "main_metric": "ndcg@10",
        "methods": methods,
        "rows": rows,
    }


@pytest.mark.parametrize("protocols", [("new", "all"), ("new",)])
def test_every_setting_is_a_line_through_its_epsilons(protocols: tuple[str, ...]) -> None:
    drawn = ElementTree.fromstring(picture(result(protocols)))
    lines = list(drawn.iter(f"{SVG}polyline"))
    assert len(lines) == 4 * len(protocols)
    for line in lines:
        places = [tuple(map(float, each.split(","))) for each in line.attrib["points"].split()]
        assert len(places) == 3
        # The least ε is at the left.
        assert all(one[0] < other[0] for one, other in pairwise(places))
    titles = [each.text for each in drawn.iter(f"{SVG}title")]
    assert "factors, local noise, ε = 8: 0.0500 (0.0450–0.0550)" in titles


def test_references_are_named_with_their_figures() -> None:
    texts = [each.text for each in ElementTree.fromstring(picture(result())).iter(f"{SVG}text")]
    assert any(text and text.startswith("popularity 0.0") for text in texts)
    assert any(text and text.startswith("EASE, no privacy 0.0") for text in texts)
    assert not any(text and "BPR" in text for text in texts)
    assert "Some <shop> & its customers" in texts
    assert "gram <&>, local noise" in texts


def test_the_picture_is_also_told_in_words() -> None:
    described = ElementTree.fromstring(picture(result())).find(f"{SVG}desc")
    assert described is not None
    assert "factors, distributed noise, ε = 1 (new): 0.0550" in str(described.text)


def test_one_epsilon_is_in_the_middle() -> None:
    one = result(("new",))
    one["methods"] = [each for each in one["methods"] if each["epsilon"] in ("8", None)]
    drawn = ElementTree.fromstring(picture(one))
    points = [each.attrib["points"] for each in drawn.iter(f"{SVG}polyline")]
    assert all(len(each.split()) == 1 for each in points)


@given(st.lists(st.floats(-1e3, 1e3), max_size=12).map(sorted))
def test_labels_are_apart_and_in_order(places: list[float]) -> None:
    moved = apart(places, 10.0)
    assert len(moved) == len(places)
    assert all(other - one >= 10.0 - 0.2 for one, other in pairwise(moved))


def test_labels_that_have_room_stay() -> None:
    assert apart([0.0, 50.0, 55.0], 20.0) == [0.0, 42.5, 62.5]
