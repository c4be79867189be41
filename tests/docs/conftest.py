from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
Shell = Callable[[str, Path], "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """Runs a script with the console commands of this checkout first on the path."""
    programs = tmp_path_factory.mktemp("bin")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for name, entry_point in project["scripts"].items():
        module, _, function = entry_point.partition(":")
        program = programs / name
        program.write_text(f"#!{sys.executable}\nfrom {module} import {function}\n{function}()\n")
        program.chmod(0o755)
    # Not a link: Python finds its environment by where it was started from.
    python = programs / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    environment = os.environ | {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "COLUMNS": "100",
        "LINES": "50",
        "TERM": "dumb",
        "NO_COLOR": "1",
    }
    for name in ("FORCE_COLOR", "GITHUB_ACTIONS", "PY_COLORS"):
        environment.pop(name, None)

    def run(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=800,
            check=False,
        )

    return run


@pytest.fixture
def workspace(finished_run: Path, tmp_path: Path) -> Path:
    """A working folder in which the documentation's runs exist.

    All are the one finished run. It is what docs/data-scientist.md runs as runs/small: that command
    would refuse a folder with another run.
    """
    for name in ("a", "demo", "small"):
        shutil.copytree(finished_run, tmp_path / "runs" / name, symlinks=True)
    return tmp_path
