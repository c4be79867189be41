"""Releases keys that nobody can list beforehand: those that enough customers have."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from client.analytics.rows import LongArray, largest_groups
from client.training.noise import NoiseSource
from common.analytics.key_union import KeyUnion
from common.errors import InputError
from common.parameters import snap_to_grid


@dataclass(frozen=True, eq=False)
class ReleasedKeys:
    """What was released.

    Attributes:
        keys: The keys, sorted by their text: their order tells nothing.
        values: float32[keys], noisy, on the grid; `KeyUnion.read` reads them.
    """

    keys: tuple[str, ...]
    values: npt.NDArray[np.float32] = field(repr=False)


def release_keys(
    question: KeyUnion,
    owner: LongArray,
    keys: Sequence[str],
    *,
    noise_multiplier: float,
    grid_exponent: int,
    noise: NoiseSource,
) -> ReleasedKeys:
    """The keys whose noisy value is above the threshold, with these values.

    Args:
        question: What is asked.
        owner: int64[n], whose each fact is: one customer, one number.
        keys: Each fact's key.
        noise_multiplier: σ / C; the clipping norm C is 1.
        grid_exponent: Values are multiples of 2 to this power.
        noise: Where noise is drawn from.

    Formal guarantees:
        (`KeyUnion.epsilon(noise_multiplier, δ)`, δ)-DP under add-or-remove of one customer: each
        counts in at most `most` keys, with 1/√most, whatever her facts. Which of her keys count
        depends on her facts alone. That values are rounded before they are compared is after the
        mechanism.

    Edge cases:
        Nobody has any key, or no key is above the threshold: nothing is released, which is said by
        an empty answer and not by zeros.

    Raises:
        InputError: Facts and owners are not as many.
    """
    if len(owner) != len(keys):
        raise InputError("There are not as many keys as owners of them.")
    names, group = np.unique(np.array(keys, dtype=object).astype(str), return_inverse=True)
    _, group = largest_groups(owner, group.astype(np.int64), max(1, len(names)), question.most)
    count = np.bincount(group, minlength=len(names)) / math.sqrt(question.most)
    noisy = count + noise.gaussian(count.shape, noise_multiplier)
    values = snap_to_grid(noisy, grid_exponent)
    passed = values.astype(np.float64) > question.threshold(noise_multiplier)
    return ReleasedKeys(tuple(str(each) for each in names[passed]), values[passed])
