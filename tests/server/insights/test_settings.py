"""Settings of the page: the shipped ones are read, wrong ones are named by file and field."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.errors import InputError
from server.insights.settings import DEFAULT, InsightsSettings, read_settings

GOOD = """
[weights]
importance = 2.0
[[priority]]
items = "kano"
importance = { question = "kano", reading = "matters" }
urgency = { question = "kano", reading = "worse", nothing = 1.0, everything = 0.0 }
feasibility = { default = 0.25, "late hours" = 0.9 }
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "insights.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_shipped_settings_rank_features_and_categories() -> None:
    settings = read_settings()
    assert [each.items for each in settings.priority] == ["kano", "category-customers"]
    assert settings.of_factors().exponents == pytest.approx((1 / 3, 1 / 3, 1 / 3))
    assert DEFAULT.name == "insights.toml"


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    settings = read_settings(written(tmp_path, GOOD))
    (each,) = settings.priority
    assert settings.of_factors().exponents == pytest.approx((0.5, 0.25, 0.25))
    assert (each.urgency.nothing, each.urgency.everything) == (1.0, 0.0)
    assert [each.feasibility_of(name) for name in ("late hours", "parking")] == [0.9, 0.25]
    assert InsightsSettings().priority == ()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("2.0", "-1.0", "weights.importance"),
        ("2.0", "nan", "weights.importance"),
        ("importance = 2.0", "importance = 0.0\nurgency = 0.0\nfeasibility = 0.0", "above 0"),
        ('"matters"', '"likes"', "priority.0.importance.reading"),
        ("everything = 0.0", "everything = 1.0", "are the same"),
        ("0.9", "1.9", "late hours"),
        ('items = "kano"', "items = 3", "priority.0.items"),
        ("[weights]", "[weight]", "weight"),
        ("[weights]", "[weights", "not valid TOML"),
        ('items = "kano"', 'items = "kano"\nmost = 0', "priority.0.most"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, old: str, new: str, words: str) -> None:
    path = written(tmp_path, GOOD.replace(old, new, 1))
    with pytest.raises(InputError) as error:
        read_settings(path)
    assert words in error.value.message
    assert str(path) in error.value.message


def test_a_file_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_settings(tmp_path / "none.toml")
    path = written(tmp_path, "#" * (1 << 21))
    with pytest.raises(InputError, match="longer than"):
        read_settings(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="not valid TOML"):
        read_settings(path)
