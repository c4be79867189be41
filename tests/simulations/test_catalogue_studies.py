"""The studies of cold items and of regional variants, on data small enough to know the answers."""

from __future__ import annotations

import numpy as np
import pytest

from client.training.evaluation import EvaluationSet, Protocol
from common.catalogue import Catalogue
from common.errors import InputError
from simulations import cold_study, personal_variants
from simulations.paired_rows import paired_rows
from simulations.personal_training import Variant
from simulations.study_data import StudyData, made_up_data
from simulations.synthetic_scale import synthetic_regions

N_ITEMS = 240


@pytest.fixture(scope="module")
def data() -> StudyData:
    """Two regions of made-up customers, in a catalogue whose categories are the tastes of theirs.

    Whatever is bought by the same customers is in one category; by the last items alone nobody
    could tell.
    """
    regions = synthetic_regions(240, n_items=N_ITEMS, n_regions=2, seed=1)
    together = np.zeros((N_ITEMS, N_ITEMS))
    for region in regions:
        own = np.zeros((region.train.n_customers, N_ITEMS))
        own[np.repeat(np.arange(len(own)), np.diff(region.train.indptr)), region.train.indices] = (
            1.0
        )
        together += own.T @ own
    leaders = np.argsort(-np.diag(together))[:24]
    category = leaders[np.argmax(together[:, leaders], axis=1)]
    return StudyData(
        "made up",
        Catalogue.of(
            [f"i{number:03d}" for number in range(N_ITEMS)],
            category=[f"like-{number}" for number in category],
        ),
        {f"r{place}": region.train for place, region in enumerate(regions)},
        {
            f"r{place}": EvaluationSet.of(region.train, region.test)
            for place, region in enumerate(regions)
        },
        2400,
    )


def test_the_study_of_rare_items_answers_its_questions(data: StudyData) -> None:
    found = cold_study.rare_items(data, data.plan("factors", "8"), seeds=[1, 2])
    assert tuple(found) == cold_study.RARE_QUESTIONS
    for rows in found.values():
        assert rows[0].ratio == 1.0
        assert all(0 <= row.mean <= 1 for row in rows)
    assert found["new items"][0].interval == (1.0, 1.0)


def test_items_newer_than_the_model_are_ranked_better_than_by_chance(data: StudyData) -> None:
    found = cold_study.newer_items(data, data.plan("factors", "8"), seeds=[1, 2], share=0.25)
    rows = {row.method: row for row in found[cold_study.NEWER_QUESTION]}
    assert rows["cold scores"].mean > rows["by chance"].mean
    assert rows["their popularity, were it known"].mean > rows["by chance"].mean


def test_variants_are_measured_beside_the_shared_model(data: StudyData) -> None:
    variants = (personal_variants.SHARED, Variant("half", 0.5, 0.5))
    found = personal_variants.measure(data, data.plan("factors", "8"), seeds=[1], variants=variants)
    assert set(found) == {Protocol.NEW, Protocol.ALL}
    for rows in found.values():
        assert [row.method for row in rows] == ["shared", "half"]
        assert rows[0].interval == (1.0, 1.0)


def test_both_commands_print_what_they_measured(
    data: StudyData, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made_up = ["--made-up", "120", "--items", "120", "--regions", "2", "--seeds", "1"]
    assert personal_variants.main([*made_up, "--concentration", "0.5"]) == 0
    printed = capsys.readouterr().out
    assert "120 made-up customers, concentration 0.5  ε=8  factors  new" in printed
    assert printed.count("\n") == 1 + 2 * (1 + len(personal_variants.VARIANTS))
    monkeypatch.setattr(cold_study, "real_data", lambda _name, *, tuning: data)
    assert cold_study.main(["--seeds", "1"]) == 0
    printed = capsys.readouterr().out
    assert f"{cold_study.NEWER_QUESTION}, NDCG@10" in printed
    assert "× 1.000 (1.000 to 1.000)" in printed


def test_regions_differ_the_more_the_smaller_the_concentration() -> None:
    def distance(concentration: float) -> float:
        found = made_up_data(1000, n_items=240, n_regions=2, concentration=concentration)
        shares = [
            np.bincount(each.indices, minlength=240) / len(each.indices)
            for each in found.train.values()
        ]
        return float(np.abs(shares[0] - shares[1]).sum())

    assert distance(0.2) > 1.5 * distance(20.0)


def test_rows_are_paired() -> None:
    generator = np.random.default_rng(0)
    values = generator.random((50, 3))
    values[4] = np.nan
    rows = paired_rows({"one": values, "twice": 2 * values}, "one", replicates=100)
    assert [row.ratio for row in rows] == [1.0, pytest.approx(2.0)]
    # The same resamples for both: a ratio without any chance has no width.
    assert rows[1].interval == pytest.approx((2.0, 2.0))
    assert rows[0].mean == pytest.approx(np.nanmean(values))
    nothing = paired_rows({"one": np.zeros((3, 1)), "two": np.ones((3, 1))}, "one")
    assert np.isnan([nothing[1].ratio, *nothing[1].interval]).all()
    with pytest.raises(InputError):
        paired_rows({"one": np.full((3, 1), np.nan)}, "one")
