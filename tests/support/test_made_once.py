"""What several processes of tests need is made by the first of them, whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.made_once import made_once


def test_it_is_made_once_and_each_has_a_copy(tmp_path_factory: pytest.TempPathFactory) -> None:
    made: list[Path] = []

    def make(folder: Path) -> None:
        folder.mkdir()
        made.append(folder)
        (folder / "file").write_text("whole")
        (folder / "link").symlink_to("file")

    first, second, third = (made_once(tmp_path_factory, "once", make) for _ in range(3))
    assert len({first, second, third}) == 3
    assert made == [first]
    (second / "file").write_text("changed")
    assert [(each / "file").read_text() for each in (first, third)] == ["whole", "whole"]
    assert (third / "link").readlink() == Path("file")


def test_what_was_not_made_whole_is_made_anew(tmp_path_factory: pytest.TempPathFactory) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").mkdir(parents=True)
        raise RuntimeError("no space")

    with pytest.raises(RuntimeError, match="no space"):
        made_once(tmp_path_factory, "failing", fail)
    folder = made_once(tmp_path_factory, "failing", lambda path: (path / "all").mkdir(parents=True))
    assert [each.name for each in folder.iterdir()] == ["all"]
