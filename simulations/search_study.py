"""Which words a region releases of what its customers search for, and how true the counts are.

``python -m simulations.search_study`` prints it. Words are made up, as common as Zipf's law has it;
bounding, threshold, noise and reading are the code of regions, for the question that a plan asks.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

import numpy as np

from client.analytics.key_release import column_keys, release_keys
from client.data.table_rows import TableRows, Texts
from client.data.transactions import Purchases
from client.training.noise import SeededNoise
from common.analytics.key_arrays import unpacked_keys
from common.analytics.key_questions import (
    KEYS_FROM,
    MOST_TERMS,
    SEARCH_TERMS,
    search_terms,
)
from common.plan_defaults import calibrated_sigma
from common.questions_plan import GRID_EXPONENT, QuestionsFile

DELTA = "0.000001"
DRAWS, TOP = 12, 20
# How many words there are, and how many searches a customer makes besides the first, on average.
_WORDS, _SEARCHES = 20_000, 6.0
_WINDOW = (0, 10)


@dataclass(frozen=True)
class Released:
    """What a region releases: means over draws.

    Attributes:
        words: How many words.
        found: Which share of the words that most customers use is among the largest released.
        covered: How often the intervals of released words cover how many customers are counted.
        own: How many words were released that fewer than five customers use, in all draws.
    """

    words: float
    found: float
    covered: float
    own: int


@dataclass(frozen=True, eq=False)
class Searches:
    """What customers search for.

    Attributes:
        part: Their rows.
        users: int64[words], by how many customers each word is used.
        labels: The words.
    """

    part: Purchases = field(repr=False)
    users: np.ndarray = field(repr=False)
    labels: tuple[str, ...] = field(repr=False)


def made_searches(customers: int, seed: int = 1) -> Searches:
    """Searches of a made-up region; the same seed gives the same."""
    generator = np.random.default_rng(seed)
    often = 1 / np.arange(1, _WORDS + 1)
    owner = np.repeat(np.arange(customers), generator.poisson(_SEARCHES, customers) + 1)
    code = generator.choice(_WORDS, len(owner), p=often / often.sum())
    labels = tuple(f"word {number:05d}" for number in range(_WORDS))
    table, column = KEYS_FROM[SEARCH_TERMS]
    texts = {column: Texts(code.astype(np.int32), labels)}
    rows = TableRows(owner.astype(np.int32), np.ones(len(owner), dtype=np.int64), texts, {})
    none = np.zeros(0, dtype=np.int32)
    names = tuple(f"customer-{number}" for number in range(customers))
    part = Purchases(names, none, none, np.zeros(0, dtype=np.int64), {table: rows})
    users = np.bincount(np.unique(owner * _WORDS + code) % _WORDS, minlength=_WORDS)
    return Searches(part, users, labels)


def sigma_of(epsilon: str) -> float:
    """The noise of the question, asked alone, at what keys leave of δ."""
    asked = QuestionsFile.of([SEARCH_TERMS], scope="regions")
    return calibrated_sigma(epsilon, asked.delta_of_noise(DELTA))


def one_region(customers: int, epsilon: str, *, draws: int = DRAWS) -> Released:
    """A region of so many customers, asked alone.

    Args:
        customers: How many customers.
        epsilon: ε, a decimal string.
        draws: How often it is asked.
    """
    made, question, sigma = made_searches(customers), search_terms(), sigma_of(epsilon)
    place = {label: number for number, label in enumerate(made.labels)}
    most_used = {made.labels[n] for n in np.argsort(-made.users, kind="stable")[:TOP].tolist()}
    counted = _counted(made)
    words, found, covered, own = [], [], [], 0
    for draw in range(draws):
        arrays = release_keys(
            [made.part],
            column_keys(question, *KEYS_FROM[SEARCH_TERMS]),
            start_ms=_WINDOW[0],
            end_ms=_WINDOW[1],
            noise_multiplier=sigma,
            grid_exponent=GRID_EXPONENT,
            noise=SeededNoise(f"searches/{customers}/{epsilon}/{draw}"),
        )
        keys, values = unpacked_keys(question, arrays)
        largest = [keys[n] for n in np.argsort(-values, kind="stable")[:TOP].tolist()]
        words.append(len(keys))
        found.append(len(most_used & {*largest}) / TOP)
        truth = np.array([counted[key] for key in keys])
        covered += question.read(values, sigma).covers(truth).tolist()
        own += sum(int(made.users[place[key]]) < 5 for key in keys)
    return Released(
        float(np.mean(words)),
        float(np.mean(found)),
        float(np.mean(covered)) if covered else 1.0,
        own,
    )


def _counted(made: Searches) -> dict[str, int]:
    """How many customers count in each word: those of whom it is among the four used most."""
    rows = made.part.further[KEYS_FROM[SEARCH_TERMS][0]]
    texts = rows.text(KEYS_FROM[SEARCH_TERMS][1])
    pairs, often = np.unique(rows.owner.astype(np.int64) * _WORDS + texts.codes, return_counts=True)
    owner, word = pairs // _WORDS, pairs % _WORDS
    order = np.lexsort((word, -often, owner))
    owner, word = owner[order], word[order]
    kept = np.arange(len(owner)) - np.searchsorted(owner, owner, side="left") < MOST_TERMS
    counts = np.bincount(word[kept], minlength=_WORDS)
    return dict(zip(made.labels, counts.tolist(), strict=True))


def main() -> None:
    """Prints the figures."""
    for epsilon in ("0.25", "1", "2"):
        needed = search_terms().outlook(1, sigma_of(epsilon)).half_width
        sys.stdout.write(f"ε = {epsilon}: a word needs {needed:.1f} customers\n")
    for customers in (1_000, 5_000, 20_000):
        for epsilon in ("0.25", "1"):
            found = one_region(customers, epsilon)
            sys.stdout.write(
                f"{customers} customers, ε = {epsilon}: {found.words:.1f} words, of the {TOP} most "
                f"used {found.found:.1%}, covered {found.covered:.4f}, own {found.own}\n"
            )


if __name__ == "__main__":
    main()
