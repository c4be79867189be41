"""Bundles for the report's tests: an honest one, an eventful one, and their exports."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from common.audit.export import export_bundle
from common.audit.report.facts import ReportFacts, read_facts
from common.audit.report.page import render_report
from common.timestamps import format_time
from tests.support.bundle_builder import (
    DAY_MS,
    EPOCH_MS,
    REGIONS,
    SERVER,
    Federation,
    JsonRecord,
    MemorySigner,
)

R1, R2 = REGIONS
# When the eventful bundle is written: consents with a term have run out by then.
WRITTEN_MS = EPOCH_MS + 100 * DAY_MS


def ulid_at(time_ms: int, label: str) -> str:
    """A ULID that states a time: 10 characters of it, then 16 others."""
    alphabet = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
    stated = "".join(alphabet[time_ms >> 5 * place & 31] for place in reversed(range(10)))
    return stated + label[10:]


def eventful() -> Federation:
    """A run with all that a report can tell of, and that verifies.

    In region-1 a customer withdraws in round 2, which is discarded, so that the quorum is one; both
    regions change their notice before round 2, and half of the customers of region-1 consent anew;
    the old one lapses before round 3. One withdrawal is an erasure, one customer a minor, the first
    consents are imported. Consents with a term have expired when the bundle is written. The
    registry has a second version: one key more, one revoked.
    """

    def alter(party: str, record: JsonRecord) -> None:
        if party == "manifest":
            record["created_at"] = format_time(WRITTEN_MS)
        if record["v"] != "fedpref-consent/1":
            return
        if record["sid"] == federation.sid(R1, 2) and record["state"] == "dpv:ConsentWithdrawn":
            record["method"] = "erasure"
        elif record["seq"] == 1 and party == R2:
            record["method"] = "imported"
            record["event_time"] = "2020-02-02T02:02:02.000Z"
            record["record_id"] = ulid_at(federation.clock_ms, record["record_id"])
            record["legal_basis"] = "cn-pipl:13-1"
            record["jurisdiction"] = "CN"
        if record["sid"] == federation.sid(R1, 4):
            record["minor"] = True
            record["guardian"] = {"state": "dpv:ConsentGiven", "evidence": None}

    def before_round(federation: Federation, number: int) -> None:
        if number == 2:
            for region in REGIONS:
                federation.notice(region)
            for customer in range(8):
                if customer % 4 < 2:
                    federation.consent(R1, customer, "dpv:ConsentGiven")
                    federation.consent(R2, customer, "dpv:ConsentGiven")
        if number == 3:
            federation.clock_ms += 3_600_000

    def in_round(federation: Federation, region: str, number: int) -> None:
        if (region, number) == (R1, 2):
            federation.consent(R1, 0, "dpv:ConsentWithdrawn")

    federation = Federation(
        customers=16,
        rounds=3,
        quorum=1,
        withdrawal_in_round="discard",
        notice_grace_s=1800,
        alter=alter,
        before_round=before_round,
        in_round=in_round,
    )
    federation.run()
    keys = federation.key_entries()
    extra = dict(keys[0])
    signer = MemorySigner("region-1 consent, the second")
    extra |= {"key_id": signer.key_id, "public_key": signer.public_key.hex()}
    extra["not_before"] = format_time(EPOCH_MS)
    revoked = next(key for key in keys if (key["party"], key["role"]) == (R2, "permit"))
    revoked["revoked_at"] = format_time(federation.clock_ms + 10)
    federation.publish_registry([*keys, extra])
    return federation


@pytest.fixture(scope="session")
def honest() -> Federation:
    return Federation(customers=12, rounds=3).run()


@pytest.fixture(scope="session")
def eventful_federation() -> Federation:
    return eventful()


@pytest.fixture(scope="session")
def bundles(
    honest: Federation, eventful_federation: Federation, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Bundles by name; read-only."""
    folder = tmp_path_factory.mktemp("bundles")
    found = {
        "honest": honest.write(folder / "honest"),
        "eventful": eventful_federation.write(folder / "eventful"),
    }
    for name, scope, region in (
        ("cross-border", "cross-border", None),
        ("one-region", "regional", R1),
    ):
        found[name] = export_bundle(
            found["eventful"],
            folder / name,
            scope=scope,
            region=region,
            signer=eventful_federation.keys[SERVER, "aggregator"],
            created_at_ms=WRITTEN_MS + 1000,
        ).path
    altered = honest.copy()
    index = altered.find(R1, "consent", 3)
    altered.logs[R1][index] = altered.logs[R1][index].replace(b"A", b"B", 1)
    found["altered"] = altered.write(folder / "altered")
    unfinished = honest.copy()
    unfinished.logs[SERVER].pop()
    found["unfinished"] = unfinished.write(folder / "unfinished")
    found["no-registry"] = Path(shutil.copytree(found["honest"], folder / "no-registry"))
    registry = found["no-registry"] / "bundle" / "registry" / "1.json"
    registry.write_bytes(registry.read_bytes().replace(b"A", b"B", 1))
    return found


@pytest.fixture(scope="session")
def facts(bundles: dict[str, Path]) -> dict[str, ReportFacts]:
    return {name: read_facts(path) for name, path in bundles.items()}


@pytest.fixture(scope="session")
def pages(facts: dict[str, ReportFacts]) -> dict[tuple[str, str], str]:
    """The pages by bundle and language."""
    return {
        (name, lang): render_report(each, lang=lang)
        for name, each in facts.items()
        for lang in ("en", "zh")
    }
