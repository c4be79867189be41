"""The Flower App Bundle: what the coordinator ships, and the digest that permits name."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import tomllib
from functools import cache
from pathlib import Path

from flwr.cli.build import build_fab_from_disk

from common.errors import InputError

PYPROJECT = "pyproject.toml"


def source_root() -> Path:
    """The source checkout that this module runs from.

    Raises:
        InputError: It runs from an installed wheel, which has no project file to bundle by.
    """
    root = Path(__file__).resolve().parent.parent
    if not (root / PYPROJECT).is_file():
        raise InputError(
            f"There is no {PYPROJECT} in {root}: the app bundle is built from a source checkout.",
            remedy="Run from a clone of the repository.",
        )
    return root


def stage_app(folder: Path) -> None:
    """Copies exactly what the bundle is built from into a new folder.

    Flower walks the whole app directory, so one with a virtual environment in it takes seconds.

    Args:
        folder: A folder that is not there yet.

    Raises:
        InputError: This is no source checkout, or a pattern of ``fab-include`` matches nothing.
    """
    root = source_root()
    project = tomllib.loads((root / PYPROJECT).read_text(encoding="utf-8"))
    folder.mkdir(parents=True)
    shutil.copyfile(root / PYPROJECT, folder / PYPROJECT)
    for pattern in project["tool"]["flwr"]["app"]["fab-include"]:
        matched = [path for path in root.glob(pattern) if path.is_file()]
        if not matched:
            raise InputError(f"The app bundle's pattern {pattern!r} matches no file in {root}.")
        for path in matched:
            target = folder / path.relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


def build_app_bundle(staged: Path) -> bytes:
    """Builds the bundle of a staged app, as ``flwr run`` builds it."""
    return build_fab_from_disk(staged)


@cache
def app_bundle_sha256() -> str:
    """SHA-256 of the app bundle, in hex: what a permit and each round entry name.

    Raises:
        InputError: This is no source checkout.
    """
    with tempfile.TemporaryDirectory(prefix="fedpref-app-") as folder:
        staged = Path(folder) / "app"
        stage_app(staged)
        return hashlib.sha256(build_app_bundle(staged)).hexdigest()
