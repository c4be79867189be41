"""Charges as the region's log has them, and the ledger held against them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from client.engine.charges import Charge
from common.canonical_json import JsonValue
from common.errors import StorageError


@dataclass(frozen=True)
class LoggedCharge:
    """A charge entry as the log has it."""

    charge_id: str
    ledger_seq: int
    ledger_head: str

    @classmethod
    def of(cls, record: Mapping[str, JsonValue]) -> LoggedCharge:
        """Of a ``fedpref-charge/1`` record."""
        return cls(
            charge_id=str(record["charge_id"]),
            ledger_seq=int(str(record["ledger_seq"])),
            ledger_head=str(record["ledger_head"]),
        )


def require_all_charged(
    logged: Iterable[LoggedCharge], charges: Iterable[Charge], path: Path
) -> None:
    """Checks that a ledger has every charge of the log: one restored from an old disk has not.

    Args:
        logged: The log's charges.
        charges: The ledger's.
        path: The ledger, to name it.

    Raises:
        StorageError: The log has a charge that the ledger lacks.
    """
    in_ledger = {charge.request.charge_id: charge for charge in charges}
    for each in logged:
        charge = in_ledger.get(each.charge_id)
        if charge is None or (charge.seq, charge.head) != (each.ledger_seq, each.ledger_head):
            raise StorageError(
                f"The budget ledger {path} lacks charge {each.charge_id}, which the log has: it is "
                "an old or foreign copy.",
                remedy="Restore the newest ledger; nothing is trained till then.",
            )
