"""``fedpref-region recommend uplift``: the arms of an experiment, compared."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from client.cli import app
from client.engine.home import RegionHome
from client.recommend.experiment import Assignment, experiment_key
from client.recommend.exposure import FILE_NAME, Exposure, ExposureLog
from client.recommend.settings import FILE_NAME as SETTINGS_NAME
from client.recommend.settings import RecommendSettings, recommend_folder
from common.errors import InputError
from tests.support.preference_data import END_MS
from tests.support.served_region import WEEK_MS, make_served_region, opened, withdraw

EXPERIMENT = """\
[experiment]
name = "trial"
arms = [{ name = "without", share = 0.5, live = false }, { name = "with", share = 0.5 }]
"""
CUSTOMERS = tuple(f"customer-{number:02d}" for number in range(16))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> RegionHome:
    """All were shown item 7 seven weeks before the end; the odd ones bought it a week later."""
    sales = [(name, 7, 6.0) for name in CUSTOMERS[1::2]] + [(name, 3, 9.0) for name in CUSTOMERS]
    home = make_served_region(
        tmp_path_factory.mktemp("uplift") / "home", sales=sales, consenting=CUSTOMERS
    )
    (recommend_folder(home) / SETTINGS_NAME).write_text(EXPERIMENT)
    settings = RecommendSettings.read(home)
    assert settings.experiment is not None
    assignment = Assignment(settings.experiment, experiment_key(home))
    recommender = opened(home)
    log = ExposureLog(recommend_folder(home) / FILE_NAME)
    for number, name in enumerate(CUSTOMERS):
        sid = recommender.gate.judge(name).sid
        assert sid is not None
        # Odd customers in the one arm, even ones in the other.
        arm = ("without", "with")[number % 2]
        at_ms = END_MS - 7 * WEEK_MS
        log.add(Exposure("trial", assignment.pseudonym(sid), arm, at_ms, ("item-07",)))
    log.close()
    recommender.close()
    return home


def uplift(home: RegionHome, *options: str) -> str:
    done = CliRunner().invoke(app, ["recommend", "uplift", str(home.root), *options])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def test_the_arms_are_compared(home: RegionHome) -> None:
    told = json.loads(uplift(home, "--days", "14", "--json"))
    assert told["believable"] is True
    control, treated = told["arms"]
    assert (control["customers"], treated["customers"]) == (8, 8)
    assert treated["measures"]["buyers"]["difference"] == "1"
    assert treated["measures"]["purchases_of_shown"]["mean"] == "1"
    shown = uplift(home, "--days", "14")
    assert "with" in shown
    assert "+1" in shown
    shorter = json.loads(uplift(home, "--days", "3", "--json"))
    assert shorter["arms"][1]["measures"]["buyers"]["mean"] == "0"


def test_whoever_withdrew_is_not_counted(home: RegionHome) -> None:
    withdraw(home, CUSTOMERS[1])
    told = json.loads(uplift(home, "--json"))
    assert [arm["customers"] for arm in told["arms"]] == [8, 7]


def test_without_an_experiment_there_is_a_remedy(home: RegionHome) -> None:
    (recommend_folder(home) / SETTINGS_NAME).unlink()
    with pytest.raises(InputError, match="have no experiment"):
        uplift(home)
