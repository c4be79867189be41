"""Who is who across channels: a region's own map from a channel's keys to its customers.

A web shop knows accounts, an app knows devices, a till knows cards. Whose these are, a region
declares in one table of its own (`keys`); nothing is guessed from names or addresses. A key that
the table gives to two customers is nobody's: what was done under it would be told of the wrong one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from common.errors import InputError

BoolArray = npt.NDArray[np.bool_]
# What the places of a channel's keys say besides a customer.
_UNMATCHED, _AMBIGUOUS = -1, -2


@dataclass(frozen=True, eq=False)
class Unified:
    """References of a channel as the region's own.

    Attributes:
        customers: The region's references, null where there is none.
        unmatched: bool[n], rows whose key the map does not have.
        ambiguous: bool[n], rows whose key it gives to several customers.
    """

    customers: pd.Categorical = field(repr=False)
    unmatched: BoolArray = field(repr=False)
    ambiguous: BoolArray = field(repr=False)


@dataclass(frozen=True, eq=False)
class CustomerKeys:
    """The map of keys.

    Attributes:
        known: By channel, each key's customer.
        ambiguous: By channel, the keys that are given to several customers.
    """

    known: Mapping[str, Mapping[str, str]] = field(repr=False)
    ambiguous: Mapping[str, frozenset[str]] = field(repr=False)

    @classmethod
    def of_rows(cls, rows: pd.DataFrame) -> CustomerKeys:
        """Makes the map of the rows of the table `keys`.

        Args:
            rows: The columns ``channel``, ``key`` and ``customer``, text without nulls.
        """
        pairs = rows[["channel", "key", "customer"]].astype("str").drop_duplicates()
        twice = pairs.duplicated(["channel", "key"], keep=False).to_numpy()
        known: dict[str, dict[str, str]] = {}
        for channel, key, customer in _triples(pairs.loc[~twice]):
            known.setdefault(channel, {})[key] = customer
        ambiguous: dict[str, set[str]] = {}
        for channel, key, _ in _triples(pairs.loc[twice]):
            ambiguous.setdefault(channel, set()).add(key)
        return cls(
            MappingProxyType(known),
            MappingProxyType({name: frozenset(keys) for name, keys in ambiguous.items()}),
        )

    @property
    def conflicts(self) -> int:
        """How many keys are given to several customers."""
        return sum(map(len, self.ambiguous.values()))

    def unify(self, channel: str, references: pd.Categorical) -> Unified:
        """The region's own references of a channel's.

        Args:
            channel: The channel.
            references: The channel's keys, null where a row has none.

        Raises:
            InputError: The map has no key of the channel at all.
        """
        known, ambiguous = self.known.get(channel, {}), self.ambiguous.get(channel, frozenset())
        if not known and not ambiguous:
            raise InputError(
                f"The table keys has no key of the channel {channel!r}; it has "
                f"{', '.join(sorted({*self.known, *self.ambiguous})) or 'no channel'}.",
                remedy="Correct channel in tables.toml, or add the channel's keys to the table.",
            )
        found = [
            _AMBIGUOUS if key in ambiguous else known.get(key, _UNMATCHED)
            for key in references.categories.tolist()
        ]
        names, place = np.unique(
            np.array([each for each in found if isinstance(each, str)], dtype=object).astype(str),
            return_inverse=True,
        )
        at = np.array([0 if isinstance(each, str) else each for each in found], dtype=np.int64)
        at[at == 0] = place
        # The last place is that of rows without a key, which are neither.
        by_code = np.append(at, _UNMATCHED)[references.codes]
        given = np.asarray(references.codes) >= 0
        codes = np.maximum(by_code, _UNMATCHED)
        return Unified(
            pd.Categorical.from_codes(codes, categories=pd.Index(names, dtype="str")),
            given & (by_code == _UNMATCHED),
            by_code == _AMBIGUOUS,
        )


def _triples(rows: pd.DataFrame) -> Any:
    return rows.itertuples(index=False, name=None)
