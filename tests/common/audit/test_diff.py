"""Two bundles beside each other: does the later one only add to the earlier?"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from common.audit import cli
from common.audit.diff import BundleDiff, LogDiff, diff_bundles
from common.audit.export import export_bundle
from common.envelope import sign_record
from common.errors import InputError, VerificationError
from common.privacy import UNIT_AND_RELATION
from common.timestamps import format_time
from tests.support.bundle_builder import REGIONS, SERVER, Federation, record_of

R1, R2 = REGIONS


@pytest.fixture(scope="module")
def _early() -> Federation:
    """After the first of two rounds."""
    early = Federation()
    early.before_round = lambda federation, number: _keep(early, federation, number)
    early.run()
    return early.__dict__["kept"]


def _keep(early: Federation, federation: Federation, number: int) -> None:
    if number == 2:
        early.before_round = None
        early.__dict__["kept"] = federation.copy()


@pytest.fixture
def early(_early: Federation) -> Federation:
    return _early.copy()


@pytest.fixture(scope="module")
def _late() -> Federation:
    return Federation().run()


@pytest.fixture
def late(_late: Federation) -> Federation:
    return _late.copy()


def diff(before: Federation, after: Federation, folder: Path) -> BundleDiff:
    return diff_bundles(before.write(folder / "before"), after.write(folder / "after"))


def logs(found: BundleDiff) -> dict[str, LogDiff]:
    return {log.party: log for log in found.logs}


def test_a_later_bundle_of_the_same_logs_only_adds(
    early: Federation, late: Federation, tmp_path: Path
) -> None:
    found = diff(early, late, tmp_path)
    assert found.only_extends
    assert (found.registry, found.versions, found.keys_added) == ("same", (1, 1), ())
    sizes = len(early.logs[R1]), len(late.logs[R1])
    assert logs(found)[R1] == LogDiff(
        R1, "extended", *sizes, gained={"charge": 1, "release": 1, "round": 1}
    )
    assert logs(found)[SERVER].gained == {"aggregate": 1, "model": 1}
    (one, _) = found.regions
    assert (one.region, one.rounds_before, one.rounds_after) == (R1, (1,), (1, 2))
    assert (one.epsilon_before, one.epsilon_after) == ("1.765649", "2.582274")


def test_a_bundle_beside_itself(late: Federation, tmp_path: Path) -> None:
    found = diff(late, late, tmp_path)
    assert found.only_extends
    assert {log.state for log in found.logs} == {"same"}
    assert all(not log.gained for log in found.logs)


def test_consents_are_among_what_a_log_gained(late: Federation, tmp_path: Path) -> None:
    before = late.copy()
    for customer in (0, 1):
        late.consent(R1, customer, "dpv:ConsentWithdrawn")
    found = diff(before, late, tmp_path)
    assert found.only_extends
    assert logs(found)[R1].gained == {"consent": 2}


def test_the_other_way_round_a_log_is_shorter(
    early: Federation, late: Federation, tmp_path: Path
) -> None:
    found = diff(late, early, tmp_path)
    assert not found.only_extends
    assert {log.state for log in found.logs} == {"shortened"}


@pytest.mark.parametrize("customer", [0, 3])
def test_a_forked_log_is_found_at_its_first_difference(
    early: Federation, late: Federation, tmp_path: Path, customer: int
) -> None:
    """Both bundles may hold by themselves: only beside each other they give the fork away."""
    index = late.find(R1, "consent", customer)
    late.resign(R1, index, lambda record: record.update(lang="de"))
    found = diff(early, late, tmp_path)
    assert logs(found)[R1].state == "forked"
    assert logs(found)[R1].forked_at == index
    assert not found.only_extends
    assert logs(found)[R2].state == "extended"


def test_two_rewritten_histories_that_hold_by_themselves(early: Federation, tmp_path: Path) -> None:
    other = Federation(pause_ms=2000).run()
    found = diff(early, other, tmp_path)
    assert found.integrity == (True, True)
    assert logs(found)[R1].state == "forked"
    assert not found.only_extends


def test_a_missing_log_is_told(early: Federation, late: Federation, tmp_path: Path) -> None:
    del late.logs[R2]
    found = diff(early, late, tmp_path)
    assert logs(found)[R2] == LogDiff(R2, "missing", len(early.logs[R2]), None)
    assert not found.only_extends
    back = diff(late, early, tmp_path / "back")
    assert logs(back)[R2].state == "added"
    assert logs(back)[R2].gained["consent"] == 5


def test_a_bundle_that_does_not_hold_extends_nothing(
    early: Federation, late: Federation, tmp_path: Path
) -> None:
    index = late.find(R2, "charge", 1)
    late.resign(R2, index, lambda record: record.update(epsilon_total="1.9"))
    found = diff(early, late, tmp_path)
    assert {log.state for log in found.logs} == {"extended"}
    assert found.integrity == (True, False)
    assert not found.only_extends


def revoke(federation: Federation) -> None:
    entries = federation.key_entries()
    for entry in entries:
        if (entry["party"], entry["role"]) == (R1, "permit"):
            entry["revoked_at"] = format_time(federation.clock_ms)
    federation.publish_registry(entries)


def test_a_new_registry_version_is_told(
    early: Federation, late: Federation, tmp_path: Path
) -> None:
    late.keys[R1, "approver"] = late.roots[2]
    late.keys[R1, "approver"] = added = type(late.roots[2])("an approver")
    revoke(late)
    found = diff(early, late, tmp_path)
    assert found.only_extends
    assert (found.registry, found.versions) == ("extended", (1, 2))
    assert found.keys_added == ((R1, "approver", added.key_id),)
    (revoked,) = found.keys_revoked
    assert revoked == (R1, "permit", late.keys[R1, "permit"].key_id, format_time(late.clock_ms))


def test_another_registry_is_no_extension(
    early: Federation, late: Federation, tmp_path: Path
) -> None:
    record = record_of(late.registry[0]) | {"issued_at": format_time(1)}
    late.registry = [sign_record(record, *late.roots[:2])]
    found = diff(early, late, tmp_path)
    assert found.registry == "changed"
    assert not found.only_extends


def exported(federation: Federation, folder: Path) -> Path:
    return export_bundle(
        federation.write(folder / "source"), folder / "out", scope="cross-border", region=None,
        signer=federation.keys[SERVER, "aggregator"], created_at_ms=federation.clock_ms + 5000,
        unverified=True,
    ).path  # fmt: skip


def test_bundles_that_cross_borders_are_compared_by_their_checkpoints(
    early: Federation, late: Federation, tmp_path: Path
) -> None:
    after = exported(late, tmp_path / "late")
    for region in REGIONS:
        early.logs[region].pop()
    # The later one has no checkpoint of the earlier one's size, and no consents to rebuild it.
    found = diff_bundles(exported(early, tmp_path / "early"), after)
    assert logs(found)[R1].state == "not comparable"
    assert not found.only_extends
    late.checkpoints[R1].add(len(early.logs[R1]))
    late.checkpoints[R2].add(len(early.logs[R2]))
    found = diff_bundles(tmp_path / "early" / "out", exported(late, tmp_path / "later"))
    assert found.only_extends
    assert logs(found)[R1].gained == {
        "charge": 1, "not in the bundle": 1, "release": 1, "round": 1,
    }  # fmt: skip


def test_a_fork_between_bundles_that_cross_borders(
    early: Federation, late: Federation, tmp_path: Path
) -> None:
    late.checkpoints[R1].add(len(early.logs[R1]))
    late.resign(R1, late.find(R1, "consent", 0), lambda record: record.update(lang="de"))
    found = diff_bundles(exported(early, tmp_path / "a"), exported(late, tmp_path / "b"))
    assert logs(found)[R1].state == "forked"
    assert logs(found)[R1].forked_at is None
    assert not found.only_extends


def test_bundles_of_two_federations_are_not_compared(
    late: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = late.write(tmp_path / "before")
    monkeypatch.setattr("tests.support.bundle_builder.FEDERATION", "other.example")
    with pytest.raises(InputError, match=r"other\.example"):
        diff_bundles(before, Federation().run().write(tmp_path / "after"))


def test_what_cannot_be_used_is_not_compared(late: Federation, tmp_path: Path) -> None:
    after = late.write(tmp_path / "after")
    before = late.write(tmp_path / "before")
    (before / "bundle" / "registry" / "1.json").write_bytes(b"{}")
    with pytest.raises(VerificationError, match="cannot be compared"):
        diff_bundles(before, after)


Call = Callable[..., tuple[int, str]]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    def call(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["fedpref-audit", "diff", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert isinstance(stop.value.code, int)
        return stop.value.code, " ".join(capsys.readouterr().out.split())

    return call


def test_the_command(early: Federation, late: Federation, tmp_path: Path, call: Call) -> None:
    revoke(late)
    before, after = early.write(tmp_path / "before"), late.write(tmp_path / "after")
    code, text = call(before, after)
    assert code == 0
    assert text.startswith("The later bundle only adds to the earlier one.")
    sizes = f"{len(early.logs[R1])} → {len(late.logs[R1])} entries"
    assert f"log {R1} extended {sizes} +1 charge, +1 release, +1 round" in text
    assert f"rounds 1 → 2 ε 1.765649 → 2.582274 ({UNIT_AND_RELATION})" in text
    assert f"revoked permit key of {R1}" in text
    code, text = call(before, after, "--json")
    record = json.loads(text)
    assert (code, record["v"], record["only_extends"]) == (0, "fedpref-diff/1", True)
    assert record["regions"][0]["rounds_after"] == [1, 2]
    code, text = call(after, before)
    assert code == 8
    assert text.startswith("The later bundle does not only add")


def test_the_command_says_which_bundle_does_not_hold(
    early: Federation, late: Federation, tmp_path: Path, call: Call
) -> None:
    late.logs[R1].insert(early.find(R1, "consent", 1), b"[]")
    code, text = call(early.write(tmp_path / "before"), late.write(tmp_path / "after"))
    assert code == 8
    assert "The later bundle itself does not hold" in text
    assert "they differ from entry" in text
