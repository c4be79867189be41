"""A program starts without what only some of its commands need: each start would pay for it."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
    "scripts"
]
#: Each takes a tenth of a second or more to import, torch several.
HEAVY = {
    "apsw", "cryptography", "dp_accounting", "duckdb", "fastapi", "flwr", "grpc", "jinja2", "numpy",
    "opacus", "pandas", "pandera", "pyarrow", "pydantic", "ray", "scipy", "sqlalchemy", "torch",
}  # fmt: skip


@pytest.mark.parametrize("program", PROGRAMS)
def test_its_help_needs_nothing_heavy(program: str) -> None:
    module, _, function = PROGRAMS[program].partition(":")
    # The command ends its process: what it had imported is told on the way out.
    script = (
        "import atexit, sys\n"
        "atexit.register(lambda: print('imported', *sys.modules))\n"
        f"sys.argv = [{program!r}, '--help']\n"
        f"from {module} import {function}\n"
        f"{function}()\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, cwd=ROOT
    )
    assert ended.returncode == 0, ended.stderr
    shown, _, imported = ended.stdout.rpartition("imported ")
    assert "Usage" in shown
    assert module in imported.split()
    assert not HEAVY & set(imported.split())
