from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.catalogue import UNLABELLED, Catalogue
from common.errors import InputError

VECTOR = Path(__file__).parents[1] / "vectors" / "catalogue" / "small.json"
ITEMS = ["7", "31", "205", "crème"]


def small(**changes: Any) -> Catalogue:
    fields: dict[str, Any] = {
        "category": ["BREAD", None, "APPLES", "BREAD"],
        "product_type": ["ROLLS", "", "GALA", "CAKE"],
        "department": ["BAKERY", "GROCERY", "PRODUCE", "BAKERY"],
        "excluded": ["900", "88"],
    }
    return Catalogue.of(changes.pop("items", ITEMS), **(fields | changes))


def independent_digest(vector: dict[str, Any]) -> str:
    """The definition in the digest's docstring, written a second time from the words."""
    data = b"fedpref-catalogue/1\n"

    def strings(name: str, values: list[str]) -> bytes:
        lengths = b"".join(struct.pack("<I", len(value.encode())) for value in values)
        return f"{name} {len(values)}\n".encode() + lengths + "".join(values).encode()

    data += strings("items", vector["items"])
    for level in ("category", "product_type", "department"):
        names = sorted({label or "UNLABELLED" for label in vector[level]})
        codes = [names.index(label or "UNLABELLED") for label in vector[level]]
        data += strings(f"{level}.names", names)
        data += f"{level}.codes {len(codes)}\n".encode()
        data += b"".join(struct.pack("<i", code) for code in codes)
    data += strings("excluded", sorted(vector["excluded"]))
    if any(vector.get("brand", ())):
        names = sorted({label or "UNLABELLED" for label in vector["brand"]})
        codes = [names.index(label or "UNLABELLED") for label in vector["brand"]]
        data += strings("brand.names", names)
        data += f"brand.codes {len(codes)}\n".encode()
        data += b"".join(struct.pack("<i", code) for code in codes)
    return hashlib.sha256(data).hexdigest()


def test_digest_is_the_vectors_and_the_definitions() -> None:
    vector = json.loads(VECTOR.read_text("utf-8"))
    inputs = vector["catalogue"]
    made = Catalogue.of(inputs["items"], **{k: v for k, v in inputs.items() if k != "items"})
    assert made.digest == vector["digest"] == independent_digest(inputs)


def test_brands_are_part_of_the_content_if_there_are_any() -> None:
    brands = ["OURS", None, "ACME", "OURS"]
    branded = small(brand=brands)
    vector = json.loads(VECTOR.read_text("utf-8"))["catalogue"]
    inputs = vector | {"brand": [*["ACME"] * (len(vector["items"]) - 1), None]}
    made = Catalogue.of(inputs["items"], **{k: v for k, v in inputs.items() if k != "items"})
    assert made.digest == independent_digest(inputs)
    assert branded.brand_names == ("ACME", "OURS", UNLABELLED)
    assert branded.brand.tolist() == [1, 2, 0, 1]
    # Without brands it is the digest that it always was.
    assert small(brand=[None, "", None, ""]).digest == small().digest
    assert len({small().digest, branded.digest, small(brand=[*brands[:3], "ACME"]).digest}) == 3


@pytest.mark.parametrize("brand", [None, ["OURS", None, "ACME", "OURS"]])
def test_an_extended_catalogue_begins_with_the_one_it_extends(brand: list[str] | None) -> None:
    extended = Catalogue.of(
        [*ITEMS, "300"],
        category=["BREAD", None, "APPLES", "BREAD", "AAA, WHICH SORTS FIRST"],
        product_type=["ROLLS", "", "GALA", "CAKE", "NEW"],
        department=["BAKERY", "GROCERY", "PRODUCE", "BAKERY", None],
        excluded=["900", "88"],
        brand=None if brand is None else [*brand, "NEW"],
    )
    assert extended.first(4).digest == small(brand=brand).digest
    assert extended.first(5).digest == extended.digest
    assert extended.digest != small(brand=brand).digest
    for count in (0, -1, 6):
        with pytest.raises(InputError, match=f"has no first {count}"):
            extended.first(count)


def test_labels_are_codes_into_sorted_names() -> None:
    catalogue = small()
    assert catalogue.category_names == ("APPLES", "BREAD", UNLABELLED)
    assert catalogue.category.tolist() == [1, 2, 0, 1]
    assert catalogue.category.dtype == np.int32
    assert catalogue.product_type_names == ("CAKE", "GALA", "ROLLS", UNLABELLED)
    assert catalogue.department_names == ("BAKERY", "GROCERY", "PRODUCE")
    with pytest.raises(ValueError, match="read-only"):
        catalogue.category[0] = 0


def test_numbers_of_items() -> None:
    catalogue = small()
    assert catalogue.n_items == 4
    assert dict(catalogue.index_of) == {"7": 0, "31": 1, "205": 2, "crème": 3}
    found = catalogue.positions(["205", "nothing", "7"])
    assert found.tolist() == [2, -1, 0]
    assert found.dtype == np.int32
    assert catalogue.positions([]).dtype == np.int32


def test_digest_is_of_the_content_not_of_the_file(tmp_path: Path) -> None:
    catalogue = small()
    catalogue.save(tmp_path / "a.parquet")
    table = pq.read_table(tmp_path / "a.parquet")
    plain = pa.table(
        {name: table.column(name).cast(pa.large_string()) for name in reversed(table.column_names)},
        metadata=table.schema.metadata,
    )
    pq.write_table(plain, tmp_path / "b.parquet", compression="none", row_group_size=1)
    assert (tmp_path / "a.parquet").read_bytes() != (tmp_path / "b.parquet").read_bytes()
    assert Catalogue.load(tmp_path / "a.parquet").digest == catalogue.digest
    assert Catalogue.load(tmp_path / "b.parquet").digest == catalogue.digest


def test_round_trip(tmp_path: Path) -> None:
    small().save(tmp_path / "c.parquet")
    loaded = Catalogue.load(tmp_path / "c.parquet")
    assert loaded.items == tuple(ITEMS)
    assert loaded.excluded == {"88", "900"}
    assert loaded.category_names == small().category_names
    assert loaded.category.tolist() == small().category.tolist()
    assert [path.name for path in tmp_path.iterdir()] == ["c.parquet"]
    branded = small(brand=["OURS", None, "ACME", "OURS"])
    branded.save(tmp_path / "c.parquet")
    assert Catalogue.load(tmp_path / "c.parquet").digest == branded.digest


@pytest.mark.parametrize(
    "changes",
    [
        {"items": ["31", "7", "205", "crème"]},
        {"items": ["7", "31", "205", "creme"]},
        {"category": ["BREAD", None, "APPLES", "APPLES"]},
        {"product_type": ["ROLLS", "", "GALA", "CAKES"]},
        {"department": ["BAKERY", "GROCERY", "PRODUCE", "GROCERY"]},
        {"excluded": ["900"]},
        {"excluded": ["90088"]},
        # The same bytes in a row, cut elsewhere.
        {"items": ["73", "1", "205", "crème"]},
    ],
)
def test_every_part_of_the_content_changes_the_digest(changes: dict[str, Any]) -> None:
    assert small(**changes).digest != small().digest


def test_an_order_that_means_nothing_does_not_change_the_digest() -> None:
    assert small(excluded=["88", "900", "88"]).digest == small().digest
    assert small(category=["BREAD", "", "APPLES", "BREAD"]).digest == small().digest


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"items": [], "category": None, "product_type": None, "department": None}, "no items"),
        ({"items": ["7", "31", "7", "crème"]}, "'7' more than once"),
        ({"items": ["7", "31", "", "crème"]}, "empty or unprintable"),
        ({"items": ["7", "31", "2\n5", "crème"]}, "empty or unprintable"),
        ({"items": ["7", "31", "é" * 129, "crème"]}, "longer than 256 bytes"),
        ({"category": ["BREAD"]}, "4 items but 1 labels in category"),
        ({"excluded": ["31"]}, "both has and excludes the item '31'"),
    ],
)
def test_a_wrong_catalogue_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        small(**changes)


def test_a_missing_or_damaged_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.parquet is missing"):
        Catalogue.load(tmp_path / "none.parquet")
    (tmp_path / "junk.parquet").write_bytes(b"not parquet" * 20)
    with pytest.raises(InputError, match=r"junk\.parquet cannot be read"):
        Catalogue.load(tmp_path / "junk.parquet")
    pq.write_table(pa.table({"item": ["1"], "category": ["A"]}), tmp_path / "short.parquet")
    with pytest.raises(InputError, match="lacks the column product_type; it has item, category"):
        Catalogue.load(tmp_path / "short.parquet")
    numbers = {name: [1] for name in ("item", "category", "product_type", "department")}
    pq.write_table(pa.table(numbers), tmp_path / "numbers.parquet")
    with pytest.raises(InputError, match="column item holds int64, not text"):
        Catalogue.load(tmp_path / "numbers.parquet")
