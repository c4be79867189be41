"""The same apps in process, on Ray and through ``flwr run``, each without any network."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.fake_federation import fake_plan, open_federation
from tests.support.isolated_run import MODES, isolated


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> str:
    from common.parameters import arrays_digest

    with open_federation(tmp_path_factory.mktemp("expected"), fake_plan()) as federation:
        federation.run()
        return arrays_digest(federation.model())


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_gives_the_same_model_calls_nobody_and_leaves_nothing(
    mode: str, tmp_path: Path, expected: str
) -> None:
    found = isolated(mode, tmp_path)
    assert found["ended"] == "finished"
    assert found["model"] == expected
    assert found["rounds"] == [1, 2, 3]
    assert found["sent_without_route"] == 0
    assert found["left_behind"] == 0
    # Ten times what it takes on two idle cores; a hang would take much longer.


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_fails_with_the_same_words(mode: str, tmp_path: Path) -> None:
    found = isolated(mode, tmp_path, fault="refuse")
    assert found["ended"] == (
        "FederationError: Round 1 has 1 of the 2 regions it needs, so nothing is published "
        "(region-1: budget-exhausted, region-3: budget-exhausted)."
    )
    assert found["rounds"] == []
    assert found["left_behind"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_an_interrupt_ends_every_mode_at_once_and_leaves_nothing(mode: str, tmp_path: Path) -> None:
    found = isolated(mode, tmp_path, fault="interrupt")
    assert found["ended"] == "interrupted"
    assert found["rounds"] == [1]
    assert found["left_behind"] == 0
