"""What the verifier makes of masks: a real confidential run, and every way to falsify its masks.

The forgers have all keys of one region and of the server.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.audit.report.facts import read_facts
from common.audit.report.page import render_report
from common.audit.verify import Evidence, verify_bundle, verify_with_evidence
from common.audit.verify.masks import _note_differences
from common.audit.verify.replay import Entry
from common.audit.verify.verdict import Findings, Verdict
from common.canonical_json import JsonValue
from simulations.attacks.forgery import Forgery
from simulations.federate import federate
from simulations.provision import OpenRegion, open_regions
from simulations.run_folder import RunFolder
from tests.support.bundle_builder import Federation
from tests.support.run_bundle import bundled
from tests.support.small_federation import make_federation

R1, R2, R3, R4 = (f"region-{number}" for number in range(1, 5))
Record = dict[str, Any]
Arrays = Mapping[str, np.ndarray]


class AwayAtMasks:
    """A region that does not mask in one round."""

    def __init__(self, region: OpenRegion, server_round: int) -> None:
        self.region = region
        self.server_round = server_round

    def call(
        self, method: str, header: dict[str, JsonValue], arrays: Arrays
    ) -> tuple[dict[str, JsonValue], dict[str, np.ndarray]]:
        if method == "mask" and header["round"] == self.server_round:
            return {"status": "refused", "region": R4, "reason": "not-permitted"}, {}
        return self.region.channel.call(method, header, arrays)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, Verdict]:
    """Four regions, of which one is left out of round 2 after it had trained."""
    folder, plan, set_ups = make_federation(
        tmp_path_factory.mktemp("confidential") / "run", regions=4, quorum=3, rule="secure-sum"
    )
    with open_regions(folder, set_ups) as regions:
        channels: dict[str, Any] = {name: region.channel for name, region in regions.items()}
        channels[R4] = AwayAtMasks(regions[R4], 2)
        federate("inprocess", folder, plan, channels)
    return folder, bundled(folder, plan)


def codes(verdict: Verdict) -> set[str]:
    return {failure.code for failure in verdict.failures}


def test_an_honest_confidential_run_verifies_and_says_what_that_means(
    run: tuple[RunFolder, Verdict],
) -> None:
    folder, verdict = run
    assert verdict.verified, verdict.first_failure
    assert any("The run is confidential" in note for note in verdict.notes)
    assert any("its region's claim" in note for note in verdict.notes)
    # The region that was left out never sent a mask of that attempt: no difference is known.
    assert not any("different rosters" in note for note in verdict.notes)
    facts = read_facts(folder.root)
    for lang, said in (("en", "norm bound is its region’s claim"), ("zh", "保密模式")):
        assert said in render_report(facts, lang=lang)


def last_mask(forgery: Forgery) -> int:
    return forgery.find(R1, "mask")[-1]


def change(edit: Callable[[Record], object]) -> Callable[[Forgery], object]:
    return lambda forgery: forgery.change(R1, last_mask(forgery), edit)


def member(number: int, **changes: str) -> Callable[[Forgery], object]:
    return change(lambda record: record["members"][number].update(changes))


def without_mask(forgery: Forgery) -> None:
    del forgery.entries[R1][last_mask(forgery)]


def doubled(forgery: Forgery) -> None:
    record = forgery.record(R1, last_mask(forgery))
    forgery.entries[R1].append(forgery.sign(R1, {**record, "masked": "0" * 64}))


def grown_again(forgery: Forgery) -> None:
    record = forgery.record(R1, last_mask(forgery))
    fewer = {**record, "attempt": 2, "members": record["members"][:3]}
    for each in (fewer, {**record, "attempt": 3}):
        forgery.entries[R1].append(forgery.sign(R1, each))


def before_its_release(forgery: Forgery) -> None:
    entry = forgery.entries[R1].pop(last_mask(forgery))
    forgery.entries[R1].insert(forgery.find(R1, "release")[-1], entry)


def before_its_round(forgery: Forgery) -> None:
    entry = forgery.entries[R1].pop(last_mask(forgery))
    forgery.entries[R1].insert(forgery.find(R1, "round")[-1], entry)


def with_an_old_key(forgery: Forgery) -> None:
    first = forgery.record(R1, forgery.find(R1, "mask")[0])
    old = first["members"][0]["public_key"]
    forgery.change(R1, last_mask(forgery), lambda r: r["members"][0].update(public_key=old))


def with_one_key_twice(forgery: Forgery) -> None:
    def edit(record: Record) -> None:
        record["members"][1]["public_key"] = record["members"][0]["public_key"]

    forgery.change(R1, last_mask(forgery), edit)


def another_sum(forgery: Forgery) -> None:
    """The server sums three, of what four have masked."""
    index = forgery.find("server", "aggregate")[-1]

    def edit(record: Record) -> None:
        left = record["regions"].pop()
        record["refused"].append({"region": left["region"], "reason": "no-reply"})

    forgery.change("server", index, edit)


def unmasked(forgery: Forgery) -> None:
    """The server claims another attempt than the regions have masked."""
    index = forgery.find("server", "aggregate")[-1]
    forgery.change("server", index, lambda record: record.update(attempt=7))


FORGERIES: dict[str, tuple[str, Callable[[Forgery], object]]] = {
    "an update that left without a mask": ("mask-missing", without_mask),
    "an attempt nobody masked": ("mask-missing", unmasked),
    "a sum of others than it was masked for": ("mask-mismatch", another_sum),
    "one attempt for two rosters": ("mask-attempt", doubled),
    "a region that was left out and is back": ("mask-survivors", grown_again),
    "another round entry of another region": ("mask-member", member(1, round_entry="0" * 64)),
    "another round entry of its own": ("mask-round", member(0, round_entry="0" * 64)),
    "a roster without itself": ("mask-round", change(lambda r: r["members"].pop(0))),
    "another key than agreed": ("mask-digest", member(1, public_key="5" * 64)),
    "another roster than its digest": ("mask-digest", change(lambda r: r.update(roster="0" * 64))),
    "a roster of two": ("mask-too-few", change(lambda r: r.update(members=r["members"][:2]))),
    "a region twice": (
        "mask-roster",
        change(lambda r: r["members"].insert(1, {**r["members"][1], "public_key": "5" * 64})),
    ),
    "a region that is not planned": ("mask-roster", member(3, region="region-9")),
    "more than was released": ("mask-bytes", change(lambda r: r.update(bytes=r["bytes"] + 4))),
    "before the release": ("mask-release", before_its_release),
    "before the round": ("mask-round", before_its_round),
    "a key of an earlier round": ("mask-key-reused", with_an_old_key),
    "one key for two regions": ("mask-key-shared", with_one_key_twice),
    "a mask of another region": ("record", change(lambda r: r.update(region=R2))),
    "a bound that is no number": ("record", change(lambda r: r.update(norm_bound="none"))),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_falsified_mask_is_caught_by_name(
    run: tuple[RunFolder, Verdict], tmp_path: Path, name: str
) -> None:
    expected, forge = FORGERIES[name]
    forgery = Forgery(run[0], R1)
    forge(forgery)
    verdict = verify_bundle(forgery.write(tmp_path / "forged"))
    assert expected in codes(verdict), codes(verdict)


def test_masks_in_an_open_run_are_reported(tmp_path: Path) -> None:
    def end(federation: Federation, region: str, number: int) -> None:
        federation.log(
            region,
            {
                "v": "fedpref-mask/1",
                "run": "run-1",
                "round": number,
                "attempt": 1,
                "region": region,
                "roster": "0" * 64,
                "members": [],
                "masked": "0" * 64,
                "bytes": 1,
                "norm_bound": "1",
                "time": federation.tick(),
            },
        )

    federation = Federation(in_round=end)
    verdict, evidence = verify_with_evidence(federation.run().write(tmp_path))
    assert evidence is not None
    assert "mask-not-planned" in codes(verdict)


def mask(region: str, attempt: int, *regions: str) -> Entry:
    members = [{"region": r, "round_entry": "", "public_key": ""} for r in regions]
    record = {"round": 1, "attempt": attempt, "members": members}
    return Entry(region, 0, "", "mask", record)  # type: ignore[arg-type]


def noted(*masks: Entry) -> list[str]:
    findings = Findings()
    evidence: Any = Evidence.__new__(Evidence)
    object.__setattr__(evidence, "findings", findings)
    by_attempt: dict[tuple[int, int], dict[str, Entry]] = {}
    for each in masks:
        by_attempt.setdefault((1, each.number("attempt")), {})[each.party] = each
    _note_differences(evidence, by_attempt)
    return list(findings.verdict("", "", (), scope="").notes)


def test_what_two_whole_attempts_tell_is_said() -> None:
    every, rest = (R1, R2, R3, R4), (R1, R2, R3)
    whole = [mask(region, 1, *every) for region in every]
    again = [mask(region, 2, *rest) for region in rest]
    (note,) = noted(*whole, *again)
    assert f"may know the update of {R4} alone" in note
    # Where one mask of the first attempt never left, nothing is known of it.
    assert noted(*whole[:3], *again) == []
    assert noted(*whole, *[mask(region, 2, *every) for region in every]) == []
