"""All ten attacks on this system's deployment: each is refused, and on record."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from simulations.deployment_attacks.names import NAMES
from simulations.deployment_attacks.our_federation import OurFederation, our_federation
from simulations.deployment_attacks.table import ATTACKS
from tests.support.shared_python import shared_scripts

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ours() -> Iterator[OurFederation]:
    with tempfile.TemporaryDirectory(prefix="fp-") as folder:
        Path(folder).chmod(0o711)
        with our_federation(Path(folder) / "f", scripts=shared_scripts(Path(folder))) as federation:
            yield federation


# In the table's order: the last of them remove a region.
@pytest.mark.parametrize("name", NAMES)
def test_it_is_refused_and_on_record(name: str, ours: OurFederation) -> None:
    (attack,) = (each for each in ATTACKS if each.name == name)
    outcome = attack.on_ours(ours)
    assert not outcome.succeeded, outcome.what
    assert outcome.logged, outcome.what
