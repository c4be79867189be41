"""``… ITEMS CUSTOMERS PROBABILITY``: steps of the autoencoder, in a process of its own.

Prints processor seconds of a step, and the most memory resident so far after and before the steps,
in MB.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from benchmarks.steps import made_up, ours
from benchmarks.steps.alternating import cpu_s
from client.training.models.tied_autoencoder import TiedAutoencoder

_STEPS = 3


def main(n_items: int, customers: int, probability: float) -> None:
    """Takes steps in one go for the memory, then as many again for the time."""
    torch.set_num_threads(1)
    rows = made_up.unit_rows(customers, n_items)
    model = TiedAutoencoder(made_up.autoencoder_arrays(n_items))
    forget_highest()
    before_mb = highest_mb()
    take = ours.steps(model, rows, sampling_probability=probability, n_steps=_STEPS)
    take()
    most_mb = highest_mb()
    print(cpu_s(take) / _STEPS, most_mb, before_mb)  # noqa: T201


def forget_highest() -> None:
    """Lets the kernel begin anew with the most that was resident: making data took more."""
    Path("/proc/self/clear_refs").write_text("5")


def highest_mb() -> float:
    """The most memory that was resident, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (each for each in lines if each.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
