"""What a study of quality against the number of customers measured, kept in a file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from common.durable_file import write_durably

#: The two ways that are not private.
POPULARITY, NO_PRIVACY = "popularity", "factors-without-privacy"


@dataclass(frozen=True)
class Measured:
    """What one way of training reached.

    Attributes:
        customers: How many there were, over all regions.
        method: A strategy, or one of the two that are not private.
        mode: Whose noise protects; empty without privacy.
        epsilon: ε of the run; empty without privacy.
        seed: Of the noise.
        ndcg: NDCG@10 of items that the customer had not bought, over the whole catalogue.
        standard_error: Of its mean over the customers who were ranked for.
        seconds: How long training took.
    """

    customers: int
    method: str
    mode: str
    epsilon: str
    seed: int
    ndcg: float
    standard_error: float
    seconds: float

    @property
    def key(self) -> tuple[int, str, str, str, int]:
        """What it is a measurement of."""
        return self.customers, self.method, self.mode, self.epsilon, self.seed

    def __str__(self) -> str:
        """One line of a table."""
        return (
            f"n={self.customers:>9,}  ε={self.epsilon or '–':>3}  {self.mode or '–':<11} "
            f"{self.method:<23} NDCG@10 {self.ndcg:.4f} ± {self.standard_error:.4f}  "
            f"{self.seconds:7.1f} s"
        )


class Figures:
    """Measurements in a file, whole after every one.

    Args:
        path: A JSON file; made with the first measurement.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        stored = json.loads(path.read_text("utf-8")) if path.exists() else []
        self.all = [Measured(**each) for each in stored]

    def has(self, key: tuple[int, str, str, str, int]) -> bool:
        """Whether it was measured before."""
        return any(each.key == key for each in self.all)

    def add(self, measured: Measured) -> None:
        """Keeps a measurement."""
        self.all.append(measured)
        text = json.dumps([asdict(each) for each in self.all], indent=1, ensure_ascii=False)
        write_durably(self._path, f"{text}\n".encode(), mode=0o644)
