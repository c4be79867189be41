"""The ledger charges before anything runs, refuses beyond its cap, and notices alteration."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.engine import ledger as ledger_module
from client.engine.charges import GENESIS_HEAD, ChargeRequest
from client.engine.ledger import Ledger
from client.engine.ledger_store import SCHEMA_VERSION, make_ledger, read_charges
from client.engine.refusals import ClockError
from client.engine.spending import EpsilonCaps, composed_epsilon, spent_by
from common import privacy
from common.errors import BudgetError, StorageError
from common.privacy import GaussianEvent, epsilon, epsilon_rdp

DELTA = 1e-6


@contextmanager
def open_ledger(path: Path, *, cap: float, delta: float, **tables: object) -> Iterator[Ledger]:
    if not path.exists():
        make_ledger(path)
    caps = EpsilonCaps(cap, **tables)
    with ledger_module.open_ledger(path, caps=caps, delta=delta) as ledger:
        yield ledger


def request(server_round: int = 1, run: str = "run-1", sigma: str = "2.0") -> ChargeRequest:
    return ChargeRequest(
        charge_id=f"{run}-{server_round}",
        run=run,
        model="preference-model",
        purpose="fedpref:FederatedTraining",
        server_round=server_round,
        attempt=1,
        mechanism="factors",
        noise_multiplier=sigma,
        clipping_norm="1",
        sampling_probability="1",
        steps=1,
        permit_id="permit",
        time="2026-03-01T00:00:00.000Z",
    )


def test_a_charge_is_on_disk_when_it_returns(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with open_ledger(path, cap=8, delta=DELTA) as ledger:
        assert ledger.head == GENESIS_HEAD
        charge = ledger.charge(request())
    with open_ledger(path, cap=8, delta=DELTA) as ledger:
        assert ledger.charges == (charge,)
        assert ledger.head == charge.head


def test_spending_of_one_run_is_the_pld_value(tmp_path: Path) -> None:
    with open_ledger(tmp_path / "l", cap=50, delta=DELTA) as ledger:
        for number in (1, 2, 3):
            ledger.charge(request(number))
        spending = ledger.spending("run-1", 2026)
    expected = epsilon([GaussianEvent(2.0, 1.0, 3)], DELTA)
    assert spending.run == pytest.approx(expected, rel=1e-6)
    assert spending.year == spending.lifetime == spending.run


def test_what_was_foreseen_of_a_run_is_not_worked_out_again_in_its_rounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sigmas = ["3.7", "2.9", "2.9"]
    with open_ledger(tmp_path / "l", cap=50, delta=DELTA) as ledger:
        ledger.foresee("run-1", 2026, [GaussianEvent(float(sigma)) for sigma in sigmas])
        assert ledger.charges == ()
        for uncached in ("_loss_distribution", "_rdp_epsilon"):
            monkeypatch.delattr(privacy, uncached)
        for number, sigma in enumerate(sigmas, start=1):
            ledger.charge(request(number, sigma=sigma))
        spending = ledger.spending("run-1", 2026)
        with pytest.raises(NameError):
            ledger.charge(request(4, sigma="2.3"))
    assert spending.run == epsilon([GaussianEvent(float(sigma)) for sigma in sigmas], DELTA)


def test_runs_chosen_one_after_another_compose_by_rdp_and_never_below_pld() -> None:
    runs = [[GaussianEvent(2.0)], [GaussianEvent(3.0)]]
    together = composed_epsilon(runs, DELTA)
    assert together == epsilon_rdp([*runs[0], *runs[1]], DELTA)
    assert together >= epsilon([*runs[0], *runs[1]], DELTA)


def test_a_charge_beyond_the_cap_is_refused_and_not_written(tmp_path: Path) -> None:
    path = tmp_path / "l"
    cap = epsilon([GaussianEvent(2.0)], DELTA) * 1.01
    with open_ledger(path, cap=cap, delta=DELTA) as ledger:
        ledger.charge(request(1))
        with pytest.raises(BudgetError, match=r"cannot pay for round 2 of run run-1"):
            ledger.charge(request(2))
        assert len(ledger.charges) == 1
    with open_ledger(path, cap=cap, delta=DELTA) as ledger:
        assert len(ledger.charges) == 1


def test_the_cap_holds_across_runs(tmp_path: Path) -> None:
    cap = epsilon([GaussianEvent(2.0)], DELTA) * 1.01
    path = tmp_path / "l"
    with open_ledger(path, cap=cap, delta=DELTA) as ledger:
        ledger.charge(request(1, run="first"))
    with open_ledger(path, cap=cap, delta=DELTA) as ledger:
        with pytest.raises(BudgetError, match="run second as planned"):
            ledger.admit("second", 2026, [GaussianEvent(2.0)], model="m", purpose="p")
        with pytest.raises(BudgetError, match="of run second"):
            ledger.charge(request(1, run="second"))


def test_another_year_has_its_own_budget_and_the_odometer_goes_on(tmp_path: Path) -> None:
    cap = epsilon([GaussianEvent(2.0)], DELTA) * 1.01
    with open_ledger(tmp_path / "l", cap=cap, delta=DELTA) as ledger:
        ledger.charge(request(1, run="first"))
        later = replace(request(1, run="second"), time="2027-01-01T00:00:00.000Z")
        ledger.charge(later)
        spending = ledger.spending("second", 2027)
    assert spending.year <= cap < spending.lifetime


def test_a_round_is_paid_for_once(tmp_path: Path) -> None:
    with open_ledger(tmp_path / "l", cap=50, delta=DELTA) as ledger:
        ledger.charge(request(1))
        again = replace(request(1), charge_id="other", attempt=2)
        with pytest.raises(BudgetError, match="charged already"):
            ledger.charge(again)


def test_another_attempt_at_a_round_is_paid_for_by_itself(tmp_path: Path) -> None:
    with open_ledger(tmp_path / "l", cap=50, delta=DELTA) as ledger:
        ledger.charge(request(1))
        spent = ledger.spending("run-1", 2026).run
        again = replace(request(1), charge_id="other", attempt=2)
        ledger.charge(again, anew=True)
        assert ledger.spending("run-1", 2026).run > spent
        newest = ledger.find("run-1", 1)
        assert newest is not None
        assert newest.request.attempt == 2
        # The same attempt is paid for once.
        with pytest.raises(BudgetError, match="charged already"):
            ledger.charge(replace(again, charge_id="third"), anew=True)


def test_an_infinite_or_nan_epsilon_is_refused(tmp_path: Path) -> None:
    with open_ledger(tmp_path / "l", cap=float("nan"), delta=DELTA) as ledger:
        with pytest.raises(BudgetError):
            ledger.charge(request(1))


def test_rows_can_be_neither_changed_nor_deleted(tmp_path: Path) -> None:
    path = tmp_path / "l"
    with open_ledger(path, cap=50, delta=DELTA) as ledger:
        ledger.charge(request(1))
    connection = apsw.Connection(str(path))
    for statement in ("UPDATE charges SET noise_multiplier = '99'", "DELETE FROM charges"):
        with pytest.raises(apsw.ConstraintError, match="append-only"):
            connection.execute(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE charges SET noise_multiplier = '99' WHERE seq = 1",
        "UPDATE charges SET run = 'other' WHERE seq = 2",
        "DELETE FROM charges WHERE seq = 1",
        "UPDATE charges SET head = (SELECT head FROM charges WHERE seq = 2) WHERE seq = 1",
    ],
)
def test_an_altered_row_is_noticed(tmp_path: Path, statement: str) -> None:
    path = tmp_path / "l"
    with open_ledger(path, cap=50, delta=DELTA) as ledger:
        ledger.charge(request(1))
        ledger.charge(request(2))
    connection = apsw.Connection(str(path))
    connection.execute("DROP TRIGGER charges_no_update; DROP TRIGGER charges_no_delete")
    connection.execute(statement)
    connection.close()
    with pytest.raises(StorageError, match="was altered"):
        with open_ledger(path, cap=50, delta=DELTA):
            pass


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "l"
    program = (
        "import sys; from pathlib import Path; from client.engine.ledger import open_ledger\n"
        "from client.engine.spending import EpsilonCaps\n"
        "from common.errors import StorageError\n"
        "try:\n"
        "    with open_ledger(Path(sys.argv[1]), caps=EpsilonCaps(8), delta=1e-6):\n"
        "        print('opened')\n"
        "except StorageError as error: print(error)\n"
    )
    with open_ledger(path, cap=8, delta=DELTA):
        other = subprocess.run(
            [sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True
        )
    assert "in use by another process" in other.stdout


def test_a_missing_ledger_is_not_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "l"
    with pytest.raises(StorageError, match="is missing"):
        with ledger_module.open_ledger(path, caps=EpsilonCaps(8), delta=DELTA):
            pass
    assert not path.exists()


def test_a_ledger_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "l"
    make_ledger(path)
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(StorageError, match="cannot be made"):
        make_ledger(path)


def test_a_file_that_is_no_ledger_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "l"
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(StorageError, match="cannot be used"):
        with open_ledger(path, cap=8, delta=DELTA):
            pass


@settings(max_examples=25, deadline=None)
@given(
    sigmas=st.lists(st.floats(1.0, 20.0), min_size=1, max_size=6),
    runs=st.lists(st.integers(0, 2), min_size=6, max_size=6),
    cap=st.floats(0.5, 10.0),
)
def test_whatever_is_asked_the_year_never_exceeds_its_cap(
    tmp_path_factory: pytest.TempPathFactory, sigmas: list[float], runs: list[int], cap: float
) -> None:
    path = tmp_path_factory.mktemp("ledger") / "l"
    with open_ledger(path, cap=cap, delta=DELTA) as ledger:
        before = 0.0
        for number, (sigma, run) in enumerate(zip(sigmas, runs, strict=False), start=1):
            try:
                ledger.charge(request(number, run=f"run-{run}", sigma=f"{sigma:.4f}"))
            except BudgetError:
                continue
            spent = ledger.spending("", 2026).year
            assert before <= spent <= cap
            before = spent


def test_a_clock_set_back_finds_no_fresh_budget(tmp_path: Path) -> None:
    with open_ledger(tmp_path / "l", cap=50, delta=DELTA) as ledger:
        ledger.charge(request(1))
        earlier = replace(request(2), time="2025-12-31T23:59:59.000Z")
        with pytest.raises(ClockError, match="The clock says"):
            ledger.charge(earlier)
        assert len(ledger.charges) == 1


ONE_ROUND = epsilon([GaussianEvent(2.0)], DELTA)


@pytest.mark.parametrize(
    ("table", "field"), [("models", "model"), ("purposes", "purpose")], ids=["model", "purpose"]
)
def test_a_part_of_the_budget_holds_below_the_total(tmp_path: Path, table: str, field: str) -> None:
    """Neither asking for a whole run nor charging a round brings a part above its cap."""
    path, caps = tmp_path / "l", {"a": ONE_ROUND * 1.01, "b": 40.0}
    names = {"model": "a", "purpose": "a"}
    with open_ledger(path, cap=50, delta=DELTA, **{table: caps}) as ledger:
        ledger.charge(replace(request(1), **{field: "a"}))
        with pytest.raises(BudgetError, match=f"budget of 2026 for {field} a cannot pay for round"):
            ledger.charge(replace(request(2), **{field: "a"}))
        with pytest.raises(BudgetError, match=f"for {field} a cannot pay for run another"):
            ledger.admit("another", 2026, [GaussianEvent(2.0)], **names)
        # The others' part is untouched, and so is this one's in another year.
        ledger.charge(replace(request(2), **{field: "b"}))
        ledger.charge(replace(request(3), **{field: "a"}, time="2027-01-01T00:00:00.000Z"))
        assert len(ledger.charges) == 3


@pytest.mark.parametrize(("table", "field"), [("models", "model"), ("purposes", "purpose")])
def test_who_names_another_model_finds_no_budget_there(
    tmp_path: Path, table: str, field: str
) -> None:
    with open_ledger(tmp_path / "l", cap=50, delta=DELTA, **{table: {"known": 50.0}}) as ledger:
        with pytest.raises(BudgetError, match=f"for {field} unknown .* the cap is 0"):
            ledger.charge(replace(request(1), **{field: "unknown"}))
        assert ledger.charges == ()


def test_parts_do_not_add_up_to_more_than_the_total(tmp_path: Path) -> None:
    total = epsilon_rdp([GaussianEvent(2.0, 1.0, 2)], DELTA)
    models = {"a": 40.0, "b": 40.0, "c": 40.0}
    with open_ledger(tmp_path / "l", cap=total * 1.01, delta=DELTA, models=models) as ledger:
        ledger.charge(replace(request(1, run="first"), model="a"))
        ledger.charge(replace(request(1, run="second"), model="b"))
        with pytest.raises(BudgetError, match="budget of 2026 cannot pay"):
            ledger.charge(replace(request(1, run="third"), model="c"))


@settings(max_examples=20, deadline=None)
@given(
    asked=st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from("pq"), st.floats(1.5, 20.0)),
        min_size=1,
        max_size=6,
    ),
    caps=st.fixed_dictionaries({"a": st.floats(0.5, 6.0), "b": st.floats(0.5, 6.0)}),
    purpose_cap=st.floats(0.5, 6.0),
    total=st.floats(1.0, 8.0),
)
def test_whatever_is_asked_no_account_exceeds_its_cap(
    tmp_path_factory: pytest.TempPathFactory,
    asked: list[tuple[str, str, float]],
    caps: dict[str, float],
    purpose_cap: float,
    total: float,
) -> None:
    path = tmp_path_factory.mktemp("ledger") / "l"
    held = EpsilonCaps(total, caps, {"p": purpose_cap, "q": 8.0})
    make_ledger(path)
    with ledger_module.open_ledger(path, caps=held, delta=DELTA) as ledger:
        for number, (model, purpose, sigma) in enumerate(asked, start=1):
            asking = replace(
                request(number, run=f"run-{number % 2}", sigma=f"{sigma:.3f}"),
                model=model,
                purpose=purpose,
            )
            try:
                ledger.charge(asking)
            except BudgetError:
                continue
        requests = [charge.request for charge in ledger.charges]
    assert "c" not in {each.model for each in requests}
    for account in held.all_accounts(2026, requests):
        assert spent_by(filter(account.counts, requests), DELTA) <= account.cap


def test_a_ledger_is_read_beside_its_writer(tmp_path: Path) -> None:
    path = tmp_path / "l"
    with open_ledger(path, cap=50, delta=DELTA) as ledger:
        charge = ledger.charge(request(1))
        assert read_charges(path) == [charge]
        ledger.charge(request(2))
        assert len(read_charges(path)) == 2
    assert len(read_charges(path)) == 2


@pytest.mark.parametrize(
    ("version", "whose"), [(SCHEMA_VERSION - 2, "an earlier"), (SCHEMA_VERSION + 1, "a later")]
)
def test_a_ledger_of_another_version_is_left_alone(
    tmp_path: Path, version: int, whose: str
) -> None:
    path = tmp_path / "l"
    make_ledger(path)
    connection = apsw.Connection(str(path))
    connection.pragma("user_version", version)
    connection.close()
    with pytest.raises(StorageError, match=f"{whose} version of fedpref"):
        with open_ledger(path, cap=8, delta=DELTA):
            pass
    with pytest.raises(StorageError, match=f"format {version}"):
        read_charges(path)
