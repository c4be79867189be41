"""The autoencoder's passes over customers × items by a compiled kernel.

PyTorch makes a pass over memory for each product, bias, maximum, exponential and sum; the kernel
(``client/training/native/softmax.c``) makes two over all, by products for just these shapes. It is
used where it was built, the processor has its vector instructions, and it has just given what
PyTorch gives.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

import numpy as np
import torch

from client.data.dataset import CustomerItemMatrix
from client.training.models.native_kernels import built, in_threads
from client.training.models.softmax_passes import Decoder, SoftmaxPasses, SoftmaxSums, TorchPasses
from client.training.models.sparse_batch import SparseBatch

#: Customers that the kernel takes at a time, each a lane of its vectors.
LANES = 32

# So many exponentials are kept at a time, which takes 104 MB, though of so many customers at least:
# both the gradient and what is done between the passes is then spent on many of them.
_MOST_KEPT = 26_000_000
_LEAST_PART = 128
# What the kernel may differ from PyTorch by, relative to the largest value.
_AGREEMENT = 1e-5


def softmax_passes() -> SoftmaxPasses:
    """New passes: the kernel's where it can be used, PyTorch's elsewhere."""
    usable = _usable()
    return TorchPasses() if usable is None else KernelPasses(*usable)


def is_compiled() -> bool:
    """Whether the compiled kernel is in use; without it training is as exact, and slower."""
    return _usable() is not None


class KernelPasses:
    """The passes by the kernel; bits depend neither on its width nor on how many threads there are.

    Args:
        library: The kernel.
        width: How many floats its vectors have: 8 or 16.
    """

    def __init__(self, library: ctypes.CDLL, width: int) -> None:
        self._library, self._width = library, width
        self._kept = torch.empty(0)

    def part_size(self, n_items: int) -> int:
        """See `SoftmaxPasses`."""
        return max(_MOST_KEPT // max(n_items, 1), _LEAST_PART) // LANES * LANES

    def exponentials(
        self, sparse: SparseBatch, hidden: torch.Tensor, decoder: Decoder, *, squares: bool = True
    ) -> SoftmaxSums:
        """See `SoftmaxPasses`."""
        n, (n_items, rank) = len(hidden), decoder.factors.shape
        panels = -(-n // LANES)
        if self._kept.numel() < panels * LANES * n_items:
            # NumPy asks for huge pages.
            self._kept = torch.from_numpy(np.empty(panels * LANES * n_items, dtype=np.float32))
        scratch = torch.empty(panels * 2 * rank * LANES)
        found = SoftmaxSums(
            torch.empty(n, dtype=torch.float64),
            torch.zeros(n, dtype=torch.float64),
            torch.empty(n, rank),
            torch.empty(len(sparse.items)),
        )
        given = [hidden, decoder.factors, decoder.bias, sparse.offsets, sparse.items]
        rows, factors, bias, starts, items = (each.contiguous() for each in given)

        def work(first: int, last: int) -> None:
            # ctypes lets go of the interpreter's lock meanwhile.
            self._library.fedpref_softmax_exponentials(
                *(self._width, rows.data_ptr(), n, factors.data_ptr(), bias.data_ptr()),
                *(n_items, rank, starts.data_ptr(), items.data_ptr(), len(items)),
                *(self._kept.data_ptr(), scratch.data_ptr(), found.totals.data_ptr()),
                found.squares.data_ptr() if squares else None,
                *(found.slopes.data_ptr(), found.taken.data_ptr(), first, last),
            )

        in_threads(work, panels)
        return found

    def add_gradients(self, weights: torch.Tensor, shares: torch.Tensor, into: Decoder) -> None:
        """See `SoftmaxPasses`."""
        n, rank = weights.shape
        padded = torch.nn.functional.pad(weights, (0, -rank % LANES)).contiguous()
        filled = torch.nn.functional.pad(shares, (0, -n % LANES)).contiguous()
        factors, bias = _writable(into)

        def work(start: int, stop: int) -> None:
            self._library.fedpref_softmax_gradients(
                *(self._width, self._kept.data_ptr(), n, len(into.bias), rank),
                *(padded.data_ptr(), padded.shape[1], filled.data_ptr()),
                *(factors, bias, start, stop),
            )

        in_threads(work, len(into.bias))

    def add_entries(
        self,
        sparse: SparseBatch,
        residuals: torch.Tensor,
        weights: tuple[torch.Tensor, torch.Tensor],
        shares: torch.Tensor,
        into: Decoder,
    ) -> None:
        """See `SoftmaxPasses`."""
        given = [sparse.owners, sparse.items, sparse.values, residuals, *weights, shares]
        owners, items, *others = (each.contiguous() for each in given)
        self._library.fedpref_softmax_entries(
            *(owners.data_ptr(), items.data_ptr(), len(items)),
            *(each.data_ptr() for each in others),
            weights[0].shape[1],
            *_writable(into),
        )


def _writable(into: Decoder) -> tuple[int, int]:
    """Where both arrays begin; a copy would be added to in vain."""
    for each in (into.factors, into.bias):
        if each.dtype != torch.float32 or not each.is_contiguous():
            raise ValueError("Gradients are added to contiguous arrays of float32 only.")
    return into.factors.data_ptr(), into.bias.data_ptr()


@cache
def _usable() -> tuple[ctypes.CDLL, int] | None:
    """The kernel and its width, if it is built and gives what PyTorch gives."""
    for path in built("_softmax"):
        try:
            library = load_kernel(path)
        except (OSError, AttributeError):
            continue
        width = int(library.fedpref_softmax_width())
        if width and agrees(KernelPasses(library, width)):
            return library, width
    return None


def load_kernel(path: Path) -> ctypes.CDLL:
    """A compiled ``softmax.c``.

    Raises:
        OSError: It cannot be loaded.
        AttributeError: It is something else.
    """
    library = ctypes.CDLL(str(path))
    pointer, size, width = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    library.fedpref_softmax_width.restype = ctypes.c_int
    library.fedpref_softmax_width.argtypes = []
    library.fedpref_softmax_entries.restype = None
    library.fedpref_softmax_entries.argtypes = [
        *(pointer, pointer, size, pointer, pointer, pointer, pointer, pointer),
        *(size, pointer, pointer),
    ]
    if library.fedpref_softmax_width():
        library.fedpref_softmax_exponentials.restype = None
        library.fedpref_softmax_exponentials.argtypes = [
            *(width, pointer, size, pointer, pointer, size, size, pointer, pointer, size),
            *(pointer, pointer, pointer, pointer, pointer, pointer, size, size),
        ]
        library.fedpref_softmax_gradients.restype = None
        library.fedpref_softmax_gradients.argtypes = [
            *(width, pointer, size, size, size, pointer, size, pointer),
            *(pointer, pointer, size, size),
        ]
        library.fedpref_softmax_exp.restype = None
        library.fedpref_softmax_exp.argtypes = [width, pointer, pointer, size]
    return library


def agrees(passes: SoftmaxPasses) -> bool:
    """Whether passes give what PyTorch's give, up to rounding, on sizes that fill no vector."""
    found, expected = (_tried(each) for each in (passes, TorchPasses()))
    return all(
        bool(((one - other).abs().max() <= _AGREEMENT * other.abs().max()).item())
        for one, other in zip(found, expected, strict=True)
    )


def _tried(passes: SoftmaxPasses) -> list[torch.Tensor]:
    """Everything that passes compute, for made-up customers, relative to the shift."""
    n, n_items, rank = 37, 301, 19
    generator = np.random.Generator(np.random.Philox(1))

    def drawn(*shape: int) -> torch.Tensor:
        return torch.from_numpy(generator.normal(0, 1, shape).astype(np.float32))

    # What comes late is far above what comes first: the kernel has to shift again.
    decoder = Decoder(drawn(n_items, rank), drawn(n_items))
    decoder.bias[260:] += 60.0
    items = np.sort(generator.permuted(np.tile(np.arange(n_items), (n, 1)), axis=1)[:, :7], axis=1)
    rows = CustomerItemMatrix(
        np.arange(n + 1, dtype=np.int64) * 7,
        items.reshape(-1).astype(np.int32),
        np.full(7 * n, 0.4, dtype=np.float32),
        n_items,
    )
    sparse = SparseBatch.of(rows, n_items)
    found = passes.exponentials(sparse, drawn(n, rank), decoder)
    scale = found.totals.reciprocal()
    into = Decoder(torch.zeros(n_items, rank), torch.zeros(n_items))
    weights = drawn(n, rank), drawn(n, rank)
    shares = scale.float()
    passes.add_gradients(weights[0] * shares[:, None], shares, into)
    passes.add_entries(sparse, drawn(7 * n), weights, drawn(n), into)
    return [
        found.squares * scale.square(),
        found.slopes * shares[:, None],
        found.taken * shares[sparse.owners],
        into.factors,
        into.bias,
    ]
