"""The data of an evaluation: a scenario's or mapped ones, past the quality gate, region by region.

As `simulations.evaluation_data`, this is for simulations only: everybody is taken to have
consented, and one process reads all regions' stores.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd

from client.data.quality import quality_gate
from client.data.source_config import FileSourceConfig, SqlSourceConfig, load_source_config
from client.data.sources import all_batches
from client.data.transactions import CheckedTransactions, ConsentedTransactions, Transactions
from common.catalogue import Catalogue
from common.errors import InputError
from simulations.evaluation.mapping import (
    DataMapping,
    EvaluationTable,
    common_table,
    read_mapping,
)
from simulations.evaluation_data import as_if_all_consented
from simulations.prepared import EvaluationWindows
from simulations.scenarios import Scenario

# Of the data's time, where a mapping file does not say.
_TEST_SHARE = 0.1
_REFUSAL_SHARE = 0.06
_DOMAIN = b"fedpref-evaluation/1\n"
_CATALOGUE_NOTE = (
    "No catalogue is named: the items that occur are taken as one, as if they were public."
)
_PLANNED_NOTE = (
    "No planned_customers is stated: the number of customers, rounded to {planned:,}, is taken as "
    "if it were public. A deployment's plan states a public number."
)


@dataclass(frozen=True, eq=False)
class RegionRows:
    """One region's customers.

    Attributes:
        name: The region's name.
        consented: Their purchases, under pseudonyms, as if all had consented.
        n_customers: How many customers the store has.
    """

    name: str
    consented: ConsentedTransactions = field(repr=False)
    n_customers: int


@dataclass(frozen=True, eq=False)
class EvaluationData:
    """What is evaluated on.

    Attributes:
        name: The data's name: the scenario's, or that of the mapping file.
        title: One line for people.
        catalogue: The public catalogue.
        regions: The regions, in order.
        windows: The temporal split.
        planned_customers: The public planning size.
        refusal_share: Share of customers who refuse, where refusals are asked for.
        is_public: Whether anyone may have the data.
        protocol: The protocol that fits the data, where none is asked for.
        notes: What was assumed for want of a statement.
    """

    name: str
    title: str
    catalogue: Catalogue
    regions: tuple[RegionRows, ...] = field(repr=False)
    windows: EvaluationWindows
    planned_customers: int
    refusal_share: float
    is_public: bool
    protocol: str
    notes: tuple[str, ...] = ()


def scenario_data(scenario: Scenario, folder: Path, *, seed: int) -> EvaluationData:
    """A scenario's data; they are in memory, and the folder may go.

    Args:
        scenario: The scenario.
        folder: Where its files are prepared.
        seed: Of made-up data.

    Raises:
        InputError: The data are not there.
        QualityGateError: A store is below the threshold.
    """
    prepared = scenario.prepare(folder, seed=seed)
    catalogue = Catalogue.load(prepared.catalogue)
    windows = scenario.windows
    regions = []
    for region in prepared.regions:
        checked = _checked(load_source_config(region.source), catalogue, region.name)
        regions.append(_region(region.name, checked, _pseudonyms(checked), windows))
    return EvaluationData(
        name=scenario.name,
        title=scenario.title,
        catalogue=catalogue,
        regions=tuple(regions),
        windows=windows,
        planned_customers=scenario.planned_customers,
        refusal_share=scenario.refusal_share,
        is_public=True,
        protocol="temporal",
    )


def mapped_data(paths: Sequence[Path], catalogue_file: Path | None = None) -> EvaluationData:
    """Data by mapping files: one whose customers are divided into regions, or one for each region.

    Args:
        paths: The mapping files.
        catalogue_file: The public catalogue as Parquet, if not as the mapping files say.

    Raises:
        InputError: A file or a store cannot be read, or the files contradict each other.
        QualityGateError: A store is below the threshold.
    """
    mappings = [read_mapping(path) for path in paths]
    table = common_table(mappings)
    notes: list[str] = []
    if catalogue_file is not None:
        catalogue = Catalogue.load(catalogue_file)
    elif table.catalogue is None:
        catalogue = _occurring(mappings)
        notes.append(_CATALOGUE_NOTE)
    else:
        catalogue = table.catalogue.read(paths[0].parent)
    stores = {
        each.region: _checked(each.source, catalogue, each.region, table.least_amount)
        for each in mappings
    }
    windows = _windows(table, list(stores.values()))
    regions = (
        [_region(name, each, _pseudonyms(each), windows) for name, each in stores.items()]
        if len(stores) > 1
        else _divided(next(iter(stores.values())), table.regions, windows)
    )
    n_customers = sum(region.n_customers for region in regions)
    planned = table.planned_customers
    if planned is None:
        planned = _rounded(n_customers)
        notes.append(_PLANNED_NOTE.format(planned=planned))
    name = paths[0].stem if len(paths) == 1 else "-".join(stores)[:64]
    return EvaluationData(
        name=name,
        title=f"{n_customers:,} customers and {catalogue.n_items:,} items, {paths[0].name}"
        + (f" and {len(paths) - 1} more" if len(paths) > 1 else ""),
        catalogue=catalogue,
        regions=tuple(regions),
        windows=windows,
        planned_customers=planned,
        refusal_share=_REFUSAL_SHARE,
        is_public=table.public,
        protocol=table.protocol,
        notes=tuple(notes),
    )


def pseudonym(reference: str) -> str:
    """A customer's pseudonym in an evaluation: the same in whatever region she turns up."""
    return hashlib.sha256(_DOMAIN + reference.encode()).hexdigest()


def _checked(
    source: FileSourceConfig | SqlSourceConfig,
    catalogue: Catalogue,
    region: str,
    least_amount: float | None = None,
) -> CheckedTransactions:
    batches = _above(all_batches(source), least_amount)
    return quality_gate(batches, catalogue, region=region)


def _above(batches: Iterator[Transactions], least_amount: float | None) -> Iterator[Transactions]:
    """Without the rows whose amount is smaller; a missing amount is the quality gate's to judge."""
    for batch in batches:
        if least_amount is None:
            yield batch
            continue
        amounts: pd.Series[float] = batch.frame["amount"]
        kept = batch.frame[~(amounts < least_amount)].reset_index(drop=True)
        yield replace(batch, frame=kept)


def _occurring(mappings: Sequence[DataMapping]) -> Catalogue:
    """A catalogue of all items that the stores have rows of, in the order of their references."""
    items: set[str] = set()
    for mapping in mappings:
        for batch in all_batches(mapping.source):
            items.update(str(item) for item in batch.frame["item_ref"].dropna().unique())
    return Catalogue.of(sorted(items))


def _pseudonyms(checked: CheckedTransactions) -> dict[str, str]:
    return {ref: pseudonym(ref) for part in checked.parts() for ref in part.owners}


def _region(
    name: str,
    checked: CheckedTransactions,
    pseudonyms: Mapping[str, str],
    windows: EvaluationWindows,
) -> RegionRows:
    if not pseudonyms:
        raise InputError(
            f"The region {name} has no customers.",
            remedy="Divide the data into fewer regions, or correct its mapping file.",
        )
    consented = as_if_all_consented(
        checked, pseudonyms, from_ms=windows.train_from_ms, until_ms=windows.train_until_ms
    )
    return RegionRows(name, consented, len(pseudonyms))


def _divided(
    checked: CheckedTransactions, n_regions: int, windows: EvaluationWindows
) -> list[RegionRows]:
    """One store's customers in several regions, each customer in the one of her pseudonym."""
    members: list[dict[str, str]] = [{} for _ in range(n_regions)]
    for reference, sid in _pseudonyms(checked).items():
        members[int(sid[-8:], 16) % n_regions][reference] = sid
    return [
        _region(f"region-{number}", checked, own, windows)
        for number, own in enumerate(members, start=1)
    ]


def _windows(table: EvaluationTable, stores: Sequence[CheckedTransactions]) -> EvaluationWindows:
    bounds = [
        (int(part.time_ms.min()), int(part.time_ms.max()))
        for store in stores
        for part in store.parts()
        if len(part)
    ]
    first, last = min(low for low, _ in bounds), max(high for _, high in bounds)
    until = last + 1
    if table.test_until is not None:
        until = round(table.test_until.timestamp() * 1000)
    cut = until - max(1, round(_TEST_SHARE * (until - first)))
    if table.test_from is not None:
        cut = round(table.test_from.timestamp() * 1000)
    if not first < cut < until:
        raise InputError(
            "The test window is empty, or nothing is left before it.",
            remedy="Correct test_from and test_until in [evaluation].",
        )
    return EvaluationWindows(first, cut, until)


def _rounded(number: int) -> int:
    """To one significant digit."""
    step: int = 10 ** int(math.log10(number))
    return max(step, round(number / step) * step)
