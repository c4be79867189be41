"""What a report says equals what the bundle says, counted anew from the signed entries."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from common.audit.merkle import leaf_hash
from common.audit.report.facts import ReportFacts, read_facts
from common.audit.verify.epsilon import composed_epsilon
from common.envelope import sign_record
from common.privacy import GaussianEvent, epsilon
from common.timestamps import parse_time
from tests.support.bundle_builder import (
    DELTA,
    NOISE,
    OUTSIDE,
    REGIONS,
    SERVER,
    Federation,
    JsonRecord,
    record_of,
    tree_root,
)

R1, R2 = REGIONS
TRAINING = "fedpref:FederatedTraining"
GRACE_MS = 1_800_000


@pytest.fixture
def federations(honest: Federation, eventful_federation: Federation) -> dict[str, Federation]:
    return {"honest": honest, "eventful": eventful_federation}


def records(federation: Federation, party: str, kind: str) -> list[tuple[int, JsonRecord]]:
    found = [(index, record_of(entry)) for index, entry in enumerate(federation.logs[party])]
    return [(index, record) for index, record in found if record["v"] == f"fedpref-{kind}/1"]


def standing(federation: Federation, party: str, size: int, at_ms: int) -> dict[str, str]:
    """Each customer's state, by the rules of the format, in the plainest way there is."""
    lapses: dict[str, int] = {}
    newest: dict[str, JsonRecord] = {}
    for entry in federation.logs[party][:size]:
        record = record_of(entry)
        if record["v"] == "fedpref-notice/1" and record["supersedes"]:
            lapses[record["supersedes"]] = parse_time(record["in_force_from"]) + GRACE_MS
        elif record["v"] == "fedpref-consent/1":
            newest[record["sid"]] = record
    states = {}
    for sid, record in newest.items():
        if record["state"] == "dpv:ConsentWithdrawn":
            states[sid] = "erased" if record["method"] == "erasure" else "withdrawn"
        elif record["state"] != "dpv:ConsentGiven" or not record["purposes"].get(TRAINING):
            states[sid] = "refused"
        elif record["expires"] and parse_time(record["expires"]) <= at_ms:
            states[sid] = "expired"
        elif lapses.get(record["notice"]["sha256"], math.inf) <= at_ms:
            states[sid] = "lapsed"
        else:
            states[sid] = "in_force"
    return states


@pytest.mark.parametrize("name", ["honest", "eventful"])
def test_customers_are_counted_by_their_newest_record(
    name: str, facts: dict[str, ReportFacts], federations: dict[str, Federation]
) -> None:
    federation, report = federations[name], facts[name]
    assert report.verdict.verified
    assert [each.region for each in report.consents] == [*REGIONS]
    at_ms = parse_time(report.created_at)
    for each in report.consents:
        log = federation.logs[each.region]
        expected = Counter(standing(federation, each.region, len(log), at_ms).values())
        kinds = ("in_force", "expired", "lapsed", "withdrawn", "erased", "refused")
        assert {kind: getattr(each.tally, kind) for kind in kinds} == {
            kind: expected[kind] for kind in kinds
        }
        assert each.tally.total == federation.customers
        assert each.records == len(records(federation, each.region, "consent"))
        assert each.unread == 0
        # The chart ends as the table says.
        assert each.moments[-1].tally == each.tally
        assert each.moments[-1].at_ms == at_ms


def test_the_eventful_run_has_all_that_is_to_be_told(facts: dict[str, ReportFacts]) -> None:
    first = facts["eventful"].consents[0]
    assert first.tally.in_force
    assert first.tally.expired
    assert first.tally.lapsed
    assert first.tally.withdrawn
    assert first.tally.erased == 1
    assert first.tally.refused
    assert first.minors == 1


@pytest.mark.parametrize("name", ["honest", "eventful"])
def test_rounds_are_those_of_the_logs_with_their_consents_counted_anew(
    name: str, facts: dict[str, ReportFacts], federations: dict[str, Federation]
) -> None:
    federation = federations[name]
    expected = []
    for region in REGIONS:
        for index, record in records(federation, region, "round"):
            size, at = record["consent"]["size"], record["train"]["at"]
            states = standing(federation, region, size, parse_time(at)).values()
            bucket, in_force = record["train"]["n_bucket"], Counter(states)["in_force"]
            expected.append((region, index, record["round"], size, at, bucket, in_force))
    assert [
        (part.region, part.index, part.number, part.size, part.snapshot_at, part.bucket)
        for part in facts[name].rounds
    ] == [each[:-1] for each in expected]
    assert [part.in_force for part in facts[name].rounds] == [each[-1] for each in expected]
    for each in facts[name].rounds:
        low, high = map(int, each.bucket.split("-"))
        assert each.in_force is not None
        assert low <= each.in_force <= high
        assert each.used


def test_cosignatures_are_by_others_and_as_old_as_they_say(
    honest: Federation, facts: dict[str, ReportFacts]
) -> None:
    for each in facts["honest"].rounds:
        others = sorted({*REGIONS, SERVER, OUTSIDE} - {each.region})
        assert [cosignature.party for cosignature in each.cosignatures] == others
        cosigned_ms = honest.cosigned_ms[each.region, each.size] // 1000 * 1000
        for cosignature in each.cosignatures:
            assert parse_time(cosignature.at) == cosigned_ms
            age_ms = parse_time(each.start) - cosigned_ms
            assert cosignature.age_s == max(age_ms, 0) // 1000


@pytest.mark.parametrize("name", ["honest", "eventful"])
def test_withdrawals_name_the_first_round_without_the_customer(
    name: str, facts: dict[str, ReportFacts], federations: dict[str, Federation]
) -> None:
    federation = federations[name]
    for region, found in zip(REGIONS, facts[name].withdrawals, strict=True):
        rounds = [record for _, record in records(federation, region, "round")]
        expected: list[dict[str, Any]] = []
        for index, record in records(federation, region, "consent"):
            if record["state"] != "dpv:ConsentWithdrawn":
                continue
            after = [each for each in rounds if each["consent"]["size"] > index]
            before = [
                each
                for each in rounds
                if each["consent"]["size"] <= index
                and standing(
                    federation, region, each["consent"]["size"], parse_time(each["train"]["at"])
                ).get(record["sid"])
                == "in_force"
            ]
            for each in after:
                size, at = each["consent"]["size"], each["train"]["at"]
                states = standing(federation, region, size, parse_time(at))
                assert states[record["sid"]] in ("withdrawn", "erased")
            first = after[0] if after else None
            expected.append(
                {
                    "index": index,
                    "at": record["event_time"],
                    "kind": "erased" if record["method"] == "erasure" else "withdrawn",
                    "excluded_round": first["round"] if first else None,
                    "rounds_before": len(before),
                    "latency_ms": parse_time(first["train"]["at"])
                    - parse_time(record["event_time"])
                    if first
                    else None,
                }
            )
        names = expected[0].keys()
        assert [{name: getattr(each, name) for name in names} for each in found.items] == expected
        latencies = [each["latency_ms"] for each in expected if each["latency_ms"] is not None]
        assert found.longest_latency_ms == max(latencies)
        assert found.after_last == sum(each["excluded_round"] is None for each in expected)
    erased = [each.index for region in facts["eventful"].withdrawals for each in region.erasures]
    assert len(erased) == 1


def test_a_consent_that_drops_training_ends_it_too(tmp_path: Path) -> None:
    def alter(_party: str, record: JsonRecord) -> None:
        if record["v"] == "fedpref-consent/1" and record["state"] == "dpv:ConsentWithdrawn":
            record["state"] = "dpv:ConsentRefused"

    run = Federation(alter=alter).run().write(tmp_path)
    report = read_facts(run)
    assert report.verdict.verified
    assert [each.kind for region in report.withdrawals for each in region.items] == ["refused"] * 2


@pytest.mark.parametrize("name", ["honest", "eventful"])
def test_what_left_is_what_the_logs_say(
    name: str, facts: dict[str, ReportFacts], federations: dict[str, Federation]
) -> None:
    federation, report = federations[name], facts[name]
    logged = [
        (region, index, record)
        for region in REGIONS
        for index, record in records(federation, region, "release")
    ]
    assert [
        (each.region, each.index, each.number, each.n_bytes, each.update)
        for each in report.releases
    ] == [
        (region, index, record["round"], record["bytes"], record["update"])
        for region, index, record in logged
    ]
    assert sum(kind.releases for kind in report.kinds) == len(logged)
    assert [kind.mechanism for kind in report.kinds] == ["popularity", "factors"]
    for kind in report.kinds:
        assert kind.n_bytes == sum(math.prod(array.shape) * 4 for array in kind.arrays)
    total = sum(kind.n_bytes * kind.releases for kind in report.kinds)
    assert total == sum(record["bytes"] for _, _, record in logged)


def test_epsilon_is_what_an_independent_accountant_gives(
    honest: Federation, facts: dict[str, ReportFacts]
) -> None:
    event = GaussianEvent(noise_multiplier=float(NOISE), sampling_probability=1.0, count=3)
    expected = epsilon([event], float(DELTA))
    exact = composed_epsilon({(NOISE, "1"): 3}, float(DELTA))
    for each in facts["honest"].budgets:
        last = records(honest, each.region, "charge")[-1][1]
        assert each.recomputed is not None
        assert float(each.recomputed) == pytest.approx(expected, rel=1e-3)
        assert exact <= float(each.recomputed) <= float(each.stated) + 1e-6
        assert each.charges == 3
        assert (each.delta, each.index) == (DELTA, records(honest, each.region, "charge")[-1][0])
        stated = last["epsilon_run" if each.span == "run" else "epsilon_total"]
        assert each.stated == stated
        assert each.cap == ("8" if each.span == "run" else "10")
        assert each.within
        assert each.left is not None
        assert float(each.left) <= float(each.cap or 0) - float(each.recomputed) + 1e-9
    assert [(each.region, each.span) for each in facts["honest"].budgets] == [
        (R1, "run"),
        (R1, "year"),
        (R2, "run"),
        (R2, "year"),
    ]


def test_incidents_are_those_of_all_logs_and_who_was_left_out(
    eventful_federation: Federation, facts: dict[str, ReportFacts]
) -> None:
    found = facts["eventful"].incidents
    (index, record), *rest = records(eventful_federation, R1, "incident")
    assert not rest
    aggregates = records(eventful_federation, SERVER, "aggregate")
    (server_index,) = [index for index, record in aggregates if record["refused"]]
    assert [(each.party, each.index, each.number, each.region) for each in found] == [
        (R1, index, 2, R1),
        (SERVER, server_index, 2, R1),
    ]
    assert found[0].discarded
    assert found[0].detail == record["detail"]
    assert found[0].at == record["time"]
    assert facts["honest"].incidents == ()


def test_notices_say_when_consents_to_them_lapse(
    eventful_federation: Federation, facts: dict[str, ReportFacts]
) -> None:
    report = facts["eventful"]
    for region in REGIONS:
        old, new = (each for each in report.notices if each.region == region)
        (old_index, _), (new_index, record) = records(eventful_federation, region, "notice")
        assert (old.index, new.index) == (old_index, new_index)
        log = eventful_federation.logs[region]
        assert old.sha256 == hashlib.sha256(log[old_index]).hexdigest() == record["supersedes"]
        assert (new.supersedes, new.supersedes_index) == (old.notice_id, old.index)
        assert old.lapse_at is not None
        assert parse_time(old.lapse_at) == parse_time(record["in_force_from"]) + GRACE_MS
        assert new.lapse_at is None
        named = Counter(
            record["notice"]["sha256"]
            for _, record in records(eventful_federation, region, "consent")
        )
        assert (old.records, new.records) == (named[str(old.sha256)], named[str(new.sha256)])
        assert old.in_force == 0
        consents = next(each for each in report.consents if each.region == region)
        assert new.in_force == consents.tally.in_force


def test_legal_bases_and_methods_are_counted(facts: dict[str, ReportFacts]) -> None:
    first, second = facts["eventful"].consents
    assert [(each.name, each.number) for each in first.methods] == [
        ("erasure", 1),
        ("web-form", first.records - 1),
    ]
    assert [(each.name, each.number) for each in second.methods] == [
        ("imported", 16),
        ("web-form", second.records - 16),
    ]
    assert sum(each.number for each in second.legal_bases) == second.tally.in_force


def test_keys_are_the_newest_registrys(
    eventful_federation: Federation, facts: dict[str, ReportFacts]
) -> None:
    report = facts["eventful"]
    newest = record_of(eventful_federation.registry[-1])
    assert {each.key_id for each in report.keys} == {each["key_id"] for each in newest["keys"]}
    assert [each.number for each in report.registry] == [1, 2]
    assert [each.keys for each in report.registry] == [16, 17]
    assert {(each.threshold, each.root_keys, each.witness_quorum) for each in report.registry} == {
        (2, 3, 2)
    }
    turned = [each for each in report.keys if each.turns > 1]
    assert [(each.party, each.role, each.turn, each.since_version) for each in turned] == [
        (R1, "consent", 1, 1),
        (R1, "consent", 2, 2),
    ]
    assert [(each.party, each.role) for each in report.keys if each.state == "revoked"] == [
        (R2, "permit")
    ]


def test_witnesses_and_logs(honest: Federation, facts: dict[str, ReportFacts]) -> None:
    report = facts["honest"]
    assert report.quorum == 2
    assert [each.party for each in report.logs] == [R1, R2, SERVER]
    for each in report.logs:
        log = honest.logs[each.party]
        assert (each.size, each.root) == (len(log), tree_root(log).hex())
        assert each.tail == 0
        cosigned = len(honest.checkpoints[each.party] | {len(log)})
        others = {*REGIONS, SERVER, OUTSIDE} - {each.party}
        assert each.cosigned == {party: (cosigned, len(log)) for party in others}
    assert report.conflicts == ()


def test_policies_permits_plan_and_model(honest: Federation, facts: dict[str, ReportFacts]) -> None:
    report = facts["honest"]
    assert [(each.region, dict(each.fields)) for each in report.policies] == [
        (region, records(honest, region, "policy")[0][1]["policy"]) for region in REGIONS
    ]
    assert [
        (each.region, each.engine, each.epsilon_cap, each.rounds) for each in report.permits
    ] == [(region, records(honest, region, "permit")[0][1]["engine"], "8", 3) for region in REGIONS]
    assert report.plan_sha256 == hashlib.sha256(honest.plan).hexdigest()
    assert report.plan == json.loads(honest.plan)
    (index, record) = records(honest, SERVER, "model")[0]
    assert report.model is not None
    assert (report.model.index, report.model.sha256) == (index, record["model"])


def test_files_are_the_manifests(bundles: dict[str, Path], facts: dict[str, ReportFacts]) -> None:
    files = facts["honest"].files
    folder = bundles["honest"] / "bundle"
    data = (folder / "manifest.json").read_bytes()
    assert files.manifest_sha256 == hashlib.sha256(data).hexdigest()
    for each in files.named:
        assert each.sha256 == hashlib.sha256((folder / each.name).read_bytes()).hexdigest()
    present = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files.named) + files.entry_files == len(present) - 1
    assert {each.name for each in files.artifacts} == {
        "history.json",
        "metrics.json",
        "model.safetensors",
    }


def test_a_cross_border_bundle_has_no_consents_to_tell_of(
    facts: dict[str, ReportFacts],
) -> None:
    whole, report = facts["eventful"], facts["cross-border"]
    assert report.verdict.verified
    assert report.cross_border
    assert report.consents == report.withdrawals == ()
    assert report.without_consents == REGIONS
    assert [each.in_force for each in report.rounds] == [None] * len(whole.rounds)
    assert [(each.index, each.size, each.bucket) for each in report.rounds] == [
        (each.index, each.size, each.bucket) for each in whole.rounds
    ]
    assert report.releases == whole.releases
    assert report.budgets == whole.budgets
    assert report.incidents == whole.incidents
    assert [each.text for each in report.notices] == [each.text for each in whole.notices]
    assert {each.records for each in report.notices} == {None}


def test_a_bundle_of_one_region_tells_of_its_consents_only(
    facts: dict[str, ReportFacts],
) -> None:
    whole, report = facts["eventful"], facts["one-region"]
    assert report.verdict.verified
    assert not report.cross_border
    assert report.without_consents == (R2,)
    assert [each.region for each in report.consents] == [R1]
    assert report.consents[0].choices == whole.consents[0].choices
    assert [each.region for each in report.withdrawals] == [R1]
    assert report.withdrawals[0] == whole.withdrawals[0]


def test_sections_are_marked_by_the_steps_that_they_rest_on(
    facts: dict[str, ReportFacts],
) -> None:
    assert {trust.state for trust in facts["honest"].trust.values()} == {"holds"}
    assert {trust.state for trust in facts["cross-border"].trust.values()} == {"holds"}
    altered = {name: trust.state for name, trust in facts["altered"].trust.items()}
    assert [name for name, state in altered.items() if state == "holds"] == [
        "federation",
        "keys",
        "witnesses",
    ]
    assert {"broken", "holds"} == set(altered.values())
    unfinished = {name: trust.state for name, trust in facts["unfinished"].trust.items()}
    assert unfinished["rounds"] == unfinished["budget"] == "incomplete"
    assert unfinished["consents"] == "holds"
    lost = {name: trust.state for name, trust in facts["no-registry"].trust.items()}
    assert set(lost.values()) == {"broken"}


def test_an_entry_that_does_not_hold_is_in_no_figure(
    honest: Federation, facts: dict[str, ReportFacts]
) -> None:
    whole, report = facts["honest"].consents[0], facts["altered"].consents[0]
    assert report.records == whole.records - 1
    assert report.tally.total == whole.tally.total - 1


def test_a_consent_that_another_signed_is_in_no_figure(
    honest: Federation, facts: dict[str, ReportFacts], tmp_path: Path
) -> None:
    federation = honest.copy()
    index = federation.find(R1, "consent", 3)
    record = record_of(federation.logs[R1][index])
    federation.logs[R1][index] = sign_record(record, federation.keys[R2, "consent"])
    report = read_facts(federation.write(tmp_path))
    assert not report.verdict.verified
    assert report.consents[0].records == facts["honest"].consents[0].records - 1
    assert report.consents[0].unread == 0


def test_without_a_registry_nothing_is_ascribed_to_anyone(
    facts: dict[str, ReportFacts],
) -> None:
    report = facts["no-registry"]
    assert not report.ascribed
    assert report.regions == report.consents == report.rounds == report.keys == ()
    assert report.files.manifest_sha256


def test_all_of_it_is_json(facts: dict[str, ReportFacts]) -> None:
    for report in facts.values():
        record = json.loads(json.dumps(report.to_record()))
        assert record["v"] == "fedpref-compliance-report/1"
        assert record["verdict"] == json.loads(json.dumps(report.verdict.to_record()))
        assert len(record["rounds"]) == len(report.rounds)


def test_conflicts_that_a_witness_keeps_are_named(honest: Federation, tmp_path: Path) -> None:
    federation = honest.copy()
    other = honest.copy()
    other.logs[R1] = other.logs[R1][:3]
    other.resign(R1, 2, lambda record: record.update(event_time="2026-01-01T00:00:05.000Z"))
    place = f"witnesses/{OUTSIDE}/evidence/1-{R1}"
    federation.files[f"{place}-a"] = federation.checkpoint(R1, 3)
    federation.files[f"{place}-b"] = other.checkpoint(R1, 3)
    assert leaf_hash(other.logs[R1][2]) != leaf_hash(federation.logs[R1][2])
    report = read_facts(federation.write(tmp_path))
    assert [(each.witness, each.party, each.files) for each in report.conflicts] == [
        (OUTSIDE, R1, (f"{place}-a", f"{place}-b"))
    ]
    assert not report.verdict.verified
