"""Every attack succeeds in a deployment of stock Flower: what is defended against is real."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from simulations.deployment_attacks.names import NAMES
from simulations.deployment_attacks.outcome import Outcome
from simulations.deployment_attacks.table import ATTACKS, on_stock_flower
from tests.support.shared_python import shared_scripts

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def outcomes() -> Mapping[str, tuple[Outcome, float]]:
    with tempfile.TemporaryDirectory(prefix="fedpref-d") as work:
        Path(work).chmod(0o711)
        scripts = shared_scripts(Path(work))
        return on_stock_flower(ATTACKS, Path(work) / "flower", seed=1, scripts=scripts)


@pytest.mark.parametrize("name", NAMES)
def test_it_succeeds(name: str, outcomes: Mapping[str, tuple[Outcome, float]]) -> None:
    outcome, _ = outcomes[name]
    assert outcome.succeeded, outcome.what
