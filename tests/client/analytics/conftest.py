from __future__ import annotations

from pathlib import Path

import pytest

from common.catalogue import Catalogue
from simulations.made_up_tables import write_tables
from tests.support.asking_region import Federation, copied, make_consenting
from tests.support.small_federation import home_of


@pytest.fixture(scope="session")
def consenting(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    """A region whose customers consent to statistics, with made-up tables of known truths."""
    federation = make_consenting(tmp_path_factory.mktemp("analytics") / "run")
    home = home_of(federation[0])
    write_tables(home.source, Catalogue.load(home.catalogue), seed=3)
    return federation


@pytest.fixture
def federation(consenting: Federation, tmp_path: Path) -> Federation:
    """The same, to be changed."""
    return copied(consenting, tmp_path / "run")
