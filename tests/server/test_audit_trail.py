"""The coordinator's log: what it takes in, what it gives back, and what it refuses to read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from common.audit.entry import make_entry
from common.audit.log import AuditLog
from common.audit.verify.records import check_record
from common.canonical_json import JsonValue
from common.envelope import Envelope
from common.errors import StorageError, VerificationError
from server.audit_trail import Aggregate, UsedRound
from tests.support.fake_federation import FakeFederation, fake_plan, open_federation
from tests.support.memory_signer import MemorySigner

FIRST = Aggregate(
    server_round=1,
    attempt=1,
    mechanism="popularity",
    used=tuple(UsedRound(region, "1" * 64, "2" * 64) for region in ("region-1", "region-2")),
    refused=(("region-3", "budget-exhausted"),),
    model_in="3" * 64,
    model_out="4" * 64,
    start="2024-01-01T00:00:00.000Z",
    end="2024-01-01T00:00:01.000Z",
)
SECOND = replace(FIRST, server_round=2, mechanism="factors", model_in="4" * 64)


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[FakeFederation]:
    with open_federation(tmp_path, fake_plan()) as federation:
        yield federation


def test_what_is_logged_is_read_back_in_another_process(federation: FakeFederation) -> None:
    with federation.trail() as trail:
        assert (trail.last_round, trail.model) == (0, None)
        leaf = trail.log_aggregate(FIRST)
        trail.log_aggregate(SECOND)
        trail.log_model("5" * 64)
    with federation.trail() as trail:
        assert trail.last_round == 2
        assert trail.aggregates[1] == (leaf, FIRST)
        assert trail.aggregates[2][1] == SECOND
        assert trail.model == "5" * 64
        assert leaf == trail.log.leaf_hash(1).hex()


def test_every_entry_is_as_the_verifier_wants_it(federation: FakeFederation) -> None:
    with federation.trail() as trail:
        trail.log_aggregate(FIRST)
        trail.log_incident(server_round=1, region=None, reason="below-quorum", detail="x" * 9999)
        trail.log_incident(server_round=None, region="region-1", reason="second-node", detail="y")
        trail.log_model("5" * 64)
        kinds = []
        for _, data in trail.log.entries():
            envelope = Envelope.decode(data)
            kinds.append(envelope.kind)
            check_record(envelope.kind, envelope.record())
            assert len(str(envelope.record().get("detail", ""))) <= 500
    assert kinds == ["keys", "aggregate", "incident", "incident", "model"]


def test_the_registry_is_logged_once(federation: FakeFederation) -> None:
    for _ in range(3):
        with federation.trail() as trail:
            assert trail.log.size == 1
    assert federation.home.registry_envelopes() == [
        data for _, data in AuditLog.open_read_only(federation.home.log).entries()
    ]


def test_a_round_is_aggregated_once_and_in_order(federation: FakeFederation) -> None:
    with federation.trail() as trail:
        with pytest.raises(StorageError, match="of round 1, not 2"):
            trail.log_aggregate(SECOND)
        trail.log_aggregate(FIRST)
        with pytest.raises(StorageError, match="of round 2, not 1"):
            trail.log_aggregate(FIRST)
        assert trail.log.size == 2


def test_a_model_is_published_once(federation: FakeFederation) -> None:
    with federation.trail() as trail:
        trail.log_aggregate(FIRST)
        trail.log_model("5" * 64)
        trail.log_model("5" * 64)
        assert trail.log.size == 3
        with pytest.raises(VerificationError, match="another model"):
            trail.log_model("6" * 64)


def test_other_runs_in_the_same_log_are_other_runs(federation: FakeFederation) -> None:
    with federation.trail() as trail:
        trail.log_aggregate(FIRST)
        trail.log_model("5" * 64)
    other = replace_plan(federation, "run-2")
    with other.trail() as trail:
        assert (trail.last_round, trail.model) == (0, None)
        trail.log_aggregate(FIRST)


def replace_plan(federation: FakeFederation, run_id: str) -> FakeFederation:
    return replace(federation, plan=fake_plan(run_id=run_id))


def append(federation: FakeFederation, *entries: bytes) -> None:
    """Writes entries past the trail, as someone with the log's key could."""
    with federation.trail() as trail:
        trail.log.append(list(entries))


def signed(federation: FakeFederation, **fields: JsonValue) -> bytes:
    record: dict[str, JsonValue] = {
        "v": "fedpref-aggregate/1",
        "run": "run-1",
        "round": 1,
        "attempt": 1,
        "mechanism": "popularity",
        "rule": "sum",
        "mode": "local",
        "regions": [used.to_record() for used in FIRST.used],
        "refused": [],
        "quorum": 2,
        "signal": None,
        "model_in": "3" * 64,
        "model_out": "4" * 64,
        "start": FIRST.start,
        "end": FIRST.end,
        **fields,
    }
    return make_entry(record, federation.home.signer("aggregator"))


TAMPERING: dict[str, Callable[[FakeFederation], list[bytes]]] = {
    "garbage": lambda f: [b"garbage"],
    "other-signer": lambda f: [
        make_entry(
            {"v": "fedpref-model/1", "run": "run-1", "model": "5" * 64}, MemorySigner("nobody")
        )
    ],
    "a-regions-key": lambda f: [
        make_entry(
            {"v": "fedpref-model/1", "run": "run-1", "model": "5" * 64},
            f.signers["region-1", "trainer"],
        )
    ],
    "round-twice": lambda f: [signed(f), signed(f)],
    "round-gap": lambda f: [signed(f, round=3)],
    "round-type": lambda f: [signed(f, round="1")],
    "regions-type": lambda f: [signed(f, regions={})],
    "region-type": lambda f: [signed(f, regions=["region-1"])],
    "refused-type": lambda f: [signed(f, refused=[5])],
}


@pytest.mark.parametrize("tampering", TAMPERING)
def test_a_log_with_an_entry_that_does_not_hold_is_not_continued(
    tampering: str, federation: FakeFederation
) -> None:
    entries = TAMPERING[tampering](federation)
    append(federation, *entries)
    with (
        pytest.raises(VerificationError, match=f"Entry {len(entries)} of the coordinator"),
        federation.trail(),
    ):
        pass


def test_a_second_coordinator_is_kept_out(federation: FakeFederation) -> None:
    with (
        federation.trail(),
        pytest.raises(StorageError, match="rocess"),
        federation.trail(),
    ):
        pass
