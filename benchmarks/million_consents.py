"""Makes a whole bundle with a given number of signed consents: ``… RUN_FOLDER CONSENTS``."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.support.bundle_builder import REGIONS, Federation


def main(run_folder: Path, consents: int) -> None:
    """Acts out a run of two regions, one customer in four of whom withdraws after round 1."""
    customers = round(consents / len(REGIONS) / 1.25)
    Federation(customers=customers).run().write(run_folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
