"""What is served at one moment."""

from __future__ import annotations

import subprocess
import sys


def test_a_model_of_sums_is_served_without_pytorch() -> None:
    """It would take as much memory as the histories of half a million customers."""
    told = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, client.recommend.recommender; print('torch' in sys.modules)",
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    assert told.stdout.strip() == "False"
