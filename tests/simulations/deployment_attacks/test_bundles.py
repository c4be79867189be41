"""Bundles are what Flower builds, and one line makes another of them."""

from __future__ import annotations

import io
import zipfile

from flwr.cli.config_utils import get_fab_metadata

from simulations.deployment_attacks.apps import agreed, reader
from simulations.deployment_attacks.bundles import bundle_of


def test_a_bundle_is_flower_s_and_has_the_module_alone() -> None:
    bundle = bundle_of(agreed, config={"noise-multiplier": 2.0})
    assert get_fab_metadata(bundle) == ("shops/shops", "1.0.0")
    with zipfile.ZipFile(io.BytesIO(bundle)) as opened:
        assert {name for name in opened.namelist() if name.endswith(".py")} == {"app.py"}


def test_the_same_content_is_the_same_bundle_and_one_line_another() -> None:
    assert bundle_of(reader) == bundle_of(reader)
    assert bundle_of(reader) != bundle_of(reader, note="one line")
