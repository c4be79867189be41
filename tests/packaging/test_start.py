"""A program starts without what only some of its commands need: each start would pay for it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
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


#: What trains, and what reckons ε of what was sampled.
TRAINS = {"torch", "opacus", "client.engine.round_release"}
ACCOUNTS = {"dp_accounting", "scipy.stats"}
READS_STORES = {"pandas", "pandera", "duckdb", "sqlalchemy"}
TALKS = {"flwr", "grpc", "ray"}
NEEDLESS = {
    "no such scenario": TRAINS | ACCOUNTS | READS_STORES | TALKS,
    "all scenarios": TRAINS | ACCOUNTS | READS_STORES | TALKS,
    "a finished run": TRAINS | ACCOUNTS | READS_STORES | TALKS,
    "its status": TRAINS | ACCOUNTS | READS_STORES | TALKS,
    "an erasure": TRAINS | ACCOUNTS | READS_STORES | TALKS,
    "a budget": TRAINS | READS_STORES | TALKS,
    "an engine opened for a permit": TRAINS | ACCOUNTS,
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_its_help_needs_nothing_heavy(program: str) -> None:
    code, shown, imported = ran([program, "--help"])
    assert code == 0, shown
    assert "Usage" in shown
    assert PROGRAMS[program].partition(":")[0] in imported
    assert not HEAVY & imported


@pytest.mark.parametrize("what", NEEDLESS)
def test_a_command_imports_only_what_it_needs(
    what: str, finished_run: Path, tmp_path: Path
) -> None:
    region = tmp_path / "region-1"
    shutil.copytree(finished_run / "regions" / "region-1", region)
    plan = str(finished_run / "server" / "plan.json")
    run = ["fedpref-sim", "run", "--out", str(tmp_path / "run"), "--scenario", "synthetic-4"]
    command, code, words = {
        "no such scenario": (run, 2, "There is no scenario"),
        "all scenarios": (["fedpref-sim", "scenarios"], 0, "synthetic-3"),
        "a finished run": (["fedpref-sim", "resume", str(finished_run)], 0, "a finished run"),
        "its status": (["fedpref-server", "status", str(finished_run / "server")], 0, "finished"),
        "an erasure": (["fedpref-region", "erase", str(region), "nobody", "--yes"], 5, "no key"),
        "a budget": (["fedpref-region", "budget", str(region)], 0, "refused"),
        "an engine opened for a permit": (
            ["fedpref-region", "permit", str(region), plan, "--app", "a" * 64], 7, "charged",
        ),
    }[what]  # fmt: skip
    ended, shown, imported = ran(command)
    assert (ended, words in shown) == (code, True), shown
    assert not NEEDLESS[what] & imported


def ran(command: Sequence[str]) -> tuple[int, str, set[str]]:
    """How a program ended in a process of its own, what it showed, and what it had imported."""
    module, _, function = PROGRAMS[command[0]].partition(":")
    # The command ends its process: what it had imported is told on the way out.
    script = (
        "import atexit, sys\n"
        "atexit.register(lambda: print('imported', *sys.modules))\n"
        f"sys.argv = {list(command)!r}\n"
        f"from {module} import {function}\n"
        f"{function}()\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, cwd=ROOT
    )
    shown, _, imported = ended.stdout.rpartition("imported ")
    return ended.returncode, shown + ended.stderr, set(imported.split())
