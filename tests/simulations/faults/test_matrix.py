"""`fedpref-sim faults`: every fault is withstood, and what is not withstood is seen."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BIN = Path(sys.executable).parent
ROOT = Path(__file__).resolve().parents[3]
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
#: The coordinator, killed at a handful of places in each of its rounds; and one fault of each kind.
A_FEW = (
    "kill region: charged",
    "kill region: left",
    "kill coordinator: requests made",
    "kill coordinator: summed",
    "kill coordinator: model kept",
    "kill coordinator: aggregate logged",
    "kill coordinator: checkpoint replaced",
    "kill coordinator: published model written",
    "reply: NaN",
    "another run's reply",
    "5 MB of chunks",
    "disk full: region: log",
    "disk full: coordinator: log",
    "of another size of the log",
    "policy: missing",
)


def faults(*options: str, timeout_s: float = 280) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BIN / "fedpref-sim", "faults", *options],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env={**os.environ, "COLUMNS": "200"},
        check=False,
    )


def test_a_few_of_each_kind_on_made_up_data() -> None:
    chosen = [option for name in A_FEW for option in ("--only", name)]
    done = faults("--scenario", "synthetic-3", "--seed", "20261129", *chosen)
    print(done.stdout)  # noqa: T201 - the table, if it fails
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert "seed 20261129" in done.stdout
    count = done.stdout.count("\npass  ")
    assert count >= len(A_FEW)
    assert done.stdout.startswith(f"{count} faults on synthetic-3")
    assert done.stdout.splitlines()[-1] == f"{count} of {count} faults withstood."


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("seed", "rule"), [("1", "sum"), ("2", "sum"), ("1", "secure-sum")])
def test_all_of_them_on_real_data(seed: str, rule: str) -> None:
    done = faults("--seed", seed, "--aggregation", rule, timeout_s=1700)
    print(done.stdout)  # noqa: T201 - the table, if it fails
    assert done.returncode == 0, done.stdout + done.stderr
    passed, _, total = done.stdout.splitlines()[-1].partition(" faults")[0].partition(" of ")
    assert (int(passed), int(total) > 100) == (int(total), True)


def test_a_name_that_no_fault_has_gets_one_message() -> None:
    done = faults("--only", "meteorite")
    assert (done.returncode, done.stdout) == (2, "")
    assert "No fault is called meteorite" in done.stderr
    assert "kill region" in done.stderr


#: The command with the seals taken away from every region that it forks.
WITHOUT_SEALS = """
import sys
from tests.support.kill_life import NO_SEAL, undefended
from simulations.cli import main
sys.argv = ["fedpref-sim", "faults", "--scenario", "synthetic-3", "--only", "summed"]
with undefended(NO_SEAL):
    main()
"""


def test_without_a_defence_the_command_says_so_and_ends_with_the_documented_code() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_SEALS],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
        env={**os.environ, **ONE_THREAD, "COLUMNS": "200"},
        check=False,
    )
    assert done.returncode == 8, done.stdout + done.stderr
    # Noise is drawn again alike in a trial: the second payload shows by its second entries.
    assert "a round entry is there twice" in done.stdout
    assert done.stdout.splitlines()[-1] == "0 of 1 faults withstood."


def soak(rounds: int, timeout_s: float) -> dict[str, Any]:
    ended = subprocess.run(
        [sys.executable, "-m", "tests.support.soak", "--rounds", str(rounds), "--seed", "20261129"],
        cwd=ROOT,
        env={**os.environ, **ONE_THREAD},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert ended.stdout, ended.stderr
    print(ended.stdout)  # noqa: T201 - the seed and the counts, if it fails
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_hundred_rounds_with_a_kill_in_each_are_all_closed() -> None:
    found = soak(100, 1700)
    assert (found["aborted"], found["faults"], found["rounds"]) == ("", [], 100)
    assert found["kills"] >= 95
    assert found["slowest_resume_s"] <= 60
