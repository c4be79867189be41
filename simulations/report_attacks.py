"""The report's view of the attacks that were tried on a run's releases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Record = Mapping[str, Any]


@dataclass(frozen=True)
class AttackRow:
    """What one measure of an attack came to, as texts.

    Attributes:
        measure: What is measured.
        guessing: What guessing gives.
        found: On releases with this run's noise, with an interval.
        unprotected: The same attack on releases without noise.
        allowed: The most that any attack achieves at the run's ε.
    """

    measure: str
    guessing: str
    found: str
    unprotected: str
    allowed: str


@dataclass(frozen=True)
class AttacksView:
    """The attacks of one audit.

    Attributes:
        models: How many models the attacker trained.
        customers: Of how many customers she guessed.
        rows: The membership inference.
        canaries: The lower bound on ε from planted customers, if it was measured.
        within: Whether everything found is within what ε allows.
    """

    models: int
    customers: int
    rows: tuple[AttackRow, ...]
    canaries: Record | None
    within: bool


def attacks_view(metrics: Record) -> AttacksView | None:
    """What of a run's metrics tells of attacks; None if none were tried."""
    audit = metrics.get("attacks")
    if not audit:
        return None
    protected, plain = (audit["membership"][name] for name in ("with_noise", "without_noise"))
    area = AttackRow(
        "Told apart (AUC)",
        "50.0%",
        _interval(protected["auc"], protected["auc_low"], protected["auc_high"]),
        _interval(plain["auc"], plain["auc_low"], plain["auc_high"]),
        _percent(audit["allowed"]["auc"]),
    )
    rates = [
        AttackRow(
            f"Recognised at {_percent(point['false_positive_rate'])} false alarms",
            _percent(point["false_positive_rate"]),
            _interval(point["true_positive_rate"], point["low"], point["high"]),
            _interval(other["true_positive_rate"], other["low"], other["high"]),
            _percent(most["true_positive_rate"]),
        )
        for point, other, most in zip(
            protected["rates"], plain["rates"], audit["allowed"]["rates"], strict=True
        )
    ]
    return AttacksView(
        audit["models"], audit["customers"], (area, *rates), audit["canaries"], audit["within"]
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%" if share < 0.9995 else f"{100 * share:.2f}%"


def _interval(value: float, low: float, high: float) -> str:
    return f"{_percent(value)} [{100 * low:.1f}, {100 * high:.1f}]"
