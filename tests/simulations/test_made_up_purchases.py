"""Made-up purchases: the same for the same seed, of all customers, within the year."""

from __future__ import annotations

import numpy as np
import pytest

from common.errors import InputError
from simulations.made_up_purchases import END_MS, made_up, made_up_catalogue


def test_the_same_seed_makes_the_same_customers() -> None:
    one, other, another = made_up(50, 1), made_up(50, 1), made_up(50, 2)
    np.testing.assert_array_equal(one.item, other.item)
    assert len(one) != len(another) or not np.array_equal(one.item, another.item)


def test_every_customer_bought_something_of_the_catalogue_within_the_year() -> None:
    made = made_up(200, 3)
    assert set(made.owner.tolist()) == set(range(200))
    assert 0 <= made.item.min() <= made.item.max() < made_up_catalogue().n_items
    assert 0 <= made.time_ms.min() <= made.time_ms.max() < END_MS


def test_nobody_is_no_region() -> None:
    with pytest.raises(InputError, match="one customer at least"):
        made_up(0, 1)
