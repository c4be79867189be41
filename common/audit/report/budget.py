"""The report's section on the privacy budget: ε per region, computed anew, against each cap."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass

from common.audit.verify.epsilon import Mechanism, composed_epsilon, mechanism_in
from common.audit.verify.replay import Entry, Evidence, LogReplay
from common.errors import VerificationError


@dataclass(frozen=True)
class Spent:
    """What one region has spent, in a run or in a calendar year.

    Attributes:
        region: Its name.
        span: ``run`` or ``year``.
        name: The run's id, or the year.
        charges: How many charges it is made of.
        stated: ε by the last charge's own words.
        recomputed: ε computed anew from the charges' parameters; None if they allow none.
        cap: The cap: the permit's for a run, the policy's for a year; None if it is not logged.
        delta: δ of both.
        relation: What neighbours are, as the charges state.
        unit: Whose privacy it is.
        index: The last charge's entry in the region's log.
    """

    region: str
    span: str
    name: str
    charges: int
    stated: str
    recomputed: str | None
    cap: str | None
    delta: str
    relation: str
    unit: str
    index: int

    @property
    def within(self) -> bool | None:
        """Whether what was spent is within the cap; None where it cannot be said."""
        if self.recomputed is None or self.cap is None:
            return None
        # Statements are rounded up in the sixth decimal.
        return float(self.recomputed) <= float(self.cap) + 1e-6

    @property
    def left(self) -> str | None:
        """The cap less what was spent, rounded down; None where it cannot be said."""
        if self.recomputed is None or self.cap is None:
            return None
        rest = max(float(self.cap) - float(self.recomputed), 0.0)
        return f"{math.floor(rest * 1000) / 1000:.3f}"


def budgets(evidence: Evidence) -> list[Spent]:
    """What each region has spent in the run, then in each calendar year."""
    return [spent for replay in evidence.regions() for spent in _region(evidence.run, replay)]


def _region(run: str, replay: LogReplay) -> list[Spent]:
    permits = {entry.text("permit_id"): entry for entry in replay.of_kind("permit")}
    of_run = [entry for entry in replay.of_kind("charge") if entry.text("run") == run]
    found = []
    if of_run:
        permit = permits.get(of_run[-1].text("permit_id"))
        cap = permit.text("epsilon_cap") if permit else None
        found.append(_spent(of_run, "run", run, "epsilon_run", cap))
    years: dict[str, list[Entry]] = defaultdict(list)
    for entry in replay.of_kind("charge"):
        years[entry.text("time")[:4]].append(entry)
    found += [
        _spent(charges, "year", year, "epsilon_total", charges[-1].text("epsilon_cap"))
        for year, charges in sorted(years.items())
    ]
    return found


def _spent(charges: list[Entry], span: str, name: str, field: str, cap: str | None) -> Spent:
    last = charges[-1]
    return Spent(
        region=last.party,
        span=span,
        name=name,
        charges=len(charges),
        stated=last.text(field),
        recomputed=_recomputed(charges, last.text("delta")),
        cap=cap,
        delta=last.text("delta"),
        relation=last.text("neighboring_relation"),
        unit=last.text("privacy_unit"),
        index=last.index,
    )


def _recomputed(charges: list[Entry], delta: str) -> str | None:
    mechanisms: Counter[Mechanism] = Counter()
    for entry in charges:
        mechanisms[mechanism_in(entry.record)] += entry.number("steps")
    try:
        epsilon = composed_epsilon(mechanisms, float(delta))
    except VerificationError:
        return None
    # Rounded up: what is said must not be less than what is true.
    return f"{math.ceil(epsilon * 1e6) / 1e6:.6f}" if math.isfinite(epsilon) else None


def odds_factor(epsilon: float) -> int | None:
    """By how much one customer's presence can change any odds: e^ε, rounded up, up to a million."""
    factor = math.exp(min(epsilon, 500.0))
    return math.ceil(factor) if factor <= 1e6 else None
