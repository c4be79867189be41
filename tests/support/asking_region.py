"""A region whose customers consent to statistics and whose policy allows every question."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from client.analytics.askable import ASKABLE, statistics
from client.analytics.asking import draft_query
from client.analytics.further import named_in
from client.consent_service.registrar import Choice
from client.data.tables.declaration import declared_tables
from client.engine.policy import RegionPolicy
from client.engine.policy_desk import sign_policy
from client.engine.query_desk import QueryDraft
from client.recommend.local_statistics import Clock
from common.catalogue import Catalogue
from common.consent import FEDERATED_ANALYTICS, FEDERATED_TRAINING
from simulations.provision import OpenRegion, RegionSetUp, open_region
from simulations.run_folder import RunFolder
from tests.support.small_federation import WINDOWS, home_of, make_federation

CUSTOMERS = 300
CLOCK = Clock({"day": (6, 18), "night": (18, 6)}, "Europe/Berlin")
Federation = tuple[RunFolder, list[RegionSetUp]]


def make_consenting(root: Path) -> Federation:
    """Makes the region in a folder; of its customers one in ten refused everything."""
    folder, _, set_ups = make_federation(root, regions=1, quorum=1, customers=CUSTOMERS)
    with open_region(home_of(folder), set_ups[0]) as region:
        both = {FEDERATED_TRAINING: True, FEDERATED_ANALYTICS: True}
        agreeing = [each for each in region.customers if region.registrar.consents(each)]
        region.registrar.record([Choice.give(each, both) for each in agreeing])
        allowed = {"queries": dict.fromkeys(ASKABLE, "8")}
        policy = RegionPolicy.model_validate({**region.engine.policy.to_record(), **allowed})
        sign_policy(region.engine.home, region.engine.log, policy)
    return folder, set_ups


def copied(federation: Federation, folder: Path) -> Federation:
    """The region once more, to be changed."""
    shutil.copytree(federation[0].root, folder, symlinks=True)
    return RunFolder(folder), federation[1]


@contextmanager
def reopened(federation: Federation) -> Iterator[OpenRegion]:
    """Opens the region's engine."""
    folder, set_ups = federation
    with open_region(home_of(folder), set_ups[0]) as opened:
        yield opened


def draft(region: OpenRegion, *names: str, epsilon: str = "6", experiment: str = "") -> QueryDraft:
    """Asks for some questions over the training window."""
    catalogue = Catalogue.load(region.engine.home.catalogue)
    window = {"start_ms": WINDOWS.train_from_ms, "end_ms": WINDOWS.train_until_ms}
    named = named_in(declared_tables(region.engine.home), experiment=experiment, follow_days=10)
    asked = statistics(names, catalogue, CLOCK, named=named, **window)
    return draft_query(asked, epsilon=epsilon, catalogue=catalogue, **window)
