"""`fedpref-region budget` before, during and after exhaustion, and beside a running engine."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import apsw
import pytest

from client import cli
from client.engine.home import RegionHome
from client.engine.permit_desk import sign_permit
from client.engine.service import PrivacyEngine, open_engine
from common import canonical_json
from common.audit.entry import make_entry
from common.audit.log import AuditLog
from common.envelope import Envelope
from common.errors import EXIT_OK, InputError, PolicyError, StorageError
from common.plan import RunPlan
from common.privacy import NEIGHBORING_RELATION, PRIVACY_UNIT, UNIT_AND_RELATION, epsilon
from common.timestamps import format_time, now_ms
from server.aggregation import first_model
from tests.support.command_line import Command, command_line
from tests.support.cosigning import ask
from tests.support.small_federation import APP, make_federation

REGION = "fedpref-region"
CAP = 8.0


@pytest.fixture(scope="module")
def provisioned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunPlan]:
    root = tmp_path_factory.mktemp("budget") / "run"
    folder, plan, _ = make_federation(root, regions=1, quorum=1)
    return folder.root, plan


@pytest.fixture
def home(provisioned: tuple[Path, RunPlan], tmp_path: Path) -> RegionHome:
    shutil.copytree(provisioned[0], tmp_path / "run", symlinks=True)
    return RegionHome.read(tmp_path / "run" / "regions" / "region-1")


@pytest.fixture
def plan(provisioned: tuple[Path, RunPlan]) -> RunPlan:
    return provisioned[1]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return command_line(cli.main, REGION, "budget", patch=monkeypatch, capture=capsys, flat=True)


def as_json(command: Command, home: RegionHome, *more: object) -> dict[str, Any]:
    code, output, _ = command(home.root, "--json", *more)
    assert code == EXIT_OK
    record: dict[str, Any] = json.loads(output)
    return record


def header(plan: RunPlan, server_round: int) -> dict[str, Any]:
    return {
        "run": plan.run_id,
        "round": server_round,
        "attempt": 1,
        "mechanism": plan.mechanism_of(server_round).name,
        "plan": plan.digest,
        "cosignatures": [],
    }


def train(engine: PrivacyEngine, plan: RunPlan, rounds: int) -> None:
    """The first rounds of a run, as a coordinator asks for them."""
    model = {}
    for number in range(1, rounds + 1):
        reply, arrays = ask(engine, header(plan, number), model)
        assert reply["status"] == "ok", engine.last_refusal
        if number == 1:
            model = first_model(arrays["popularity"].astype("f8"), plan)


def named(plan: RunPlan, run: str, **changes: Any) -> RunPlan:
    return RunPlan.from_record({**plan.to_record(), "run_id": run, **changes})


def test_before_during_and_after_exhaustion(
    home: RegionHome, plan: RunPlan, command: Command
) -> None:
    year = format_time(now_ms())[:4]
    whole = epsilon(plan.privacy_events(), float(plan.delta))
    rounds = plan.total_rounds

    before = as_json(command, home)
    total = before["accounts"][0]
    assert (total["kind"], total["name"], total["cap"]) == ("year", year, "8")
    assert (total["spent"], total["left"], before["charges"]) == ("0.0000", "8.0000", 0)
    (run,) = before["runs"]
    assert (run["rounds_charged"], run["rounds"], run["rest_is_paid_for"]) == (0, rounds, True)
    assert (run["more_runs"], run["runs_in_a_fresh_year"]) == (0, 1)
    code, output, _ = command(home.root)
    assert code == EXIT_OK
    assert f"0 of {rounds} rounds are charged. The rest is paid for." in output
    assert "Nothing was ever charged." in output
    assert "No round was ever refused" in output

    second = named(plan, "run-2")
    with open_engine(home) as engine:
        # While there is budget for either of them.
        sign_permit(engine, second, app=APP, valid_for_s=3600)
        train(engine, plan, 2)
    during = as_json(command, home)
    first = [plan.mechanism_of(number).event for number in (1, 2)]
    spent = epsilon([first[0], type(first[1])(first[1].noise_multiplier)], float(plan.delta))
    assert spent <= float(during["accounts"][0]["spent"]) <= spent + 1e-4
    _, own = during["runs"]
    assert own["rounds_charged"] == 2
    assert own["rest_is_paid_for"]

    with open_engine(home) as engine:
        train(engine, plan, rounds)
        reply, arrays = ask(engine, header(second, 1), {})
        assert (reply["reason"], arrays) == ("budget-exhausted", {})
    after = as_json(command, home)
    assert float(after["accounts"][0]["spent"]) == pytest.approx(whole, abs=2e-4)
    assert float(after["accounts"][0]["left"]) < 0.01
    newest, finished = after["runs"]
    assert (finished["run"], finished["rounds_charged"]) == (plan.run_id, rounds)
    assert (newest["run"], newest["rest_is_paid_for"]) == ("run-2", False)
    assert newest["exceeds"] == year
    (refused,) = after["refused"]
    assert (refused["run"], refused["round"]) == ("run-2", 1)
    assert f"The privacy budget of {year} cannot pay for run run-2" in refused["detail"]
    code, output, _ = command(home.root)
    assert code == EXIT_OK
    assert f"The rest is not paid for: it would bring ε of {year} to" in output
    assert "Refused for want of budget, as the log has it: 1:" in output
    assert "cannot pay for run run-2" in output
    with AuditLog.open_read_only(home.log) as log:
        *_, (_, last) = log.entries()
    assert Envelope.decode(last).record()["reason"] == "budget-exhausted"


def test_every_epsilon_has_its_delta_unit_and_relation(
    home: RegionHome, plan: RunPlan, command: Command
) -> None:
    with open_engine(home) as engine:
        sign_permit(engine, named(plan, "run-2"), app=APP, valid_for_s=3600)
        train(engine, plan, 1)
    _, output, _ = command(home.root)
    stated = f"δ = 1e-06; {UNIT_AND_RELATION}"
    # What is spent and left; why run-2 is not paid for beside run-1; each charge.
    assert output.count(stated) >= 3
    record = as_json(command, home)
    assert record["neighboring_relation"] == NEIGHBORING_RELATION
    assert record["privacy_unit"] == PRIVACY_UNIT
    assert float(record["delta"]) == 1e-6


def test_it_is_shown_while_an_engine_runs_and_changes_nothing(
    home: RegionHome, plan: RunPlan
) -> None:
    """In a process of its own, as operators call it."""
    program = [str(Path(sys.executable).with_name(REGION)), "budget", str(home.root), "--json"]
    with open_engine(home) as engine:
        train(engine, plan, 1)
        size = engine.log.size
        shown = subprocess.run(program, capture_output=True, text=True, check=True)
        assert json.loads(shown.stdout)["charges"] == 1
        train_again, _ = ask(engine, header(plan, 1), {})
        assert train_again["status"] == "ok"
        assert engine.log.size == size
        assert len(engine.ledger.charges) == 1


def test_a_plan_that_is_not_permitted_can_be_asked_about(
    home: RegionHome, plan: RunPlan, command: Command, tmp_path: Path
) -> None:
    small = named(plan, "small", model="another")
    path = tmp_path / "plan.json"
    path.write_bytes(canonical_json.encode(small.to_record()))
    (run,) = as_json(command, home, "--plan", path)["runs"]
    assert (run["run"], run["model"], run["rest_is_paid_for"]) == ("small", "another", True)
    path.write_bytes(b"{}")
    assert command(home.root, "--plan", path)[0] == InputError.exit_code


def logged_policy(home: RegionHome, **changes: Any) -> None:
    """Has the controller change the policy, and log it."""
    policy = canonical_json.decode(home.policy.read_bytes()) | changes
    home.policy.write_bytes(canonical_json.encode(policy))
    from client.engine.policy import read_policy

    record = {
        "v": "fedpref-policy/1",
        "region": home.region,
        "policy_sha256": read_policy(home.policy).digest,
        "policy": policy,
        "in_force_from": format_time(now_ms()),
    }
    with AuditLog.open(home.log, origin=home.origin, signer=home.signer("log")) as log:
        log.append([make_entry(record, home.signer("controller"))])


def test_parts_of_models_and_purposes_are_shown_beside_the_total(
    home: RegionHome, plan: RunPlan, command: Command
) -> None:
    logged_policy(
        home,
        epsilon_caps_per_model={plan.model: "4", "another": "2"},
        epsilon_caps_per_purpose={plan.purpose: "7.5"},
    )
    record = as_json(command, home)
    assert [(each["kind"], each["name"], each["cap"]) for each in record["accounts"][1:]] == [
        ("model", "another", "2"),
        ("model", plan.model, "4"),
        ("purpose", plan.purpose, "7.5"),
    ]
    (run,) = record["runs"]
    assert not run["rest_is_paid_for"]
    assert run["exceeds"].endswith(f"for model {plan.model}")
    with open_engine(home) as engine:
        reply, _ = ask(engine, header(plan, 1), {})
        assert reply["reason"] == "budget-exhausted"
        assert engine.ledger.charges == ()
    (refused,) = as_json(command, home)["refused"]
    assert f"for model {plan.model} cannot pay" in refused["detail"]


def test_a_policy_that_was_not_logged_is_not_shown_as_in_force(
    home: RegionHome, command: Command
) -> None:
    policy = canonical_json.decode(home.policy.read_bytes()) | {"epsilon_cap_per_year": "800"}
    home.policy.write_bytes(canonical_json.encode(policy))
    code, output, errors = command(home.root)
    assert (code, output) == (PolicyError.exit_code, "")
    assert "signed and logged" in " ".join(errors.split())


def test_an_old_ledger_is_not_shown_as_the_budget(
    home: RegionHome, plan: RunPlan, command: Command, tmp_path: Path
) -> None:
    old = tmp_path / "old.sqlite"
    shutil.copy(home.ledger, old)
    with open_engine(home) as engine:
        train(engine, plan, 1)
    for ending in ("", "-wal", "-shm"):
        home.ledger.with_name(home.ledger.name + ending).unlink(missing_ok=True)
    shutil.copy(old, home.ledger)
    code, output, errors = command(home.root)
    assert (code, output) == (StorageError.exit_code, "")
    assert "old or foreign copy" in " ".join(errors.split())


def test_an_altered_ledger_is_not_shown(home: RegionHome, plan: RunPlan, command: Command) -> None:
    with open_engine(home) as engine:
        train(engine, plan, 1)
    connection = apsw.Connection(str(home.ledger))
    connection.execute("DROP TRIGGER charges_no_update")
    connection.execute("UPDATE charges SET noise_multiplier = '99'")
    connection.close()
    code, _, errors = command(home.root)
    assert code == StorageError.exit_code
    assert "was altered" in errors


def test_permits_that_hold_now_are_forecast_or_else_the_newest(
    home: RegionHome, plan: RunPlan, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_engine(home) as engine:
        sign_permit(engine, named(plan, "short"), app=APP, valid_for_s=3600)
    assert [run["run"] for run in as_json(command, home)["runs"]] == ["short", plan.run_id]
    later_ms = now_ms() + 400 * 24 * 3600 * 1000
    monkeypatch.setattr("common.timestamps.now_ms", lambda: later_ms)
    later = as_json(command, home)
    assert [run["run"] for run in later["runs"]] == ["short"]
    assert later["year"] == int(format_time(later_ms)[:4])
    (home.permits / "short.json").write_bytes(b"{}")
    assert command(home.root)[0] == InputError.exit_code
    # What a crash left between plan and permit is no permit.
    (home.permits / "short.json").unlink()
    assert [run["run"] for run in as_json(command, home)["runs"]] == [plan.run_id]


def test_a_clock_set_back_shows_no_year_that_is_over_as_unspent(
    home: RegionHome, plan: RunPlan, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_engine(home) as engine:
        train(engine, plan, 1)
    year = format_time(now_ms())[:4]
    monkeypatch.setattr("common.timestamps.now_ms", lambda: 1_700_000_000_000)
    shown = as_json(command, home)
    assert str(shown["year"]) == year
    assert float(shown["accounts"][0]["spent"]) > 0
