"""The models of the family, small enough that all gates take seconds."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from client.data.dataset import CustomerItemMatrix
from client.training.audit_gates.audit import Subject
from client.training.models.matrix_factorisation import MatrixFactorisation
from client.training.models.sasrec import SasRec
from client.training.models.tied_autoencoder import TiedAutoencoder
from common.strategies import SASREC, initial_parameters

# So many coordinates that a tenth less noise shows, and that a thousand canaries find room.
N_ITEMS, RANK = 1000, 8
CANARIES = 1000
_CUSTOMERS = 200
_SEED = 7


@lru_cache(maxsize=1)
def subjects() -> tuple[Subject, ...]:
    """The models under audit, each with random parameters that are always the same."""
    customers = _customers(np.random.default_rng(_SEED), _CUSTOMERS)
    canaries = _canaries()
    return (
        Subject("tied-autoencoder", _autoencoder, customers, canaries),
        Subject("matrix-factorisation", _factorisation, customers, canaries),
        # What is bought but once is nobody's next item: these bought theirs twice.
        Subject("sasrec", _sequential, customers, _repeated(canaries)),
    )


def _factors() -> npt.NDArray[np.float32]:
    generator = np.random.default_rng(_SEED + 2)
    return generator.normal(0, 0.3, (N_ITEMS, RANK)).astype(np.float32)


def _autoencoder() -> TiedAutoencoder:
    generator = np.random.default_rng(_SEED + 3)
    biases = {"hidden_bias": RANK, "item_bias": N_ITEMS}
    arrays = {
        name: generator.normal(0, 0.3, size).astype(np.float32) for name, size in biases.items()
    }
    return TiedAutoencoder({**arrays, "item_factors": _factors()})


def _factorisation() -> MatrixFactorisation:
    return MatrixFactorisation(
        {"item_factors": _factors()}, unobserved_weight=0.05, regularisation=0.2
    )


def _sequential() -> SasRec:
    options = {"blocks": "1", "heads": "2", "max_length": "20", "negatives": "30"}
    flat = np.ones(N_ITEMS)
    arrays = initial_parameters(SASREC, RANK, options, popularity=flat, seed=_SEED)
    # Small, so that what one customer alone has, her item's row, is most of what she contributes.
    arrays["item_factors"] = 0.1 * _factors()
    return SasRec(arrays, blocks=1, heads=2, negatives=30, seed=_SEED)


def _repeated(rows: CustomerItemMatrix) -> CustomerItemMatrix:
    """Each entry twice in a row."""
    return CustomerItemMatrix(
        rows.indptr * 2, np.repeat(rows.indices, 2), np.repeat(rows.values, 2), rows.n_items
    )


def _customers(generator: np.random.Generator, n_customers: int) -> CustomerItemMatrix:
    """Customers with 1 to some 300 items; rows of norm 1, as the models are given them."""
    sizes = np.minimum(generator.geometric(0.05, n_customers), 300)
    sizes[:3] = (1, 2, 300)
    return _unit_rows(generator, sizes)


def _canaries() -> CustomerItemMatrix:
    """Customers with one item each that no other has: nobody is easier to tell from the others."""
    return CustomerItemMatrix(
        np.arange(CANARIES + 1, dtype=np.int64),
        np.arange(CANARIES, dtype=np.int32),
        np.ones(CANARIES, dtype=np.float32),
        N_ITEMS,
    )


def _unit_rows(generator: np.random.Generator, sizes: npt.NDArray[np.int64]) -> CustomerItemMatrix:
    rows = [np.sort(generator.choice(N_ITEMS, size, replace=False)) for size in sizes]
    weights = [generator.uniform(0.2, 1.0, size) for size in sizes]
    return CustomerItemMatrix(
        np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        np.concatenate(rows).astype(np.int32),
        np.concatenate([each / np.linalg.norm(each) for each in weights]).astype(np.float32),
        N_ITEMS,
    )
