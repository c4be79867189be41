"""Trees and checkpoints alone: quick, and never mistaken for a whole verdict."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from common.audit.cli import app
from common.audit.verify import verify_bundle
from common.audit.verify.only_checkpoints import checkpoints_hold, verify_checkpoints
from common.errors import UsageError
from tests.support.bundle_builder import REGIONS, Federation

R1 = REGIONS[0]


@pytest.fixture
def federation() -> Federation:
    return Federation().run()


def test_it_holds_for_an_honest_bundle_and_says_that_no_more_was_checked(
    federation: Federation, tmp_path: Path
) -> None:
    run = federation.write(tmp_path)
    verdict = verify_checkpoints(run)
    assert checkpoints_hold(verdict)
    assert not verdict.verified
    assert [step.status for step in verdict.steps[3:]] == ["not checked"] * 6
    whole = verify_bundle(run)
    assert verdict.steps[:3] == whole.steps[:3]
    result = CliRunner().invoke(app, ["verify-checkpoints", str(run)], standalone_mode=False)
    assert result.return_value == 0
    assert result.stdout.startswith("Checkpoints hold.")
    assert "were not checked" in result.stdout


def test_a_rewritten_history_is_found(federation: Federation, tmp_path: Path) -> None:
    honest = federation.log_files()
    index = federation.find(R1, "consent", 3)
    federation.resign(R1, index, lambda record: record.update(state="dpv:ConsentGiven"))
    federation.files = {name: data for name, data in honest.items() if "/checkpoint" in name}
    run = federation.write(tmp_path)
    verdict = verify_checkpoints(run)
    assert not checkpoints_hold(verdict)
    assert {(f.step, f.code, f.party) for f in verdict.failures} == {(2, "tree-root", R1)}
    result = CliRunner().invoke(app, ["verify-checkpoints", str(run)], standalone_mode=False)
    assert result.return_value == 8
    assert "DO NOT hold" in result.stdout
    assert f"log {R1}" in result.stdout or f"logs/{R1}" in result.stdout


def test_a_missing_tile_a_changed_file_and_a_foreign_root_are_found(
    federation: Federation, tmp_path: Path
) -> None:
    run = federation.write(tmp_path)
    with pytest.raises(UsageError):
        verify_checkpoints(run, root_key_ids=["x"])
    assert not checkpoints_hold(verify_checkpoints(run, root_key_ids=["0" * 64]))
    (tile,) = (run / f"bundle/logs/{R1}/tile/entries").glob("*/*")
    tile.unlink()
    codes = {failure.code for failure in verify_checkpoints(run).failures}
    assert {"file-missing", "entries-unreadable"} <= codes


def test_what_entries_say_is_not_its_matter(federation: Federation, tmp_path: Path) -> None:
    federation.logs[R1].append(b"no envelope")
    run = federation.write(tmp_path)
    assert checkpoints_hold(verify_checkpoints(run))
    assert not verify_bundle(run).verified
