"""A good region has no problem; of a bad one each is told, and none hides another."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from client.engine.policy import read_policy
from client.inspection import inspect_region as inspection_module
from client.inspection.findings import Kind
from client.inspection.inspect_region import inspect_region
from common.audit.log import AuditLog
from common.errors import EXIT_OK
from tests.support.bad_regions import (
    BAD,
    Bad,
    Case,
    SimulatedMachine,
    Surroundings,
    chmod,
    lose_column,
    made_surroundings,
    occupy,
    region_in,
    spoilt,
)
from tests.support.other_user import as_user
from tests.support.region_folder import RegionFolder, toml_text
from tests.support.small_federation import APP, N_ITEMS


@pytest.fixture(scope="module")
def surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Surroundings]:
    with made_surroundings(tmp_path_factory.mktemp("check")) as made:
        yield made


@pytest.fixture
def region(surroundings: Surroundings, tmp_path: Path) -> RegionFolder:
    return region_in(surroundings, tmp_path / "eu")


def test_a_good_region_has_no_problem(region: RegionFolder, surroundings: Surroundings) -> None:
    found = inspect_region(region.root, machine=SimulatedMachine())
    assert found.problems == ()
    assert found.exit_code == EXIT_OK
    assert found.region == "region-1"
    assert found.policy == read_policy(region.home.policy)
    assert found.in_force is not None
    assert 0 < found.in_force <= 20
    (run,) = found.runs
    assert (run.plan, run.permit.app) == (surroundings.plan, APP)
    assert run.outlook is not None
    assert (run.outlook.rounds_charged, run.outlook.excess) == (0, None)
    # To the byte: what the plan's arrays have, round by round.
    factors = surroundings.plan.vocabulary_size * surroundings.plan.rank * 4
    assert [each.bytes_a_round for each in run.arrays] == [N_ITEMS * 4, factors]
    assert run.total_bytes == N_ITEMS * 4 + factors * surroundings.plan.training_rounds
    # All are one user here, and it is said.
    assert any("run as one user" in note for note in found.notes)


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.name)
def test_a_bad_region_s_problem_is_found_with_file_field_and_remedy(
    bad: Bad,
    region: RegionFolder,
    surroundings: Surroundings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with spoilt(bad, Case(region, surroundings, monkeypatch)) as found:
        matching = [
            each
            for each in found.problems
            if each.kind is bad.kind and bad.place in each.place and bad.message in each.message
        ]
        assert len(matching) == 1, found.problems
        assert bad.remedy in matching[0].remedy
        assert found.exit_code != EXIT_OK
        assert all(each.remedy and each.message and each.exit_code for each in found.problems)


def test_every_kind_of_problem_is_in_the_table() -> None:
    assert {bad.kind for bad in BAD} == set(Kind) - {Kind.LOG}


def test_one_fault_hides_no_other(region: RegionFolder, surroundings: Surroundings) -> None:
    """A certificate that is wrong in three ways, a port, a mode, a column, the policy: all told."""
    case = Case(region, surroundings, pytest.MonkeyPatch())
    case.address("everything")
    occupy(case)
    chmod("home/keys/log.pem", 0o604)(case)
    lose_column(case)
    region.write(policy={"rounds_max": 5})
    found = inspect_region(region.root, machine=SimulatedMachine())
    case.held[0].close()
    told = [(each.kind, each.message) for each in found.problems]
    for kind, message in (
        (Kind.FILES, "0604"),
        (Kind.POLICY, "It is 5"),
        (Kind.STORE, "no column"),
        (Kind.CERTIFICATES, "expired at"),
        (Kind.CERTIFICATES, "not by the authority"),
        (Kind.PORTS, "in use"),
    ):
        assert any(k is kind and message in text for k, text in told), (kind, message, told)
    # A key that others can use is none to the engine either.
    assert any(kind is Kind.KEYS for kind, _ in told)
    assert found.exit_code == found.problems[0].exit_code


def test_a_region_that_was_only_installed_is_told_what_comes_next(region: RegionFolder) -> None:
    home = region.home
    for path in (*home.root.glob("*.sqlite*"), home.policy, home.registry / "1.json"):
        path.unlink()
    (problem,) = inspect_region(region.root, offline=True, machine=SimulatedMachine()).problems
    assert (problem.kind, problem.place) == (Kind.FILES, str(home.root))
    assert "not begun yet" in problem.message
    assert "fedpref-region commission" in problem.remedy


def test_a_log_that_does_not_hold_is_told(region: RegionFolder) -> None:
    home = region.home
    with AuditLog.open(home.log, origin=home.origin, signer=home.signer("log")) as log:
        log.append([b"no envelope"])
    found = inspect_region(region.root, offline=True, machine=SimulatedMachine())
    (problem,) = [each for each in found.problems if each.kind is Kind.LOG]
    assert problem.place == str(home.log)
    assert "does not hold" in problem.message
    assert "fedpref-audit" in problem.remedy


def test_what_ends_soon_is_a_note_and_no_problem(
    region: RegionFolder, surroundings: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    Case(region, surroundings, monkeypatch).address("soon")
    found = inspect_region(region.root, machine=SimulatedMachine())
    assert found.problems == ()
    assert any("ends in 9 days" in note for note in found.notes)


def test_offline_nobody_is_reached(region: RegionFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        inspection_module, "check_superlink", lambda *_, **__: pytest.fail("it was asked")
    )
    monkeypatch.setattr(inspection_module, "check_witnesses", lambda *_: pytest.fail("asked"))
    found = inspect_region(region.root, offline=True, machine=SimulatedMachine())
    assert found.problems == ()
    assert any("--offline" in note for note in found.notes)


def test_beside_a_running_region_its_own_ports_are_no_problem(region: RegionFolder) -> None:
    home = region.home
    with (
        AuditLog.open(home.log, origin=home.origin, signer=home.signer("log")),
        socket.create_server(("127.0.0.1", region.tables["node"]["runtime_port"])),
    ):
        found = inspect_region(region.root, machine=SimulatedMachine())
    assert found.problems == ()
    assert any(f"process {os.getpid()} writes its log" in note for note in found.notes)


def test_nothing_is_changed(region: RegionFolder) -> None:
    def state() -> dict[str, bytes]:
        return {
            str(path): path.read_bytes()
            for path in region.root.rglob("*")
            # SQLite's shared memory is made by whoever reads.
            if path.is_file() and not path.name.endswith(("-shm", "-wal"))
        }

    before = state()
    inspect_region(region.root, machine=SimulatedMachine())
    assert state() == before


def test_a_folder_of_nothing_is_told_once_and_does_not_break(tmp_path: Path) -> None:
    found = inspect_region(tmp_path, offline=True)
    assert [each.kind for each in found.problems] == [Kind.SETTINGS, Kind.FILES]
    assert found.region == ""
    assert found.exit_code == found.problems[0].exit_code == 3


def test_settings_of_another_region_s_form_are_told_field_by_field(tmp_path: Path) -> None:
    (tmp_path / "region.toml").write_text(toml_text({"region": {"name": "x"}, "nodes": {}}))
    found = inspect_region(tmp_path, offline=True)
    places = [each.place.partition(", ")[2] for each in found.problems]
    for place in ("[region] federation", "[region] jurisdiction", "[coordinator]", "[nodes]"):
        assert place in places


@pytest.fixture
def common_folder() -> Iterator[Path]:
    """A folder that other users can get to, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp(prefix="fedpref-check-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def test_root_reads_the_home_as_the_engine_s_user_and_leaves_no_file_of_its_own(
    surroundings: Surroundings, common_folder: Path
) -> None:
    region = region_in(surroundings, common_folder / "eu")
    # Users that every Debian has: daemon, bin and sys.
    engine, node, relay = 1, 2, 3
    region.write(engine={"user": engine}, node={"user": node}, relay={"user": relay})
    # Root's files are not the engine's.
    found = inspect_region(region.root, offline=True)
    told = "belongs to user 0; the engine runs as user 1."
    assert any(told in each.message for each in found.problems)
    for path in (region.root / "home", *(region.root / "home").rglob("*")):
        os.chown(path, engine, engine)
    os.chown(region.root / "node" / "node_key", node, node)
    found = inspect_region(region.root, offline=True)
    assert found.problems == ()
    assert not any("one user" in note for note in found.notes)
    assert {path.stat().st_uid for path in (region.root / "home").rglob("*")} == {engine}
    assert os.geteuid() == 0


def test_another_user_is_told_that_the_home_is_not_theirs(
    surroundings: Surroundings, common_folder: Path
) -> None:
    region = region_in(surroundings, common_folder / "eu")
    region.root.chmod(0o755)
    (region.root / "node").chmod(0o700)

    def look() -> list[list[str]]:
        found = inspect_region(region.root, offline=True)
        return [[str(each.kind), each.message] for each in found.problems]

    told = as_user(1, 1, look)
    assert ["files", "It cannot be entered: Permission denied."] in told
    # What is the node's alone is no problem of the engine's user.
    assert not any(kind in ("node-key", "certificates") for kind, _ in told)
