"""One hostile region that pushes an item: how often customers see it, under each rule.

Rounds go through the functions that engine and coordinator use; the hostile region's release stands
in for what it would have sent. It knows all that a region knows: the model, the plan, its own data.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from client.training.noise import NoiseSource, SeededNoise
from client.training.personalisation import bought, rank_shared, shared_scores
from client.training.releases import release
from common.aggregation_rules import Aggregation, RuleName
from common.item_pairs import upper_triangle
from common.model_state import ModelState
from common.parameters import snap_to_grid
from common.plan import RunPlan
from common.plan_defaults import default_plan
from common.release_bounds import release_norm_bound
from common.strategies import FACTORS, GRAM, SUMS, StrategyName, change_of
from server.parameter_step import model_after
from server.robust import total_of
from server.round_total import RoundTotal
from simulations.synthetic_scale import RegionPurchases, synthetic_regions

Release = dict[str, npt.NDArray[np.float32]]
FloatArray = npt.NDArray[np.float64]
#: Makes one total of the regions' releases.
Combine = Callable[[Sequence[Release]], RoundTotal]

#: ``loud`` is as large as validation lets pass; ``quiet`` as large as an honest update, with noise
#: like one; ``noiseless`` is quiet and leaves the noise out, so that it lies nearer to the others
#: than they to each other.
Attack = Literal["loud", "quiet", "noiseless"]
ATTACKS: tuple[Attack, ...] = ("loud", "quiet", "noiseless")
TOP = 10


def by_rule(rule: RuleName) -> Combine:
    """What this system makes of releases by a rule, a robust one withstanding one region."""
    tolerated = 0 if rule == "sum" else 1
    aggregation = Aggregation(rule=rule, tolerated=tolerated, honest_survivors_min=0)
    return lambda releases: total_of(releases, aggregation)


class NoNoise(SeededNoise):
    """A region that leaves its noise out."""

    def gaussian(self, shape: Any, stddev: float) -> FloatArray:
        """Zeros."""
        del stddev
        return np.zeros(shape)

    def fill(self, out: npt.NDArray[np.float32], stddev: float) -> None:
        """Zeros."""
        del stddev
        out[...] = 0.0


@dataclass(frozen=True, eq=False)
class Market:
    """Regions of made-up customers, and the item that is pushed.

    Attributes:
        regions: The regions; the first one is the hostile one.
        plan: The run plan.
        target: The item.
    """

    regions: Sequence[RegionPurchases] = field(repr=False)
    plan: RunPlan = field(repr=False)
    target: int

    @classmethod
    def of(
        cls,
        *,
        n_customers: int,
        n_items: int = 200,
        n_regions: int = 8,
        strategy: StrategyName = FACTORS,
        epsilon: str = "8",
        target_rank: int = 40,
        seed: int = 1,
        **rule: Any,
    ) -> Market:
        """A market whose target is the item that so many others sell more of."""
        regions = synthetic_regions(n_customers, n_items=n_items, n_regions=n_regions, seed=seed)
        plan = default_plan(
            run_id="shilling",
            federation="shilling",
            scenario="shilling",
            regions=[f"r{number}" for number in range(n_regions)],
            quorum=n_regions - 1,
            catalogue="0" * 64,
            n_items=n_items,
            train_from="2016-11-24T00:00:00.000Z",
            train_until="2017-10-26T00:00:00.000Z",
            epsilon=epsilon,
            planned_customers=n_customers,
            strategy=strategy,
            **rule,
        )
        sold = np.sum(
            [np.bincount(each.train.indices, minlength=n_items) for each in regions], axis=0
        )
        return cls(regions, plan, int(np.argsort(-sold, kind="stable")[target_rank]))

    def exposure(self, combine: Combine, attack: Attack | None, *, seed: str = "1") -> float:
        """Share of the honest regions' customers who see the target among their best ten.

        Args:
            combine: What the coordinator makes of the regions' releases.
            attack: What the hostile region does; None for nothing.
            seed: What noise is drawn from.
        """
        state = ModelState.of_plan(self._model(combine, attack, seed), self.plan)
        seen = total = 0
        for region in self.regions[1:]:
            scores = shared_scores(region.train, state)
            ranked = rank_shared(scores, state, TOP, excluded=bought(region.train))
            seen += int((ranked == self.target).any(axis=1).sum())
            total += len(ranked)
        return seen / total

    def _model(self, combine: Combine, attack: Attack | None, seed: str) -> dict[str, Any]:
        noise: list[NoiseSource] = [SeededNoise(f"{seed}/{r}") for r in range(len(self.regions))]
        if attack == "noiseless":
            noise[0] = NoNoise(seed)
        model: dict[str, Any] = {}
        state: dict[str, Any] = {}
        for number in range(1, self.plan.total_rounds + 1):
            releases = [
                release(each.train, model, plan=self.plan, server_round=number, noise=source)
                for each, source in zip(self.regions, noise, strict=True)
            ]
            if attack is not None:
                releases[0] = self._pushed(releases[0], model, number, attack)
            model, state = model_after(number, model, combine(releases), self.plan, state)
        return model

    def _pushed(
        self, honest: Release, model: dict[str, Any], number: int, attack: Attack
    ) -> Release:
        """The honest release and a push of the target, of the norm that the attack has."""
        mechanism = self.plan.mechanism_of(number)
        push = self._push(honest, model, mechanism.name)
        bound = release_norm_bound(self.plan, mechanism)
        own = max(float(np.linalg.norm(each)) for each in honest.values())
        noise = mechanism.noise_stddev * np.sqrt(sum(each.size for each in honest.values()))
        size = {
            # Half of the bound, so that the honest part fits in.
            "loud": 0.5 * bound,
            # As large as what is not noise.
            "quiet": max(np.sqrt(max(own**2 - noise**2, 0.0)), 0.3 * own),
            # Two honest updates lie √2·noise apart, this one and an honest one less.
            "noiseless": 0.7 * noise,
        }[attack]
        length = np.sqrt(sum(float((each**2).sum()) for each in push.values()))
        return {
            name: snap_to_grid(
                honest[name].astype(np.float64) + push[name] * (size / length),
                mechanism.grid_exponent,
            )
            for name in honest
        }

    def _push(self, honest: Release, model: dict[str, Any], name: str) -> dict[str, FloatArray]:
        push = {each: np.zeros(array.shape) for each, array in honest.items()}
        if name == "popularity":
            push[name][self.target] = 1.0
            return push
        place = np.flatnonzero(model["vocabulary"] == self.target)
        if name in SUMS:
            # Customers who all bought the popular items and, as much of it, the target.
            factors = model["item_factors"].astype(np.float64)
            directions = factors / np.linalg.norm(factors, axis=0)
            bought_together = np.abs(directions[:, 0])
            bought_together[place] = 1.0
            if name == GRAM:
                push["item_gram"] = upper_triangle(np.outer(bought_together, bought_together))
            else:
                push["factor_gradient"] = -np.outer(bought_together, bought_together @ directions)
            return push
        # A bias for the target where the model has one, else a row like that of the best sold.
        if change_of("item_bias") in push:
            push[change_of("item_bias")][place] = 1.0
        else:
            embedding = change_of("item_factors")
            push[embedding][place] = model["item_factors"][0]
        return push
