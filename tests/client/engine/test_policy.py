"""A policy's numbers have one written form."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.engine.policy import read_policy
from common import canonical_json
from common.errors import InputError

POLICY = {
    "region": "region-1",
    "purpose": "fedpref:FederatedTraining",
    "epsilon_cap_per_year": "8",
    "delta_max": "1e-06",
    "noise_multiplier_min": "0.1",
    "clipping_norm_max": "1",
    "rounds_max": 64,
    "quorum_min": 2,
    "quality_threshold": "0.98",
    "consent_age_max_s": 600,
    "withdrawal_in_round": "finish",
    "notice_grace_s": 0,
    "modes": ["local"],
}


def write(folder: Path, **changes: object) -> Path:
    path = folder / "policy.json"
    path.write_bytes(canonical_json.encode({**POLICY, **changes}))  # type: ignore[dict-item]
    return path


def test_a_policy_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert read_policy(write(tmp_path)).to_record() == POLICY


@pytest.mark.parametrize(
    "number",
    ["1_000", " 1", "1 ", "+1", "01", "٣", ".5", "1.", "0", "-1", "NaN", "Infinity", "1e400", ""],
)
def test_a_number_in_another_form_or_range_is_refused(tmp_path: Path, number: str) -> None:
    with pytest.raises(InputError, match="epsilon_cap_per_year"):
        read_policy(write(tmp_path, epsilon_cap_per_year=number))


@pytest.mark.parametrize(
    ("field", "value"),
    [("notice_grace_s", -1), ("withdrawal_in_round", "ignore"), ("notice_grace_s", True)],
)
def test_the_new_fields_have_their_ranges(tmp_path: Path, field: str, value: object) -> None:
    with pytest.raises(InputError, match=field):
        read_policy(write(tmp_path, **{field: value}))
