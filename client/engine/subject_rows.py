"""Rows of the subjects' table: evidence of choices, and the keys that are drawn for newcomers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class EvidenceRow:
    """One piece of evidence.

    Attributes:
        record_id: The consent record that it is of.
        giver: Whose it is: ``subject`` or ``guardian``.
        customer_ref: The customer's reference.
        value: Salt and token.
    """

    record_id: str
    giver: str
    customer_ref: str
    value: bytes = field(repr=False)


@dataclass(frozen=True)
class Enrolment:
    """The pseudonyms of some customers, with the keys drawn for those who had none.

    Attributes:
        sids: The pseudonym of each.
        rows: The new rows of the table, encrypted.
    """

    sids: Mapping[str, str]
    rows: tuple[tuple[str, bytes], ...] = field(repr=False)

    @property
    def newcomers(self) -> frozenset[str]:
        """Those who had no key before."""
        return frozenset(ref for ref, _ in self.rows)
