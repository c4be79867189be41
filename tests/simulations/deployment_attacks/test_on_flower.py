"""Every attack succeeds in a deployment of stock Flower: what is defended against is real."""

from __future__ import annotations

from pathlib import Path

import pytest

from simulations.deployment_attacks.names import NAMES
from simulations.deployment_attacks.table import ATTACKS, on_stock_flower

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    import tempfile

    with tempfile.TemporaryDirectory(prefix="fedpref-d") as work:
        return dict(on_stock_flower(ATTACKS, Path(work) / "flower", seed=1))


@pytest.mark.parametrize("name", NAMES)
def test_it_succeeds(name: str, outcomes: dict) -> None:
    outcome, _ = outcomes[name]
    assert outcome.succeeded, outcome.what
