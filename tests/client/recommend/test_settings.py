"""The recommender's settings: defaults, what is refused, and how it is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.engine.home import RegionHome
from client.recommend.settings import (
    FILE_NAME,
    MAX_SETTINGS_BYTES,
    RecommendSettings,
    recommend_folder,
)
from common.errors import InputError

WHOLE = """\
[model]
digest = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
run = "run-7"

[history]
weeks = 26
until = "2026-01-01T00:00:00.000Z"

[scenes]
store_types = ["city"]

[scenes.dayparts]
day = [6, 22]
night = [22, 6]

[live]
keep_s = 3600
weights = { view = 1 }

[[live.rules]]
when = "abandon"
times = 2
in_a_row = true
then = "remind"

[[live.rules]]
when = "purchase"
then = "suppress"
for_s = 43200

[experiment]
name = "shared-model"
arms = [
  { name = "history", share = 0.5, method = "history" },
  { name = "fused", share = 0.5 },
]
"""


def test_without_a_file_the_defaults_hold(tmp_path: Path) -> None:
    home = RegionHome(tmp_path, "region-1", "small.example")
    settings = RecommendSettings.read(home)
    assert settings == RecommendSettings()
    assert settings.experiment is None
    (rule,) = settings.live.rules
    assert (rule.when, rule.times, rule.in_a_row, rule.then) == ("abandon", 3, True, "alternatives")


def test_a_file_is_read(tmp_path: Path) -> None:
    home = RegionHome(tmp_path, "region-1", "small.example")
    recommend_folder(home).mkdir()
    (recommend_folder(home) / FILE_NAME).write_text(WHOLE)
    settings = RecommendSettings.read(home)
    assert settings.history.weeks == 26
    assert settings.live.weights.of("view") == 1.0
    assert settings.live.weights.of("purchase") == 0.0
    assert [rule.then for rule in settings.live.rules] == ["remind", "suppress"]
    assert settings.experiment is not None
    assert [arm.method for arm in settings.experiment.arms] == ["history", "fused"]


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("[history]\nweeks = 0", "history.weeks"),
        ("[history]\nuntil = 'yesterday'", "history"),
        ("[history]\nuntill = 'now'", "history.untill"),
        ("[model]\ndigest = '../..'", "model.digest"),
        ("[live]\nhalf_life_s = 0", "live.half_life_s"),
        ("[live.weights]\nview = nan", "live.weights.view"),
        ("[live.weights]\nview = -1", "live.weights.view"),
        ("[[live.rules]]\nwhen = 'steal'\nthen = 'remind'", "live.rules.0.when"),
        ("[[live.rules]]\nwhen = 'view'\nthen = 'shout'", "live.rules.0.then"),
        ("[scenes.dayparts]\nday = [6, 25]", "scenes.dayparts.day.1"),
        ("[experiment]\nname = 'x'\narms = []", "experiment.arms"),
        (
            "[experiment]\nname = 'x'\narms = [{name='a',share=0.5},{name='a',share=0.5}]",
            "experiment",
        ),
        (
            "[experiment]\nname = 'x'\narms = [{name='none',share=0.5},{name='a',share=0.5}]",
            "experiment",
        ),
        (
            "[experiment]\nname = 'x'\narms = [{name='b',share=0.5},{name='a',share=0.4}]",
            "experiment",
        ),
        ("[other]", "other"),
        ("[history", "not valid TOML"),
        ("\udc80", "not valid TOML"),
        ("a = " + "[" * 5000, "not valid TOML"),
        ("# " + "x" * MAX_SETTINGS_BYTES, "longer than"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, text: str, where: str) -> None:
    home = RegionHome(tmp_path, "region-1", "small.example")
    path = recommend_folder(home) / FILE_NAME
    path.parent.mkdir()
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError) as error:
        RecommendSettings.read(home)
    assert where in str(error.value)
    assert str(path) in str(error.value)


def test_an_unreadable_file_is_told_of(tmp_path: Path) -> None:
    home = RegionHome(tmp_path, "region-1", "small.example")
    (recommend_folder(home) / FILE_NAME).mkdir(parents=True)
    with pytest.raises(InputError, match="cannot be read"):
        RecommendSettings.read(home)
