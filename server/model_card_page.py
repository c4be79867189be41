"""The model card's page: the card's record in words, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from common.canonical_json import JsonValue
from common.strategies import FACTORS, GRAM, MATRIX_FACTORISATION, SASREC, TIED_AUTOENCODER

USES = (
    "Ranking the catalogue's items for customers of the regions that trained it, inside each "
    "region, together with a customer's own history, which stays there.",
    "Showing items that are like another one, and what is popular, noise and all.",
)
NOT_FOR = (
    "Decisions about a person: credit, prices, insurance, employment, or any trait of hers.",
    "Finding out what somebody bought, or whether somebody took part: the noise is there so that "
    "nobody can.",
    "Measuring sales: popularity is a noisy sum of weighted histories, not a count.",
    "Personal recommendations to customers who have not consented to them.",
    "Other catalogues: an item is a number in the one whose digest is below.",
)
LIMITS = (
    "Noise: an item whose popularity is less than two or three standard deviations of its noise "
    "cannot be told from one that nobody buys.",
    "Only the vocabulary's items have factors. All others are ranked by their place in the "
    "catalogue and by popularity.",
    "Clipping and noise favour what many customers have in common. Customers with rare tastes are "
    "served worse, and so is a small region.",
    "What was bought after the training window is not in it.",
    "Withdrawing consent ends a customer's part in later rounds; what was learnt before stays in "
    "the model.",
    "That regions trained on consenting customers only, and with this noise, is what they have "
    "signed; the bundle shows that records agree, not which code ran.",
    "How good it is is not said here: any such figure would be about customers.",
)

#: What each strategy makes, in words.
STRATEGIES = {
    FACTORS: "item factors by noisy block power iteration on customers' weighted rows",
    GRAM: "item factors from one noisy sum of which items are bought together",
    TIED_AUTOENCODER: "an autoencoder with one table of item factors, trained by DP-SGD steps",
    MATRIX_FACTORISATION: "a matrix factorisation with customers' vectors solved in the region, "
    "trained by DP-SGD steps",
    SASREC: "causal self-attention over a customer's latest purchases, trained by DP-SGD steps",
}
_RELATIONS = {"add-or-remove-one-customer": "two data sets differ in all records of one customer"}
_MODES = {
    "local": "each region's updates are private by themselves, before they are added up",
    "distributed": "the sum of a round is private if enough regions add their share of the noise",
}
_RULES = {
    "open": "the coordinator sees each noised update",
    "robust": "the coordinator sees each noised update, and outvotes hostile ones",
    "confidential": "the coordinator sees the sum alone",
}


def card_page(card: Mapping[str, JsonValue]) -> str:
    """A card's record as Markdown.

    Args:
        card: What `server.model_card.model_card` made.
    """
    record: Mapping[str, Any] = card
    parts = (
        f"# Model card: {record['name']}",
        _opening(record),
        "## What it is for",
        _bullets(record["for"]),
        "## What it is not for",
        _bullets(record["not_for"]),
        "## What it was trained on",
        _training(record["training"]),
        "## Privacy",
        _privacy(record["privacy"]),
        "## Limits",
        _bullets(record["limits"]),
        "## What is in it",
        _table(
            ("array", "type", "shape"),
            [
                (f"`{each['name']}`", f"`{each['dtype']}`", " × ".join(map(_number, each["shape"])))
                for each in record["arrays"]
            ],
        ),
        "## Digests",
        _table(
            ("of", "SHA-256"),
            [(name, f"`{record[key]}`") for name, key in _DIGESTS],
        ),
    )
    return "\n\n".join(parts) + "\n"


_DIGESTS = (
    ("the model's arrays", "model"),
    ("the run plan", "plan"),
    ("the catalogue", "catalogue"),
)


def _opening(record: Mapping[str, Any]) -> str:
    about = STRATEGIES[record["strategy"]]
    return (
        f"Published by the coordinator of {record['federation']} at {record['published']}, made by "
        f"the run `{record['run']}`.\n\n"
        f"A preference model over {_number(record['catalogue_items'])} catalogue items, of which "
        f"{_number(record['vocabulary_items'])} have factors. Strategy `{record['strategy']}`: "
        f"{about}. Regions sent noised sums or changes of parameters; no record of a customer "
        "left any of them."
    )


def _training(training: Mapping[str, Any]) -> str:
    ended = (
        ""
        if training["rounds"] == training["rounds_planned"]
        else f" of the {training['rounds_planned']} planned"
    )
    return (
        f"Purchases from {training['from']} up to {training['until']} of customers whose consent "
        f"for `{training['purpose']}` was in force in the round. The plan was made for about "
        f"{_number(training['planned_customers'])} customers: a public estimate, no count.\n\n"
        f"{training['rounds']} rounds{ended}, each of at least {training['quorum']} regions, made "
        f"one by `{training['rule']}`: {_RULES[training['aggregation']]}.\n\n"
        + _table(
            ("region", "rounds with its update"),
            [(each["region"], str(each["rounds"])) for each in training["regions"]],
        )
    )


def _privacy(privacy: Mapping[str, Any]) -> str:
    survivors = privacy["honest_survivors_min"]
    shares = f" ({survivors} honest regions in every sum)" if survivors else ""
    unit, relation = privacy["unit"], _RELATIONS[privacy["neighboring_relation"]]
    return (
        f"The model is (ε, δ)-differentially private with ε = {privacy['epsilon']} and "
        f"δ = {privacy['delta']}. The unit is the {unit}, with the whole history: {relation}. "
        f"The rounds that were run spend ε = {privacy['epsilon_of_rounds']}. Mode "
        f"`{privacy['mode']}`: {_MODES[privacy['mode']]}{shares}. What a region has spent in the "
        "year, over all models, is in its own ledger.\n\n"
        + _table(
            ("mechanism", "rounds", "steps each", "σ/C", "C", "sampling"),
            [
                (
                    f"`{each['name']}`",
                    str(each["rounds"]),
                    str(each["steps"]),
                    each["noise_multiplier"],
                    each["clipping_norm"],
                    each["sampling_probability"],
                )
                for each in privacy["mechanisms"]
            ],
        )
        + "\n\nThe noise in the model's popularity has a standard deviation of "
        f"{privacy['popularity_noise_stddev']} on every item."
    )


def _bullets(texts: Sequence[str]) -> str:
    return "\n".join(f"- {text}" for text in texts)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _number(value: int) -> str:
    return f"{value:,}"
