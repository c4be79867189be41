"""Where a report may be written, and that it is there whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from common.audit.report.output import KIND, check_output
from common.errors import InputError, StorageError, UsageError
from common.page_file import write_page_file


def test_a_new_file_and_an_earlier_report_may_be_written(
    bundles: dict[str, Path], pages: dict[tuple[str, str], str], tmp_path: Path
) -> None:
    out = tmp_path / "report.html"
    check_output(out, bundles["honest"])
    write_page_file(out, pages["honest", "en"], KIND)
    check_output(out, bundles["honest"])
    write_page_file(out, pages["honest", "zh"], KIND)
    assert out.read_text(encoding="utf-8") == pages["honest", "zh"]
    assert stat.S_IMODE(out.stat().st_mode) == 0o644
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("content", [b"", b"mine", b"<!doctype html><p>mine"])
def test_a_foreign_file_is_left_alone(
    bundles: dict[str, Path], tmp_path: Path, content: bytes
) -> None:
    out = tmp_path / "notes.html"
    out.write_bytes(content)
    with pytest.raises(UsageError, match="is no compliance report"):
        check_output(out, bundles["honest"])
    assert out.read_bytes() == content


def test_neither_a_folder_a_link_nor_a_pipe_is_written_over(
    bundles: dict[str, Path], pages: dict[tuple[str, str], str], tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "real.html").write_text(pages["honest", "en"], encoding="utf-8")
    (tmp_path / "link").symlink_to(tmp_path / "real.html")
    (tmp_path / "lost").symlink_to(tmp_path / "nothing")
    os.mkfifo(tmp_path / "pipe")
    for name in ("folder", "link", "lost", "pipe"):
        with pytest.raises(UsageError):
            check_output(tmp_path / name, bundles["honest"])


def test_a_bundle_gets_no_file_that_its_manifest_does_not_name(bundles: dict[str, Path]) -> None:
    run = bundles["honest"]
    for place in ("report.html", "logs/report.html", "logs/../report.html"):
        with pytest.raises(UsageError, match="lies within the bundle"):
            check_output(run / "bundle" / place, run)
    with pytest.raises(UsageError, match="lies within the bundle"):
        check_output(run / "bundle" / "report.html", run / "bundle")
    check_output(run / "report.html", run)


def test_a_folder_that_is_not_there(bundles: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no folder"):
        check_output(tmp_path / "none" / "report.html", bundles["honest"])


def test_a_disk_that_refuses_leaves_the_earlier_report(
    pages: dict[tuple[str, str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "report.html"
    write_page_file(out, pages["honest", "en"], KIND)

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        write_page_file(out, pages["honest", "zh"], KIND)
    assert out.read_text(encoding="utf-8") == pages["honest", "en"]
    assert list(tmp_path.iterdir()) == [out]
