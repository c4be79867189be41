"""A bundle's digest comes before its content, and its content stays in its folder."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.node import bundle as bundles
from client.node.bundle import UnpackedBundle, bundle_digest, unpack
from common.errors import FormatError
from tests.support.app_bundles import PYPROJECT, bundle, relay_bundle


def unpacked(content: bytes, folder: Path) -> UnpackedBundle:
    return unpack(content, bundle_digest(content), folder)


def zipped(change: Callable[[zipfile.ZipFile], None]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("pyproject.toml", PYPROJECT)
        change(archive)
    return buffer.getvalue()


def test_the_digest_is_that_of_all_its_bytes() -> None:
    content = relay_bundle()
    assert bundle_digest(content) == hashlib.sha256(content).hexdigest()


def test_a_permitted_bundle_is_unpacked_and_says_what_its_app_is(tmp_path: Path) -> None:
    given = bundle(
        {
            "pyproject.toml": PYPROJECT,
            "client/app.py": "app = 1\n",
            ".info/CONTENT": "notes of Flower's",
            "LICENSE": "free",
        }
    )
    found = unpacked(given, tmp_path / "app")
    assert found.app == "client.app:app"
    assert (found.folder / "client" / "app.py").read_text() == "app = 1\n"
    assert sorted(path.name for path in found.folder.iterdir()) == [
        "LICENSE",
        "client",
        "pyproject.toml",
    ]


def test_another_bundle_than_the_permitted_one_is_not_looked_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_archive(*_: object) -> None:
        raise AssertionError("the archive was opened")

    sent, permitted = relay_bundle(), bundle_digest(relay_bundle(top="import os"))
    monkeypatch.setattr(bundles.zipfile, "ZipFile", open_archive)
    with pytest.raises(FormatError, match="not the one that is permitted"):
        unpack(sent, permitted, tmp_path / "app")
    assert not (tmp_path / "app").exists()


@pytest.mark.parametrize(
    "name",
    [
        "../outside.py",
        "/etc/outside.py",
        "client/../../outside.py",
        "client/./../../outside.py",
        "C:\\outside.py",
        "client/\x01.py",
        "client/a b.py",
        "client/" + "n" * 200 + ".py",
        "client/…py",
    ],
)
def test_a_file_with_a_name_that_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    content = zipped(lambda archive: archive.writestr(name, "x"))
    (tmp_path / "a").mkdir()
    with pytest.raises(FormatError):
        unpacked(content, tmp_path / "a" / "app")
    assert not list(tmp_path.rglob("outside*"))


def test_a_link_or_a_device_is_refused(tmp_path: Path) -> None:
    for kind in (0o12, 0o06, 0o04, 0o01):
        entry = zipfile.ZipInfo("client/link.py")
        entry.create_system, entry.external_attr = 3, (kind << 12 | 0o777) << 16
        content = zipped(lambda archive, entry=entry: archive.writestr(entry, "/etc/passwd"))
        with pytest.raises(FormatError, match="not a plain one"):
            unpacked(content, tmp_path / f"app-{kind}")


def test_a_name_that_is_a_file_and_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError):
        unpacked(bundle({"pyproject.toml": PYPROJECT, "a": "", "a/b.py": ""}), tmp_path / "app")


def test_a_file_twice_is_refused(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate"):
        content = zipped(lambda archive: archive.writestr("pyproject.toml", PYPROJECT))
    with pytest.raises(FormatError, match="twice"):
        unpacked(content, tmp_path / "app")


def test_what_inflates_to_too_much_is_refused_as_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundles, "MAX_UNPACKED_BYTES", 1 << 20)
    content = zipped(
        lambda archive: archive.writestr(
            "client/data.py", b"\0" * (8 << 20), compress_type=zipfile.ZIP_DEFLATED
        )
    )
    assert len(content) < 1 << 20
    with pytest.raises(FormatError, match="at most"):
        unpacked(content, tmp_path / "app")
    written = sum(path.stat().st_size for path in (tmp_path / "app").rglob("*") if path.is_file())
    assert written <= 1 << 20


def test_too_many_files_and_too_many_bytes_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundles, "MAX_FILES", 3)
    content = bundle({"pyproject.toml": PYPROJECT, "a.py": "", "b.py": "", "c.py": ""})
    with pytest.raises(FormatError, match="at most 3 files"):
        unpacked(content, tmp_path / "app")
    monkeypatch.setattr(bundles, "MAX_BUNDLE_BYTES", 10)
    with pytest.raises(FormatError, match="at most 10 bytes"):
        unpacked(content, tmp_path / "app")


@pytest.mark.parametrize(
    "project",
    [
        "",
        "not toml [",
        "[tool.flwr.app.components]\nclientapp = 7\n",
        "[tool.flwr.app.components]\nclientapp = 'client.app'\n",
        "[tool.flwr.app.components]\nclientapp = 'os:system; x'\n",
        "tool = 3\n",
        b"\xff\xfe",
    ],
)
def test_a_bundle_that_names_no_client_app_is_refused(tmp_path: Path, project: str | bytes) -> None:
    with pytest.raises(FormatError):
        unpacked(bundle({"pyproject.toml": project}), tmp_path / "app")


@given(st.binary(max_size=400))
def test_bytes_that_are_no_bundle_are_refused_in_our_words(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    with pytest.raises(FormatError):
        unpacked(data, tmp_path_factory.mktemp("bundle") / "app")


@given(st.data())
def test_a_damaged_bundle_is_refused_or_stays_inside(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(relay_bundle())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    folder = tmp_path_factory.mktemp("bundle")
    with suppress(FormatError):
        unpacked(bytes(content), folder / "app")
    assert {path.name for path in folder.iterdir()} <= {"app"}
