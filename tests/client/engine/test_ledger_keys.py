"""The δ for keys in the ledger: paid, kept on disk, added up over runs, and never forgotten."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import apsw
import pytest

from client.engine.charges import Charge, ChargeRequest
from client.engine.forecast import Budget
from client.engine.ledger import open_ledger
from client.engine.ledger_store import SCHEMA_VERSION, make_ledger, read_charge, read_charges
from client.engine.restored_ledger import _request
from client.engine.spending import EpsilonCaps, composed_epsilon, spent_by
from common.errors import BudgetError, StorageError
from common.privacy import GaussianEvent, epsilon, epsilon_rdp
from tests.support.keyed_federation import keyed_plan

DELTA, CAPS = 1e-6, EpsilonCaps(50.0)
# The table as releases before this one made it.
OLDER = """
CREATE TABLE charges (
  seq INTEGER PRIMARY KEY, charge_id TEXT NOT NULL UNIQUE, run TEXT NOT NULL,
  model TEXT NOT NULL, purpose TEXT NOT NULL, round INTEGER NOT NULL, attempt INTEGER NOT NULL,
  mechanism TEXT NOT NULL, noise_multiplier TEXT NOT NULL, clipping_norm TEXT NOT NULL,
  sampling_probability TEXT NOT NULL, steps INTEGER NOT NULL, permit_id TEXT NOT NULL,
  time TEXT NOT NULL, head TEXT NOT NULL, UNIQUE (run, round, attempt)
) STRICT;
CREATE TRIGGER charges_no_update BEFORE UPDATE ON charges
  BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
PRAGMA user_version = 3;
"""


def request(number: int = 1, run: str = "run-1", key_delta: str = "0") -> ChargeRequest:
    return ChargeRequest(
        charge_id=f"{run}-{number}",
        run=run,
        model="analytics",
        purpose="fedpref:FederatedAnalytics",
        server_round=number,
        attempt=1,
        mechanism="search-terms",
        noise_multiplier="2.0",
        clipping_norm="1",
        sampling_probability="1",
        steps=1,
        permit_id="permit",
        time="2026-03-01T00:00:00.000Z",
        key_delta=key_delta,
    )


def older_ledger(path: Path, charges: int) -> list[Charge]:
    """A ledger of the format without a δ for keys."""
    connection, made = apsw.Connection(str(path)), []
    connection.execute(OLDER)
    head = "0" * 64
    for number in range(1, charges + 1):
        charge = Charge.after(head, request(number), number)
        asked, head = charge.request, charge.head
        row = [number, *(getattr(asked, name) for name in FIELDS), head]
        connection.execute(f"INSERT INTO charges VALUES ({','.join('?' * 15)})", row)
        made.append(charge)
    connection.close()
    return made


FIELDS = (
    "charge_id",
    "run",
    "model",
    "purpose",
    "server_round",
    "attempt",
    "mechanism",
    "noise_multiplier",
    "clipping_norm",
    "sampling_probability",
    "steps",
    "permit_id",
    "time",
)


def test_a_charge_keeps_its_delta_for_keys_on_disk(tmp_path: Path) -> None:
    make_ledger(path := tmp_path / "l")
    with open_ledger(path, caps=CAPS, delta=DELTA) as ledger:
        first = ledger.charge(request(key_delta="0.0000001"))
        ledger.charge(request(2))
        assert read_charge(path, "run-1-1") == first
    assert [each.request.key_delta for each in read_charges(path)] == ["0.0000001", "0"]
    assert read_charges(path)[0].request.event.key_delta == 1e-7


def test_delta_for_keys_is_taken_off_what_epsilon_is_stated_at(tmp_path: Path) -> None:
    make_ledger(path := tmp_path / "l")
    with open_ledger(path, caps=CAPS, delta=DELTA) as ledger:
        ledger.charge(request(key_delta="0.0000005"))
        one = ledger.spending("run-1", 2026)
        assert one.run == pytest.approx(epsilon([GaussianEvent(2.0)], 5e-7), rel=1e-9)
        assert one.run > epsilon([GaussianEvent(2.0)], DELTA)
        # Over runs they add up.
        ledger.charge(request(run="run-2", key_delta="0.0000003"))
        both = ledger.spending("run-2", 2026)
        assert both.year == pytest.approx(epsilon_rdp([GaussianEvent(2.0, count=2)], 2e-7))


def test_a_delta_that_keys_have_used_up_pays_for_nothing_more(tmp_path: Path) -> None:
    make_ledger(path := tmp_path / "l")
    with open_ledger(path, caps=EpsilonCaps(500.0), delta=DELTA) as ledger:
        for number in range(1, 10):
            ledger.charge(request(run=f"run-{number}", key_delta="0.0000001"))
        for refused in (request(run="run-0", key_delta="0.0000001"),):
            with pytest.raises(BudgetError, match="would bring ε to inf"):
                ledger.charge(refused)
            with pytest.raises(BudgetError, match="would bring ε to inf"):
                ledger.admit("run-0", 2026, [refused.event], model="m", purpose="p")
        # What is left of it still pays for what releases no keys.
        ledger.charge(request(run="run-0"))
    assert len(read_charges(path)) == 10


def test_an_older_ledger_is_read_as_it_is_and_gets_the_column_by_its_writer(
    tmp_path: Path,
) -> None:
    made = older_ledger(path := tmp_path / "l", 2)
    before = path.read_bytes()
    assert read_charges(path) == made
    assert read_charge(path, "run-1-2") == made[1]
    assert path.read_bytes() == before
    with open_ledger(path, caps=CAPS, delta=DELTA) as ledger:
        assert list(ledger.charges) == made
        added = ledger.charge(request(run="run-2", key_delta="0.0000001"))
    assert read_charges(path) == [*made, added]
    connection = apsw.Connection(str(path))
    assert connection.pragma("user_version") == SCHEMA_VERSION
    connection.close()


@pytest.mark.parametrize("stated", ["0", "0.00000001"])
def test_a_delta_that_was_changed_on_disk_is_noticed(tmp_path: Path, stated: str) -> None:
    make_ledger(path := tmp_path / "l")
    with open_ledger(path, caps=CAPS, delta=DELTA) as ledger:
        ledger.charge(request(key_delta="0.0000001"))
    connection = apsw.Connection(str(path))
    connection.execute("DROP TRIGGER charges_no_update")
    connection.execute("UPDATE charges SET key_delta = ?", (stated,))
    connection.close()
    with pytest.raises(StorageError, match="was altered"):
        read_charges(path)
    # Nor by calling it an older one, which has none.
    connection = apsw.Connection(str(path))
    connection.pragma("user_version", 3)
    connection.close()
    with pytest.raises(StorageError, match="was altered"):
        read_charges(path)


def test_a_row_without_a_delta_for_keys_has_the_head_it_always_had() -> None:
    record = request().to_record(1, "0" * 64)
    assert "key_delta" not in record
    with_keys = Charge.after("0" * 64, request(key_delta="0.0000001"), 1)
    assert with_keys.head != Charge.after("0" * 64, request(), 1).head


def test_the_forecast_is_the_ledgers_own_answer() -> None:
    plan = keyed_plan()
    caps = EpsilonCaps(1000.0)
    charges, head = [], "0" * 64
    for number in range(1, 96):
        charge = Charge.after(head, request(run=f"r{number}", key_delta="0.00000001"), number)
        charge = replace(charge, request=replace(charge.request, noise_multiplier="50"))
        charges.append(charge)
    budget = Budget(tuple(charges), caps, DELTA, 2026)
    outlook = budget.outlook(plan)
    # Of a δ of 10⁻⁶, 95 of a hundred parts are gone: with this run three more and no fourth.
    assert outlook.excess is None
    assert outlook.more_runs.count == 3
    assert outlook.runs_a_year.count <= 99
    assert math.isinf(composed_epsilon([list(plan.privacy_events())] * 100, DELTA))
    assert math.isfinite(spent_by((each.request for each in charges), DELTA))


@pytest.mark.parametrize("key_delta", ["0", "0.0000001"])
def test_a_charge_comes_back_from_the_log_with_its_delta_for_keys(key_delta: str) -> None:
    """A restored ledger adopts what the log has: its row must have the very head."""
    charged = request(key_delta=key_delta)
    again = _request(charged.to_record(1, "0" * 64))
    assert again == charged
    assert Charge.after("0" * 64, again, 1) == Charge.after("0" * 64, charged, 1)
