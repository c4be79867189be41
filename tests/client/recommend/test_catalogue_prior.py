"""Expected popularity: the released one where it stands out of the noise, the place's elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.recommend import catalogue_prior
from client.recommend.catalogue_prior import expected_popularity
from client.recommend.item_tree import ItemTree
from common.catalogue import Catalogue
from common.errors import InputError

N_TYPES, PER_TYPE = 24, 25
NOISE = 4.0


def shop(n_types: int = N_TYPES, per_type: int = PER_TYPE, *, more: int = 0) -> Catalogue:
    """Types in categories of four; `more` new items at the end, of the types in turn."""
    types = [*np.repeat(np.arange(n_types), per_type), *(np.arange(more) % n_types)]
    return Catalogue.of(
        [f"i{number}" for number in range(len(types))],
        product_type=[f"type-{number}" for number in types],
        category=[f"category-{number // 4}" for number in types],
        department=[f"department-{number // 12}" for number in types],
    )


def true_popularity(seed: int, *, more: int = 0) -> np.ndarray:
    """Types differ in how much is bought of them, and items within a type have a long tail."""
    generator = np.random.default_rng(seed)
    of_type = generator.gamma(0.4, 6.0, N_TYPES)
    types = np.concatenate([np.repeat(np.arange(N_TYPES), PER_TYPE), np.arange(more) % N_TYPES])
    popularity: np.ndarray = of_type[types] * generator.gamma(0.5, 2.0, len(types))
    return popularity


def test_without_noise_what_was_released_is_expected() -> None:
    truth = true_popularity(1)
    found = expected_popularity(shop(), truth, noise_stddev=0.0)
    assert found == pytest.approx(truth, abs=1e-2 * truth.max())


def test_far_above_the_noise_what_was_released_is_expected() -> None:
    released = true_popularity(2)
    released[17] = 400.0
    assert expected_popularity(shop(), released, noise_stddev=NOISE)[17] == pytest.approx(
        400.0, rel=0.02
    )


def test_the_tree_takes_most_of_the_noise_away() -> None:
    flat = Catalogue.of([f"i{number}" for number in range(N_TYPES * PER_TYPE)])
    errors = np.zeros(3)
    for seed in range(4):
        truth = true_popularity(seed)
        noisy = truth + np.random.default_rng([seed, 1]).normal(0, NOISE, len(truth))
        estimates = (
            expected_popularity(shop(), noisy, noise_stddev=NOISE),
            expected_popularity(flat, noisy, noise_stddev=NOISE),
            np.maximum(noisy, 0.0),
        )
        errors += [((estimate - truth) ** 2).mean() for estimate in estimates]
    by_tree, by_shape, released = errors
    assert by_tree < 0.6 * released
    # Without labels the shape of the whole catalogue alone takes some of it off.
    assert by_tree < 0.97 * by_shape


def test_an_item_newer_than_the_model_is_expected_as_its_place_is() -> None:
    more = 2 * N_TYPES
    known = N_TYPES * PER_TYPE
    truth = true_popularity(4, more=more)
    noisy = truth[:known] + np.random.default_rng(5).normal(0, 1.0, known)
    found = expected_popularity(shop(more=more), noisy, noise_stddev=1.0)
    assert len(found) == known + more
    of_type = truth[:known].reshape(N_TYPES, PER_TYPE).mean(axis=1)
    assert np.corrcoef(found[known : known + N_TYPES], of_type)[0, 1] > 0.95
    # Two new items of one type are alike.
    assert found[known : known + N_TYPES] == pytest.approx(found[known + N_TYPES :])


def test_an_item_of_a_new_type_is_expected_as_its_category_is() -> None:
    types = ["a"] * 40 + ["b"] * 40 + ["c"]
    catalogue = Catalogue.of(
        [str(number) for number in range(81)],
        category=["much"] * 40 + ["little"] * 40 + ["much"],
        product_type=types,
    )
    popularity = np.concatenate([np.full(40, 60.0), np.full(40, 2.0)])
    found = expected_popularity(catalogue, popularity, noise_stddev=1.0)
    assert 30.0 < found[80] <= 60.0


@settings(max_examples=20)
@given(st.integers(0, 10**6))
def test_the_order_of_items_means_nothing(seed: int) -> None:
    generator = np.random.default_rng(seed)
    n = 40
    types = generator.integers(0, 5, n)
    popularity = generator.gamma(0.5, 20.0, n) + generator.normal(0, NOISE, n)
    order = generator.permutation(n)
    first, second = (
        expected_popularity(
            Catalogue.of(
                [str(number) for number in chosen], product_type=[f"t{t}" for t in types[chosen]]
            ),
            popularity[chosen],
            noise_stddev=NOISE,
        )
        for chosen in (np.arange(n), order)
    )
    assert np.isfinite(first).all()
    assert (first >= 0).all()
    assert second == pytest.approx(first[order], rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e6])
def test_units_mean_nothing(scale: float) -> None:
    truth = true_popularity(6)
    found = expected_popularity(shop(), truth * scale, noise_stddev=NOISE * scale)
    base = expected_popularity(shop(), truth, noise_stddev=NOISE)
    assert found / scale == pytest.approx(base, rel=1e-6)


def test_what_makes_no_sense_is_refused() -> None:
    popularity = true_popularity(7)
    with pytest.raises(InputError, match="catalogue has 24"):
        expected_popularity(shop(24, 1), popularity, noise_stddev=NOISE)
    for bad in (np.nan, np.inf):
        with pytest.raises(InputError, match="not finite"):
            expected_popularity(shop(), np.append(popularity[1:], bad), noise_stddev=NOISE)
        with pytest.raises(InputError, match="not finite"):
            expected_popularity(shop(), popularity, noise_stddev=bad)
    with pytest.raises(InputError, match="not finite"):
        expected_popularity(shop(), popularity, noise_stddev=-1.0)


def test_popularity_that_is_all_noise_is_no_error() -> None:
    noise = np.random.default_rng(8).normal(0, NOISE, N_TYPES * PER_TYPE)
    found = expected_popularity(shop(), noise, noise_stddev=NOISE)
    assert found.mean() < 0.15 * NOISE
    assert found.max() < noise.max()


def by_the_book(catalogue: Catalogue, popularity: np.ndarray, noise: float) -> np.ndarray:
    """The documented method, group by group: EM's shares, smoothed towards the group above.

    The components' places are the module's; what is made of them is not.
    """
    centres, widths = catalogue_prior._components(popularity, noise)
    variances = noise**2 + widths**2
    density = np.exp(-((popularity[:, None] - centres) ** 2) / (2 * variances)) / np.sqrt(variances)
    paths = ItemTree.of(catalogue).paths
    of_group = {0: np.full(len(centres), 1 / len(centres))}
    for level, path in enumerate(paths):
        found = {}
        for group in np.unique(path):
            members = np.flatnonzero(path == group)
            prior = of_group[int(paths[level - 1][members[0]]) if level else 0]
            members, shares = members[members < len(popularity)], prior
            for _ in range(6 if level else 40):
                posterior = shares * density[members]
                posterior /= posterior.sum(axis=1, keepdims=True)
                shares = (posterior.sum(axis=0) + 10 * prior) / (len(members) + 10)
            found[int(group)] = shares
        of_group = found
    shares = np.stack([of_group[int(group)] for group in paths[-1]])
    posterior = shares[: len(popularity)] * density
    posterior /= posterior.sum(axis=1, keepdims=True)
    weight = widths**2 / variances
    means = posterior * (popularity[:, None] * weight + centres * (1 - weight))
    expected = shares @ (means.sum(axis=0) / posterior.sum(axis=0))
    expected[: len(popularity)] = means.sum(axis=1)
    return np.maximum(expected, 0.0)


@pytest.mark.parametrize("block", [3, 4096])
def test_the_values_are_those_of_the_documented_method(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue_prior, "_BLOCK", block)
    catalogue = shop(more=N_TYPES + 5)
    popularity = true_popularity(9) + np.random.default_rng(9).normal(0, NOISE, N_TYPES * PER_TYPE)
    found = expected_popularity(catalogue, popularity, noise_stddev=NOISE)
    assert found == pytest.approx(by_the_book(catalogue, popularity, NOISE), rel=1e-9, abs=1e-12)
    tree = ItemTree.of(catalogue)
    given = expected_popularity(catalogue, popularity, noise_stddev=NOISE, tree=tree)
    assert np.array_equal(given, found)
