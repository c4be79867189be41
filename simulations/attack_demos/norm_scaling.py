"""A hostile region makes its update a million times as large, so that the mean is its own.

Flower's FedAvg averages it in. Here the region's own engine is the attacker's: it draws "noise" a
million times too large, and signs, seals and logs it as it should. The coordinator knows how large
an update of the plan can be, refuses it by name, and goes on with the others.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from client.training.noise import SeededNoise
from client.training.releases import release
from common.release_bounds import release_norm_bound
from simulations.attack_demos.demo import Demo, Setting, Spoils
from simulations.attack_demos.hostile_coordinator import Hand, coordinate, refused, used
from simulations.attack_demos.market import Market
from simulations.attack_demos.processes import engines
from simulations.attack_demos.stock_flower import fedavg, reply_content

FACTOR = 1e6
_TAKEN_OVER = 0.999
_MARKET_CUSTOMERS = 400


class LoudNoise(SeededNoise):
    """What a hostile region's engine draws in the place of noise."""

    def gaussian(self, shape: tuple[int, ...], stddev: float) -> npt.NDArray[np.float64]:
        """See `NoiseSource`; a million times too large."""
        return FACTOR * super().gaussian(shape, stddev)

    def fill(self, out: npt.NDArray[np.float32], stddev: float) -> None:
        """See `NoiseSource`; a million times too large."""
        super().fill(out, stddev)
        out *= np.float32(FACTOR)


def on_flower(setting: Setting) -> Spoils:
    """Against FedAvg."""
    market = Market.of(n_customers=_MARKET_CUSTOMERS, seed=setting.seed)
    updates = [
        release(
            region.train,
            {},
            plan=market.plan,
            server_round=1,
            noise=SeededNoise(f"{setting.seed}/{number}"),
        )["popularity"]
        for number, region in enumerate(market.regions)
    ]
    hostile = updates[0] * np.float32(FACTOR)
    contents = [reply_content({"popularity": each}) for each in (hostile, *updates[1:])]
    mean = fedavg(contents, server_round=1)["popularity"]
    honest = fedavg([reply_content({"popularity": each}) for each in updates[1:]], server_round=1)[
        "popularity"
    ]
    own, others = _cosine(mean, hostile), _cosine(mean, honest)
    return Spoils(
        own > _TAKEN_OVER,
        f"the model: the mean's cosine with the hostile update is {own:.4f}, with the mean of the "
        f"{len(updates) - 1} others {others:.2f}",
        {"cosine_hostile": own, "cosine_honest": others, "factor": FACTOR},
    )


def on_ours(setting: Setting) -> Spoils:
    """Against the norm bound."""
    federation = setting.federation("sum")
    plan, hostile = federation.plan, federation.plan.regions[0]
    noise = {hostile: LoudNoise(f"{setting.seed}/hostile")}
    with engines(federation, noise=noise) as lines:
        found = coordinate(federation, lines, Hand(), last_round=1)
    reason = refused(federation.folder, 1).get(hostile, str(found.get("ended", "unknown")))
    counted = used(federation.folder, 1)
    return Spoils(
        hostile in counted,
        f"nothing: its region is refused as {reason}, and the round is made of the {len(counted)} "
        "others"
        if hostile not in counted
        else "the model",
        {
            "reason": reason,
            "regions_counted": len(counted),
            "norm_bound": release_norm_bound(plan, plan.mechanism_of(1)),
        },
    )


def _cosine(one: npt.NDArray[np.generic], other: npt.NDArray[np.generic]) -> float:
    left, right = one.astype(np.float64).ravel(), other.astype(np.float64).ravel()
    return float(left @ right / (np.linalg.norm(left) * np.linalg.norm(right)))


DEMO = Demo(
    name="norm-scaling",
    title="a hostile region multiplies its update by a million",
    baseline="FedAvg",
    defence="public norm bound",
    on_flower=on_flower,
    on_ours=on_ours,
)
