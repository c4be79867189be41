"""Every field of a charge is under the ledger's head: none can be altered in its row."""

from __future__ import annotations

import hashlib
from dataclasses import fields, replace

import pytest

from client.engine.charges import GENESIS_HEAD, Charge, ChargeRequest
from common import canonical_json
from common.privacy import GaussianEvent

REQUEST = ChargeRequest(
    charge_id="01ARZ3NDEKTSV4RRFFQ69G5FAV",
    run="run-1",
    model="preference-model",
    purpose="fedpref:FederatedTraining",
    server_round=2,
    attempt=1,
    mechanism="tied-autoencoder",
    noise_multiplier="1.25",
    clipping_norm="0.5",
    sampling_probability="0.1",
    steps=20,
    permit_id="01ARZ3NDEKTSV4RRFFQ69G5FAW",
    time="2026-12-31T23:59:59.999Z",
)


def test_a_charge_is_the_event_that_it_pays_for() -> None:
    assert REQUEST.event == GaussianEvent(1.25, 0.1, 20)
    assert REQUEST.year == 2026


@pytest.mark.parametrize("name", [field.name for field in fields(ChargeRequest)])
def test_each_field_changes_the_head(name: str) -> None:
    value = getattr(REQUEST, name)
    other = replace(REQUEST, **{name: value + 1 if isinstance(value, int) else f"{value}0"})
    assert Charge.after(GENESIS_HEAD, other, 1).head != Charge.after(GENESIS_HEAD, REQUEST, 1).head


def test_the_head_continues_the_one_before_and_its_row_number() -> None:
    first = Charge.after(GENESIS_HEAD, REQUEST, 1)
    heads = {
        first.head,
        Charge.after(first.head, REQUEST, 1).head,
        Charge.after(GENESIS_HEAD, REQUEST, 2).head,
    }
    assert len(heads) == 3
    record = REQUEST.to_record(1, GENESIS_HEAD)
    assert first.head == hashlib.sha256(canonical_json.encode(record)).hexdigest()
    assert (record["model"], record["purpose"]) == (REQUEST.model, REQUEST.purpose)
