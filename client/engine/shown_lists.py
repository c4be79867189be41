"""The recommender's exposure log as the table of exposures, of consenting customers."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from client.data.consent_filter import EligibleCustomers
from client.data.tables.rows import TIME, arrow_schema
from client.data.tables.schema import CONTROL, EXPOSURES, TABLES, TREATED
from client.engine.home import RegionHome
from client.recommend.experiment import Assignment, experiment_key
from client.recommend.exposure import FILE_NAME, Exposure, ExposureLog
from client.recommend.settings import (
    ExperimentSettings,
    RecommendSettings,
    recommend_folder,
)
from common.errors import InputError


def shown_lists(home: RegionHome, eligible: EligibleCustomers) -> pa.Table:
    """What the recommender showed in its experiment: a row for each item of each list.

    The first arm of the settings is the control, as for `fedpref-region recommend uplift`; every
    other one is the treatment. The log calls a customer by a name of its own, which only her
    pseudonym and the region's key lead to: so only those are found who are given.

    Args:
        home: The region's home.
        eligible: The customers whose consent is in force.

    Returns:
        The canonical columns; customers by the region's own references. No row, if nothing has
        been shown yet.

    Raises:
        InputError: The recommender runs no experiment.
        StorageError: The log or its key cannot be read.
    """
    experiment = RecommendSettings.read(home).experiment
    if experiment is None:
        raise InputError(
            f"{home.region} declares no table {EXPOSURES}, and its recommender runs no experiment.",
            remedy=f"Add [{EXPOSURES}] to tables.toml, or [experiment] to recommend/settings.toml.",
        )
    return _rows(home, experiment, eligible.pseudonyms)


def shown_to(home: RegionHome, customer_ref: str, sid: str) -> pa.Table:
    """What the recommender showed one customer in its experiment, for herself.

    Args:
        home: The region's home.
        customer_ref: The region's reference of the customer.
        sid: Her pseudonym.

    Returns:
        As `shown_lists`; no row, if there is no experiment.

    Raises:
        InputError: The recommender's settings are malformed.
        StorageError: The log or its key cannot be read.
    """
    experiment = RecommendSettings.read(home).experiment
    if experiment is None or not (recommend_folder(home) / FILE_NAME).exists():
        return arrow_schema(TABLES[EXPOSURES]).empty_table()
    return _rows(home, experiment, {customer_ref: sid})


def _rows(
    home: RegionHome, experiment: ExperimentSettings, pseudonyms: Mapping[str, str]
) -> pa.Table:
    """The canonical rows of some customers, by reference and pseudonym, and of no others."""
    assignment = Assignment(experiment, experiment_key(home))
    whose = {assignment.pseudonym(sid): ref for ref, sid in pseudonyms.items()}
    control, *others = (arm.name for arm in experiment.arms)
    arms = {control: CONTROL, **dict.fromkeys(others, TREATED)}
    columns: dict[str, list[str | int | None]] = {name: [] for name in TABLES[EXPOSURES].columns}
    for each in _logged(home, experiment.name):
        customer, arm = whose.get(each.customer), arms.get(each.arm)
        # An arm that the settings have no longer is none of this comparison.
        if customer is None or arm is None:
            continue
        for item in each.items or (None,):
            columns["customer"].append(customer)
            columns["time"].append(each.shown_at_ms)
            columns["experiment"].append(each.experiment)
            columns["arm"].append(arm)
            columns["item"].append(item)
    wanted = arrow_schema(TABLES[EXPOSURES])
    arrays = [
        pa.array(values, pa.int64()).cast(TIME)
        if name == "time"
        else pa.array(values, pa.string()).dictionary_encode()
        for name, values in columns.items()
    ]
    return pa.table(arrays, schema=wanted)


def _logged(home: RegionHome, experiment: str) -> list[Exposure]:
    path = recommend_folder(home) / FILE_NAME
    if not path.exists():
        return []
    log = ExposureLog(path)
    try:
        return list(log.all(experiment))
    finally:
        log.close()
