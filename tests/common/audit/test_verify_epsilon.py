"""The recomputed ε against the accounting library, and what is refused."""

from __future__ import annotations

import math
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.audit.verify.epsilon import composed_epsilon, gaussian_epsilon
from common.errors import VerificationError
from common.privacy import GaussianEvent, epsilon, epsilon_rdp


@pytest.mark.parametrize(
    ("mechanisms", "delta"),
    [
        ({("1.1", "1"): 1}, 1e-6),
        ({("2.5", "1"): 5}, 1e-6),
        ({("0.7", "1"): 1, ("2.25", "1.0"): 4}, 1e-5),
        ({("12", "1"): 1, ("20.5", "1"): 16}, 1e-9),
    ],
)
def test_the_closed_form_is_the_libraries_epsilon(
    mechanisms: dict[tuple[str, str], int], delta: float
) -> None:
    events = [GaussianEvent(float(n), float(q), count) for (n, q), count in mechanisms.items()]
    exact = composed_epsilon(mechanisms, delta)
    library = epsilon(events, delta)
    # The library discretises, and rounds against us.
    assert library * (1 - 1e-4) <= exact <= library
    assert exact < epsilon_rdp(events, delta)


def test_subsampled_mechanisms_go_to_the_accounting_library() -> None:
    assert composed_epsilon({("1.0", "0.1"): 10}, 1e-5) == epsilon(
        [GaussianEvent(1.0, 0.1, 10)], 1e-5
    )
    assert composed_epsilon({("1.0", "0.1"): 10}, 1e-5) < composed_epsilon({("1.0", "1"): 10}, 1e-5)
    assert "dp_accounting" in sys.modules


def _tail(x: float) -> float:
    return math.erfc(x / math.sqrt(2)) / 2


@settings(max_examples=200, deadline=None)
@given(st.floats(0.05, 50), st.floats(1e-12, 0.1))
def test_it_solves_its_equation(sigma: float, delta: float) -> None:
    """δ(ε) as an integral's two tails: at ε it is δ, or below δ if ε is 0."""
    found = gaussian_epsilon(sigma, delta)
    if math.isinf(found):
        return
    there = _tail(found * sigma - 1 / (2 * sigma)) - math.exp(found) * _tail(
        found * sigma + 1 / (2 * sigma)
    )
    assert there == pytest.approx(delta, rel=1e-3) or (found == 0 and there <= delta)


def test_more_of_the_same_costs_more() -> None:
    spent = [composed_epsilon({("2", "1"): count}, 1e-6) for count in range(5)]
    assert spent[0] == 0
    assert spent == sorted(set(spent))


@pytest.mark.parametrize(
    ("noise", "probability", "delta"),
    [
        ("0", "1", 1e-6),
        ("0.0001", "1", 1e-6),
        ("10000000", "1", 1e-6),
        ("1", "0", 1e-6),
        ("1", "1.1", 1e-6),
        ("1", "1", 0.0),
        ("1", "1", 1.0),
        ("1", "1", math.nan),
        ("nan", "1", 1e-6),
        ("inf", "1", 1e-6),
    ],
)
def test_parameters_without_a_guarantee_are_refused(
    noise: str, probability: str, delta: float
) -> None:
    with pytest.raises(VerificationError):
        composed_epsilon({(noise, probability): 1}, delta)


def test_epsilon_past_all_bounds_is_infinite() -> None:
    assert composed_epsilon({("0.001", "1"): 1}, 1e-6) == math.inf
