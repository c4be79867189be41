"""What every test may use: one finished run of the small scenario, made once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support.made_once import made_once

# How long a case takes says nothing about what is tested, and a shared machine stalls. Examples
# are the same each time: what is red is red for everyone, until it is mended. To look for others:
# --hypothesis-profile=search.
settings.register_profile(
    "fedpref",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("search", settings.get_profile("fedpref"), derandomize=False)
settings.load_profile("fedpref")

# Files that take half a minute or more. They come first: one of them left to the end would keep one
# process busy while the others are done.
_LONG = (
    "docs/test_docs.py",
    "simulations/faults/test_matrix.py",
    "simulations/faults/test_schedules.py",
    "simulations/test_runtimes.py",
    "simulations/test_customer_story.py",
    "simulations/test_whole_run.py",
    "server/test_resume.py",
    "simulations/evaluation/test_evaluate.py",
    "simulations/attacks/test_attack_log.py",
)
# These come last: a deployment, once begun, runs on beside all tests that come after it.
_LATE = ("deployment", "simulations")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts long files first; within a file and among the others the order stays."""

    def rank(item: pytest.Item) -> int:
        name = item.path.relative_to(Path(__file__).parent).as_posix()
        if name in _LONG:
            return _LONG.index(name)
        folder = name.partition("/")[0]
        return len(_LONG) + (1 + _LATE.index(folder) if folder in _LATE else 0)

    items.sort(key=rank)


BIN = Path(sys.executable).parent
RUN_OPTIONS = ("--scenario", "synthetic-3", "--seed", "1", "--quality-seeds", "1")


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished, verified run of synthetic-3, by the command a user would give. Read-only."""

    def make(out: Path) -> None:
        done = subprocess.run(
            [BIN / "fedpref-sim", "run", *RUN_OPTIONS, "--out", out],
            capture_output=True,
            text=True,
            timeout=800,
            env={**os.environ, "COLUMNS": "200"},
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Verified" in done.stdout

    return made_once(tmp_path_factory, "finished", make)


@pytest.fixture(scope="session")
def asked_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished, verified run of questions with answers of each region. Read-only."""
    from tests.support.asked_federation import asked_plan, finish_asked

    return made_once(tmp_path_factory, "asked", lambda out: finish_asked(out, asked_plan()))


@pytest.fixture(scope="session")
def clustered_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished, verified run of one question of three steps. Read-only."""
    from common.analytics.purchase_questions import CLUSTERS
    from tests.support.asked_federation import asked_plan, finish_asked

    plan = asked_plan((CLUSTERS,), scope="global")
    return made_once(tmp_path_factory, "clustered", lambda out: finish_asked(out, plan))


@pytest.fixture(scope="session")
def keyed_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished, verified run that asked for search terms, then something else. Read-only."""
    from tests.support.keyed_federation import finish_keyed, keyed_plan

    return made_once(tmp_path_factory, "keyed", lambda out: finish_keyed(out, keyed_plan()))
