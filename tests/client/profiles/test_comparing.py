"""Scores, cuts and groups: what customers are compared with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from client.profiles.clusters import Groups
from client.profiles.rfm import Cuts, read_cuts
from common.errors import FormatError, InputError

GIVEN = """
recency = [5, 10, 20, 60]
frequency = [2, 4, 8, 16]
monetary = [10, 50, 100.5, 400]
source = "all regions, 2024-05"
released = true
"""


def test_a_fifth_of_the_customers_has_each_score() -> None:
    values = np.arange(1000.0)
    cuts = Cuts.of_customers(values, values, values)
    for kind in ("recency", "frequency", "monetary"):
        found = cuts.scores(values, kind)
        assert np.bincount(found.astype(int))[1:].tolist() == pytest.approx([200] * 5, abs=1)
    # Few days since the last purchase are good, few purchases are not.
    assert cuts.scores(values, "recency")[0] == 5
    assert cuts.scores(values, "frequency")[0] == 1


def test_what_is_not_known_has_no_score() -> None:
    cuts = Cuts((1.0, 2.0, 3.0, 4.0), (1.0, 2.0, 3.0, 4.0), ())
    assert np.isnan(cuts.scores(np.array([np.nan]), "recency")).all()
    assert np.isnan(cuts.scores(np.array([1.0]), "monetary")).all()
    assert Cuts.of_customers(np.zeros(0), np.zeros(0), None) == Cuts((), (), ())


def test_cuts_from_outside_are_read(tmp_path: Path) -> None:
    path = tmp_path / "cuts.toml"
    path.write_text(GIVEN)
    cuts = read_cuts(path)
    assert cuts.released
    assert cuts.scores(np.array([5.0, 5.5, 61.0]), "recency").tolist() == [5, 4, 1]
    assert cuts.scores(np.array([2.0, 2.5, 17.0]), "frequency").tolist() == [1, 2, 5]
    assert Cuts.of_record(cuts.to_record()) == cuts


def test_where_cuts_from_outside_say_nothing_of_money_the_regions_own_are_used_and_not_told(
    tmp_path: Path,
) -> None:
    path = tmp_path / "cuts.toml"
    path.write_text(GIVEN.replace("monetary = [10, 50, 100.5, 400]\n", ""))
    given, own = read_cuts(path), Cuts((1.0,) * 4, (1.0,) * 4, (1.0, 2.0, 3.0, 4.0))
    used = given.with_own(own)
    assert used.scores(np.array([2.5]), "monetary").tolist() == [3]
    assert used.recency == given.recency
    told = [used.may_be_told(kind) for kind in ("recency", "frequency", "monetary")]
    assert told == [True, True, False]
    assert Cuts.of_record(used.to_record()) == used
    # The next build takes the region's own of then.
    assert used.from_outside == given
    path.write_text(GIVEN)
    whole = read_cuts(path)
    assert whole.with_own(own) == whole
    assert whole.may_be_told("monetary")


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ("[5, 10, 20, 60]", "[5, 10, 10, 60]", "recency"),
        ("[5, 10, 20, 60]", "[5, 10, 60]", "recency"),
        ("[2, 4, 8, 16]", "[2, 4, 8, nan]", "frequency"),
        ("[2, 4, 8, 16]", '[2, 4, 8, "16"]', "frequency"),
        ("monetary", "money", "money"),
        ("released = true", "released = 1", "released"),
        ('source = "all', 'source = "', "cannot be read"),
    ],
)
def test_malformed_cuts_are_refused(old: str, new: str, field: str, tmp_path: Path) -> None:
    path = tmp_path / "cuts.toml"
    path.write_text(GIVEN.replace(old, new).replace('source = "regions', "source = ="))
    if field == "cannot be read":
        path.write_text("recency = [")
    with pytest.raises(InputError, match=field):
        read_cuts(path)
    with pytest.raises(FormatError):
        Cuts.of_record({"recency": []})


def test_groups_that_are_apart_are_found_and_numbered_by_what_they_pay() -> None:
    generator = np.random.default_rng(1)
    kinds = np.array([[200.0, 2.0, 20.0], [3.0, 80.0, 4000.0], [30.0, 12.0, 300.0]])
    which = generator.integers(0, 3, 900)
    points = kinds[which] * generator.uniform(0.9, 1.1, (900, 3))
    groups = Groups.of_customers(points, 3)
    assert groups is not None
    assert (groups.of(points) == np.array([3, 1, 2])[which]).all()
    again = Groups.of_customers(points, 3)
    assert again is not None
    assert (again.centres == groups.centres).all()
    assert (Groups.of_record(groups.to_record()).centres == groups.centres).all()
    assert np.isnan(groups.of(np.array([[np.nan, 1.0, 1.0]]))).all()


def test_few_or_equal_customers_are_in_no_groups() -> None:
    assert Groups.of_customers(np.ones((100, 3)), 2) is None
    assert Groups.of_customers(np.full((100, 3), np.nan), 2) is None
    with pytest.raises(FormatError):
        Groups.of_record({"rows": [["x"]]})
