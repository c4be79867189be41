"""How much privacy budget is left, region by region and cap by cap, and for how many rounds.

Every figure is computed anew from the charges in the regions' logs by the verifier's accounting. A
region's own ledger rounds up, and composes several runs by a looser bound: it may refuse earlier
than this, never later.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from common.audit.verify.epsilon import Mechanism, composed_epsilon, mechanism_in
from common.audit.verify.replay import Entry, Evidence, LogReplay
from common.canonical_json import JsonValue
from common.search import largest_that_fits

NOTE_LEDGER = (
    "The region's own ledger rounds up, and composes several runs by a looser bound: it may refuse "
    "earlier than this, never later."
)


@dataclass(frozen=True)
class MechanismForecast:
    """How often one mechanism, as last charged, still fits under a cap.

    Attributes:
        name: The mechanism's name.
        noise_multiplier: σ / C, as charged.
        sampling_probability: As charged.
        steps: How often it runs in one round.
        more_rounds: How many more such rounds fit; `common.search.MAX_MORE` stands for as many
            and more.
        rounds_in_all: How many of them alone the whole cap pays for, with nothing spent before.
    """

    name: str
    noise_multiplier: str
    sampling_probability: str
    steps: int
    more_rounds: int
    rounds_in_all: int

    def to_record(self) -> dict[str, JsonValue]:
        """As JSON values."""
        return {
            "name": self.name,
            "noise_multiplier": self.noise_multiplier,
            "sampling_probability": self.sampling_probability,
            "steps": self.steps,
            "more_rounds": self.more_rounds,
            "rounds_in_all": self.rounds_in_all,
        }


@dataclass(frozen=True)
class CapForecast:
    """One cap of one region, and what is left under it.

    Attributes:
        region: The region.
        scope: ``year``, the policy's cap; or ``run``, the permit's cap for one run.
        name: The year, or the run.
        cap: The cap on ε.
        delta: At this δ.
        spent: ε of all charges that count towards the cap.
        left: What is left of it, never below 0.
        mechanisms: What still fits, mechanism by mechanism.
        more_runs: How many more runs like the bundle's fit; None where the cap is one run's.
        runs_in_all: How many of them the whole cap pays for, with nothing spent before.
        resets: When the cap is free again, if it is a year's.
    """

    region: str
    scope: str
    name: str
    cap: str
    delta: str
    spent: float
    left: float
    mechanisms: tuple[MechanismForecast, ...]
    more_runs: int | None
    runs_in_all: int | None
    resets: str | None

    def to_record(self) -> dict[str, JsonValue]:
        """As JSON values; decimals are texts."""
        return {
            "region": self.region,
            "scope": self.scope,
            "name": self.name,
            "cap": self.cap,
            "delta": self.delta,
            "spent": f"{self.spent:.6f}",
            "left": f"{self.left:.6f}",
            "mechanisms": [each.to_record() for each in self.mechanisms],
            "more_runs": self.more_runs,
            "runs_in_all": self.runs_in_all,
            "resets": self.resets,
        }


@dataclass(frozen=True)
class RegionForecast:
    """One region's caps; none if it has charged nothing."""

    region: str
    caps: tuple[CapForecast, ...]


def forecast(evidence: Evidence) -> tuple[RegionForecast, ...]:
    """Forecasts every region of a verified bundle, by name."""
    return tuple(_forecast_region(replay, evidence.run) for replay in evidence.regions())


def to_record(forecasts: tuple[RegionForecast, ...], run: str) -> dict[str, JsonValue]:
    """All forecasts as JSON values, for ``--json``."""
    return {
        "v": "fedpref-forecast/1",
        "run": run,
        "caps": [cap.to_record() for region in forecasts for cap in region.caps],
        "without_charges": [region.region for region in forecasts if not region.caps],
        "note": NOTE_LEDGER,
    }


@dataclass(frozen=True)
class _Cap:
    """A cap, what counts towards it, and how far it reaches."""

    scope: str
    name: str
    most: str
    delta: str
    spent: Counter[Mechanism]
    resets: str | None = None

    def more(self, extra: Counter[Mechanism], *, fresh: bool = False) -> int:
        """How often ``extra`` fits, on what is spent or on nothing."""
        base: Counter[Mechanism] = Counter() if fresh else self.spent
        return largest_that_fits(lambda count: self._fits(base, extra, count))

    def _fits(self, base: Counter[Mechanism], extra: Counter[Mechanism], count: int) -> bool:
        together = base + Counter({name: steps * count for name, steps in extra.items()})
        return self.epsilon(together) <= float(self.most)

    def epsilon(self, spent: Counter[Mechanism]) -> float:
        """ε of some charges at the cap's δ."""
        return _epsilon(frozenset(spent.items()), self.delta)


def _forecast_region(replay: LogReplay, run: str) -> RegionForecast:
    charges = list(replay.of_kind("charge"))
    if not charges:
        return RegionForecast(replay.party, ())
    newest = charges[-1]
    year = newest.text("time")[:4]
    of_run = [charge for charge in charges if charge.text("run") == run]
    last = {charge.text("mechanism"): charge for charge in charges}
    of_year = _Cap(
        scope="year",
        name=year,
        most=_policy_cap(replay, newest),
        delta=newest.text("delta"),
        spent=_spent(charge for charge in charges if charge.text("time")[:4] == year),
        resets=f"{int(year) + 1:04d}-01-01T00:00:00.000Z",
    )
    caps = [_forecast_cap(replay.party, of_year, last, _spent(of_run))]
    permits = [entry for entry in replay.of_kind("permit") if entry.text("run") == run]
    if permits and of_run:
        cap, delta = permits[-1].text("epsilon_cap"), permits[-1].text("delta")
        of_permit = _Cap("run", run, cap, delta, _spent(of_run))
        caps.append(_forecast_cap(replay.party, of_permit, last, None))
    return RegionForecast(replay.party, tuple(caps))


def _policy_cap(replay: LogReplay, charge: Entry) -> str:
    """The cap of the policy in force now; the newest charge states that of its own time."""
    caps = [entry.part("policy").get("epsilon_cap_per_year") for entry in replay.of_kind("policy")]
    return str(caps[-1]) if caps else charge.text("epsilon_cap")


def _forecast_cap(
    region: str, cap: _Cap, last: Mapping[str, Entry], run: Counter[Mechanism] | None
) -> CapForecast:
    epsilon = cap.epsilon(cap.spent)
    return CapForecast(
        region=region,
        scope=cap.scope,
        name=cap.name,
        cap=cap.most,
        delta=cap.delta,
        spent=epsilon,
        left=max(0.0, float(cap.most) - epsilon),
        mechanisms=tuple(
            MechanismForecast(
                name=mechanism,
                noise_multiplier=charge.text("noise_multiplier"),
                sampling_probability=charge.text("sampling_probability"),
                steps=charge.number("steps"),
                more_rounds=cap.more(_spent([charge])),
                rounds_in_all=cap.more(_spent([charge]), fresh=True),
            )
            for mechanism, charge in sorted(last.items())
        ),
        more_runs=cap.more(run) if run else None,
        runs_in_all=cap.more(run, fresh=True) if run else None,
        resets=cap.resets,
    )


def _spent(charges: Iterable[Entry]) -> Counter[Mechanism]:
    spent: Counter[Mechanism] = Counter()
    for charge in charges:
        spent[mechanism_in(charge.record)] += charge.number("steps")
    return spent


@lru_cache(maxsize=65_536)
def _epsilon(mechanisms: frozenset[tuple[Mechanism, int]], delta: str) -> float:
    # Regions of one run ask the same questions.
    return composed_epsilon(dict(mechanisms), float(delta))
