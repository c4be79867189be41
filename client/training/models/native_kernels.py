"""Where compiled kernels are, and how their work is shared out to threads."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from client.training import native


def built(name: str) -> list[Path]:
    """The compiled files of a kernel; none where there was no compiler."""
    return sorted(Path(native.__file__).parent.glob(f"{name}*.so"))


def in_threads(work: Callable[[int, int], None], n: int) -> None:
    """Does what is numbered 0 to n − 1, in as many ranges as PyTorch has threads.

    Args:
        work: Does a range, from its first number to before its last. Ranges share nothing that
            they write, and what is done at a number does not depend on its range.
        n: How many there are.
    """
    threads = min(torch.get_num_threads(), n)
    if threads <= 1:
        work(0, n)
        return
    ends = [n * each // threads for each in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(work, ends[:-1], ends[1:]):
            pass
