from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.data.sql_ranges import (
    Bound,
    Range,
    Seen,
    ranges_to_read,
    settled_before,
    value_of,
)
from client.data.store_units import StoreUnit
from common.errors import FormatError, InputError

NOON = datetime(2024, 3, 1, 12, tzinfo=UTC)
NOON_MS = round(NOON.timestamp() * 1000)
BOUNDS = st.one_of(
    st.none(),
    st.integers(-(1 << 70), 1 << 70).map(Bound),
    st.datetimes().map(Bound),
    st.datetimes(timezones=st.just(UTC)).map(Bound),
)


@given(BOUNDS, BOUNDS, st.booleans(), st.integers(0, 1 << 40))
def test_a_mark_says_its_range(
    above: Bound | None, upto: Bound | None, tail: bool, n_above: int
) -> None:
    made = Range(above, upto, tail, n_above)
    assert Range.of_mark(made.unit(0).mark) == made


@pytest.mark.parametrize("mark", ["[]", '{"n_above":"1"}', '{"n_above":true}'])
def test_another_mark_is_refused(mark: str) -> None:
    with pytest.raises(FormatError):
        Range.of_mark(mark)


@pytest.mark.parametrize(
    ("found", "value"),
    [
        (None, None),
        (7, 7),
        (1 << 64, 1 << 64),
        (Decimal("12.00"), 12),
        (NOON, NOON),
        (date(2024, 3, 1), datetime(2024, 3, 1)),
    ],
)
def test_numbers_and_times_can_be_followed(found: object, value: object) -> None:
    bound = value_of(found, "The table t", "c")
    assert (None if bound is None else bound.value) == value


@pytest.mark.parametrize("found", ["7", 7.5, True, Decimal("1.5"), Decimal("NaN"), b"7"])
def test_nothing_else_can(found: object) -> None:
    with pytest.raises(InputError, match="The table t: refresh_by names the column 'c'"):
        value_of(found, "The table t", "c")


@pytest.mark.parametrize(
    ("highest", "cut"),
    [
        (100, 40),
        (NOON, NOON - timedelta(seconds=60)),
        # What is dated ahead of the clock settles nothing that is still to come.
        (NOON + timedelta(days=9), NOON - timedelta(seconds=60)),
        (datetime(2024, 3, 1, 12), datetime(2024, 3, 1, 11, 59)),
        # Noon of UTC is two in the morning of the next day in the easternmost zone.
        (datetime(2024, 3, 9), datetime(2024, 3, 2, 1, 59)),
    ],
)
def test_where_rows_are_settled(highest: int | datetime, cut: int | datetime) -> None:
    assert Bound(highest).cut(60, NOON_MS).value == cut


def test_times_with_a_zone_and_without_are_not_compared() -> None:
    zoneless, zoned = Bound(datetime(2024, 3, 1)), Bound(NOON)
    assert not zoneless.comparable(zoned)
    assert not zoned.comparable(Bound(3))
    east = Bound(NOON.astimezone(timezone(timedelta(hours=9))))
    assert zoned.comparable(east)
    assert zoned == east
    # A column that changed its type is read anew.
    taken = {unit.name: unit for unit in (Range(None, zoneless).unit(0),)}
    seen = Seen(zoned, zoned, 0, 0)
    changes = ranges_to_read(taken, seen, reread_after_ms=1 << 60, now_ms=0)
    assert changes.gone == frozenset(taken)
    both = (Range(None, zoned).unit(0), Range(None, Bound(1)).unit(0))
    assert settled_before({unit.name: unit for unit in both}) is None


@settings(max_examples=200)
@given(st.data())
def test_every_row_is_read_once_however_transactions_end(data: st.DataObject) -> None:
    """A table in the making: numbers are drawn in order, and committed up to `overlap` later."""
    overlap, drawn = data.draw(st.integers(0, 5)), 0
    table: set[int] = set()
    pending: set[int] = set()
    taken: dict[str, StoreUnit] = {}
    rows: dict[str, set[int]] = {}
    for now in range(data.draw(st.integers(1, 12))):
        new = data.draw(st.integers(0, 4))
        pending |= set(range(drawn, drawn + new))
        drawn += new
        table |= {number for number in pending if data.draw(st.booleans())}
        # Whoever is further behind than the overlap has ended by now.
        table |= {number for number in pending if number <= max(table, default=-1) - overlap}
        pending -= table
        changes = ranges_to_read(
            taken, _look(table, taken, overlap), reread_after_ms=1 << 60, now_ms=now
        )
        for name in changes.gone:
            del taken[name], rows[name]
        for unit in changes.fresh:
            taken[unit.name] = unit
            rows[unit.name] = _read(table, Range.of_mark(unit.mark))
        assert sorted(number for each in rows.values() for number in each) == sorted(table)


def _look(table: set[int], taken: dict[str, StoreUnit], overlap: int) -> Seen:
    """What a database would answer."""
    if not table:
        return Seen(None, None, 0, 0)
    cut = max(table) - overlap
    settled = settled_before(taken)
    before = settled.value if settled is not None else cut
    assert isinstance(before, int)
    above = [sum(number > bound for number in table) for bound in (before, cut)]
    return Seen(Bound(max(table)), Bound(cut), *above)


def _read(table: set[int], rows: Range) -> set[int]:
    above, upto = (bound.value if bound is not None else None for bound in (rows.above, rows.upto))
    return {
        number
        for number in table
        if (above is None or number > above) and (upto is None or number <= upto)  # type: ignore[operator]
    }
