"""What breaks in a real deployment, and that every run is finished all the same.

Whatever is done to it, a run ends with every round once, nothing released that was not charged, and
logs that the offline verifier accepts. `docs/decisions/0027-faults-and-resume.md` has the table.
"""

from __future__ import annotations

import random
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tomli_w

from simulations.deployment_attacks.our_federation import our_federation
from tests.support.deployed import (
    REGION_PROGRAMS,
    SERVER,
    SERVER_PROGRAMS,
    Deployed,
    fill,
    own_disk,
)
from tests.support.shared_python import shared_scripts

pytestmark = pytest.mark.slow

#: By fault the run that it is done to, and how many rounds that has.
ROUNDS = {
    "region-lost": 3,
    "coordinator-killed": 3,
    "machine-lost": 3,
    "engine-killed": 3,
    "engine-down": 3,
    "region-disk": 3,
    "server-disk": 3,
    "one-of-two": 3,
    "other-of-two": 3,
    "kills": 5,
    "soak": 10,
}
KILLS = 20
#: For how long what is lost stays away, in seconds.
AWAY_S = 15.0
_CAP = "60"


def more_runs(shops: Path) -> None:
    """Declares a run for each fault, and lets regions spend enough for all of them."""
    declaration = shops / "federation.toml"
    tables = tomllib.loads(declaration.read_text(encoding="utf-8"))
    first = tables["run"]["first"]
    tables["run"] |= {
        name: first | {"rounds": rounds, "epsilon": "1"} for name, rounds in ROUNDS.items()
    }
    declaration.write_text(tomli_w.dumps(tables), encoding="utf-8")
    for answers in shops.glob("*/region.toml"):
        values = tomllib.loads(answers.read_text(encoding="utf-8"))
        values["policy"]["epsilon_cap_per_year"] = _CAP
        answers.write_text(tomli_w.dumps(values), encoding="utf-8")


@pytest.fixture(scope="module")
def deployed() -> Iterator[Deployed]:
    with tempfile.TemporaryDirectory(prefix="fp-") as folder:
        Path(folder).chmod(0o711)
        runs = ("first", *ROUNDS)
        with our_federation(
            Path(folder) / "f", scripts=shared_scripts(Path(folder)), runs=runs, decide=more_runs
        ) as ours:
            yield Deployed(ours)


@pytest.fixture
def finishes(deployed: Deployed) -> Callable[[str], None]:
    """Checks that a run ends well, whatever was done to it."""

    def check(run: str) -> None:
        ended = deployed.wait_for_end(run)
        assert ended.state == "finished", ended
        assert deployed.rounds_done(run) == ROUNDS[run]
        assert deployed.faults(run) == []
        assert deployed.verify(run, f"evidence-{run}").startswith("Verified.")

    return check


@pytest.fixture
def draw(request: pytest.FixtureRequest) -> random.Random:
    return random.Random(request.node.name)


def test_a_region_is_lost_and_comes_back(
    deployed: Deployed, finishes: Callable[[str], None]
) -> None:
    run, region = "region-lost", deployed.ours.regions[1]
    deployed.submit(run)
    deployed.wait_for_round(run, 1)
    for program in REGION_PROGRAMS:
        deployed.kill(region, program)
    deployed.ours.command("fedpref-region", "stop", deployed.ours.folder(region))
    deployed.lives_for(AWAY_S)
    deployed.ours.command("fedpref-region", "start", deployed.ours.folder(region))
    finishes(run)


def test_the_coordinator_is_killed_and_started_again(
    deployed: Deployed, finishes: Callable[[str], None]
) -> None:
    run = "coordinator-killed"
    deployed.submit(run)
    deployed.wait_for_round(run, 1)
    for program in SERVER_PROGRAMS:
        deployed.kill(SERVER, program)
    deployed.kill_coordinator()
    finishes(run)
    assert deployed.entry(run).attempts >= 2


def test_the_coordinator_s_machine_is_lost_with_its_supervisor(
    deployed: Deployed, finishes: Callable[[str], None]
) -> None:
    run = "machine-lost"
    deployed.submit(run)
    deployed.wait_for_round(run, 1)
    deployed.kill_supervisor(SERVER)
    deployed.lives_for(AWAY_S)
    deployed.ours.command("fedpref-server", "start", "deployment")
    finishes(run)


def test_an_engine_is_killed_in_a_round(
    deployed: Deployed, finishes: Callable[[str], None]
) -> None:
    run = "engine-killed"
    deployed.submit(run)
    for number, region in enumerate(deployed.ours.regions, start=1):
        deployed.wait_for_event(run, "round-started", number)
        deployed.kill(region, "engine")
    finishes(run)


def test_an_engine_is_down_when_the_run_begins(
    deployed: Deployed, finishes: Callable[[str], None]
) -> None:
    run, region = "engine-down", deployed.ours.regions[2]
    with deployed.ours.without(deployed.party(region), "engine"):
        deployed.submit(run)
        deployed.lives_for(AWAY_S)
        assert deployed.rounds_done(run) == 0
    finishes(run)


def test_a_region_s_disk_is_full_and_then_is_not(
    deployed: Deployed, finishes: Callable[[str], None]
) -> None:
    run, region = "region-disk", deployed.ours.regions[0]
    home = deployed.ours.settings(region).home.root
    deployed.ours.command("fedpref-region", "stop", deployed.ours.folder(region))
    with own_disk(home):
        deployed.ours.command("fedpref-region", "start", deployed.ours.folder(region))
        ballast = fill(home)
        deployed.submit(run)
        deployed.lives_for(AWAY_S)
        assert deployed.rounds_done(run) == 0
        ballast.unlink()
        finishes(run)
        deployed.ours.command("fedpref-region", "stop", deployed.ours.folder(region))
    deployed.ours.command("fedpref-region", "start", deployed.ours.folder(region))


def test_the_coordinator_s_disk_is_full_and_then_is_not(
    deployed: Deployed, finishes: Callable[[str], None]
) -> None:
    run, server = "server-disk", deployed.ours.deployment.server
    deployed.ours.command("fedpref-server", "stop", "deployment")
    with own_disk(server):
        deployed.ours.command("fedpref-server", "start", "deployment")
        ballast = fill(server)
        deployed.submit(run)
        deployed.lives_for(AWAY_S)
        assert deployed.rounds_done(run) == 0
        ballast.unlink()
        finishes(run)
        deployed.ours.command("fedpref-server", "stop", "deployment")
    deployed.ours.command("fedpref-server", "start", "deployment")


def test_two_runs_submitted_at_once_are_both_finished(
    deployed: Deployed, finishes: Callable[[str], None]
) -> None:
    for run in ("one-of-two", "other-of-two"):
        deployed.submit(run)
    for run in ("one-of-two", "other-of-two"):
        finishes(run)


def test_twenty_kills_of_whatever_runs(
    deployed: Deployed, finishes: Callable[[str], None], draw: random.Random
) -> None:
    run, before = "kills", len(deployed.killed)
    deployed.submit(run)
    while len(deployed.killed) - before < KILLS:
        deployed.lives_for(draw.uniform(1.0, 6.0))
        deployed.kill_any(draw)
        assert deployed.look() == [], deployed.killed[before:]
    finishes(run)


def test_ten_rounds_with_a_kill_in_each(
    deployed: Deployed, finishes: Callable[[str], None], draw: random.Random
) -> None:
    run = "soak"
    deployed.submit(run)
    for number in range(1, ROUNDS[run] + 1):
        deployed.wait_for_event(run, "round-started", number)
        deployed.lives_for(draw.uniform(0.0, 2.0))
        deployed.kill_any(draw)
        assert deployed.look() == [], deployed.killed
    finishes(run)
