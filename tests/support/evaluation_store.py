"""A small store of made-up purchases as files, with its mapping file, for evaluations."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

DAY_S = 24 * 3600
START_S = 1_700_000_000
DAYS = 100
N_ITEMS = 40
TASTES = 4
# Customer, item, time in seconds, stars.
Row = tuple[str, str, int, int]

MAPPING = """\
kind = "files"
path = "purchases.csv"
time_format = "epoch_s"

[columns]
customer = "who"
item = "what"
time = "when"
amount = "stars"
"""


def made_up_rows(n_customers: int = 150, *, seed: int = 0, prefix: str = "c") -> list[Row]:
    """Customers with a taste each, who come back to what they bought."""
    generator = np.random.default_rng(seed)
    rows: dict[tuple[str, str, int], Row] = {}
    for number in range(n_customers):
        taste, own = number % TASTES, list[int]()
        for _ in range(int(generator.integers(8, 30))):
            again = bool(own) and generator.random() < 0.3
            item = int(min(generator.geometric(0.25) - 1, N_ITEMS // TASTES - 1)) * TASTES
            item += taste if generator.random() < 0.85 else int(generator.integers(TASTES))
            chosen = own[int(generator.integers(len(own)))] if again else item
            own.append(chosen)
            when = START_S + int(generator.integers(DAYS * DAY_S))
            row = (f"{prefix}{number:04d}", f"i{chosen:02d}", when, int(generator.integers(1, 6)))
            rows[row[:3]] = row
    return list(rows.values())


def write_store(folder: Path, rows: Iterable[Row], *, more: str = "", name: str = "shop") -> Path:
    """Writes the purchases and their mapping file.

    Args:
        folder: Where to.
        rows: The purchases.
        more: What else the mapping file says.
        name: The mapping file's name, without its ending.

    Returns:
        The mapping file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["who,what,when,stars", *(",".join(map(str, row)) for row in rows)]
    (folder / "purchases.csv").write_text("\n".join(lines) + "\n")
    mapping = folder / f"{name}.toml"
    mapping.write_text(MAPPING + more)
    return mapping


def write_catalogue(folder: Path) -> Path:
    """Writes a catalogue of the made-up items as a table with columns of its own."""
    lines = ["sku;kind", *(f"i{item:02d};kind {item % TASTES}" for item in range(N_ITEMS))]
    path = folder / "products.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


CATALOGUE = """
[evaluation.catalogue]
path = "products.csv"
delimiter = ";"
item = "sku"
category = "kind"
"""
