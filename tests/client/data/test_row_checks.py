from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.data.row_blocks import AT_HOME, AWAY, PASSED
from client.data.row_checks import USUAL_LIMITS, PurchaseLimits, RowChecks, RowCounts
from client.data.standards import load_standards
from client.data.transactions import Transactions
from common import canonical_json
from common.catalogue import Catalogue
from common.errors import FormatError

Make = Callable[..., Transactions]


def test_a_row_states_what_the_gate_needs(make_transactions: Make, catalogue: Catalogue) -> None:
    rows = [
        {"customer": "a", "item": "i3", "time": "1969-12-31T23:59:59.999999Z"},
        {"customer": "b", "quantity": -1},
        {"customer": None, "item": None},
        {"customer": "c", "home_store": "s9"},
        {"customer": "d", "item": "fuel"},
        {"customer": "c", "home_store": "s9", "item": "fuel"},
        {"customer": "e", "home_store": None},
    ]
    transactions = make_transactions(rows, home_stores=("s1",))
    block, counts = RowChecks(catalogue).examine(transactions, unit=7)
    assert counts == RowCounts(
        read=7,
        out_of_home=2,
        out_of_scope=1,
        in_scope=4,
        reasons={
            "quantity-out-of-range": 1,
            "customer-missing": 1,
            "item-missing": 1,
            "home-store-missing": 1,
        },
    )
    # Whose purchases are all out of scope is forgotten here; whose home is elsewhere is not.
    assert block.customers.to_pylist() == ["a", "b", "c", "e"]
    assert block.customer.tolist() == [0, 1, -1, 3, 2]
    assert block.item.tolist() == [3, 0, -1, 0, -1]
    assert block.time_us.tolist()[0] == -1
    assert block.flags.tolist() == [PASSED | AT_HOME, AT_HOME, AT_HOME, 0, AWAY]
    assert block.unit.tolist() == [7] * 5


def test_without_home_stores_everybody_is_at_home(
    make_transactions: Make, catalogue: Catalogue
) -> None:
    block, _ = RowChecks(catalogue).examine(make_transactions([{"home_store": "s9"}]))
    assert block.flags.tolist() == [PASSED | AT_HOME]


@pytest.mark.parametrize(
    ("mapped", "change", "differs"),
    [
        (("basket",), {"basket": "other"}, True),
        (("basket",), {"item": "i1"}, True),
        (("basket",), {"quantity": 9, "amount": 9.0, "store": "s8"}, False),
        ((), {"item": "i1"}, True),
        (("quantity", "amount"), {"quantity": 2}, True),
        (("quantity", "amount"), {"amount": 2.0}, True),
        (("quantity", "amount"), {"amount": None}, True),
        (("quantity", "amount"), {"quantity": None}, True),
        (("store", "home_store"), {"store": "s8"}, True),
    ],
)
def test_a_digest_tells_rows_apart_by_what_makes_them_repeats(
    make_transactions: Make,
    catalogue: Catalogue,
    mapped: tuple[str, ...],
    change: dict[str, Any],
    differs: bool,
) -> None:
    rows = [{"basket": "b"}, {"basket": "b"}, {"basket": "b"} | change]
    names = ("customer", "item", "time", *mapped)
    block, _ = RowChecks(catalogue).examine(make_transactions(rows, mapped=names))
    digests = block.rest.tolist()
    assert digests[0] == digests[1]
    assert (digests[0] != digests[2]) is differs


def test_a_digest_is_the_same_in_any_batch(make_transactions: Make, catalogue: Catalogue) -> None:
    checks = RowChecks(catalogue)
    alone, _ = checks.examine(make_transactions([{"basket": "b", "item": "i4"}]))
    rows = [{"basket": f"x{number}", "item": "i1"} for number in range(300)]
    among, _ = checks.examine(make_transactions([*rows, {"basket": "b", "item": "i4"}]))
    assert alone.rest.tolist() == among.rest.tolist()[-1:]


def test_numbers_and_their_zeros(make_transactions: Make, catalogue: Catalogue) -> None:
    rows = [{"amount": value} for value in (0.0, -0.0, 1.0, None, float("nan"))]
    names = ("customer", "item", "time", "amount")
    block, _ = RowChecks(catalogue).examine(make_transactions(rows, mapped=names))
    zero, other_zero, one, missing, no_number = block.rest.tolist()
    assert zero == other_zero
    assert missing == no_number
    assert len({zero, one, missing}) == 3


def test_a_batch_of_nothing_in_scope(make_transactions: Make, catalogue: Catalogue) -> None:
    block, counts = RowChecks(catalogue).examine(make_transactions([{"item": "fuel"}] * 3))
    assert len(block) == 0
    assert pa.types.is_string(block.customers.type)
    assert counts == RowCounts(read=3, out_of_scope=3)


def test_limits_are_those_of_the_standards(make_transactions: Make, catalogue: Catalogue) -> None:
    standards = load_standards()
    assert PurchaseLimits.of(standards) == USUAL_LIMITS
    columns = dict(standards.tables["purchases"].columns)
    columns["amount"] = columns["amount"].model_copy(update={"range": (1.0, None)})
    del columns["quantity"]
    table = standards.tables["purchases"].model_copy(update={"columns": columns})
    limits = PurchaseLimits.of(standards.model_copy(update={"tables": {"purchases": table}}))
    rows = [{"amount": 0.5}, {"amount": 2e6}, {"quantity": 100_001}]
    _, counts = RowChecks(catalogue, limits).examine(make_transactions(rows))
    assert counts.reasons == {"amount-out-of-range": 1, "quantity-out-of-range": 1}


COUNTS = st.builds(
    RowCounts,
    *[st.integers(0, 1 << 40)] * 4,
    st.dictionaries(st.sampled_from(["a", "b", "c"]), st.integers(1, 1 << 40)),
)


@given(COUNTS, COUNTS)
def test_counts_add_up_and_survive_being_written(one: RowCounts, other: RowCounts) -> None:
    total = one + other
    assert (total.read, total.in_scope) == (one.read + other.read, one.in_scope + other.in_scope)
    assert all(
        total.reasons.get(name, 0) == one.reasons.get(name, 0) + other.reasons.get(name, 0)
        for name in "abc"
    )
    written = canonical_json.decode(canonical_json.encode(total.to_record()))
    assert isinstance(written, dict)
    assert RowCounts.of_record(written) == total


def test_counts_without_reasons_are_refused() -> None:
    with pytest.raises(FormatError, match="no reasons"):
        RowCounts.of_record({"reasons": [], "read": 0})
