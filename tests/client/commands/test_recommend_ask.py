"""``fedpref-region recommend ask``: the operator looks, and no customer is shown anything."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from client.commands.recommend_ask import ask
from client.recommend.exposure import FILE_NAME, ExposureLog
from client.recommend.settings import recommend_folder
from tests.support.served_region import make_served_region

SETTINGS = """
[history]
until = "model"

[experiment]
name = "trial"
arms = [{ name = "usual", share = 0.5 }, { name = "popular", share = 0.5, method = "popular" }]
"""


def test_a_question_of_the_operator_s_is_no_exposure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = make_served_region(tmp_path / "home")
    (recommend_folder(home) / "settings.toml").write_text(SETTINGS)
    ask(home.root, customer="ada", as_json=True)
    assert json.loads(capsys.readouterr().out)["variant"] in ("usual", "popular")
    log = ExposureLog(recommend_folder(home) / FILE_NAME)
    assert list(log.all("trial")) == []
    log.close()
