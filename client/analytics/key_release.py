"""Releases keys that nobody can list beforehand: those that enough customers have."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from client.analytics.rows import LongArray, largest_groups
from client.data.transactions import Purchases
from client.training.bounded_sums import owners_of, require_once, within
from client.training.noise import NoiseSource
from common.analytics.key_arrays import key_specs, normalised_key, packed_keys
from common.analytics.key_questions import KEYS_FROM, search_terms
from common.analytics.key_union import KeyUnion
from common.canonical_json import JsonValue
from common.errors import InputError
from common.parameters import ArraySpec, snap_to_grid
from common.plan import Mechanism, RunPlan
from common.timestamps import parse_time


@dataclass(frozen=True, eq=False)
class KeyFacts:
    """Which keys some customers have, fact by fact, as they were written.

    Attributes:
        owner: int64[n], whose each fact is: one customer, one number.
        code: int64[n], each fact's text as a position in `texts`.
        texts: The distinct texts.
    """

    owner: LongArray = field(repr=False)
    code: LongArray = field(repr=False)
    texts: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True, eq=False)
class KeyStatistic:
    """A question of keys, asked of a further table.

    Attributes:
        question: What is asked.
        facts: Which keys customers have, by their rows within the window.
        tables: The further tables whose rows have to lie beside the purchases.
    """

    question: KeyUnion
    facts: Callable[[Purchases], KeyFacts] = field(repr=False)
    tables: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The question's name, which a region's policy allows or does not."""
        return self.question.name

    @property
    def spec(self) -> ArraySpec:
        """The keys' values; their texts are in an array of their own."""
        return key_specs(self.question)[0]

    @property
    def parameters(self) -> dict[str, JsonValue]:
        """The public constants that a row depends on."""
        return self.question.parameters


def release_keys(
    parts: Iterable[Purchases],
    statistic: KeyStatistic,
    *,
    start_ms: int,
    end_ms: int,
    noise_multiplier: float,
    grid_exponent: int,
    noise: NoiseSource,
) -> dict[str, npt.NDArray[np.generic]]:
    """The keys whose noisy value is above the threshold, with these values, in a public size.

    Args:
        parts: The consenting customers' purchases and rows; no customer is in two parts.
        statistic: What is asked.
        start_ms: Begin of the window, milliseconds since the epoch, inclusive.
        end_ms: End of the window, exclusive.
        noise_multiplier: σ / C; the clipping norm C is 1.
        grid_exponent: Values are multiples of 2 to this power.
        noise: Where noise is drawn from.

    Formal guarantees:
        (`KeyUnion.epsilon(noise_multiplier, δ)`, δ)-DP under add-or-remove of one customer: each
        counts in at most `most` keys, with 1/√most, whatever the rows. Which of her keys count
        depends on her rows alone. Rounding, and which of the keys that pass there is room for, are
        after the mechanism: the largest, by their noisy values.

    Edge cases:
        Nobody has any key, or no key is above the threshold: all slots are empty, which the answer
        says, and not that there is none.

    Returns:
        By name the arrays of `key_specs`.

    Raises:
        InputError: A fact is of nobody, a customer is in two parts, or the noise is out of range:
            nothing is released.
    """
    question = statistic.question
    counts = _bounded_counts(parts, statistic, start_ms, end_ms)
    names = sorted(counts)
    sums = np.array([counts[each] for each in names], dtype=np.float64) / math.sqrt(question.most)
    noisy = sums + noise.gaussian(sums.shape, noise_multiplier)
    values = snap_to_grid(noisy, grid_exponent)
    least = question.least_released(noise_multiplier, grid_exponent)
    passed = np.flatnonzero(values.astype(np.float64) >= least)
    # Stable, so that of equal values the earlier key is kept.
    kept = passed[np.argsort(-values[passed], kind="stable")][: question.keys]
    return packed_keys(question, [names[place] for place in kept.tolist()], values[kept])


def key_answer(
    parts: Iterable[Purchases],
    statistic: KeyStatistic,
    *,
    plan: RunPlan,
    mechanism: Mechanism,
    noise: NoiseSource,
) -> dict[str, npt.NDArray[np.generic]]:
    """One region's keys, ready to leave it as the plan has them; see `release_keys`.

    Args:
        parts: The consenting customers' purchases and rows; no customer is in two parts.
        statistic: What is asked, as `client.analytics.planned` has it.
        plan: The plan of questions.
        mechanism: The question's mechanism.
        noise: Where noise is drawn from.

    Raises:
        InputError: As `release_keys`, or the plan has another noise than the region's own.
    """
    if plan.mode != "local" or plan.aggregation.rule != "sum":
        raise InputError(f"{statistic.name}: each region decides on its keys by its own noise.")
    return release_keys(
        parts,
        statistic,
        start_ms=parse_time(plan.train_from),
        end_ms=parse_time(plan.train_until),
        noise_multiplier=mechanism.noise_stddev,
        grid_exponent=mechanism.grid_exponent,
        noise=noise,
    )


def _bounded_counts(
    parts: Iterable[Purchases], statistic: KeyStatistic, start_ms: int, end_ms: int
) -> Counter[str]:
    """How many customers count in each key; without noise, so it must not leave."""
    counts: Counter[str] = Counter()
    seen: list[npt.NDArray[np.bytes_]] = []
    for part in parts:
        seen.append(owners_of(part))
        facts = statistic.facts(within(part, start_ms, end_ms))
        counts.update(_bounded(statistic.question, facts, len(part.owners)))
    require_once(seen)
    return counts


def _bounded(question: KeyUnion, facts: KeyFacts, n_customers: int) -> Counter[str]:
    """Each customer's keys, at most so many, each once: those that most of her facts are in."""
    if len(facts.owner) != len(facts.code):
        raise InputError("There are not as many keys as owners of them.")
    owners = facts.owner
    for numbers, most, what in (
        (owners, n_customers, "customer"),
        (facts.code, len(facts.texts), "text"),
    ):
        if len(numbers) and not 0 <= int(numbers.min()) <= int(numbers.max()) < most:
            raise InputError(f"A key is of a {what} that there is not.")
    # Of the texts only those of these customers: the others' are as many as the table has.
    used, code = np.unique(facts.code, return_inverse=True)
    forms = [normalised_key(facts.texts[each], question.key_bytes) for each in used.tolist()]
    names = sorted({each for each in forms if each is not None})
    place = {name: number for number, name in enumerate(names)}
    known = [-1 if each is None else place[each] for each in forms]
    group = np.array([*known, -1], dtype=np.int64)[code]
    counted = group >= 0
    _, group = largest_groups(owners[counted], group[counted], max(1, len(names)), question.most)
    found = np.bincount(group, minlength=len(names))
    return Counter({name: int(n) for name, n in zip(names, found.tolist(), strict=True) if n})


def key_statistic(name: str, key_delta: float) -> KeyStatistic:
    """A question of keys by name, as this region asks it.

    Args:
        name: One of `common.analytics.key_questions.KEY_QUESTIONS`.
        key_delta: The probability with which a key of one customer alone may be released.

    Raises:
        InputError: There is none of this name, or its δ is out of range.
    """
    if name not in KEYS_FROM:
        raise InputError(
            f"{name[:64]!r} is no question of keys.", remedy=f"Use {', '.join(KEYS_FROM)}."
        )
    return column_keys(search_terms(key_delta), *KEYS_FROM[name])


def column_keys(question: KeyUnion, table: str, column: str) -> KeyStatistic:
    """A question of keys, asked of a column of text of a further table.

    Args:
        question: What is asked.
        table: The table.
        column: The column.
    """

    def facts(purchases: Purchases) -> KeyFacts:
        if table not in purchases.further:
            raise InputError(f"{question.name}: rows of the table {table} were not given.")
        rows = purchases.further[table]
        texts = rows.text(column)
        stated = texts.codes >= 0
        return KeyFacts(
            rows.owner[stated].astype(np.int64),
            texts.codes[stated].astype(np.int64),
            texts.labels,
        )

    return KeyStatistic(question, facts, (table,))
