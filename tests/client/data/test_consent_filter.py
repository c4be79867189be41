from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from typing import Any

import pytest

from client.data.consent_filter import EligibleCustomers, filter_consented
from client.data.quality import quality_gate
from client.data.transactions import CheckedTransactions, Purchases, Transactions
from common.catalogue import Catalogue
from common.consent import FEDERATED_ANALYTICS, FEDERATED_TRAINING, RECOMMENDATIONS
from common.errors import ConsentError
from tests.support.stages import purchases

Make = Callable[..., Transactions]
SIDS = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("anna", "ben", "eve", "zoe")}


@pytest.fixture
def checked(make_transactions: Make, catalogue: Catalogue) -> CheckedTransactions:
    rows = [
        {"customer": "anna", "item": "i0"},
        {"customer": "ben", "item": "i1"},
        {"customer": "anna", "item": "i2"},
        {"customer": "unknown", "item": "i3"},
        {"customer": "eve", "item": "i4"},
    ]
    return quality_gate(make_transactions(rows), catalogue, region="r")


def items(checked: CheckedTransactions, eligible: EligibleCustomers) -> list[tuple[str, str]]:
    catalogue = Catalogue.of([f"i{number}" for number in range(6)], excluded=["fuel", "coupon"])
    consented = filter_consented(checked, eligible)
    return [(sid, item) for sid, item, _ in purchases(consented, catalogue)]


def test_only_eligible_customers_rows_go_on_under_their_pseudonyms(
    checked: CheckedTransactions, history: Any
) -> None:
    history.log(SIDS["anna"])
    history.log(SIDS["ben"], "dpv:ConsentRefused")
    history.log(SIDS["zoe"])
    eligible = history.eligible(SIDS)
    assert eligible.sids == {SIDS["anna"], SIDS["zoe"]}
    assert eligible.customer_refs == {"anna", "zoe"}
    assert items(checked, eligible) == [(SIDS["anna"], "i0"), (SIDS["anna"], "i2")]


def test_only_what_training_needs_goes_on(checked: CheckedTransactions, history: Any) -> None:
    history.log(SIDS["ben"])
    consented = filter_consented(checked, history.eligible(SIDS))
    assert {field.name for field in dataclasses.fields(Purchases)} == {
        "owners",
        "owner",
        "item",
        "time_ms",
        # Rows of further tables, for questions; training is given none.
        "further",
    }
    assert all(not part.further for part in consented.parts())
    assert [owner for part in consented.parts() for owner in part.owners] == [SIDS["ben"]]
    assert consented.consent_size == 1
    # Each time it is asked: the parts may be read several times.
    assert len(list(consented.parts())) == len(list(consented.parts()))


def test_each_change_of_mind_counts_from_its_entry_on(
    checked: CheckedTransactions, history: Any
) -> None:
    seen = []
    history.log(SIDS["anna"])
    for state in ("dpv:ConsentGiven", "dpv:ConsentWithdrawn", "dpv:ConsentGiven"):
        history.log(SIDS["ben"], state)
        seen.append(len(items(checked, history.eligible(SIDS))))
    assert seen == [3, 2, 3]


@pytest.mark.parametrize("purpose", [RECOMMENDATIONS, FEDERATED_ANALYTICS])
def test_consent_to_another_purpose_is_no_consent(
    checked: CheckedTransactions, history: Any, purpose: str
) -> None:
    history.log(SIDS["anna"], purpose=purpose)
    history.log(SIDS["ben"], purpose=FEDERATED_TRAINING)
    assert items(checked, history.eligible(SIDS)) == [(SIDS["ben"], "i1")]
    assert (SIDS["anna"], "i0") in items(checked, history.eligible(SIDS, purpose=purpose))


def test_consent_ends_when_it_expires(checked: CheckedTransactions, history: Any) -> None:
    history.log(SIDS["anna"], expires="2024-07-01T00:00:00.000Z")
    history.log(SIDS["ben"])
    before = history.eligible(SIDS, at="2024-06-30T23:59:59.999Z")
    after = history.eligible(SIDS, at="2024-07-01T00:00:00.000Z")
    assert [len(items(checked, who)) for who in (before, after)] == [3, 1]


def test_nobody_eligible_is_a_consent_error(checked: CheckedTransactions, history: Any) -> None:
    with pytest.raises(ConsentError, match="No customer's consent for fedpref:FederatedTraining"):
        filter_consented(checked, history.eligible(SIDS))
    for sid in SIDS.values():
        history.log(sid, "dpv:ConsentRefused")
    with pytest.raises(ConsentError) as caught:
        filter_consented(checked, history.eligible(SIDS))
    assert caught.value.exit_code == 5


def test_eligible_customers_without_purchases_are_an_empty_stage(
    checked: CheckedTransactions, history: Any
) -> None:
    history.log(SIDS["zoe"])
    assert items(checked, history.eligible(SIDS)) == []


def test_an_erased_customer_cannot_be_linked(checked: CheckedTransactions, history: Any) -> None:
    for sid in SIDS.values():
        history.log(sid)
    remaining = {name: sid for name, sid in SIDS.items() if name != "anna"}
    eligible = history.eligible(remaining)
    assert SIDS["anna"] in eligible.sids
    assert {sid for sid, _ in items(checked, eligible)} == {SIDS["ben"], SIDS["eve"]}


@pytest.mark.parametrize(
    ("subject_ids", "message"),
    [
        ({"anna": SIDS["anna"], "ben": SIDS["anna"]}, "1 customers share a pseudonym"),
        ({"anna": SIDS["anna"].upper()}, "1 of the region's pseudonyms are not 64 hex"),
        ({"anna": SIDS["anna"] + "\n"}, "1 of the region's pseudonyms are not 64 hex"),
    ],
)
def test_a_damaged_table_of_pseudonyms_is_refused(
    history: Any, subject_ids: dict[str, str], message: str
) -> None:
    history.log(SIDS["anna"])
    with pytest.raises(ConsentError, match=message):
        history.eligible(subject_ids)


def test_eligible_customers_come_from_a_replay_only(history: Any) -> None:
    class Pretending:
        def eligible(self, purpose: str, at_ms: int) -> frozenset[str]:
            return frozenset(SIDS.values())

    with pytest.raises(ConsentError, match="not a replay of the log"):
        EligibleCustomers.from_replay(Pretending(), FEDERATED_TRAINING, 0, 1, SIDS)  # type: ignore[arg-type]
    for seal in (None, object(), True, history.replay):
        with pytest.raises(ConsentError, match="past the replay"):
            EligibleCustomers("p", 0, 1, frozenset(SIDS.values()), SIDS, seal=seal)


def test_the_filter_takes_only_the_stage_before_it(
    checked: CheckedTransactions, make_transactions: Make, history: Any
) -> None:
    history.log(SIDS["anna"])
    eligible = history.eligible(SIDS)
    for rows in (make_transactions([{}]), checked.parts, None):
        with pytest.raises(ConsentError, match="something other than checked transactions"):
            filter_consented(rows, eligible)  # type: ignore[arg-type]
    for customers in (SIDS, frozenset(SIDS.values()), history.replay):
        with pytest.raises(ConsentError, match="something other than checked transactions"):
            filter_consented(checked, customers)


def test_representations_show_no_customer(checked: CheckedTransactions, history: Any) -> None:
    history.log(SIDS["anna"])
    eligible = history.eligible(SIDS)
    shown = repr(eligible) + repr(checked) + repr(filter_consented(checked, eligible))
    assert "anna" not in shown
    assert SIDS["anna"] not in shown
