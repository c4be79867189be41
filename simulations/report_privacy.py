"""The report's view of what left each region, and of the privacy budget that it cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from common.report_charts import Scale, Segment, Tick, bar
from simulations import report_numbers as numbers

Record = Mapping[str, Any]

_MECHANISMS = {
    "popularity": "How often each item is bought, summed over the customers",
    "factors": "Which way the shared item factors should turn, summed over the customers",
    "gram": "How often each two items are bought by the same customer, summed over the customers",
    **dict.fromkeys(
        ("tied-autoencoder", "matrix-factorisation", "sasrec"),
        "How far the region’s noised steps moved the shared model",
    ),
}


@dataclass(frozen=True)
class ReleasedArray:
    """One array as it left, without its values."""

    name: str
    data_type: str
    shape: str
    elements: int
    n_bytes: int


@dataclass(frozen=True)
class ReleaseKind:
    """What one kind of release holds; the same in each of its rounds and regions.

    Attributes:
        mechanism: Its name in the run plan.
        meaning: What it is, for people.
        rounds: The rounds it left in.
        arrays: Its arrays.
        n_bytes: Bytes of one release.
        clipping_norm: The most one customer can move it (C).
        noise_multiplier: σ / C.
        noise: Standard deviation of the noise on every number (σ).
        releases: How many left.
    """

    mechanism: str
    meaning: str
    rounds: tuple[int, ...]
    arrays: tuple[ReleasedArray, ...]
    n_bytes: int
    clipping_norm: str
    noise_multiplier: str
    noise: str
    releases: int


@dataclass(frozen=True)
class Release:
    """One release: one region in one round."""

    region: str
    server_round: int
    mechanism: str
    n_bytes: int
    update: str


@dataclass(frozen=True)
class RegionBudget:
    """One region's privacy budget, as its ledger has it.

    Attributes:
        region: Its name.
        spent: ε of all charges in the ledger's year.
        cap: The region's own cap of ε.
        delta: δ of both.
        by_round: ε of this run after each round, in the order of rounds; None where there is none.
        bar: ``spent`` drawn.
        cap_at: Where the cap is drawn.
        marks: Where each round's ε is drawn.
    """

    region: str
    spent: str
    cap: str
    delta: str
    by_round: tuple[str | None, ...]
    bar: Segment
    cap_at: float
    marks: tuple[Tick, ...]

    @property
    def within(self) -> bool:
        """Whether the cap is kept."""
        return float(self.spent) <= float(self.cap)

    @property
    def left(self) -> str:
        """The cap less what is spent, rounded down."""
        return numbers.epsilon_left(self.spent, self.cap)


@dataclass(frozen=True)
class PrivacyView:
    """All that left, and all that it cost."""

    kinds: tuple[ReleaseKind, ...]
    releases: tuple[Release, ...]
    rounds: tuple[int, ...]
    budgets: tuple[RegionBudget, ...]
    ticks: tuple[Tick, ...]

    @property
    def n_bytes(self) -> int:
        """Bytes of all releases."""
        return sum(release.n_bytes for release in self.releases)

    @property
    def most_spent(self) -> RegionBudget:
        """The region that has spent most."""
        return max(self.budgets, key=lambda budget: float(budget.spent))

    @property
    def odds(self) -> str:
        """The factor e^ε by which one customer can change the odds, where most was spent."""
        factor = math.exp(min(float(self.most_spent.spent), 500.0))
        return numbers.integer(math.ceil(factor)) if factor < 1e6 else "more than a million"

    def bytes_of(self, region: str, server_round: int | None = None) -> int | None:
        """Bytes that left one region, in one round or in all; None if nothing did."""
        sizes = [
            release.n_bytes
            for release in self.releases
            if release.region == region and server_round in (None, release.server_round)
        ]
        return sum(sizes) if sizes else None


def privacy_view(history: Record, plan: Record) -> PrivacyView:
    """Reads releases and budgets from a run's history and plan."""
    parts = [
        (each, part) for each in history["rounds"] for part in each["regions"] if "update" in part
    ]
    budgets = history["regions"]
    highest = max(
        (float(each[name]) for each in budgets for name in ("epsilon_spent", "epsilon_cap")),
        default=1.0,
    )
    scale = Scale(0.0, 1.08 * (highest or 1.0))
    return PrivacyView(
        kinds=_kinds(parts, plan),
        releases=tuple(
            Release(part["region"], each["round"], each["mechanism"], part["bytes"], part["update"])
            for each, part in parts
        ),
        rounds=tuple(each["round"] for each in history["rounds"]),
        budgets=tuple(_budget(each, history["rounds"], scale) for each in budgets),
        ticks=tuple(scale.ticks(6)),
    )


def _kinds(parts: list[tuple[Record, Record]], plan: Record) -> tuple[ReleaseKind, ...]:
    mechanisms = {each["name"]: each for each in plan["mechanisms"]}
    # Releases of one mechanism have the same arrays; were it ever otherwise, both kinds would show.
    grouped: dict[tuple[str, tuple[ReleasedArray, ...]], list[tuple[int, int]]] = {}
    for each, part in parts:
        key = (each["mechanism"], tuple(_array(array) for array in part["arrays"]))
        grouped.setdefault(key, []).append((each["round"], part["bytes"]))
    kinds = []
    for (name, arrays), releases in grouped.items():
        mechanism = mechanisms[name]
        clipping, multiplier = mechanism["clipping_norm"], mechanism["noise_multiplier"]
        kinds.append(
            ReleaseKind(
                mechanism=name,
                meaning=_MECHANISMS.get(name, ""),
                rounds=tuple(sorted({server_round for server_round, _ in releases})),
                arrays=arrays,
                n_bytes=releases[0][1],
                clipping_norm=clipping,
                noise_multiplier=numbers.decimal(multiplier),
                noise=numbers.decimal(float(multiplier) * float(clipping)),
                releases=len(releases),
            )
        )
    return tuple(kinds)


def _array(array: Record) -> ReleasedArray:
    elements = math.prod(array["shape"])
    return ReleasedArray(
        name=array["name"],
        data_type=numbers.data_type(array["dtype"]),
        shape=numbers.shape(array["shape"]),
        elements=elements,
        n_bytes=elements * int(array["dtype"][2:]),
    )


def _budget(region: Record, rounds: list[Record], scale: Scale) -> RegionBudget:
    by_round = [
        next(
            (
                part["epsilon_run"]
                for part in each["regions"]
                if part["region"] == region["region"] and "epsilon_run" in part
            ),
            None,
        )
        for each in rounds
    ]
    spent, cap = region["epsilon_spent"], region["epsilon_cap"]
    label = f"{region['region']}: ε {numbers.epsilon(spent)} spent of a cap of {cap}"
    return RegionBudget(
        region=region["region"],
        spent=spent,
        cap=cap,
        delta=region["delta"],
        by_round=tuple(by_round),
        bar=bar("spent", label, 0.0, float(spent), scale),
        cap_at=scale.at(float(cap)),
        marks=tuple(
            Tick(scale.at(float(value)), f"after round {each['round']}: ε {numbers.epsilon(value)}")
            for each, value in zip(rounds, by_round, strict=True)
            if value is not None
        ),
    )
