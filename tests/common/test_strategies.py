from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.strategies import (
    FACTORS,
    MATRIX_FACTORISATION,
    SASREC,
    TIED_AUTOENCODER,
    change_of,
    initial_parameters,
    parameter_specs,
    require_options,
)

SEQUENTIAL = {"blocks": "2", "heads": "2", "max_length": "5", "negatives": "7"}
# Of Philox4x64-10 under the key 1, as NumPy draws uniform doubles of it.
PINNED = [
    [-0.08663959801197052, -0.08419740200042725],
    [-0.09884457290172577, 0.06131133809685707],
]
OPTIONS: dict[str, dict[str, str]] = {
    FACTORS: {},
    TIED_AUTOENCODER: {},
    MATRIX_FACTORISATION: {"regularisation": "0.1", "unobserved_weight": "0.05"},
    SASREC: SEQUENTIAL,
}


@pytest.mark.parametrize("strategy", [TIED_AUTOENCODER, MATRIX_FACTORISATION, SASREC])
def test_a_start_is_what_the_strategy_names_and_the_same_everywhere(strategy: str) -> None:
    popularity = np.linspace(9.0, 1.0, 11)
    arguments = (strategy, 4, OPTIONS[strategy])
    first = initial_parameters(*arguments, popularity=popularity, seed=3)
    again = initial_parameters(*arguments, popularity=popularity, seed=3)
    other = initial_parameters(*arguments, popularity=popularity, seed=4)
    specs = parameter_specs(strategy, 11, 4, OPTIONS[strategy])
    assert {spec.name: spec.shape for spec in specs} == {
        name: array.shape for name, array in first.items()
    }
    assert [spec.name for spec in specs] == sorted(first)
    assert all(array.dtype == np.float32 for array in first.values())
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["item_factors"], other["item_factors"])


def test_a_start_is_pinned_because_all_regions_and_auditors_must_draw_it() -> None:
    start = initial_parameters(MATRIX_FACTORISATION, 2, {}, popularity=np.ones(2), seed=1)
    assert start["item_factors"].tolist() == PINNED


def test_norms_begin_as_the_identity_and_biases_at_zero() -> None:
    start = initial_parameters(SASREC, 4, SEQUENTIAL, popularity=np.ones(11), seed=1)
    for name, array in start.items():
        if name.endswith("_scale"):
            assert (array == 1).all(), name
        elif name.endswith(("_shift", "_bias")):
            assert not array.any(), name
        else:
            assert array.any(), name


def test_the_autoencoder_begins_with_released_popularity() -> None:
    popularity = np.array([8.0, 4.0, 2.0, 1.0])
    start = initial_parameters(TIED_AUTOENCODER, 2, {}, popularity=popularity, seed=1)
    assert np.exp(start["item_bias"]) == pytest.approx(popularity / popularity.mean(), rel=1e-6)


@given(text=st.sampled_from(["0", "-1", "1.5", "13", "1e9"]))
def test_an_option_out_of_range_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="the option blocks is not a whole number within 1 and 12"):
        require_options(SASREC, 4, {**SEQUENTIAL, "blocks": text})


def test_options_are_those_of_the_strategy() -> None:
    for strategy, options in OPTIONS.items():
        require_options(strategy, 4, options)
    with pytest.raises(ValueError, match="the options of tied-autoencoder are none"):
        require_options(TIED_AUTOENCODER, 4, {"heads": "1"})
    with pytest.raises(ValueError, match="blocks, heads, max_length, negatives"):
        require_options(SASREC, 4, {})
    with pytest.raises(ValueError, match="no multiple"):
        require_options(SASREC, 5, SEQUENTIAL)


def test_a_change_has_a_name_of_its_own() -> None:
    assert change_of("item_factors") == "change_of_item_factors"
