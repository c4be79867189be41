from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pytest

from client.data.canonicalise import canonicalise
from client.data.consent_filter import EligibleCustomers
from client.data.source_config import ColumnMapping, FileSourceConfig
from client.data.transactions import Transactions
from common.catalogue import Catalogue
from common.consent import FEDERATED_TRAINING, ConsentReplay, new_ulid, parse_consent
from common.timestamps import parse_time

MakeTransactions = Callable[..., Transactions]
NAMES = ("customer", "item", "time", "quantity", "amount", "basket", "store", "home_store")


@pytest.fixture
def catalogue() -> Catalogue:
    """Six items, and two products that are out of scope."""
    return Catalogue.of([f"i{number}" for number in range(6)], excluded=["fuel", "coupon"])


@pytest.fixture
def make_transactions() -> MakeTransactions:
    """Makes transactions of plain rows; what a row leaves out is an ordinary value."""

    def make(
        rows: Sequence[Mapping[str, Any]],
        *,
        mapped: Sequence[str] = NAMES,
        **settings: Any,
    ) -> Transactions:
        defaults: dict[str, Any] = {
            "customer": "c1",
            "item": "i0",
            "time": "2024-03-01T10:00:00Z",
            "quantity": 1,
            "amount": 1.0,
            "store": "s1",
            "home_store": "s1",
        }
        full = [{"basket": f"b{number}"} | defaults | row for number, row in enumerate(rows)]
        table = pa.table({name: [row[name] for row in full] for name in mapped})
        config = FileSourceConfig(
            kind="files",
            path="f",
            columns=ColumnMapping(**{name: name for name in mapped}),
            **settings,
        )
        return canonicalise(table, config, "The file f")

    return make


class ConsentHistory:
    """A consent log in the making: each call logs one record of one customer."""

    def __init__(self) -> None:
        self.replay = ConsentReplay()
        self.size = 0
        self._chain: dict[str, list[str]] = {}

    def log(
        self,
        sid: str,
        state: str = "dpv:ConsentGiven",
        *,
        purpose: str = FEDERATED_TRAINING,
        expires: str | None = None,
    ) -> None:
        chain = self._chain.setdefault(sid, [])
        record = {
            "v": "fedpref-consent/1",
            "record_id": new_ulid(),
            "sid": sid,
            "seq": len(chain) + 1,
            "prev": chain[-1] if chain else None,
            "state": state,
            "type": "explicit",
            "purposes": {purpose: True} if state == "dpv:ConsentGiven" else {},
            "legal_basis": "eu-gdpr:A6-1-a",
            "data": ["pd:PurchasesAndSpendingHabit"],
            "controller": "region-1.example",
            "jurisdiction": "DE",
            "lang": "de",
            "notice": {"id": "pn-1", "sha256": "0" * 64},
            "method": "web-form",
            "evidence": None,
            "minor": False,
            "guardian": None,
            "event_time": "2024-01-01T00:00:00.000Z",
            "expires": expires,
            "withdrawal": "https://region-1.example/withdraw",
        }
        envelope_sha256 = f"{self.size:064x}"
        self.replay.apply(self.size, parse_consent(record), envelope_sha256)
        chain.append(envelope_sha256)
        self.size += 1

    def eligible(
        self,
        subject_ids: Mapping[str, str],
        *,
        purpose: str = FEDERATED_TRAINING,
        at: str = "2024-06-01T00:00:00.000Z",
    ) -> EligibleCustomers:
        return EligibleCustomers.from_replay(
            self.replay,
            purpose=purpose,
            at_ms=parse_time(at),
            consent_size=self.size,
            subject_ids=subject_ids,
        )


@pytest.fixture
def history() -> ConsentHistory:
    """An empty consent log."""
    return ConsentHistory()


@pytest.fixture
def eligible() -> Callable[[Mapping[str, str]], EligibleCustomers]:
    """Makes customers of whom everyone consents."""

    def make(subject_ids: Mapping[str, str]) -> EligibleCustomers:
        everyone = ConsentHistory()
        for sid in subject_ids.values():
            everyone.log(sid)
        return everyone.eligible(subject_ids)

    return make
