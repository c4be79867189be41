"""Gate (e): a lower bound on ε from one run with canaries, which must not exceed the claim.

Source: Steinke, Nasr and Jagielski, "Privacy Auditing with One (1) Training Run" (2023). Each of m
canaries takes part with probability ½. An auditor who knows the model, all canaries and the release
guesses of the surest ones whether they did; how many guesses can be right is bounded by ε.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from scipy import linalg, stats

from client.training.audit_gates.audit import (
    CLIPPING_NORM,
    FALSE_ALARM,
    FloatArray,
    GateResult,
    Subject,
    Trainer,
    claim,
    flat,
    releases,
)
from client.training.noise import NoiseSource
from common.privacy import epsilon_gaussian

BoolArray = npt.NDArray[np.bool_]

# So much noise that the claim is well below the ε that all guesses being right would prove.
NOISE_MULTIPLIER = 3.0
DELTA = 1e-9
# Shares of the canaries that are guessed of, half of them in, half of them out.
_GUESSED = (0.1, 0.2, 0.4, 0.8)
_MOST_EPSILON = 50.0
# Runs with coins of their own: as good as one with so many times the canaries, as no two of these
# ever meet.
_RUNS = 12


def canary_gate(subject: Subject, trainer: Trainer, noise: NoiseSource) -> GateResult:
    """Full-batch steps with about half of the canaries each, and what they give away about them.

    Args:
        subject: The model and its canaries.
        trainer: The trainer under audit.
        noise: Where the trainer draws from; the auditor's coins too.

    Returns:
        The lower bound on ε; the threshold is the ε claimed at `DELTA`.
    """
    guesser = decoder(subject)
    settings = claim(noise_multiplier=NOISE_MULTIPLIER)
    coins, guesses = [], []
    for _ in range(_RUNS):
        included = noise.mask(subject.canaries.n_rows, 0.5)
        present = subject.canaries.gather(np.flatnonzero(included))
        release = releases(trainer, subject.make_model(), present, settings, noise)[0]
        coins.append(included)
        guesses.append(guesser.scores(release))
    included, scores = np.concatenate(coins), np.concatenate(guesses)
    bound = lower_bound(scores, included, delta=DELTA, alarm=FALSE_ALARM)
    claimed = epsilon_gaussian(NOISE_MULTIPLIER, DELTA)
    return GateResult(
        "canaries", bound, claimed, FALSE_ALARM, f"ε ≥ {bound:.2f} where {claimed:.2f} is claimed"
    )


@dataclass(frozen=True, eq=False)
class Decoder:
    """The best linear guess of who took part, knowing what each would have contributed.

    Attributes:
        contributions: float64[canaries, coordinates].
        factor: The Cholesky factor of their products, and of the noise.
    """

    contributions: FloatArray = field(repr=False)
    factor: tuple[FloatArray, bool] = field(repr=False)

    @classmethod
    def of(cls, contributions: FloatArray, noise_stddev: float) -> Decoder:
        """The decoder for noise of this standard deviation."""
        # Of coins with variance ¼ and mean ½, seen through the contributions and the noise.
        system = contributions @ contributions.T
        system[np.diag_indices_from(system)] += 4 * noise_stddev**2
        return cls(contributions, linalg.cho_factor(system))

    def scores(self, release: FloatArray) -> FloatArray:
        """float64[canaries]: above 0 who seems to have taken part, the surer the further."""
        seen = self.contributions @ (release - self.contributions.sum(0) / 2)
        solved: FloatArray = linalg.cho_solve(self.factor, seen)
        return solved


@lru_cache(maxsize=8)
def decoder(subject: Subject) -> Decoder:
    """The decoder of a subject's canaries.

    It is made for less noise than is claimed: where customers count for more than they should, what
    they add disturbs guesses about the others more than noise does.
    """
    model = subject.make_model()
    model.prepare()
    finish: Callable[[dict[str, torch.Tensor]], None] | None = getattr(model, "finish", None)
    rows = []
    for number in range(subject.canaries.n_rows):
        into = {name: torch.zeros_like(each) for name, each in model.parameters.items()}
        one = subject.canaries.rows(number, number + 1)
        model.add_clipped_gradients(one, CLIPPING_NORM, into)
        if finish is not None:
            finish(into)
        rows.append(flat(into))
    return Decoder.of(np.array(rows), CLIPPING_NORM / 2)


def lower_bound(scores: FloatArray, included: BoolArray, *, delta: float, alarm: float) -> float:
    """ε that the surest guesses rule out.

    Formal guarantees:
        If the scores come from an (ε, δ)-DP mechanism on independent fair coins, then the result is
        above ε with a probability of at most `alarm` (theorem 5.2 of the paper; the numbers of
        guesses tried share the alarm).

    Edge cases:
        Scores without any sense give 0. If all guesses are right, the bound is limited by their
        number: by some 4 for a thousand and an alarm of 1e-6.

    Args:
        scores: float64[m], higher for whoever seems included.
        included: bool[m], who was.
        delta: δ.
        alarm: The probability of error, above 0.
    """
    order = np.argsort(scores, kind="stable")
    best = 0.0
    for share in _GUESSED:
        half = max(1, round(share * len(scores) / 2))
        correct = int(included[order[-half:]].sum() + (~included[order[:half]]).sum())
        low, high = best, _MOST_EPSILON
        ruled_out = _ruled_out(correct, 2 * half, len(scores), delta, alarm / len(_GUESSED))
        while ruled_out(low) and high - low > 1e-3:
            middle = (low + high) / 2
            low, high = (middle, high) if ruled_out(middle) else (low, middle)
        best = max(best, low)
    return best


def _ruled_out(
    correct: int, guesses: int, canaries: int, delta: float, alarm: float
) -> Callable[[float], bool]:
    counts = np.arange(1, correct + 1)

    def holds(eps: float) -> bool:
        chance = 1 / (1 + math.exp(-eps))
        below = np.cumsum(stats.binom.pmf(correct - counts, guesses, chance))
        steepest = float((below / counts).max(initial=0.0))
        tail = float(stats.binom.sf(correct - 1, guesses, chance))
        return tail + 2 * canaries * delta * steepest < alarm

    return holds
