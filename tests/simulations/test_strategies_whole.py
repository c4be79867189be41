"""Every strategy by the command that a user gives, from data to verdict and report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.audit.verify import verify_bundle

BIN = Path(sys.executable).parent


def command(*arguments: object) -> str:
    done = subprocess.run(
        [BIN / "fedpref-sim", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=900,
        env={**os.environ, "COLUMNS": "200"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["tied-autoencoder", "matrix-factorisation", "sasrec"])
def test_a_run_is_verified_and_its_report_tells_how_it_was_trained(
    strategy: str, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    options = ("--strategy", strategy, "--seed", 1, "--quality-seeds", 1, "--out", out)
    assert "Verified" in command("run", "--scenario", "synthetic-3", *options)
    assert verify_bundle(out).verified
    page = (out / "report.html").read_text()
    assert "such steps a round" in page
    assert "None were tried on this run" in page
    assert json.loads((out / "metrics.json").read_text())["attacks"] is None

    assert "Verified" in command("audit", out, "--models", 4)
    assert verify_bundle(out).verified
    attacks = json.loads((out / "metrics.json").read_text())["attacks"]
    assert attacks["within"]
    assert attacks["models"] == 4
    assert "Membership inference" in (out / "report.html").read_text()


@pytest.mark.slow
def test_a_run_of_gram_is_verified_and_attacked_like_one_of_factors(tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = ("--strategy", "gram", "--seed", 1, "--quality-seeds", 1, "--out", out)
    assert "Verified" in command("run", "--scenario", "synthetic-3", *options)
    assert verify_bundle(out).verified
    attacks = json.loads((out / "metrics.json").read_text())["attacks"]
    assert attacks["within"]
    assert attacks["canaries"]["epsilon_at_least"] > 0
    assert "counts of pairs bought together" in (out / "report.html").read_text()


def test_the_report_of_a_run_says_what_attacks_found(finished_run: Path) -> None:
    attacks = json.loads((finished_run / "metrics.json").read_text())["attacks"]
    assert attacks["within"]
    assert attacks["canaries"]["epsilon_at_least"] > 0
    assert "Attacks tried on these releases" in (finished_run / "report.html").read_text()


def test_audit_gates_of_an_unknown_model_are_refused() -> None:
    done = subprocess.run(
        [BIN / "fedpref-sim", "audit-gates", "gpt"], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 2
    assert "tied-autoencoder" in done.stderr
