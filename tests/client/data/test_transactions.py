"""Skipping a stage is an error for the type checker and at run time."""

from __future__ import annotations

import ast
import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import client
from client.data.consent_filter import filter_consented
from client.data.quality import QualityReport, quality_gate
from client.data.transactions import (
    CheckedTransactions,
    ConsentedTransactions,
    Transactions,
)
from common.catalogue import Catalogue
from common.errors import ConsentError, QualityGateError

ROOT = Path(str(client.__file__)).parents[1]
Make = Callable[..., Transactions]

HONEST = """\
from client.data.consent_filter import EligibleCustomers, filter_consented
from client.data.dataset import PreferenceDataset
from client.data.quality import quality_gate
from client.data.transactions import Transactions
from common.catalogue import Catalogue


def build(rows: Transactions, who: EligibleCustomers, public: Catalogue) -> PreferenceDataset:
    checked = quality_gate(rows, public, region="r")
    consented = filter_consented(checked, who)
    return PreferenceDataset.from_consented(consented, public, start_ms=0, end_ms=1)
"""
SKIPS = {
    "the consent filter": ("from_consented(consented, ", "from_consented(checked, "),
    "gate and filter": ("from_consented(consented, ", "from_consented(rows, "),
    "the quality gate": ("filter_consented(checked, who)", "filter_consented(rows, who)"),
    "the replay": ("filter_consented(checked, who)", "filter_consented(checked, {'anna'})"),
    "the seal": ("filter_consented(checked, who)", "ConsentedTransactions(checked.parts, '', 0)"),
}


@pytest.fixture(scope="module")
def complaints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What mypy says of the honest program and of each that skips something, in one run."""
    folder = tmp_path_factory.mktemp("programs")
    programs = {"nothing": HONEST}
    for number, (name, (before, after)) in enumerate(SKIPS.items()):
        assert before in HONEST
        programs[name] = HONEST.replace(before, after).replace(
            "import Transactions", "import ConsentedTransactions, Transactions"
        )
        (folder / f"skip_{number}.py").write_text(programs[name], "utf-8")
    (folder / "skip_nothing.py").write_text(HONEST, "utf-8")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            "--config-file",
            str(ROOT / "pyproject.toml"),
            *sorted(str(path) for path in folder.glob("*.py")),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    files = {name: f"skip_{number}.py" for number, name in enumerate(SKIPS)}
    files["nothing"] = "skip_nothing.py"
    return {
        name: "\n".join(line for line in done.stdout.splitlines() if file in line)
        for name, file in files.items()
    }


def test_the_honest_program_type_checks(complaints: dict[str, str]) -> None:
    assert complaints["nothing"] == ""


@pytest.mark.parametrize(
    ("skipped", "complaint"),
    [
        (
            "the consent filter",
            'has incompatible type "CheckedTransactions"; expected "ConsentedTransactions"',
        ),
        (
            "gate and filter",
            'has incompatible type "Transactions"; expected "ConsentedTransactions"',
        ),
        (
            "the quality gate",
            'has incompatible type "Transactions"; expected "CheckedTransactions"',
        ),
        ("the replay", 'has incompatible type "set[str]"; expected "EligibleCustomers"'),
        ("the seal", 'Missing positional argument "seal" in call to "ConsentedTransactions"'),
    ],
)
def test_skipping_is_a_type_error(complaints: dict[str, str], skipped: str, complaint: str) -> None:
    assert complaint in complaints[skipped]


def test_checked_transactions_cannot_be_made_by_hand() -> None:
    report = QualityReport("r", "f", 1, 0, 0, 1, 1, {}, 0.98)
    for seal in (None, True, object(), report):
        with pytest.raises(QualityGateError, match="past the quality gate"):
            CheckedTransactions(lambda: iter(()), "", report, seal=seal)


def test_consented_transactions_cannot_be_made_by_hand(
    make_transactions: Make, catalogue: Catalogue, eligible: Any
) -> None:
    checked = quality_gate(make_transactions([{}]), catalogue, region="r")
    for seal in (None, True, object(), checked):
        with pytest.raises(ConsentError, match="past the consent filter"):
            ConsentedTransactions(checked.parts, checked.catalogue, 1, seal=seal)
    honest = filter_consented(checked, eligible({"c1": "a" * 64}))
    # Nor by changing an honest one.
    with pytest.raises((ConsentError, TypeError, ValueError)):
        dataclasses.replace(honest, parts=checked.parts)
    with pytest.raises(dataclasses.FrozenInstanceError):
        honest.parts = checked.parts  # type: ignore[misc]


def test_only_the_stages_own_modules_name_the_seals() -> None:
    may_name = {
        "_GATE_SEAL": {"client/data/transactions.py", "client/data/quality.py"},
        "_CONSENT_SEAL": {"client/data/transactions.py", "client/data/consent_filter.py"},
        "_REPLAY_SEAL": {"client/data/consent_filter.py"},
    }
    named: dict[str, set[str]] = {name: set() for name in may_name}
    for folder in ("client", "common", "server", "simulations"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_bytes())):
                names = {getattr(node, field, None) for field in ("id", "attr", "name", "value")}
                for name in named.keys() & {name for name in names if isinstance(name, str)}:
                    named[name].add(str(path.relative_to(ROOT)))
    assert named == may_name
