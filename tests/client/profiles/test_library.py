"""The tag library: as data, checked field by field."""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from client.data.standards import load_standards
from client.profiles.columns import CATEGORY_FACTS, CUSTOMER_FACTS, RELATIVE_FACTS, SHARE_OF
from client.profiles.explanation import fact_title
from client.profiles.library import Rule, load_library
from client.profiles.settings import ProfileSettings
from client.recommend.settings import SceneSettings
from client.web.language import LANGUAGES, read_messages
from common.errors import InputError

DEFAULT = resources.files("client.profiles").joinpath("library.toml").read_text("utf-8")
LOCALES = Path(str(resources.files("client.profiles"))) / "locales"
LEAST = """
version = "mine"
[[tag]]
id = "active"
level = "behaviour"
title = { en = "Active", zh = "活跃" }
when = [{ fact = "purchase_days_30", at_least = 3 }]
[[segment]]
id = "all"
title = { en = "All", zh = "全部" }
when = []
strategy = { en = "None", zh = "无" }
"""


def test_the_default_has_four_levels_the_segments_and_both_triggers() -> None:
    library = load_library()
    assert {tag.level for tag in library.tag} == {"basic", "behaviour", "preference", "value"}
    assert [each.id for each in library.segment] == [
        "lapsed", "at-risk", "new", "high-value", "potential", "repeat", "other",
    ]  # fmt: skip
    assert {each.id for each in library.trigger} == {"three-carts-left", "new-category"}


def test_shares_of_the_default_are_of_parts_of_the_day_that_there_are() -> None:
    parts = {SHARE_OF + name for name in SceneSettings().dayparts}
    library = load_library()
    used = {rule.fact for each in library.said for rule in each.when}
    assert {fact for fact in used if fact.startswith(SHARE_OF)} <= parts


def test_every_fact_has_a_name_in_every_language() -> None:
    for lang in LANGUAGES:
        t = read_messages(LOCALES, lang)
        for fact in (*CUSTOMER_FACTS, *CATEGORY_FACTS):
            assert t.known(f"fact.{fact}", ""), fact
        assert fact_title(read_messages(LOCALES, "en"), "share_night").endswith("night")
    assert fact_title(read_messages(LOCALES, "zh"), "share_night").endswith("夜间")
    assert fact_title(read_messages(LOCALES, "zh"), "share_siesta").endswith("siesta")
    texts = [read_messages(LOCALES, lang).texts for lang in LANGUAGES]
    assert list(texts[0]) == list(texts[1])


def test_what_rests_on_others_is_known_to() -> None:
    library = load_library()
    relative = {each.id for each in (*library.said, *library.segment) if each.relative}
    assert relative == {"top-spender", "frequent", "likely-to-return", "high-value", "potential"}
    assert set(CUSTOMER_FACTS) >= RELATIVE_FACTS


def test_a_regions_own_library_takes_the_place_of_the_default(tmp_path: Path) -> None:
    path = tmp_path / "library.toml"
    assert load_library(path) == load_library()
    path.write_text(LEAST)
    assert [tag.id for tag in load_library(path).tag] == ["active"]
    assert load_library(path).digest != load_library().digest


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('"purchase_days_30"', '"shoe_size"', "shoe_size"),
        (", at_least = 3", "", "no bound"),
        ("at_least = 3", "at_least = nan", "finite"),
        ("at_least = 3", "least = 3", "least"),
        ('"behaviour"', '"mood"', "level"),
        ('"purchase_days_30"', '"category_share"', "each"),
        ('level = "behaviour"', 'level = "behaviour"\neach = "category"', "of which categories"),
        ("when = []", 'when = [{ fact = "items", above = 1 }]', "last segment"),
        ('zh = "活跃"', 'fr = "actif"', "zh"),
        ('id = "active"', 'id = "Active!"', "id"),
        ('id = "all"', 'id = "all"\neach = "category"', "of which categories"),
        ('version = "mine"', "version = ", "cannot be read"),
    ],
)
def test_a_malformed_library_is_refused_with_the_field(
    old: str, new: str, told: str, tmp_path: Path
) -> None:
    path = tmp_path / "library.toml"
    assert old in LEAST
    path.write_text(LEAST.replace(old, new, 1))
    with pytest.raises(InputError, match=told):
        load_library(path)


def test_ids_are_not_given_twice(tmp_path: Path) -> None:
    path = tmp_path / "library.toml"
    tag = LEAST[LEAST.index("[[tag]]") : LEAST.index("[[segment]]")]
    path.write_text(LEAST.replace("[[segment]]", f"{tag}[[segment]]"))
    with pytest.raises(InputError, match="twice"):
        load_library(path)


def test_a_rule_holds_of_nothing_that_is_not_known() -> None:
    rule = Rule(fact="items", at_least=2, below=4)
    assert rule.holds(np.array([np.nan, 1, 2, 3, 4])).tolist() == [False, False, True, True, False]
    assert Rule(fact="items", above=2).holds(np.array([2.0, 2.1])).tolist() == [False, True]
    assert Rule(fact="items", at_most=2).holds(np.array([2.0, 2.1])).tolist() == [True, False]


def test_the_default_is_explained_in_its_own_words() -> None:
    assert DEFAULT.startswith("# The tag library")
    assert tomllib.loads(DEFAULT)["version"]


def test_a_term_means_what_the_standards_define(tmp_path: Path) -> None:
    path = tmp_path / "library.toml"
    path.write_text(
        LEAST.replace('{ fact = "purchase_days_30", at_least = 3 }', '{ term = "active" }')
    )
    (rule,) = load_library(path).tag[0].when
    assert (rule.fact, rule.bounds) == ("purchase_days_30", {"at_least": 3})
    active = load_standards().definitions["active"]
    yearly = active.model_copy(update={"within_days": 365, "at_least": 20})
    (rule,) = load_library(path, terms={"active": yearly}).tag[0].when
    assert (rule.fact, rule.bounds) == ("purchase_days_365", {"at_least": 20})
    with pytest.raises(InputError, match="do not define"):
        load_library(path, terms={})
    for change in ({"within_days": 31}, {"count": "rows"}, {"table": "events"}):
        with pytest.raises(InputError, match="no fact for"):
            load_library(path, terms={"active": active.model_copy(update=change)})


def test_the_documentation_names_every_fact_and_setting() -> None:
    page = (Path(__file__).parents[3] / "docs/profiles.md").read_text()
    for name in (*CUSTOMER_FACTS, *CATEGORY_FACTS, *ProfileSettings.model_fields):
        assert f"`{name}`" in page, name
