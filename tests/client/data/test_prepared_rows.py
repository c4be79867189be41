"""What is kept of a store is what the store has: after any changes, crashes, and merges."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.data import prepared_rows
from client.data.prepared_rows import PreparedRows
from client.data.quality import QualityReport, pass_gate, quality_gate
from client.data.refresh import Refresh, Refreshed
from client.data.row_checks import RowChecks
from client.data.store_units import TEXT, ZONED, ZONELESS
from client.data.transactions import Transactions
from client.engine.storage_key import StorageKey
from common import failpoints
from common.catalogue import Catalogue
from common.errors import InputError, QualityGateError, StorageError
from tests.support.made_store import MadeStore
from tests.support.stages import purchases

Make = Callable[..., Transactions]
KEY = StorageKey(b"k" * 32)
NOBODY_FAILS = 0.01


@pytest.fixture
def store(make_transactions: Make) -> MadeStore:
    return MadeStore(lambda rows: make_transactions(rows, home_stores=("s1",)))


class Keeper:
    """What a region does with its store."""

    def __init__(self, folder: Path, store: MadeStore, catalogue: Catalogue) -> None:
        self.folder, self.store, self.catalogue = folder, store, catalogue

    def kept(
        self, *, key: StorageKey = KEY, basis: str = "basis", wait_s: float = 5
    ) -> PreparedRows:
        return PreparedRows(self.folder, key, basis, lock_wait_s=wait_s)

    def refresh(self, kept: PreparedRows | None = None, now_ms: int = 0) -> Refreshed:
        kept = kept or self.kept()
        with kept.exclusive():
            return Refresh(self.store, {}, RowChecks(self.catalogue), kept).run(now_ms)

    def judged(self, kept: PreparedRows | None = None) -> tuple[Any, ...]:
        kept = kept or self.kept()
        with kept.exclusive():
            rows = kept.snapshot(self.store.origin, self.catalogue.digest)
        return _told(pass_gate(rows, region="r", threshold=NOBODY_FAILS), self.catalogue)

    def expected(self) -> tuple[Any, ...]:
        """The same, of the store as it is now, in memory."""
        batches = list(self.store.all_batches())
        gate = quality_gate(batches, self.catalogue, region="r", threshold=NOBODY_FAILS)
        return _told(gate, self.catalogue)

    def files(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir() if path.name != "lock")


def _told(checked: Any, catalogue: Catalogue) -> tuple[Any, ...]:
    report: QualityReport = checked.report
    return (
        report.rows_read,
        report.rows_out_of_home,
        report.rows_out_of_scope,
        report.rows_in_scope,
        report.rows_accepted,
        dict(report.reasons),
        purchases(checked, catalogue),
    )


@pytest.fixture
def keeper(tmp_path: Path, store: MadeStore, catalogue: Catalogue) -> Keeper:
    return Keeper(tmp_path / "prepared", store, catalogue)


def rows(*customers: str, **fields: Any) -> list[dict[str, Any]]:
    """Rows, each in a basket of its own."""
    return [{"customer": name, "basket": f"{name}-{place}"} | fields
            for place, name in enumerate(customers)]  # fmt: skip


def test_only_what_is_new_is_read(keeper: Keeper, store: MadeStore) -> None:
    store.put("monday", rows("anna", "ben", "anna"))
    store.put("tuesday", rows("eve", item="i2"))
    assert keeper.refresh() == Refreshed(units_read=2, rows_read=4)
    assert keeper.judged() == keeper.expected()
    assert not keeper.refresh()
    store.put("wednesday", rows("zoe", "anna", item="i3"))
    assert keeper.refresh() == Refreshed(units_read=1, rows_read=2)
    assert store.read == ["monday", "tuesday", "wednesday"]
    assert keeper.judged() == keeper.expected()


def test_what_is_changed_or_gone_is_given_up(keeper: Keeper, store: MadeStore) -> None:
    store.put("monday", rows("anna", "ben"))
    store.put("tuesday", rows("eve", "gone-for-good"))
    keeper.refresh()
    store.put("monday", rows("anna"))
    del store.units["tuesday"]
    assert keeper.refresh() == Refreshed(units_read=1, rows_read=1, units_gone=1)
    assert keeper.judged() == keeper.expected()
    # Nor does any file have them any more.
    kept = keeper.kept()
    with kept.exclusive():
        left = kept.snapshot("", "")
    blocks = [left.part(number) for number in range(prepared_rows.PARTS)]
    assert {name for block in blocks for name in block.customers.to_pylist()} == {"anna"}
    assert len(keeper.files()) == 2


def test_a_day_without_sales_is_taken_up_too(keeper: Keeper, store: MadeStore) -> None:
    store.put("sunday", [])
    assert keeper.refresh() == Refreshed(units_read=1)
    assert not keeper.refresh()
    with pytest.raises(InputError, match="The store in memory has no rows"):
        keeper.judged()
    store.put("monday", rows("anna"))
    keeper.refresh()
    assert keeper.judged() == keeper.expected()


NAMES = st.sampled_from(["a", "b", "c", "d"])
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "customer": st.sampled_from(["anna", "ben", "eve", None]),
            "item": st.sampled_from(["i0", "i1", "i9", "fuel"]),
            "basket": st.sampled_from(["b1", "b2"]),
            "home_store": st.sampled_from(["s1", "s1", "s9"]),
            "quantity": st.sampled_from([1, -1]),
        }
    ),
    max_size=5,
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), NAMES, ROWS),
        st.tuples(st.just("remove"), NAMES, st.none()),
        st.tuples(st.just("fail"), st.none(), st.integers(1, 6)),
    ),
    max_size=8,
)


HISTORIES = given(rounds=st.lists(STEPS, min_size=1, max_size=5), crowd=st.integers(2, 4))
UNHURRIED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@settings(max_examples=10, deadline=None, suppress_health_check=UNHURRIED)
@HISTORIES
def test_after_any_changes_what_is_kept_is_what_the_store_has(
    tmp_path_factory: pytest.TempPathFactory,
    make_transactions: Make,
    catalogue: Catalogue,
    rounds: list[list[tuple[str, Any, Any]]],
    crowd: int,
) -> None:
    _follow(tmp_path_factory.mktemp("keep"), make_transactions, catalogue, rounds, crowd)


@pytest.mark.slow
@settings(max_examples=300, deadline=None, suppress_health_check=UNHURRIED)
@HISTORIES
def test_after_any_of_many_changes_what_is_kept_is_what_the_store_has(
    tmp_path_factory: pytest.TempPathFactory,
    make_transactions: Make,
    catalogue: Catalogue,
    rounds: list[list[tuple[str, Any, Any]]],
    crowd: int,
) -> None:
    _follow(tmp_path_factory.mktemp("keep"), make_transactions, catalogue, rounds, crowd)


def _follow(
    folder: Path,
    make_transactions: Make,
    catalogue: Catalogue,
    rounds: list[list[tuple[str, Any, Any]]],
    crowd: int,
) -> None:
    store = MadeStore(lambda rows: make_transactions(rows, home_stores=("s1",)))
    keeper = Keeper(folder / "prepared", store, catalogue)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepared_rows, "_CROWD", crowd)
        patch.setattr(prepared_rows, "_FLUSH_ROWS", 3)
        for steps in rounds:
            for step, name, what in steps:
                if step == "put":
                    store.put(name, what)
                elif step == "remove":
                    store.units.pop(name, None)
                else:
                    store.fails = (store._batches + what, InputError("the store is down"))
                    with suppress(InputError):
                        keeper.refresh()
                    store.fails = None
            keeper.refresh()
            told = [_judgement(judge) for judge in (keeper.judged, keeper.expected)]
            assert told[0] == told[1]
            assert len(keeper.files()) <= 1 + crowd


def _judgement(judge: Callable[[], tuple[Any, ...]]) -> Any:
    """What a gate says; that there is nothing to judge is an answer too."""
    try:
        return judge()
    except (InputError, QualityGateError) as error:
        return type(error)


def test_however_often_it_is_refreshed_there_are_few_files(
    keeper: Keeper, store: MadeStore
) -> None:
    """Hours of batches every ten minutes."""
    for number in range(40):
        store.put(f"{number:03}", rows(f"c{number % 50}", item=f"i{number % 6}"))
        keeper.refresh()
    assert len(keeper.files()) <= prepared_rows._CROWD + 1
    assert store.read == sorted(store.read)
    assert keeper.judged() == keeper.expected()


def test_segments_of_every_size_are_few() -> None:
    """The merging rule by itself, at sizes that no test writes."""
    generator, sizes = random.Random(1), []
    rewritten = 0
    for _ in range(5000):
        sizes.append(generator.randint(1, 60_000))
        segments = [prepared_rows.Segment(str(n), (n,), size) for n, size in enumerate(sizes)]
        crowded = prepared_rows._crowded(segments)
        if crowded:
            merged = sum(each.rows for each in crowded)
            sizes = [each.rows for each in segments if each not in crowded] + [merged]
            rewritten += merged
    assert len(sizes) <= 30
    # Each row is rewritten a few times in all, not with every refresh.
    assert rewritten <= 8 * sum(sizes)


def test_a_store_that_fails_half_way_changes_nothing(keeper: Keeper, store: MadeStore) -> None:
    store.put("monday", rows("anna", "ben"))
    keeper.refresh()
    before, files = keeper.judged(), keeper.files()
    store.put("tuesday", rows("eve", "zoe", "eve", "anna"))
    store.put("monday", rows("anna"))
    store.fails = (store._batches + 2, InputError("the store is down"))
    with pytest.raises(InputError, match="is down"):
        keeper.refresh()
    assert keeper.files() == files
    assert keeper.judged() == before
    store.fails = None
    keeper.refresh()
    assert keeper.judged() == keeper.expected()


def test_a_disk_that_is_full_at_any_moment_leaves_the_state_before_or_after(
    keeper: Keeper, store: MadeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put("monday", rows("anna", "ben"))
    keeper.refresh()
    before = keeper.judged()
    store.put("monday", rows("anna"))
    store.put("tuesday", rows("eve"))
    outcomes = []
    for fails_at in range(1, 20):
        full = Keeper(tmp_path / f"copy-{fails_at}", store, keeper.catalogue)
        shutil.copytree(keeper.folder, full.folder)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", _full_from(fails_at))
            with suppress(StorageError):
                full.refresh()
                break
        outcomes.append(full.judged())
        assert outcomes[-1] in (before, keeper.expected())
        full.refresh()
        assert full.judged() == keeper.expected()
        assert len(full.files()) <= 3
    assert outcomes[0] == before
    assert len(outcomes) >= 4


def _full_from(call: int) -> Callable[[int], None]:
    """An fsync that finds the disk full, from one of its calls on."""
    real, calls = os.fsync, 0

    def full(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls >= call:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    return full


def test_killed_anywhere_it_is_the_state_before_or_after(
    keeper: Keeper, store: MadeStore, tmp_path: Path
) -> None:
    """A process for each place that a refresh passes, ended there by SIGKILL."""
    store.put("monday", rows("anna", "ben", "eve"))
    store.put("tuesday", rows("eve", "anna"))
    keeper.refresh()
    before = keeper.judged()
    store.put("monday", rows("anna", "zoe"))
    store.put("wednesday", rows("ben", item="i4"))
    after = keeper.expected()
    outcomes = []
    for place in range(100):
        copy = tmp_path / f"copy-{place}"
        shutil.copytree(keeper.folder, copy)
        child = os.fork()
        if child == 0:
            passed = 0

            def die(_: Any, place: int = place) -> None:
                nonlocal passed
                if passed == place:
                    os.kill(os.getpid(), 9)
                passed += 1

            failpoints.hook = die
            Keeper(copy, store, keeper.catalogue).refresh()
            os._exit(0)
        killed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0
        resumed = Keeper(copy, store, keeper.catalogue)
        outcomes.append(resumed.judged())
        assert outcomes[-1] in (before, after)
        resumed.refresh()
        assert resumed.judged() == after
        assert len(resumed.files()) <= 3
        if not killed:
            break
    assert outcomes[0] == before
    assert outcomes[-1] == after
    assert len(outcomes) > 8


def test_leftovers_of_a_crash_are_removed(keeper: Keeper, store: MadeStore) -> None:
    store.put("monday", rows("anna"))
    keeper.refresh()
    files = keeper.files()
    for name in ("0123456789.rows", ".manifest.77.tmp"):
        (keeper.folder / name).write_bytes(b"left")
    keeper.judged()
    assert keeper.files() == files


def test_another_key_or_basis_begins_anew(keeper: Keeper, store: MadeStore) -> None:
    store.put("monday", rows("anna", "ben"))
    for kept in (keeper.kept(key=StorageKey(b"x" * 32)), keeper.kept(basis="other")):
        assert keeper.refresh() == Refreshed(units_read=1, rows_read=2)
        assert keeper.refresh(kept) == Refreshed(units_read=1, rows_read=2)
        assert keeper.judged(kept) == keeper.expected()
        # Under the key of an erased past nothing is left to be read.
        assert len(keeper.files()) == 2


def test_a_damaged_manifest_begins_anew(keeper: Keeper, store: MadeStore) -> None:
    store.put("monday", rows("anna", "ben"))
    keeper.refresh()
    manifest = keeper.folder / "manifest"
    for damage in (b"", manifest.read_bytes()[:-1], b"x" * 50):
        manifest.write_bytes(damage)
        assert keeper.refresh() == Refreshed(units_read=1, rows_read=2)
        assert keeper.judged() == keeper.expected()


def test_nothing_that_is_kept_can_be_read_by_others(keeper: Keeper, store: MadeStore) -> None:
    store.put("a-file-name-with-customer-anna", rows("anna", "ben"))
    keeper.refresh()
    assert keeper.folder.stat().st_mode & 0o777 == 0o700
    for path in keeper.folder.iterdir():
        assert path.stat().st_mode & 0o777 == 0o600
        assert b"anna" not in path.read_bytes()
        assert b"fedpref" not in path.read_bytes()


def test_what_was_opened_stays_whole_while_another_changes_it(
    keeper: Keeper, store: MadeStore
) -> None:
    store.put("monday", rows("anna", "ben"))
    keeper.refresh()
    kept = keeper.kept()
    with kept.exclusive():
        opened = kept.snapshot(store.origin, keeper.catalogue.digest)
    expected = keeper.expected()
    store.put("monday", rows("eve"))
    keeper.refresh()
    judged = pass_gate(opened, region="r", threshold=NOBODY_FAILS)
    assert _told(judged, keeper.catalogue) == expected


@pytest.fixture
def elsewhere(keeper: Keeper) -> Iterator[int]:
    """Another process that is reading the store."""
    keeper.folder.mkdir(mode=0o700)
    lock = os.open(keeper.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    yield lock
    os.close(lock)


def test_one_reads_the_store_at_a_time(keeper: Keeper, store: MadeStore, elsewhere: int) -> None:
    store.put("monday", rows("anna"))
    with pytest.raises(StorageError, match="Another process has been reading the store"):
        keeper.refresh(keeper.kept(wait_s=0))
    fcntl.flock(elsewhere, fcntl.LOCK_UN)
    assert keeper.refresh()


def test_a_column_that_holds_something_else_one_day_is_refused_till_all_is_read_anew(
    keeper: Keeper, store: MadeStore
) -> None:
    store.holds = {"time": ZONED, "customer_ref": TEXT}
    store.put("monday", rows("anna"))
    keeper.refresh()
    store.holds = {"time": ZONELESS, "customer_ref": TEXT}
    store.put("tuesday", rows("ben"))
    with pytest.raises(InputError, match=r"tuesday: the column .* \(time\) holds times without"):
        keeper.refresh()
    kept = keeper.kept()
    with kept.exclusive():
        kept.clear()
    keeper.refresh()
    assert keeper.judged() == keeper.expected()
