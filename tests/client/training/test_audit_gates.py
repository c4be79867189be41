"""Every gate passes the real trainer and catches the fault that it is for, with every model."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from client.training.audit_gates.audit import FALSE_ALARM, GateResult, claim, releases
from client.training.audit_gates.canary_gate import decoder, lower_bound
from client.training.audit_gates.faults import FAULTS, Fault
from client.training.audit_gates.probe import ProbeModel
from client.training.audit_gates.subjects import subjects
from client.training.audit_gates.table import GATES, HONEST, GateRow, as_text, gate_row
from client.training.local_steps import train_locally
from client.training.noise import SeededNoise, SystemNoise
from common.privacy import epsilon_gaussian

SUBJECTS = {subject.name: subject for subject in subjects()}


@pytest.mark.parametrize("name", SUBJECTS)
def test_the_real_trainer_passes_every_gate(name: str) -> None:
    row = gate_row(SUBJECTS[name])
    assert [result.gate for result in row.results] == list(GATES)
    assert all(result.passed for result in row.results), as_text([row])
    assert all(result.false_alarm <= 1e-6 for result in row.results)


# The faults are the trainer's, which all models share; with the network they take minutes.
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name == "sasrec")) for name in SUBJECTS],
)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_planted_fault_is_caught_by_the_gates_meant_for_it(fault: Fault, name: str) -> None:
    row = gate_row(SUBJECTS[name], fault, noise=SeededNoise("gates"), gates=fault.gates)
    assert [result.gate for result in row.results if not result.passed] == list(fault.gates)


def test_every_gate_is_meant_for_a_fault() -> None:
    assert {gate for fault in FAULTS for gate in fault.gates} == set(GATES)


def test_a_gate_of_the_design_alone_would_miss_what_the_others_catch() -> None:
    """Why there are five: canaries miss a tenth less noise, and noise that is used again."""
    subject = subjects()[0]
    for missed in ("σ × 0.9", "same noise each step"):
        (fault,) = (fault for fault in FAULTS if fault.name == missed)
        row = gate_row(subject, fault, noise=SeededNoise("gates"), gates=["canaries"])
        assert row.results[0].passed


@pytest.mark.parametrize("eps", [0.5, 2.0])
def test_the_canary_bound_errs_as_rarely_as_it_says(eps: float) -> None:
    """Randomised response is ε-DP exactly: no other mechanism gives more right guesses."""
    generator = np.random.default_rng(5)
    bounds = []
    for _ in range(50):
        included = generator.random(1000) < 0.5
        truthful = generator.random(1000) < 1 / (1 + np.exp(-eps))
        scores = np.where(included == truthful, 1.0, -1.0) + 1e-3 * generator.random(1000)
        bounds.append(lower_bound(scores, included, delta=1e-9, alarm=0.2))
    wrong = int((np.array(bounds) > eps).sum())
    assert wrong <= stats.binom.isf(FALSE_ALARM, 50, 0.2)
    # And it is of use: most of what could be proved is.
    assert np.median(bounds) > 0.6 * eps


def test_the_canary_bound_of_guesses_that_are_all_right_or_senseless() -> None:
    included = np.random.default_rng(6).random(1000) < 0.5
    right = lower_bound(included.astype(float), included, delta=1e-9, alarm=1e-6)
    # With k right guesses of k, ε is ruled out if (1 + exp(−ε))^−k is below the alarm.
    assert right == pytest.approx(-np.log(4e6 ** (1 / 800) - 1), abs=0.03)
    senseless = np.random.default_rng(7).random(1000)
    assert lower_bound(senseless, included, delta=1e-9, alarm=1e-6) == 0


def test_a_full_batch_of_the_claimed_noise_stays_below_the_claim_and_near_it() -> None:
    """On orthogonal canaries without clipping's slack the audit is as sharp as it can be."""
    generator, sigma, delta = np.random.default_rng(8), 1.5, 1e-9
    included = generator.random(200_000) < 0.5
    scores = included + sigma * generator.standard_normal(200_000)
    bound = lower_bound(scores, included, delta=delta, alarm=FALSE_ALARM)
    assert 0.25 * epsilon_gaussian(sigma, delta) < bound < epsilon_gaussian(sigma, delta)


def test_releases_are_the_noisy_sums_of_each_step() -> None:
    claimed = claim(noise_multiplier=2.0, sampling_probability=0.5, steps=3)
    subject = subjects()[0]
    model = ProbeModel(subject.customers.n_items)
    steps = releases(train_locally, model, subject.customers, claimed, SeededNoise("r"))
    assert steps.shape == (3, subject.customers.n_items)
    assert -steps.sum(0) == pytest.approx(model.parameters["weights"].numpy(), abs=1e-7)


def test_a_sampler_that_ends_at_a_full_batch_is_noticed() -> None:
    """Of 200 customers drawn on average, the first 180 take part."""

    class Full(SystemNoise):
        def mask(self, n: int, probability: float) -> np.ndarray:
            mask = super().mask(n, probability)
            mask[np.flatnonzero(mask)[180:]] = False
            return mask

    subject = subjects()[0]
    assert GATES["sampling"](subject, train_locally, SystemNoise()).passed
    assert not GATES["sampling"](subject, train_locally, Full()).passed


def test_a_sampler_that_draws_neighbours_together_is_noticed() -> None:
    class Paired(SystemNoise):
        def mask(self, n: int, probability: float) -> np.ndarray:
            return np.repeat(super().mask((n + 7) // 8, probability), 8)[:n]

    assert not GATES["sampling"](subjects()[0], train_locally, Paired()).passed


def test_a_statistic_that_is_not_a_number_does_not_pass() -> None:
    assert not GateResult("noise size", float("nan"), 1.0, FALSE_ALARM, "").passed


def test_the_table_says_what_is_not_as_it_should_be() -> None:
    passed = GateResult("noise size", 0.5, 1.0, FALSE_ALARM, "")
    failed = GateResult("noise size", float("inf"), 1.0, FALSE_ALARM, "")
    assert GateRow("m", HONEST, (passed,)).as_it_should_be
    assert not GateRow("m", HONEST, (failed,)).as_it_should_be
    assert GateRow("m", "fault", (failed,), ("noise size",)).as_it_should_be
    assert not GateRow("m", "fault", (passed,), ("noise size",)).as_it_should_be
    text = as_text([GateRow("m", HONEST, (failed,)), GateRow("m", "f", (failed,), ("noise size",))])
    assert [line.split()[-1] for line in text.splitlines()[2:]] == ["NO", "yes"]
    assert "∞ ×" in text


def test_the_decoder_is_made_once_for_each_model() -> None:
    subject = subjects()[0]
    assert decoder(subject) is decoder(subject)
