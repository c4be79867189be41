"""Consent records for tests: one valid record, and the chain that a subject's records form."""

from __future__ import annotations

import hashlib
from typing import Any

from common import canonical_json
from common.consent import FEDERATED_ANALYTICS, FEDERATED_TRAINING, RECOMMENDATIONS, new_ulid

EVENT_TIME = "2026-03-01T09:30:00.000Z"


def consent_record(**changes: Any) -> dict[str, Any]:
    """A valid first record of a subject, with some fields replaced."""
    record: dict[str, Any] = {
        "v": "fedpref-consent/1",
        "record_id": new_ulid(),
        "sid": "5" * 64,
        "seq": 1,
        "prev": None,
        "state": "dpv:ConsentGiven",
        "type": "explicit",
        "purposes": {
            FEDERATED_TRAINING: True,
            RECOMMENDATIONS: True,
            FEDERATED_ANALYTICS: False,
        },
        "legal_basis": "eu-gdpr:A6-1-a",
        "data": ["pd:PurchasesAndSpendingHabit"],
        "controller": "Händler GmbH, Köln",
        "jurisdiction": "DE",
        "lang": "de",
        "notice": {"id": "pn-7", "sha256": "7" * 64},
        "method": "web-form",
        "evidence": None,
        "minor": False,
        "guardian": None,
        "event_time": EVENT_TIME,
        "expires": None,
        "withdrawal": "https://shop.example/consent",
    }
    return {**record, **changes}


def digest_of(record: dict[str, Any]) -> str:
    """Stands for the digest of the record's envelope."""
    return hashlib.sha256(canonical_json.encode(record)).hexdigest()


def next_record(record: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A record that continues its subject's chain."""
    return {
        **record,
        "record_id": new_ulid(),
        "seq": record["seq"] + 1,
        "prev": digest_of(record),
        **changes,
    }
