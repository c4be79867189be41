"""Served rankings are those over all cold items, and what computes fewer leaves none out."""

from __future__ import annotations

import numpy as np
import pytest

from client.data.dataset import PreferenceDataset
from client.recommend.cold import ColdScores
from client.training.personalisation import bought, rank_fused, rank_shared
from common.catalogue import Catalogue
from common.model_state import ModelState
from common.ranking import BoolArray
from simulations import served_rankings
from simulations.served_rankings import ServedRankings
from tests.support.preference_data import dataset_of

N_ITEMS, CUSTOMERS, PLACES, NOISE = 300, 40, 12, 2.0
CATALOGUE = Catalogue.of(
    [f"item-{number}" for number in range(N_ITEMS)],
    category=[f"category-{number % 7}" for number in range(N_ITEMS)],
    product_type=[f"type-{number % 7}-{number % 3}" for number in range(N_ITEMS)],
)


def made_up(seed: int) -> tuple[ModelState, np.ndarray, PreferenceDataset]:
    """A model, customers' tilted scores of its vocabulary, and their histories."""
    generator = np.random.default_rng(seed)
    vocabulary = np.sort(generator.permutation(N_ITEMS)[:20]).astype(np.int64)
    model = ModelState(
        popularity=generator.normal(4, NOISE, N_ITEMS).astype(np.float32),
        vocabulary=vocabulary,
        item_weights=np.ones(20, dtype=np.float32),
        item_factors=generator.normal(size=(20, 3)).astype(np.float32),
    )
    # Some know much, some little: the catalogue decides about all places, about a few, or none.
    scores = generator.normal(
        generator.choice([-2.0, 0.0, 3.0], (CUSTOMERS, 1)), 1.0, (CUSTOMERS, 20)
    )
    rows = {
        f"{number:064x}": {
            int(item): generator.uniform(0.1, 30, int(generator.integers(1, 4))).tolist()
            for item in generator.permutation(N_ITEMS)[: int(generator.integers(0, 40))]
        }
        for number in range(CUSTOMERS)
    }
    # Without a purchase there is no row.
    rows = {sid: own or {0: [1.0]} for sid, own in rows.items()}
    return model, scores, dataset_of(rows, N_ITEMS, start_ms=0, end_ms=40 * 7 * 86_400_000)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("part", [False, True], ids=["all of the catalogue", "a part of it"])
def test_nothing_that_belongs_into_a_ranking_is_left_out(
    seed: int, part: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served_rankings, "_CHUNK", 16)
    model, scores, history = made_up(seed)
    universe: BoolArray | None = np.arange(N_ITEMS) % 4 > 0 if part else None
    ranks = ServedRankings.of(
        model,
        CATALOGUE,
        popularity_noise_stddev=NOISE,
        floor_stddev=NOISE,
        universe=universe,
        places=PLACES,
    )
    cold = ColdScores.of(CATALOGUE, model, popularity_noise_stddev=NOISE)
    own, extended = bought(history), cold.extended(model)
    both = np.concatenate([cold.floored(own, scores), cold.scores(own, scores)], axis=1)
    np.testing.assert_array_equal(
        ranks.new_items(scores, history),
        rank_shared(both, extended, PLACES, excluded=own, universe=universe),
    )
    np.testing.assert_array_equal(
        ranks.all_items(scores, history),
        rank_fused(
            both, history, extended, PLACES, popularity_noise_stddev=NOISE, universe=universe
        ),
    )
    # The shared model's items come first wherever it has something to say.
    plain = rank_shared(scores, model, PLACES, excluded=own, universe=universe)
    much = (scores > 1).sum(axis=1) > 19
    assert not np.array_equal(ranks.new_items(scores, history), plain)
    np.testing.assert_array_equal(ranks.new_items(scores, history)[much, :3], plain[much, :3])
