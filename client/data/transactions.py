"""The types of the stages a region's data pass, in the only order the types allow.

``Transactions`` (as read, in batches) → ``CheckedTransactions`` (past the quality gate) →
``ConsentedTransactions`` (consenting customers only, by pseudonym) → ``PreferenceDataset``.
Each stage takes the type before it. The middle two cannot be made by hand: their constructors ask
for a seal that only the stage's own function holds, so that skipping a stage is an error for the
type checker and at run time.

A store may be larger than memory. So a batch of it is a table, and what is behind the gate is a
sequence of parts, read when they are asked for; all rows of a customer are in one part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import InitVar, dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from client.data.table_rows import TableRows
from common.errors import ConsentError, InputError, QualityGateError

if TYPE_CHECKING:
    import pandas as pd  # For its type alone: declarations of stores are read without it.

    from client.data.quality import QualityReport

REF_COLUMNS = ("customer_ref", "item_ref", "basket_ref", "store_ref", "home_store_ref")
COLUMN_DTYPES = {
    **dict.fromkeys(REF_COLUMNS, "category"),
    "time": "datetime64[us, UTC]",
    "quantity": "Int64",
    "amount": "float64",
}
REQUIRED = frozenset({"customer_ref", "item_ref", "time"})

# Only client/data/quality.py and client/data/consent_filter.py may name these two; a test scans
# the sources for it.
_GATE_SEAL = object()
_CONSENT_SEAL = object()

IntArray = npt.NDArray[np.int32]
LongArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class DeclaredScope:
    """What a region declares its data to be about.

    Attributes:
        from_ms: Begin of the period, milliseconds since the epoch, inclusive; None: no bound.
        until_ms: End of the period, exclusive; None: no bound.
        home_stores: The region's stores. A customer is at home in the region whose store is the
            customer's home store; other customers' trips are dropped. Empty: every customer is at
            home.
    """

    from_ms: int | None = None
    until_ms: int | None = None
    home_stores: frozenset[str] = frozenset()


@dataclass(frozen=True, eq=False)
class Transactions:
    """A batch of purchases as a store wrote them, one row an item of a trip, nothing checked yet.

    Attributes:
        frame: The columns of `COLUMN_DTYPES`, whatever the store calls them. References are text
            (held as pandas categories); a missing or unreadable value is null. An unmapped
            quantity is 1; other unmapped columns are null throughout.
        mapped: The columns that the store really has.
        scope: What the region declares the data to be about.
        origin: Where the rows come from, for messages.
    """

    frame: pd.DataFrame = field(repr=False)
    mapped: frozenset[str]
    scope: DeclaredScope
    origin: str

    def __post_init__(self) -> None:
        found = {str(name): str(dtype) for name, dtype in self.frame.dtypes.items()}
        if found != COLUMN_DTYPES:
            raise InputError(
                f"{self.origin}: rows have the columns {found}, expected {COLUMN_DTYPES}.",
                remedy="Read stores through client.data.sources.",
            )
        if not REQUIRED <= self.mapped <= COLUMN_DTYPES.keys():
            raise InputError(
                f"{self.origin}: customer, item and time must be mapped, and nothing unknown.",
                remedy="Complete [columns] in the source's declaration.",
            )

    def __len__(self) -> int:
        return len(self.frame)


@dataclass(frozen=True, eq=False)
class Purchases:
    """Purchases of some customers: one element of each array a row of the store.

    Attributes:
        owners: The customers' distinct names, each with a purchase at least: the store's
            references, or pseudonyms once the consent filter is passed.
        owner: int32[n], each purchase's customer as a position in `owners`.
        item: int32[n], each purchase's item as its number in the public catalogue.
        time_ms: int64[n], milliseconds since the epoch, rounded down.
        further: By table, what else there is of the same customers, where it was asked for
            (`client.data.tables.joining`); an owner may then have no purchase.
    """

    owners: tuple[str, ...] = field(repr=False)
    owner: IntArray = field(repr=False)
    item: IntArray = field(repr=False)
    time_ms: LongArray = field(repr=False)
    further: Mapping[str, TableRows] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.owner)


#: Reads the parts of a stage anew; no customer is in two of them.
PartsReader: TypeAlias = Callable[[], Iterator[Purchases]]


@dataclass(frozen=True, eq=False)
class CheckedTransactions:
    """The rows that passed the quality gate; made by `client.data.quality` only.

    Basket, store, quantity and amount served the checks and are gone: training needs none of them.

    Attributes:
        parts: Reads the purchases, under the store's references of customers.
        catalogue: The digest of the public catalogue that items are numbers of.
        report: What was read, left out and why.
    """

    parts: PartsReader = field(repr=False)
    catalogue: str
    report: QualityReport
    seal: InitVar[object]

    def __post_init__(self, seal: object) -> None:
        if seal is not _GATE_SEAL:
            raise QualityGateError(
                "CheckedTransactions were made past the quality gate.",
                remedy="Call client.data.quality.quality_gate.",
            )

    def __len__(self) -> int:
        return self.report.rows_accepted


@dataclass(frozen=True, eq=False)
class ConsentedTransactions:
    """Consenting customers' rows; made by `client.data.consent_filter.filter_consented` only.

    Attributes:
        parts: Reads the purchases, under the customers' pseudonyms.
        catalogue: The digest of the public catalogue that items are numbers of.
        consent_size: The size of the consent log that the choice was made at.
    """

    parts: PartsReader = field(repr=False)
    catalogue: str
    consent_size: int
    seal: InitVar[object]

    def __post_init__(self, seal: object) -> None:
        if seal is not _CONSENT_SEAL:
            raise ConsentError(
                "ConsentedTransactions were made past the consent filter.",
                remedy="Call client.data.consent_filter.filter_consented.",
            )
