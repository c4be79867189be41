"""A batch's file: each list is the one that a request gets; without consent nobody is in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from client.engine.home import RegionHome
from client.recommend import batch as module
from client.recommend.batch import MAX_BATCH_K, BatchRequest, BatchSummary, write_batch
from client.recommend.bulk_lists import BulkLists
from client.recommend.recommender import Recommender
from client.recommend.settings import RecommendSettings
from client.recommend.types import Query, Scene
from common.errors import InputError, StorageError
from tests.support.served_region import (
    CATALOGUE,
    N_ITEMS,
    make_served_region,
    opened,
    withdraw,
    without_recommendations,
)

MANY = tuple(
    (f"customer-{number:02}", (number * 7 + place * place) % N_ITEMS, float(1 + place))
    for number in range(40)
    for place in range(1 + number % 6)
)
NAMES = tuple(sorted({name for name, _, _ in MANY}))


@pytest.fixture
def home(tmp_path: Path) -> RegionHome:
    return make_served_region(
        tmp_path / "home", sales=MANY, consenting=(*NAMES[:-3], "never-bought")
    )


@pytest.fixture
def recommender(home: RegionHome) -> Iterator[Recommender]:
    found = opened(home)
    yield found
    found.close()


def lists(path: Path) -> dict[str | None, list[str]]:
    rows = pq.read_table(path).to_pylist()
    return {row["customer"]: row["items"] for row in rows}


@pytest.mark.parametrize(
    "request_",
    [
        BatchRequest(),
        BatchRequest(k=3, new_only=True),
        BatchRequest(k=N_ITEMS + 10),
        BatchRequest(
            k=5,
            in_stock=frozenset(CATALOGUE.items[10:40]) | {"unheard-of"},
            exclude=frozenset(CATALOGUE.items[12:15]),
        ),
    ],
    ids=["plain", "new", "whole catalogue", "stock"],
)
def test_every_list_is_the_one_that_a_request_gets(
    recommender: Recommender, tmp_path: Path, request_: BatchRequest
) -> None:
    out = tmp_path / "lists.parquet"
    summary = write_batch(recommender, out, request_)
    written = lists(out)
    assert written.keys() == {*NAMES[:-3], None}
    assert summary.customers == len(NAMES) - 3
    for customer, items in written.items():
        answer = recommender.recommend(
            Query(
                customer=customer,
                k=request_.k,
                new_only=request_.new_only,
                in_stock=request_.in_stock,
                exclude=request_.exclude,
            )
        )
        assert answer.personal == (customer is not None)
        assert items == [each.item for each in answer.items]


def test_scores_and_what_the_file_says_of_itself(recommender: Recommender, tmp_path: Path) -> None:
    out = tmp_path / "lists.parquet"
    summary = write_batch(recommender, out, BatchRequest(k=4, scene=Scene(weekday=2)))
    table = pq.read_table(out)
    for row in table.to_pylist():
        answer = recommender.recommend(Query(row["customer"], k=4, scene=Scene(weekday=2)))
        assert row["scores"] == pytest.approx([each.score for each in answer.items], rel=1e-5)
        assert row["personal"] == answer.personal
    metadata = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    assert metadata["version"] == "fedpref-batch/1"
    assert metadata["model"] == summary.model == recommender.model
    assert metadata["consent_size"] == str(summary.consent_size) == str(answer.consent_size)
    assert (metadata["k"], metadata["scene"]) == ("4", "2")
    assert summary.size_bytes == out.stat().st_size
    assert out.stat().st_mode & 0o077 == 0


def test_a_file_does_not_tell_who_refused(recommender: Recommender, tmp_path: Path) -> None:
    out = tmp_path / "lists.parquet"
    write_batch(recommender, out)
    content = out.read_bytes()
    for name in (*NAMES[-3:], "never-bought"):
        assert name.encode() not in content
    # The order is that of pseudonyms, not the store's.
    names = [name for name in lists(out) if name is not None]
    assert names != sorted(names)


def test_memory_is_for_a_block_of_customers(
    recommender: Recommender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, again = tmp_path / "lists.parquet", tmp_path / "again.parquet"
    write_batch(recommender, out)
    monkeypatch.setattr(module, "_block_size", lambda tables: 7)
    told: list[tuple[int, int]] = []
    write_batch(recommender, again, progress=lambda done, of: told.append((done, of)))
    assert lists(again) == lists(out)
    assert told == [(done, 37) for done in (7, 14, 21, 28, 35, 37)]
    assert pq.ParquetFile(again).num_row_groups == 7


def test_who_withdraws_before_it_begins_is_not_in_it(
    recommender: Recommender, home: RegionHome, tmp_path: Path
) -> None:
    withdraw(home, NAMES[4])
    without_recommendations(home, NAMES[5])
    # What is served was loaded before.
    summary = write_batch(recommender, tmp_path / "lists.parquet")
    assert {NAMES[4], NAMES[5]}.isdisjoint(lists(tmp_path / "lists.parquet"))
    assert (summary.customers, summary.withdrawn) == (len(NAMES) - 5, 0)


def during(
    recommender: Recommender, home: RegionHome, out: Path, monkeypatch: pytest.MonkeyPatch
) -> BatchSummary:
    """A batch; two customers withdraw when some rows of it are written."""
    monkeypatch.setattr(module, "_block_size", lambda tables: 10)
    made = BulkLists.lists
    waiting = [None, NAMES[7], NAMES[8], None]

    def withdrawing(self: BulkLists, rows: object) -> object:
        if name := waiting.pop():
            withdraw(home, name)
        return made(self, rows)  # type: ignore[arg-type]

    monkeypatch.setattr(BulkLists, "lists", withdrawing)
    return write_batch(recommender, out)


def test_who_withdraws_meanwhile_is_taken_out(
    recommender: Recommender, home: RegionHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "lists.parquet"
    before = recommender.consenting().consent_size
    summary = during(recommender, home, out, monkeypatch)
    assert {NAMES[7], NAMES[8]}.isdisjoint(lists(out))
    assert (summary.customers, summary.withdrawn) == (len(NAMES) - 5, 2)
    assert summary.consent_size > before
    metadata = pq.read_schema(out).metadata
    assert metadata[b"consent_size"] == str(summary.consent_size).encode()
    for name in (NAMES[7], NAMES[8]):
        assert name.encode() not in out.read_bytes()


def test_without_the_second_look_they_would_be_in_it(
    recommender: Recommender, home: RegionHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    consents = recommender.consenting()
    monkeypatch.setattr(Recommender, "consenting", lambda self: consents)
    out = tmp_path / "lists.parquet"
    during(recommender, home, out, monkeypatch)
    assert NAMES[8] in lists(out)


def test_a_batch_that_fails_leaves_the_file_as_it_was(
    recommender: Recommender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "lists.parquet"
    out.write_bytes(b"yesterday's")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("client.recommend.batch_file.BatchFile.add", full)
    with pytest.raises(StorageError, match="No space left on device"):
        write_batch(recommender, out)
    assert out.read_bytes() == b"yesterday's"
    assert [path.name for path in tmp_path.glob("*.tmp*")] == []
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_nothing_is_left_beside_the_file(recommender: Recommender, tmp_path: Path) -> None:
    out = tmp_path / "lists" / "lists.parquet"
    out.parent.mkdir()
    write_batch(recommender, out)
    assert [path.name for path in out.parent.iterdir()] == ["lists.parquet"]


def test_whose_scores_are_no_numbers_has_no_row(
    recommender: Recommender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = BulkLists.lists

    def broken(self: BulkLists, rows: object) -> object:
        numbers, scores, finite = made(self, rows)  # type: ignore[arg-type]
        finite[:2] = False
        return numbers, scores, finite

    monkeypatch.setattr(BulkLists, "lists", broken)
    summary = write_batch(recommender, tmp_path / "lists.parquet")
    assert summary.not_finite == 2
    assert summary.customers == len(NAMES) - 5


@pytest.mark.parametrize("k", [0, -1, MAX_BATCH_K + 1, True])
def test_lengths_out_of_range_are_refused(k: int) -> None:
    with pytest.raises(InputError, match="cannot be made"):
        BatchRequest(k=k)


def test_places_and_scenes_that_cannot_be_are_refused(
    recommender: Recommender, tmp_path: Path
) -> None:
    for out in (tmp_path, tmp_path / "nowhere" / "lists.parquet"):
        with pytest.raises(InputError, match="no batch can be written there"):
            write_batch(recommender, out)
    with pytest.raises(InputError, match="daypart"):
        write_batch(
            recommender, tmp_path / "a.parquet", BatchRequest(scene=Scene(daypart="teatime"))
        )


def test_no_batch_is_made_while_an_experiment_runs(home: RegionHome, tmp_path: Path) -> None:
    arms = [{"name": "a", "share": 0.5}, {"name": "b", "share": 0.5, "method": "popular"}]
    settings = RecommendSettings.model_validate(
        {"history": {"until": "model"}, "experiment": {"name": "trial", "arms": arms}}
    )
    found = opened(home, settings)
    try:
        with pytest.raises(InputError, match="An experiment runs"):
            write_batch(found, tmp_path / "lists.parquet")
    finally:
        found.close()


def test_a_region_without_histories_has_the_row_for_everybody(tmp_path: Path) -> None:
    home = make_served_region(tmp_path / "cold", sales=MANY[:1], consenting=("never-bought",))
    found = opened(home)
    try:
        summary = write_batch(found, tmp_path / "lists.parquet")
    finally:
        found.close()
    assert summary.customers == 0
    assert lists(tmp_path / "lists.parquet").keys() == {None}
