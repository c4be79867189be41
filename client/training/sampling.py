"""Which customers take part in a step, and how they reach the model: in chunks, never padded."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from client.data.dataset import CustomerItemMatrix
from client.training.models.protocol import CHUNK_CUSTOMERS
from client.training.noise import NoiseSource
from common.errors import InputError

LongArray = npt.NDArray[np.int64]

# So many customers are drawn at a time: what a draw takes of memory does not grow with customers.
_CUSTOMERS_PER_DRAW = 1 << 16
# A chunk ends here even if it has few customers: bounds what very long histories take of memory.
MAX_CHUNK_ENTRIES = 1 << 18
# So many customers, or so many entries, are gathered at a time, and then chunks are parts of that.
_GATHERED_CUSTOMERS = 16 * CHUNK_CUSTOMERS
_GATHERED_ENTRIES = 1 << 20


def draw_customers(n_customers: int, probability: float, noise: NoiseSource) -> LongArray:
    """A Poisson sample: each customer takes part with this probability, whoever else does.

    Args:
        n_customers: How many there are.
        probability: q, above 0 and at most 1.
        noise: Where the draws come from.

    Formal guarantees:
        The draws are independent Bernoulli(q) from a cryptographic generator, over customers and
        over calls. That is what "Poisson sampling" means to the accountant: shuffled batches, or
        batches of a fixed size, would not earn the amplification that it computes.

    Edge cases:
        The sample may be empty, and then that is the sample: a step that is skipped or drawn again
        would tell so. With q = 1 everybody takes part.

    Returns:
        int64[k], ascending numbers of the customers who take part.

    Raises:
        InputError: The probability is out of range.
    """
    if not 0 < probability <= 1:
        raise InputError(f"A sampling probability of {probability} is not within (0, 1].")
    drawn = [
        start
        + np.flatnonzero(noise.mask(min(_CUSTOMERS_PER_DRAW, n_customers - start), probability))
        for start in range(0, n_customers, _CUSTOMERS_PER_DRAW)
    ]
    return np.concatenate([np.zeros(0, dtype=np.int64), *drawn])


def chunks(examples: CustomerItemMatrix, rows: LongArray) -> Iterator[CustomerItemMatrix]:
    """The sampled customers in chunks, each customer once.

    A logical batch of any size goes through in chunks of at most `CHUNK_CUSTOMERS` customers and
    `MAX_CHUNK_ENTRIES` entries (a customer with more is a chunk of her own). Customers with equally
    many entries go together, so that a model of sequences pads next to nothing; the sum over a
    logical batch does not depend on the order.

    Args:
        examples: All customers.
        rows: int64[k], those who take part, ascending.

    Yields:
        Customers of `examples`; those gathered, a few thousand at most, are in memory at a time.
    """
    sizes = examples.indptr[rows + 1] - examples.indptr[rows]
    for start, stop in _cuts(sizes, _GATHERED_CUSTOMERS, _GATHERED_ENTRIES):
        # Of 16 bits, because NumPy sorts these by digits: six times faster.
        short = np.minimum(sizes[start:stop], 0xFFFF).astype(np.uint16)
        order = np.argsort(short, kind="stable")
        gathered = examples.gather(rows[start:stop][order])
        for first, end in _cuts(np.diff(gathered.indptr), CHUNK_CUSTOMERS, MAX_CHUNK_ENTRIES):
            yield gathered.rows(first, end)


def _cuts(sizes: LongArray, most_rows: int, most_entries: int) -> Iterator[tuple[int, int]]:
    """Consecutive parts, as long as may be, of rows of these sizes; at least one row each."""
    ends = np.cumsum(sizes)
    start = 0
    while start < len(sizes):
        begun = int(ends[start - 1]) if start else 0
        fitting = int(np.searchsorted(ends, begun + most_entries, side="right"))
        stop = min(max(fitting, start + 1), start + most_rows)
        yield start, stop
        start = stop
