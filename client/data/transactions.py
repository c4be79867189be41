"""The types of the stages a region's data pass, in the only order the types allow.

``Transactions`` (as read) → ``CheckedTransactions`` (past the quality gate) →
``ConsentedTransactions`` (consenting customers only, by pseudonym) → ``PreferenceDataset``.
Each stage takes the type before it. The middle two cannot be made by hand: their constructors ask
for a seal that only the stage's own function holds, so that skipping a stage is an error for the
type checker and at run time.
"""

from __future__ import annotations

from dataclasses import InitVar, dataclass, field
from typing import TYPE_CHECKING

import pandas as pd

from common.errors import ConsentError, InputError, QualityGateError

if TYPE_CHECKING:
    from client.data.quality import QualityReport

REF_COLUMNS = ("customer_ref", "item_ref", "basket_ref", "store_ref", "home_store_ref")
COLUMN_DTYPES = {
    **dict.fromkeys(REF_COLUMNS, "category"),
    "time": "datetime64[us, UTC]",
    "quantity": "Int64",
    "amount": "float64",
}
REQUIRED = frozenset({"customer_ref", "item_ref", "time"})
CONSENTED_COLUMNS = ("sid", "item_ref", "time", "quantity")

# Only client/data/quality.py and client/data/consent_filter.py may name these two; a test scans
# the sources for it.
_GATE_SEAL = object()
_CONSENT_SEAL = object()


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
    """Purchases as a store wrote them, one row an item of a trip, nothing checked yet.

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
class CheckedTransactions:
    """The rows that passed the quality gate; made by `client.data.quality.quality_gate` only.

    Attributes:
        frame: The same columns as `Transactions`, without a null where a value is mapped.
        report: What was read, left out and why.
    """

    frame: pd.DataFrame = field(repr=False)
    report: QualityReport
    seal: InitVar[object]

    def __post_init__(self, seal: object) -> None:
        if seal is not _GATE_SEAL:
            raise QualityGateError(
                "CheckedTransactions were made past the quality gate.",
                remedy="Call client.data.quality.quality_gate.",
            )

    def __len__(self) -> int:
        return len(self.frame)


@dataclass(frozen=True, eq=False)
class ConsentedTransactions:
    """Consenting customers' rows; made by `client.data.consent_filter.filter_consented` only.

    Attributes:
        frame: The columns of `CONSENTED_COLUMNS`. The customer's own reference, the basket, the
            store and the amount are gone: training needs none of them.
        consent_size: The size of the consent log that the choice was made at.
    """

    frame: pd.DataFrame = field(repr=False)
    consent_size: int
    seal: InitVar[object]

    def __post_init__(self, seal: object) -> None:
        if seal is not _CONSENT_SEAL:
            raise ConsentError(
                "ConsentedTransactions were made past the consent filter.",
                remedy="Call client.data.consent_filter.filter_consented.",
            )

    def __len__(self) -> int:
        return len(self.frame)
