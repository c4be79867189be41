"""The wheel carries every module and every file that the code reads, and nothing else."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("common", "client", "server", "simulations")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> frozenset[str]:
    """The names of the files in a wheel built from what git tracks."""
    source = tmp_path_factory.mktemp("source")
    tracked = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout.decode()
    for name in filter(None, tracked.split("\0")):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    out = tmp_path_factory.mktemp("wheel")
    # No build isolation: that would ask the package registry for setuptools.
    command = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    built = subprocess.run(
        [sys.executable, *command, "--wheel-dir", out, source], capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr
    (path,) = out.glob("fedpref-*.whl")
    with zipfile.ZipFile(path) as archive:
        return frozenset(archive.namelist())


def tracked(pattern: str) -> set[str]:
    return {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob(pattern)
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_every_module_is_in_it(wheel: frozenset[str]) -> None:
    assert tracked("*.py") - wheel == set()


def test_every_file_that_code_reads_is_in_it(wheel: frozenset[str]) -> None:
    data = tracked("*") - tracked("*.py")
    assert any(name.endswith(".csv") for name in data)
    assert any(name.endswith(".j2") for name in data)
    assert data - wheel == set()


def test_nothing_else_is_in_it(wheel: frozenset[str]) -> None:
    strangers = {
        name for name in wheel if name.split("/")[0] not in PACKAGES and ".dist-info/" not in name
    }
    assert strangers == set()


def test_every_package_has_an_init_with_nothing_but_a_docstring() -> None:
    """Without one, an installed package of the same generic name would win."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = set(project["tool"]["setuptools"]["packages"])
    folders = {
        path.parent.relative_to(ROOT).as_posix().replace("/", ".")
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
    }
    assert packages == folders
    # These two give their users one door to many modules.
    for package in packages - {"common.audit.verify", "common.secure_aggregation"}:
        lines = (ROOT / package.replace(".", "/") / "__init__.py").read_text().strip()
        assert lines.startswith('"""'), package
        assert lines.endswith('"""'), package
        assert lines.count('"""') == 2, package
