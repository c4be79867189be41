"""What is left of a region's releases when all but one customer is known, and the best guess by it.

The attacker knows the model, the plan, all other customers' records, and how many items the victim
has bought. For each item it weighs, by the likelihood of what is left, that the victim bought it
against that it did not, and begins from how many others bought it. It is judged beside a guess by
popularity alone, by whoever has seen no release.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import csr_matrix

from client.data.dataset import PreferenceDataset
from client.training.clipping import factors_of
from client.training.dp_sgd import popularity_sum
from client.training.rows import popularity_values, sparse_factor_rows
from common.errors import InputError
from common.model_state import ModelState
from common.plan import Mechanism, RunPlan
from common.strategies import FACTORS
from simulations.faults.recordings import Arrays, Recordings

_BOOTSTRAPS = 2000

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Guesses:
    """How many of the guessed items each victim did buy; as many are guessed as it bought.

    Attributes:
        popular: float64[n_victims], shares right by popularity alone.
        methods: The same by each way to use the releases.
    """

    popular: FloatArray
    methods: Mapping[str, FloatArray]

    @property
    def best(self) -> FloatArray:
        """By the way that is best on the whole."""
        return max(self.methods.values(), key=lambda shares: float(shares.mean()))

    @property
    def exact(self) -> int:
        """How many baskets are wholly right by it that popularity alone does not give."""
        return int(((self.best == 1.0) & (self.popular < 1.0)).sum())


def guess_baskets(
    plan: RunPlan, purchases: Mapping[str, PreferenceDataset], loot: Recordings
) -> Guesses:
    """Takes every customer for the victim in turn.

    Args:
        plan: The run's plan, of the strategy ``factors``.
        purchases: By region all its customers, those of the rounds.
        loot: Each round's model and each region's reply.

    Raises:
        InputError: The plan's strategy is another, or a reply is missing.
    """
    if plan.strategy != FACTORS:
        raise InputError(f"Guesses are by releases of {FACTORS}, not of {plan.strategy}.")
    bought_by = np.sum(
        [np.bincount(each.indices, minlength=each.n_items) for each in purchases.values()], axis=0
    )
    n_others = sum(each.n_customers for each in purchases.values()) - 1
    popular: list[float] = []
    methods: dict[str, list[float]] = {"releases": [], "releases and popularity": []}
    for region, dataset in purchases.items():
        evidence = [
            _evidence(plan.mechanism_of(number), dataset, *_recorded(loot, region, number))
            for number in range(1, plan.total_rounds + 1)
        ]
        for victim in range(dataset.n_customers):
            items = dataset.indices[dataset.indptr[victim] : dataset.indptr[victim + 1]]
            if len(items) == 0:
                continue
            others = bought_by.astype(np.float64)
            others[items] -= 1
            prior = np.log((others + 0.5) / (n_others - others + 0.5))
            weight = np.sum([each.log_likelihood_ratio(victim) for each in evidence], axis=0)
            popular.append(_share_right(prior, items))
            methods["releases"].append(_share_right(weight, items))
            methods["releases and popularity"].append(_share_right(prior + weight, items))
    return Guesses(np.array(popular), {name: np.array(each) for name, each in methods.items()})


def paired_interval(differences: FloatArray, *, seed: int) -> tuple[float, float]:
    """The 95 % interval of a mean of paired differences, by the bootstrap over victims.

    Args:
        differences: float64[n_victims].
        seed: What victims are drawn by.
    """
    generator = np.random.default_rng(seed)
    drawn = generator.integers(0, len(differences), (_BOOTSTRAPS, len(differences)))
    low, high = np.quantile(differences[drawn].mean(axis=1), [0.025, 0.975])
    return float(low), float(high)


def _recorded(loot: Recordings, region: str, server_round: int) -> tuple[Arrays, Arrays]:
    """A round's model and a region's reply."""
    model = loot.read("model", region, server_round)
    reply = loot.read("reply", region, server_round)
    if model is None or reply is None:
        raise InputError(f"Nothing of {region} in round {server_round} was recorded.")
    return model[1], reply[1]


def _share_right(scores: FloatArray, items: npt.NDArray[np.integer]) -> float:
    guess = np.argpartition(-scores, len(items) - 1)[: len(items)]
    return float(np.isin(guess, items).mean())


@dataclass(frozen=True)
class _Evidence:
    """One release less what is known, projected on what an item of the victim would add to it.

    Attributes:
        rows: Sparse float64[n_customers, m], what each customer adds to the projection.
        noise: float64[m], the release less everybody: what only the noise's source knows.
        places: int64[m], which items of the catalogue these are.
        n_items: How many items the catalogue has.
        expected: float64[n_customers], what an item of a victim's adds, as far as it is known.
        stddev: float64[n_customers], the noise's standard deviation on the projection.
    """

    rows: csr_matrix
    noise: FloatArray
    places: npt.NDArray[np.int64]
    n_items: int
    expected: FloatArray
    stddev: FloatArray

    def log_likelihood_ratio(self, victim: int) -> FloatArray:
        """float64[n_items]: by how much the release speaks for each item."""
        left = self.noise_of(victim) + self.rows[victim].toarray().ravel()
        expected, variance = self.expected[victim], self.stddev[victim] ** 2
        ratio = np.zeros(self.n_items)
        ratio[self.places] = (2 * left * expected - expected**2) / (2 * variance)
        return ratio

    def noise_of(self, victim: int) -> FloatArray:
        """float64[m]: the noise on the victim's projection."""
        del victim
        return self.noise


@dataclass(frozen=True)
class _FactorEvidence(_Evidence):
    """The same of a gradient, seen along the direction that others' rows have on the average.

    Attributes:
        noise_matrix: float64[m, d].
        directions: float64[n_customers, d], by victim the mean of the others.
    """

    noise_matrix: FloatArray
    directions: FloatArray

    def noise_of(self, victim: int) -> FloatArray:
        """See `_Evidence`."""
        seen: FloatArray = self.noise_matrix @ self.directions[victim]
        return seen


def _evidence(
    mechanism: Mechanism, dataset: PreferenceDataset, model: Arrays, reply: Arrays
) -> _Evidence:
    if mechanism.name == FACTORS:
        return _factor_evidence(mechanism, dataset, model, reply)
    clipping_norm = float(mechanism.clipping_norm)
    rows = csr_matrix(
        (popularity_values(dataset) * min(1.0, clipping_norm), dataset.indices, dataset.indptr),
        shape=(dataset.n_customers, dataset.n_items),
    )
    known = popularity_sum(dataset, clipping_norm=clipping_norm)
    sizes = np.maximum(np.diff(dataset.indptr), 1)
    return _Evidence(
        rows=rows,
        noise=reply["popularity"].astype(np.float64) - known,
        places=np.arange(dataset.n_items),
        n_items=dataset.n_items,
        # Of a row of norm 1 with so many entries.
        expected=min(1.0, clipping_norm) / np.sqrt(sizes),
        stddev=np.full(dataset.n_customers, mechanism.noise_stddev),
    )


def _factor_evidence(
    mechanism: Mechanism, dataset: PreferenceDataset, model: Arrays, reply: Arrays
) -> _Evidence:
    state = ModelState.from_arrays(model)
    rows = csr_matrix(np.vstack([each.toarray() for each in sparse_factor_rows(dataset, state)]))
    projected = np.asarray(rows @ state.directions)
    # Rows have norm 1 or 0, so a customer's gradient is as long as its projection.
    norms = torch.from_numpy(np.linalg.norm(projected, axis=1))
    clipped = projected * factors_of(norms, float(mechanism.clipping_norm)).numpy()[:, None]
    # What a customer adds is minus its row times this; the sign is turned.
    noise = -reply["factor_gradient"].astype(np.float64) - rows.T @ clipped
    others = (clipped.sum(axis=0) - clipped) / max(1, dataset.n_customers - 1)
    lengths = np.linalg.norm(others, axis=1)
    directions = others / np.maximum(lengths, 1e-12)[:, None]
    along = (clipped * directions).sum(axis=1)
    return _FactorEvidence(
        rows=csr_matrix(rows.multiply(along[:, None])),
        noise=np.zeros(0),
        places=state.vocabulary.astype(np.int64),
        n_items=dataset.n_items,
        expected=float(rows.data.mean()) * lengths if rows.nnz else lengths * 0.0,
        stddev=np.full(dataset.n_customers, mechanism.noise_stddev),
        noise_matrix=noise,
        directions=directions,
    )
