"""Names are known before anything heavy is imported, and are the table's."""

from __future__ import annotations

import subprocess
import sys

import pytest

from common.errors import UsageError
from simulations.deployment_attacks.names import ALL, NAMES, find_names


def test_all_are_found_by_name() -> None:
    assert find_names(ALL) == NAMES
    assert find_names("stolen-ca") == ("stolen-ca",)


def test_a_wrong_name_names_the_nearest_and_all() -> None:
    with pytest.raises(UsageError, match=r"Did you mean stolen-ca\?") as raised:
        find_names("stolen-cas")
    for name in NAMES:
        assert name in raised.value.remedy


def test_names_cost_no_imports() -> None:
    heavy = (
        "import sys, simulations.deployment_attacks.names\n"
        "print([each for each in ('flwr', 'torch', 'numpy') if each in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", heavy], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
