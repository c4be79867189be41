"""Where a gain comes from: what is there without the shared factors, and in each region alone.

Every share and every word is computed from the study's rows; none is written down here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from simulations.report_panels import SERVED, Estimate

Record = Mapping[str, Any]
# Method → its row of NDCG@10, of one setting and protocol over the full catalogue.
Rows = Mapping[str, Record]

MAIN_METRIC = "ndcg@10"


@dataclass(frozen=True)
class _Terms:
    """What is compared in one protocol, and what it is called.

    Attributes:
        what: The gain, for people.
        reference: The method that the gain is over.
        named: Its name, for people.
        noiseless: The ablation with popularity that no noise was added to.
    """

    what: str
    reference: str
    named: str
    noiseless: str


_ABLATION = "no_factors"
_ALONE = "local_only"
_UNBOUND = "centralised_no_dp_large"
_TERMS = {
    "new": _Terms("new items", "popularity", "global popularity’s", "popularity_tilt"),
    "all": _Terms(
        "all later purchases",
        "personal_recency",
        "that of own recent purchases",
        "personal_popularity",
    ),
}


def rows_of(rows: list[Record], protocol: str, setting: str) -> Rows:
    """The rows of NDCG@10 over the full catalogue, by method."""
    wanted = (protocol, setting, "catalogue", MAIN_METRIC)
    keys = ("protocol", "setting", "universe", "metric")
    return {row["method"]: row for row in rows if tuple(row[key] for key in keys) == wanted}


def source_of_gain(rows: Rows, protocol: str) -> str:
    """What of the gain is there without the shared factors; nothing if it was not measured."""
    terms, served = _TERMS[protocol], rows.get(SERVED[protocol])
    reference, ablation = rows.get(terms.reference), rows.get(_ABLATION)
    if served is None or reference is None or ablation is None:
        return ""
    gain, without = (each["mean"] - reference["mean"] for each in (served, ablation))
    if gain <= 0:
        return f"On {terms.what} there is no gain whose source could be told."
    text = (
        f"Of the gain on {terms.what}, {_split(without / gain)} (without them "
        f"{_times(ablation, terms.reference)} × {terms.named}"
    )
    noiseless = rows.get(terms.noiseless)
    if noiseless is not None:
        text += f"; with popularity that has no noise {_times(noiseless, terms.reference)} ×"
    return f"{text}). {_without(Estimate.of(ablation['ratio_to_served']))}"


def regions_alone(rows: Rows, protocol: str) -> str:
    """How each region alone does beside the federation; nothing if it was not measured."""
    alone = rows.get(_ALONE)
    ratio = Estimate.of(alone["ratio_to_served"]) if alone else None
    if ratio is None:
        return ""
    return (
        f"Each region alone, at the same ε, reaches {ratio.text(3)} × what the federation reaches "
        f"on {_TERMS[protocol].what} ({ratio.interval(3)}): {ratio.against_one}."
    )


def cost_of_privacy(rows: Rows) -> str:
    """How far sizes chosen without privacy get; nothing if that was not measured."""
    unbound = rows.get(_UNBOUND)
    ratio = Estimate.of(unbound["ratio_to_served"]) if unbound else None
    if ratio is None:
        return ""
    return (
        "What privacy costs: the rows without privacy of “the same sizes as the private model” are "
        "held to sizes that were chosen for noise. With sizes chosen for none, NDCG@10 on new "
        f"items is {ratio.text(3)} × that of what is served ({ratio.interval(3)})."
    )


def _split(without: float) -> str:
    """A share of the gain in words; it may be beyond either end."""
    own = "the same noised popularity and the customer’s own history"
    if without <= 0:
        return f"all comes from the shared factors and none from {own}"
    if without >= 1:
        return f"all comes from {own} and none from the shared factors"
    percent = round(100 * without)
    return f"{percent}% comes from {own} and {100 - percent}% from the shared factors"


def _times(row: Record, reference: str) -> str:
    ratio = Estimate.of(row[f"ratio_to_{reference}"])
    return ratio.text(3) if ratio else "–"


def _without(ratio: Estimate | None) -> str:
    if ratio is None:
        return ""
    return (
        f"Without the factors NDCG@10 is {ratio.text(3)} × what it is with them "
        f"({ratio.interval(3)}): {ratio.against_one}."
    )
