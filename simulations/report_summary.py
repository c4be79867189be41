"""The report's first words: what was trained, on whose consent, at what cost, with what result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from simulations import report_numbers as numbers
from simulations.report_consent import ConsentView
from simulations.report_privacy import PrivacyView
from simulations.report_rounds import RoundsView

Record = Mapping[str, Any]


@dataclass(frozen=True)
class KeyFigure:
    """One large number with what it is."""

    title: str
    number: str
    unit: str
    note: str


@dataclass(frozen=True)
class SummaryView:
    """A few sentences and the key figures."""

    paragraphs: tuple[str, ...]
    figures: tuple[KeyFigure, ...]


def summary_view(
    plan: Record, consent: ConsentView, privacy: PrivacyView, rounds: RoundsView
) -> SummaryView:
    """Puts the run in a few sentences."""
    return SummaryView(
        paragraphs=(
            _what_was_trained(plan, rounds, privacy),
            _on_whose_consent(consent),
        ),
        figures=(
            _consent_figure(consent),
            _budget_figure(privacy, plan),
            _release_figure(privacy),
        ),
    )


def _what_was_trained(plan: Record, rounds: RoundsView, privacy: PrivacyView) -> str:
    regions = numbers.word(len(privacy.budgets))
    counted = {name: numbers.word(count) for name, count in rounds.mechanisms}
    steps = " and ".join(f"{count} of {name}" for name, count in counted.items())
    return (
        f"{regions.capitalize()} regions trained one preference model together in "
        f"{numbers.word(len(rounds.rows))} rounds ({steps}): noised popularity of "
        f"{numbers.integer(plan['n_items'])} catalogue items, then {plan['rank']} shared taste "
        f"factors of the {numbers.integer(plan['vocabulary_size'])} items that the noised counts "
        "put first."
    )


def _on_whose_consent(consent: ConsentView) -> str:
    return (
        f"{numbers.integer(consent.consented)} of {numbers.integer(consent.customers)} customers "
        f"({consent.share}) had consented; {numbers.integer(consent.refused)} refused and were "
        f"left out, and {numbers.integer(consent.withdrawn)} withdrew during the run and were left "
        "out from the next round on."
    )


def _consent_figure(consent: ConsentView) -> KeyFigure:
    return KeyFigure(
        "Customers who consented",
        consent.share,
        "",
        f"{numbers.integer(consent.consented)} of {numbers.integer(consent.customers)}; "
        f"{numbers.integer(consent.withdrawn)} of them withdrew during the run",
    )


def _budget_figure(privacy: PrivacyView, plan: Record) -> KeyFigure:
    most = privacy.most_spent
    return KeyFigure(
        "Privacy budget spent",
        f"ε {numbers.epsilon(most.spent)}",
        f"of {most.cap}",
        f"per customer (add or remove one), δ = {float(plan['delta']):.0e}, in the region that "
        "spent most",
    )


def _release_figure(privacy: PrivacyView) -> KeyFigure:
    return KeyFigure(
        "Left the regions",
        numbers.size(privacy.n_bytes),
        "",
        f"{numbers.plural(len(privacy.releases), 'noised sum')} from "
        f"{numbers.plural(len(privacy.budgets), 'region')}; no purchase, no customer identifier",
    )
