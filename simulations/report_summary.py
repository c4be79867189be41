"""The report's first words: what was trained, on whose consent, at what cost, with what result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from client.engine.entries import ACCOUNTANT
from simulations import report_numbers as numbers
from simulations.report_consent import ConsentView
from simulations.report_panels import EarlierView, Estimate, QualityView
from simulations.report_privacy import PrivacyView
from simulations.report_quality import SETTINGS
from simulations.report_rounds import RoundsView

Record = Mapping[str, Any]

# Protocol, what is judged, and what the model must be better than.
_REFERENCES = (
    ("new", "On items a customer had never bought", "global popularity’s"),
    (
        "all",
        "On all later purchases, repeats included",
        "that of the customer’s own recent purchases alone",
    ),
)
_WHEN = {
    SETTINGS["no_refusals"]: "if nobody refuses",
    SETTINGS["with_refusals"]: "with this run’s refusals",
}


@dataclass(frozen=True)
class KeyFigure:
    """One large number with what it is."""

    title: str
    number: str
    unit: str
    note: str | Markup


@dataclass(frozen=True)
class SummaryView:
    """A few sentences and the key figures.

    Attributes:
        paragraphs: What was trained, on whose consent, with what result.
        quality: The result alone, for the head of its own section.
        figures: The key figures.
    """

    paragraphs: tuple[str, ...]
    quality: tuple[str, ...]
    figures: tuple[KeyFigure, ...]


def summary_view(
    plan: Record,
    consent: ConsentView,
    privacy: PrivacyView,
    rounds: RoundsView,
    quality: QualityView,
) -> SummaryView:
    """Puts the run in a few sentences."""
    results = _results(quality)
    return SummaryView(
        paragraphs=(
            _what_was_trained(plan, rounds, privacy),
            _on_whose_consent(consent),
            *results,
        ),
        quality=results,
        figures=(
            *_quality_figure(quality),
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
        f"{numbers.integer(plan['n_items'])} catalogue items, then {_shared_model(plan)} of the "
        f"{numbers.integer(plan['vocabulary_size'])} items that the noised counts put first."
    )


def _shared_model(plan: Record) -> str:
    rank = plan["rank"]
    return {
        "factors": f"{rank} shared taste factors",
        "gram": f"{rank} shared taste factors from the noised counts of pairs bought together",
        "tied-autoencoder": f"a shared autoencoder with {rank} hidden units",
        "matrix-factorisation": f"{rank} shared factors of a matrix factorisation",
        "sasrec": f"a shared model of purchase sequences in {rank} dimensions",
    }[plan["strategy"]]


def _on_whose_consent(consent: ConsentView) -> str:
    return (
        f"{numbers.integer(consent.consented)} of {numbers.integer(consent.customers)} customers "
        f"({consent.share}) had consented; {numbers.integer(consent.refused)} refused and were "
        f"left out, and {numbers.integer(consent.withdrawn)} withdrew during the run and were left "
        "out from the next round on."
    )


def _results(quality: QualityView) -> tuple[str, ...]:
    """What was reached against the two references that matter, in every setting."""
    sentences = []
    for protocol, what, reference in _REFERENCES:
        panel = quality.panel(protocol)
        if panel is None or panel.served is None:
            continue
        ratios = [
            (_WHEN[figures.setting], ratio)
            for figures in panel.served.figures
            if (ratio := figures.to_popularity if protocol == "new" else figures.to_recency)
        ]
        if ratios:
            sentence = f"{what}, {_compared(ratios, reference)} {quality.sources[protocol]}"
            sentences.append(_unbroken(sentence.rstrip()))
    return (*sentences, *_on_earlier_weeks(quality.earlier))


def _on_earlier_weeks(earlier: EarlierView | None) -> tuple[str, ...]:
    """The same plan on other weeks, for the headline is one season's."""
    if earlier is None:
        return ()
    parts = [
        f"{ratio.text(3)} × {reference} on {what} ({ratio.interval(3)}: {ratio.against_one})"
        for protocol, what, reference in (
            ("new", "new items", "global popularity’s"),
            ("all", "all purchases", "that of own recent purchases"),
        )
        if (ratio := earlier.ratio(protocol))
    ]
    if not parts:
        return ()
    sentence = (
        f"These figures are of weeks {earlier.judged}. On weeks {earlier.weeks}, trained on what "
        f"came before them and with the same constants, NDCG@10 is {' and '.join(parts)}, if "
        f"nobody refuses. {earlier.note}"
    )
    return (_unbroken(sentence),)


def _compared(ratios: Sequence[tuple[str, Estimate]], reference: str) -> str:
    """One ratio for each setting, and what follows from its interval."""
    (when, first), *others = ratios
    text = f"the model’s NDCG@10 is {first.text(3)} × {reference} {when}"
    text += f" (95% interval {first.interval(3)})"
    for other_when, ratio in others:
        text += f", and {ratio.text(3)} × {other_when} ({ratio.interval(3)})"
    if len({ratio.against_one for _, ratio in ratios}) == 1:
        return f"{text}: {first.against_one}."
    each = "; ".join(f"{ratio.against_one} {when}" for when, ratio in ratios)
    return f"{text}. That is {each}."


def _unbroken(text: str) -> str:
    """A text in which no line break cuts an interval in two."""
    return text.replace("–", "–\N{WORD JOINER}")


def _quality_figure(quality: QualityView) -> tuple[KeyFigure, ...]:
    """The ratio to popularity on new items under this run's refusals, if they were measured."""
    panel = quality.panel("new")
    if panel is None or panel.served is None:
        return ()
    figures = panel.served.figures[-1]
    ratio = figures.to_popularity
    if ratio is None:
        return ()
    return (
        KeyFigure(
            "Beside popularity",
            f"{ratio.text(2)} ×",
            "",
            f"NDCG@10 on new items, 95% interval {_unbroken(ratio.interval(2))}, "
            f"{_WHEN[figures.setting]}{_earlier_note(quality.earlier)}; simulation only",
        ),
    )


def _earlier_note(earlier: EarlierView | None) -> str:
    ratio = earlier.ratio("new") if earlier else None
    if earlier is None or ratio is None:
        return ""
    return (
        f"; weeks {_unbroken(earlier.judged)}. On weeks {_unbroken(earlier.weeks)}: "
        f"{ratio.text(2)} × ({_unbroken(ratio.interval(2))})"
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
        f"ε {numbers.epsilon(most.spent, decimals=2)}",
        f"of {most.cap}",
        Markup(
            "per customer (add or remove one), δ\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{}, "
            "Gaussian mechanism, {}; in the region that spent most"
        ).format(numbers.delta(plan["delta"]), ACCOUNTANT),
    )


def _release_figure(privacy: PrivacyView) -> KeyFigure:
    return KeyFigure(
        "Left the regions",
        numbers.size(privacy.n_bytes),
        "",
        f"{numbers.plural(len(privacy.releases), 'noised sum')} from "
        f"{numbers.plural(len(privacy.budgets), 'region')}, no purchase; with each sum its signed "
        "receipt, which tells the consent log’s exact size",
    )
