"""Candidates by the compiled kernel, ``native/topk.c``: its structures, and how it is called."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from client.recommend import native
from client.recommend.topk_tables import MOST_TILTS, Candidates, Customers, ItemTable, Tilt
from common.ranking import NO_ITEM

#: Customers that the kernel takes at a time, each a lane of its vectors.
LANES = 32
#: Items at a time whose reach is judged as one.
BLOCK = 256

# Panels of customers that share a block of items, unless their tilts take more than so many bytes.
_MOST_PANELS = 8
_TILT_BYTES = 1 << 18
# Bounds are rounded up by this much, and by one rounding more for each factor.
_UP, _UP_A_FACTOR = 1e-5, 2.0**-23

FloatArray = npt.NDArray[np.float64]
Kept = list[npt.NDArray[np.generic]]


def built() -> list[Path]:
    """The compiled files; none where there was no compiler."""
    return sorted(Path(native.__file__).parent.glob("_topk*.so"))


def load_kernel(path: Path) -> ctypes.CDLL:
    """A compiled ``topk.c``.

    Raises:
        OSError: It cannot be loaded.
        AttributeError: It is something else.
    """
    library = ctypes.CDLL(str(path))
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    library.fedpref_topk_width.restype = ctypes.c_int
    library.fedpref_topk_width.argtypes = []
    if library.fedpref_topk_width():
        library.fedpref_topk_candidates.restype = None
        library.fedpref_topk_candidates.argtypes = [
            *(ctypes.c_int, pointer, pointer, pointer, pointer, size, size, size)
        ]
    return library


class _Items(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("factors", "weights", "numbers", "places", "reach")),
        ("codes", ctypes.c_void_p * MOST_TILTS),
        ("n_codes", ctypes.c_int64 * MOST_TILTS),
        *((name, ctypes.c_int64) for name in ("n", "rank", "tables")),
        ("positive", ctypes.c_int32),
    ]


class _Customers(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("hidden", "lengths", "excluded_starts", "excluded")),
        *(
            (name, ctypes.c_void_p * MOST_TILTS)
            for name in ("usual", "tilt_starts", "tilt_codes", "tilts")
        ),
        ("n", ctypes.c_int64),
    ]


class _Candidates(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("scores", "numbers", "products", "counts")),
        ("k", ctypes.c_int64),
    ]


class KernelCandidates:
    """Candidates by the kernel; see `Chooser`.

    Args:
        library: The kernel.
        width: How many floats its vectors have: 8 or 16.
    """

    def __init__(self, library: ctypes.CDLL, width: int) -> None:
        self._library, self._width = library, width

    def __call__(
        self, items: ItemTable, customers: Customers, k: int, *, threads: int = 1
    ) -> Candidates:
        """See `Chooser`."""
        n = customers.n_customers
        found = Candidates(
            np.full((n, k), NO_ITEM, dtype=np.int32),
            np.zeros((n, k), dtype=np.float32),
            np.zeros((n, k)),
            np.zeros(n, dtype=np.int32),
        )
        # The structures hold addresses only; these hold what is there.
        kept: Kept = []
        table = _items_of(items, customers.tilts, kept)
        whose = _customers_of(items, customers, kept)
        into = _Candidates(
            *(each.ctypes.data for each in (found.scores, found.numbers)),
            *(each.ctypes.data for each in (found.products, found.counts)),
            k,
        )
        codes = sum(tilt.n_codes for tilt in customers.tilts)
        panels = min(_MOST_PANELS, max(1, _TILT_BYTES // max(1, codes * LANES * 4)))

        def work(first: int, last: int) -> None:
            scratch = np.empty(panels * (items.rank + codes) * LANES, dtype=np.float32)
            # ctypes lets go of the interpreter's lock meanwhile.
            self._library.fedpref_topk_candidates(
                *(self._width, ctypes.byref(table), ctypes.byref(whose), ctypes.byref(into)),
                *(scratch.ctypes.data, panels, first, last),
            )

        _in_threads(work, -(-n // LANES), threads)
        del kept
        found.numbers[np.arange(k) >= found.counts[:, None]] = NO_ITEM
        return found


def _items_of(items: ItemTable, tilts: tuple[Tilt, ...], kept: Kept) -> _Items:
    reach = _rounded_up(items.reach[::BLOCK], items.rank)
    codes = _pointers(items.codes, kept)
    sizes = (ctypes.c_int64 * MOST_TILTS)(*(tilt.n_codes for tilt in tilts))
    arrays = (items.factors, items.weights.astype(np.float32), items.numbers, items.places, reach)
    return _Items(
        *(_address(each, kept) for each in arrays),
        *(codes, sizes, items.n_items, items.rank, len(items.codes), int(items.positive)),
    )


def _customers_of(items: ItemTable, customers: Customers, kept: Kept) -> _Customers:
    lengths = _rounded_up(customers.lengths, items.rank)
    arrays = (customers.hidden, lengths, customers.excluded_indptr, customers.excluded)
    tables = [
        (tilt.usual.astype(np.float32), tilt.indptr, tilt.codes, tilt.values.astype(np.float32))
        for tilt in customers.tilts
    ]
    columns = zip(*tables, strict=True) if tables else ((),) * 4
    return _Customers(
        *(_address(each, kept) for each in arrays),
        *(_pointers(column, kept) for column in columns),
        customers.n_customers,
    )


def _rounded_up(bounds: FloatArray, rank: int) -> npt.NDArray[np.float32]:
    """Bounds that hold for sums and products in single precision, too."""
    raised = (bounds * (1.0 + _UP + rank * _UP_A_FACTOR)).astype(np.float32)
    above: npt.NDArray[np.float32] = np.nextafter(raised, np.float32(np.inf))
    return above


def _pointers(
    arrays: Sequence[npt.NDArray[np.generic]], kept: Kept
) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * MOST_TILTS)(*(_address(each, kept) for each in arrays))


def _address(array: npt.NDArray[np.generic], kept: Kept) -> int:
    kept.append(np.ascontiguousarray(array))
    return kept[-1].ctypes.data


def _in_threads(work: Callable[[int, int], None], n: int, threads: int) -> None:
    """Does what is numbered 0 to n − 1, in as many ranges as there are threads."""
    threads = min(threads, n)
    if threads <= 1:
        work(0, n)
        return
    ends = [n * each // threads for each in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(work, ends[:-1], ends[1:]):
            pass
