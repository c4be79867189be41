from __future__ import annotations

import math
import subprocess
import sys

import dp_accounting
import mpmath
import pytest
from dp_accounting.pld.pld_privacy_accountant import PLDAccountant
from dp_accounting.rdp.rdp_privacy_accountant import RdpAccountant
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from common.privacy import (
    _INTEGER_ORDERS,
    GaussianEvent,
    calibrate_sigma,
    compose,
    delta_left,
    epsilon,
    epsilon_gaussian,
    epsilon_prv,
    epsilon_rdp,
    gaussian_part,
    total_noise_multiplier,
)

DELTA = 1e-6
# A run's events at ε = 8, at ε = 1, and a single mechanism.
EVENTS = [
    [GaussianEvent(1.686), GaussianEvent(1.4165, count=4)],
    [GaussianEvent(5.05), GaussianEvent(10.91, count=2)],
    [GaussianEvent(1.0)],
]


def hockey_stick(sigma: float, eps: float) -> float:
    """δ(ε) by its definition: the integral of max(0, p − e^ε q) over two Gaussians."""
    with mpmath.workdps(40):
        start = mpmath.mpf(eps) * sigma**2 + mpmath.mpf(1) / 2
        density = mpmath.npdf
        return float(
            mpmath.quad(
                lambda x: density(x, 1, sigma) - mpmath.exp(eps) * density(x, 0, sigma),
                [start, start + 10 * sigma, start + 40 * sigma],
            )
        )


@pytest.mark.parametrize("sigma", [0.5, 1.0, 4.0])
def test_the_closed_form_is_the_definition(sigma: float) -> None:
    eps = epsilon_gaussian(sigma, DELTA)
    assert hockey_stick(sigma, eps) == pytest.approx(DELTA, rel=1e-6)
    # The value errs upwards only, and by next to nothing.
    assert hockey_stick(sigma, eps * (1 - 1e-4)) > DELTA


@settings(max_examples=60, deadline=None)
@given(st.floats(0.05, 60.0), st.sampled_from([1e-9, 1e-6, 1e-3]))
def test_calibration_inverts_the_closed_form(target: float, delta: float) -> None:
    sigma = calibrate_sigma(target, delta)
    reached = epsilon_gaussian(sigma, delta)
    assert reached <= target * (1 + 1e-9)
    assert reached == pytest.approx(target, rel=1e-6)


@pytest.mark.parametrize("events", EVENTS)
def test_epsilon_is_never_below_dp_accounting_or_the_exact_value(
    events: list[GaussianEvent],
) -> None:
    accountant = PLDAccountant()
    for event in events:
        accountant.compose(dp_accounting.GaussianDpEvent(event.noise_multiplier), event.count)
    reported = epsilon(events, DELTA)
    exact = epsilon_gaussian(total_noise_multiplier(events), DELTA)
    assert reported >= accountant.get_epsilon(DELTA)
    assert reported >= exact
    assert reported == pytest.approx(exact, rel=1e-4)


@pytest.mark.parametrize("events", EVENTS)
def test_three_accountants_agree(events: list[GaussianEvent]) -> None:
    reported = epsilon(events, DELTA)
    assert epsilon_prv(events, DELTA) == pytest.approx(reported, abs=0.02)
    assert reported <= epsilon_rdp(events, DELTA) <= reported * 1.2


def test_sampling_is_accounted_as_dp_accounting_does() -> None:
    event = GaussianEvent(1.1, sampling_probability=0.05, count=100)
    accountant = PLDAccountant()
    mechanism = dp_accounting.GaussianDpEvent(1.1)
    accountant.compose(dp_accounting.PoissonSampledDpEvent(0.05, mechanism), 100)
    by_library = accountant.get_epsilon(DELTA)
    assert by_library <= epsilon([event], DELTA) <= by_library * (1 + 1e-8)
    assert epsilon_prv([event], DELTA) == pytest.approx(epsilon([event], DELTA), abs=0.02)
    with pytest.raises(InputError, match="closed form"):
        total_noise_multiplier([event])


# Two runs on samples and a full-batch round, as one region's year may have them.
MIXED = [
    GaussianEvent(2.5),
    GaussianEvent(1.1, sampling_probability=0.05, count=60),
    GaussianEvent(1.4, sampling_probability=0.2, count=25),
]


def accounted(accountant: dp_accounting.PrivacyAccountant, events: list[GaussianEvent]) -> float:
    """ε by dp-accounting itself, event by event."""
    for event in events:
        mechanism = dp_accounting.GaussianDpEvent(event.noise_multiplier)
        if event.sampling_probability < 1:
            mechanism = dp_accounting.PoissonSampledDpEvent(event.sampling_probability, mechanism)
        accountant.compose(mechanism, event.count)
    return float(accountant.get_epsilon(DELTA))


def test_unlike_mechanisms_compose_and_three_accountants_agree() -> None:
    reported = epsilon(MIXED, DELTA)
    assert accounted(PLDAccountant(), MIXED) <= reported
    assert epsilon_prv(MIXED, DELTA) == pytest.approx(reported, abs=0.02)
    assert reported <= epsilon_rdp(MIXED, DELTA) <= reported * 1.2


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.builds(
            GaussianEvent,
            st.floats(0.7, 20.0),
            st.sampled_from([1.0, 0.5, 0.05]),
            st.integers(1, 40),
        ),
        min_size=1,
        max_size=3,
    )
)
def test_the_filters_epsilon_is_dp_accountings_rdp(events: list[GaussianEvent]) -> None:
    sampled = any(event.sampling_probability < 1 for event in events)
    accountant = RdpAccountant(orders=_INTEGER_ORDERS) if sampled else RdpAccountant()
    assert epsilon_rdp(events, DELTA) == pytest.approx(accounted(accountant, events), rel=1e-12)


@settings(max_examples=5, deadline=None)
@given(
    st.lists(
        st.builds(
            GaussianEvent,
            st.floats(0.9, 10.0),
            st.sampled_from([1.0, 0.3, 0.05]),
            st.integers(1, 30),
        ),
        min_size=1,
        max_size=3,
    )
)
def test_whatever_is_composed_is_never_below_the_pld(events: list[GaussianEvent]) -> None:
    by_library = accounted(PLDAccountant(), events)
    assert by_library <= epsilon(events, DELTA) <= epsilon_rdp(events, DELTA)


def test_distributions_kept_from_earlier_rounds_are_what_the_library_would_make() -> None:
    popularity = GaussianEvent(3.1)
    for done in (1, 2, 3):
        training = GaussianEvent(1.3, sampling_probability=0.2, count=4 * done)
        accountant = PLDAccountant()
        accountant.compose(dp_accounting.GaussianDpEvent(3.1))
        mechanism = dp_accounting.PoissonSampledDpEvent(0.2, dp_accounting.GaussianDpEvent(1.3))
        accountant.compose(mechanism, training.count)
        by_library = accountant.get_epsilon(DELTA)
        assert by_library <= epsilon([popularity, training], DELTA) <= by_library * (1 + 1e-8)


def test_composition_adds_up_equal_mechanisms_in_any_order() -> None:
    one, other = GaussianEvent(2.0, count=3), GaussianEvent(1.5)
    expected = (GaussianEvent(1.5), GaussianEvent(2.0, count=4))
    assert compose([one, other, GaussianEvent(2.0)]) == expected
    assert compose([GaussianEvent(2.0), other, one]) == expected
    assert total_noise_multiplier(expected) == pytest.approx(1 / math.sqrt(1 / 2.25 + 4 / 4.0))


def test_nothing_costs_nothing_and_too_much_is_infinite() -> None:
    assert epsilon([], DELTA) == 0.0
    assert epsilon_rdp([], DELTA) == 0.0
    assert epsilon([GaussianEvent(1e-3, count=1000)], DELTA) == math.inf
    assert epsilon_gaussian(1e-3, DELTA) == math.inf
    assert epsilon_gaussian(1e6, 1e-3) == 0.0


@pytest.mark.parametrize(
    ("noise", "probability", "count"),
    [(0, 1, 1), (-1, 1, 1), (math.nan, 1, 1), (math.inf, 1, 1), (1, 0, 1), (1, 1.01, 1), (1, 1, 0)],
)
def test_senseless_events_are_refused(noise: float, probability: float, count: int) -> None:
    with pytest.raises(InputError):
        GaussianEvent(noise, probability, count)


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-6, math.nan])
def test_a_senseless_delta_is_refused(delta: float) -> None:
    for compute in (
        lambda: epsilon([GaussianEvent(1.0)], delta),
        lambda: epsilon_rdp([GaussianEvent(1.0)], delta),
        lambda: epsilon_gaussian(1.0, delta),
        lambda: calibrate_sigma(1.0, delta),
    ):
        with pytest.raises(InputError, match="delta"):
            compute()


def test_importing_is_cheap() -> None:
    # What compliance runs must not wait for accounting libraries, nor need torch.
    code = (
        "import sys, common.privacy, common.plan, common.parameters; "
        "print([name for name in ('dp_accounting', 'scipy', 'torch', 'opacus', 'flwr') "
        "if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_accounting_does_not_need_torch() -> None:
    code = (
        "import sys; from common.privacy import *; epsilon([GaussianEvent(4.0)], 1e-6); "
        "epsilon_rdp([GaussianEvent(4.0)], 1e-6); print('torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


# -- a δ of its own for keys -----------------------------------------------------------------------

KEYED = [GaussianEvent(2.0, key_delta=3e-7), GaussianEvent(5.0), GaussianEvent(2.0, 1.0, 2, 1e-7)]


def test_what_keys_take_of_delta_is_taken_off_by_every_accountant() -> None:
    left = delta_left(KEYED, DELTA)
    assert left == pytest.approx(5e-7)
    bare = [GaussianEvent(2.0, count=3), GaussianEvent(5.0)]
    assert gaussian_part(KEYED) == compose(bare)
    for account in (epsilon, epsilon_rdp, epsilon_prv):
        assert account(KEYED, DELTA) == account(bare, left)
        assert account(KEYED, DELTA) > account(bare, DELTA)
    accountant = PLDAccountant()
    for each in (2.0, 2.0, 2.0, 5.0):
        accountant.compose(dp_accounting.GaussianDpEvent(each))
    assert epsilon(KEYED, DELTA) == pytest.approx(accountant.get_epsilon(5e-7), rel=1e-3)


def test_events_that_differ_in_their_delta_for_keys_stay_apart() -> None:
    assert compose(KEYED) == (
        GaussianEvent(2.0, 1.0, 2, 1e-7),
        GaussianEvent(2.0, 1.0, 1, 3e-7),
        GaussianEvent(5.0),
    )


@pytest.mark.parametrize("key_delta", [DELTA, 2 * DELTA, DELTA * (1 - 1e-9)])
def test_keys_that_leave_nothing_of_delta_have_no_finite_epsilon(key_delta: float) -> None:
    events = [GaussianEvent(2.0, key_delta=key_delta)]
    assert delta_left(events, DELTA) is None
    assert all(math.isinf(of(events, DELTA)) for of in (epsilon, epsilon_rdp, epsilon_prv))


@pytest.mark.parametrize("key_delta", [-1e-9, 1e-13, 0.2, math.nan])
def test_a_delta_for_keys_that_means_nothing_is_refused(key_delta: float) -> None:
    with pytest.raises(InputError, match="key_delta"):
        GaussianEvent(2.0, key_delta=key_delta)


def stick(shift: float, eps: float, scale: float) -> float:
    """max over outcomes T of scale·N(shift, 1)(T) − e^eps·N(0, 1)(T), by the best T."""
    if shift == 0:
        return max(0.0, scale - math.exp(eps))
    cut = (eps - math.log(scale)) / shift + shift / 2

    def above(x: float) -> float:
        return math.erfc(x / math.sqrt(2)) / 2

    return scale * above(cut - shift) - math.exp(eps) * above(cut)


@settings(max_examples=200, deadline=None)
@given(
    st.floats(0.3, 20.0),
    st.floats(1e-9, 1e-3),
    st.floats(1e-9, 1e-2),
    st.integers(0, 4),
)
def test_a_set_union_is_private_at_the_sum_of_both_deltas(
    sigma: float, delta: float, kappa: float, own: int
) -> None:
    """By its definition, both ways: of four keys of a customer some are hers alone.

    Those that others have, too, move values by √(share); hers alone pass with κ at most.
    """
    eps = epsilon_gaussian(sigma, delta)
    shift, passes = math.sqrt(1 - own / 4) / sigma, -math.expm1(math.log1p(-kappa) * own / 4)
    # With her against without her: whatever shows hers, and the best of what does not.
    added = passes + stick(shift, eps, 1 - passes)
    # Without her against with her, who shows nothing of hers with 1 − κ alone.
    removed = (1 - passes) * stick(shift, eps, 1 / (1 - passes))
    assert max(added, removed) <= (delta + kappa) * (1 + 1e-6)
