"""The models of the family, small enough that all gates take seconds."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from client.data.dataset import CustomerItemMatrix
from client.training.audit_gates.audit import Subject
from client.training.models.matrix_factorisation import MatrixFactorisation
from client.training.models.tied_autoencoder import TiedAutoencoder

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
