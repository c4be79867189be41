"""Imported consents are older than the key that signs them; when it signed, their ids say."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.audit.verify import verify_bundle
from common.identifiers import new_ulid
from common.timestamps import format_time, parse_time
from tests.support.bundle_builder import DAY_MS, EPOCH_MS, REGIONS, Federation, JsonRecord

LONG_AGO_MS = EPOCH_MS - 900 * DAY_MS


@pytest.mark.parametrize("minor", [False, True])
@pytest.mark.parametrize(
    ("method", "signed_after_ms", "holds"),
    [
        ("imported", 0, True),
        ("web-form", 0, False),
        # The key was enrolled a day before; who signs two days before has another.
        ("imported", -2 * DAY_MS, False),
        ("imported", 800 * DAY_MS, False),
    ],
)
def test_an_imported_consent_counts_by_the_time_of_its_signature(
    tmp_path: Path, method: str, signed_after_ms: int, holds: bool, minor: bool
) -> None:
    def alter(party: str, record: JsonRecord) -> None:
        if (party, record["v"]) != (REGIONS[0], "fedpref-consent/1"):
            return
        signed_ms = parse_time(record["event_time"]) + signed_after_ms
        chosen = format_time(LONG_AGO_MS + record["seq"])
        record.update(event_time=chosen, method=method, record_id=new_ulid(signed_ms))
        if minor:  # Read by the general way, not the quick one.
            record.update(minor=True, guardian={"state": record["state"], "evidence": None})

    verdict = verify_bundle(Federation(alter=alter).run().write(tmp_path / "run"))
    messages = {failure.message for failure in verdict.failures if failure.step == 3}
    assert (not messages) == holds, messages
    if not holds:
        assert all("not yet valid" in each or "had expired" in each for each in messages)
    assert verdict.verified == holds
