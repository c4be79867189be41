"""What `fedpref-sim run` makes of its options for rules, noise and schedules."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from common.errors import InputError, UsageError
from common.plan_defaults import default_plan, least_signal
from simulations.run import RunRequest
from simulations.scenarios import find_scenario
from tests.common.test_plan import ARGUMENTS

SIM = Path(sys.executable).parent / "fedpref-sim"


def request(**changes: Any) -> RunRequest:
    return RunRequest(
        **{
            "scenario": "retail-5",
            "out": Path("out"),
            "epsilon": 8.0,
            "delta": 1e-6,
            "epsilon_cap": None,
            "seed": 1,
            "engine": "inprocess",
            "refusal_share": None,
            "withdrawal_share": None,
            "withdrawal_in_round": "finish",
            "quality_seeds": 1,
            "replace": False,
            **changes,
        }
    )


def settings(scenario: str = "retail-5", **changes: Any) -> Any:
    return request(scenario=scenario, **changes).settings(find_scenario(scenario))


def test_by_default_updates_are_summed_and_nothing_ends_early() -> None:
    found = settings()
    assert (found.aggregation, found.tolerated, found.noise) == ("sum", 0, "local")
    assert (found.server_learning_rate_decay, found.patience_rounds) == ("1", 0)


@pytest.mark.parametrize(
    ("changes", "tolerated"),
    [
        ({"aggregation": "median"}, 1),
        ({"aggregation": "trimmed-mean", "tolerated": 2}, 2),
        ({"aggregation": "krum"}, 1),
        ({"aggregation": "secure-sum"}, 0),
        ({"aggregation": "sum", "tolerated": 0}, 0),
    ],
)
def test_a_robust_rule_withstands_one_region_unless_told(
    changes: dict[str, Any], tolerated: int
) -> None:
    assert settings(**changes).tolerated == tolerated


@pytest.mark.parametrize(
    ("scenario", "changes", "named"),
    [
        ("retail-5", {"aggregation": "sum", "tolerated": 1}, "--tolerated is 1"),
        ("retail-5", {"aggregation": "secure-sum", "tolerated": 1}, "--tolerated is 1"),
        ("retail-5", {"aggregation": "median", "tolerated": 0}, "--tolerated is 0"),
        ("retail-5", {"aggregation": "median", "tolerated": 3}, "at least 7 regions; the scenario"),
        ("retail-5", {"aggregation": "krum", "tolerated": 2}, "at least 7 regions"),
        ("synthetic-3", {"aggregation": "krum"}, "at least 5 regions; the scenario has 3"),
        ("retail-5", {"server_learning_rate_decay": 0.0}, "--server-lr-decay"),
        ("retail-5", {"server_learning_rate_decay": 1.5}, "--server-lr-decay"),
        ("retail-5", {"server_learning_rate_decay": float("nan")}, "--server-lr-decay"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_made(
    scenario: str, changes: dict[str, Any], named: str
) -> None:
    with pytest.raises(UsageError, match=named):
        settings(scenario, **changes)


def test_a_plan_has_the_schedule_that_was_asked_for() -> None:
    plan = default_plan(
        **ARGUMENTS,
        strategy="tied-autoencoder",
        patience_rounds=2,
        server_learning_rate_decay="0.8",
    )
    assert plan.early_stop is not None
    n = sum(math.prod(spec.shape) for spec in plan.parameter_arrays())
    expected = f"{2 / math.sqrt(n):.3f}"
    assert (plan.early_stop.patience_rounds, plan.early_stop.least_signal) == (2, expected)
    assert plan.local_training is not None
    assert plan.local_training.server_learning_rate_of(4) == pytest.approx(0.64)


@pytest.mark.parametrize("asked", [{"patience_rounds": 2}, {"server_learning_rate_decay": "0.9"}])
def test_factors_have_no_such_schedule(asked: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="run of factors"):
        default_plan(**ARGUMENTS, **asked)


def test_the_command_refuses_in_words(tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = ("--scenario", "synthetic-3", "--out", out, "--aggregation", "krum")
    done = subprocess.run(
        [SIM, "run", *map(str, options)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    assert "5 regions" in " ".join(done.stderr.split())
    assert not (out / "server").exists()


@pytest.mark.parametrize(
    ("n_parameters", "least"), [(1, "1.000"), (100, "0.200"), (10_000, "0.020"), (10**8, "0.020")]
)
def test_the_least_signal_lies_beyond_the_cosine_of_noise(n_parameters: int, least: str) -> None:
    assert least_signal(n_parameters) == least
