from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from common.catalogue import Catalogue
from common.errors import InputError
from simulations.evaluation.mapping import CatalogueTable, common_table, read_mapping
from tests.support.evaluation_store import CATALOGUE, made_up_rows, write_catalogue, write_store


def mapping_of(folder: Path, more: str, name: str = "shop") -> Path:
    return write_store(folder, made_up_rows(3), more=more, name=name)


def test_a_regions_own_declaration_will_do(tmp_path: Path) -> None:
    mapping = read_mapping(mapping_of(tmp_path, ""))
    assert mapping.source.columns.customer == "who"
    assert (mapping.region, mapping.table.regions, mapping.table.protocol) == (
        "shop",
        5,
        "temporal",
    )
    home = mapping_of(tmp_path / "North" / "data", "", name="source")
    assert read_mapping(home).region == "north"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("[evaluation]\nregoins = 3\n", "evaluation.regoins: Extra inputs"),
        ("[evaluation]\nregions = 0\n", "evaluation.regions"),
        ('[evaluation]\nregion = "-no"\n', "region is up to 64"),
        ('[evaluation]\nprotocol = "random"\n', "evaluation.protocol"),
        ("[evaluation]\nleast_amount = nan\n", "least_amount"),
        (
            "[evaluation]\ntest_from = 2024-02-01T00:00:00Z\ntest_until = 2024-01-01T00:00:00Z\n",
            "test_from must be before",
        ),
        ("[evaluation]\ntest_from = 2024-02-01T00:00:00\n", "timezone"),
        ("[evaluation.catalogue]\n", "evaluation.catalogue.path"),
        ("[other]\na = 1\n", "other"),
    ],
)
def test_a_wrong_field_is_named(tmp_path: Path, more: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_mapping(mapping_of(tmp_path, more))


def test_a_least_amount_needs_amounts(tmp_path: Path) -> None:
    path = mapping_of(tmp_path, "")
    path.write_text(
        path.read_text().replace('amount = "stars"\n', "[evaluation]\nleast_amount = 4")
    )
    with pytest.raises(InputError, match=r"needs columns\.amount"):
        read_mapping(path)


def test_files_of_several_regions_must_agree(tmp_path: Path) -> None:
    north = read_mapping(mapping_of(tmp_path / "a", "[evaluation]\nregions = 2\n", name="north"))
    south = read_mapping(mapping_of(tmp_path / "b", "[evaluation]\nregions = 3\n", name="south"))
    with pytest.raises(InputError, match="different things"):
        common_table([north, south])
    with pytest.raises(InputError, match="of one region, north"):
        common_table([north, north])
    named = mapping_of(tmp_path / "c", '[evaluation]\nregion = "west"\nregions = 2\n')
    assert common_table([north, read_mapping(named)]).regions == 2


def test_a_catalogue_is_read_from_any_table(tmp_path: Path) -> None:
    write_catalogue(tmp_path)
    table = read_mapping(mapping_of(tmp_path, CATALOGUE)).table.catalogue
    assert table is not None
    catalogue = table.read(tmp_path)
    assert catalogue.n_items == 40
    assert catalogue.category_names == tuple(f"kind {number}" for number in range(4))
    frame = pd.DataFrame({"sku": [1, 2], "kind": ["a", None]})
    frame.to_parquet(tmp_path / "products.parquet")
    other = CatalogueTable(path="products.parquet", item="sku", category="kind").read(tmp_path)
    assert (other.items, other.category_names) == (("1", "2"), ("UNLABELLED", "a"))
    other.save(tmp_path / "saved.parquet")
    again = CatalogueTable(path="saved.parquet").read(tmp_path)
    assert isinstance(again, Catalogue)
    assert again.digest == other.digest


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        ("sku;kind\ni00;a\ni00;b\n", "more than once"),
        ("item;kind\ni00;a\n", "no column 'sku'; it has item, kind"),
        ("sku;kind\ni00\n", "too few columns"),
        ("", "no column 'sku'"),
    ],
)
def test_a_catalogue_that_is_none_is_refused(
    tmp_path: Path, content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "products.csv").write_text(content)
    table = CatalogueTable(path="products.csv", delimiter=";", item="sku", category="kind")
    with pytest.raises(InputError, match=message):
        table.read(tmp_path)
    (tmp_path / "products.parquet").write_bytes(b"PAR1 no parquet")
    with pytest.raises(InputError, match="cannot be read"):
        CatalogueTable(path="products.parquet", item="sku").read(tmp_path)
