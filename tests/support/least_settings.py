"""The least that a region's settings must state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from client.settings import RegionSettings
from tests.support.region_folder import toml_text

TABLES: dict[str, Any] = {
    "region": {"name": "eu-west", "federation": "shop.example", "jurisdiction": "DE"},
    "coordinator": {"address": "federation.example:9092"},
    "source": {"file": "home/data/source.toml"},
    "policy": {
        "purpose": "fedpref:FederatedTraining",
        "epsilon_cap_per_year": "8",
        "delta_max": "0.000001",
        "noise_multiplier_min": "0.5",
        "clipping_norm_max": "1",
        "rounds_max": 64,
        "quorum_min": 2,
        "quality_threshold": "0.98",
        "consent_age_max_s": 600,
        "withdrawal_in_round": "finish",
        "notice_grace_s": 0,
        "modes": ["local"],
    },
}


def settings_of(folder: Path, **changes: Any) -> RegionSettings:
    """Settings with the least of tables, some of them replaced."""
    (folder / "region.toml").write_text(toml_text({**TABLES, **changes}), encoding="utf-8")
    return RegionSettings.read(folder)
