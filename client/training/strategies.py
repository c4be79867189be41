"""From a plan's model to what a region trains and ranks with: rows, trainers, scores.

What trains is loaded when it is asked for: who ranks by a sum over customers needs no PyTorch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from client.data.dataset import CustomerItemMatrix, PreferenceDataset
from client.data.sequences import purchase_sequences
from client.training.rows import recency
from common.errors import InputError
from common.model_state import ModelState
from common.strategies import MATRIX_FACTORISATION, SASREC, TIED_AUTOENCODER

if TYPE_CHECKING:
    from client.training.models.matrix_factorisation import MatrixFactorisation
    from client.training.models.protocol import ClippedModel
    from client.training.models.sasrec import SasRec

FloatArray = npt.NDArray[np.float64]

# So many customers are scored at a time: bounds memory to this many × items.
_SCORED_CUSTOMERS = 256


def trainable(state: ModelState, *, first_step: int, seed: int) -> ClippedModel:
    """What a region trains, with the parameters of a plan's model.

    Args:
        state: The model.
        first_step: How many steps were taken before: public, as the plan is.
        seed: The plan's public seed.

    Raises:
        InputError: The strategy does not train in the regions.
    """
    if state.strategy == TIED_AUTOENCODER:
        from client.training.models.tied_autoencoder import TiedAutoencoder

        return TiedAutoencoder(state.parameters)
    if state.strategy == MATRIX_FACTORISATION:
        return _matrix_factorisation(state)
    if state.strategy == SASREC:
        return _sasrec(state, first_step=first_step, seed=seed)
    raise InputError(f"The strategy {state.strategy} does not train in the regions.")


def examples(dataset: PreferenceDataset, state: ModelState) -> CustomerItemMatrix:
    """What of the customers' purchases a strategy learns from, one row each.

    A customer's row has the items of the vocabulary that she bought. For the autoencoder it is her
    weighted, recent unit row, as `client.training.rows.factor_rows` has it, and sparse; for the
    factorisation an entry is how recent the purchase was, her confidence. For the sequential model
    it is her latest purchases in the order of time: one more than the network reads, because the
    last is only predicted.
    """
    if state.strategy == SASREC:
        _require_catalogue(dataset, state)
        longest = int(state.options["max_length"]) + 1
        return purchase_sequences(dataset, state.vocabulary, longest=longest)
    rows = vocabulary_rows(dataset, state)
    if state.strategy == MATRIX_FACTORISATION:
        return rows
    weights = state.item_weights.astype(np.float64)[rows.indices]
    return _unit_rows(rows, rows.values.astype(np.float64) * weights)


def vocabulary_rows(dataset: PreferenceDataset, state: ModelState) -> CustomerItemMatrix:
    """The customers' rows over the vocabulary's columns, ascending; entries are recencies.

    Raises:
        InputError: The model is over another catalogue.
    """
    _require_catalogue(dataset, state)
    column = np.full(dataset.n_items, -1, dtype=np.int64)
    column[state.vocabulary] = np.arange(len(state.vocabulary))
    columns = column[dataset.indices]
    known = np.flatnonzero(columns >= 0)
    owners = np.repeat(np.arange(dataset.n_customers), np.diff(dataset.indptr))[known]
    # The vocabulary is in the order of popularity, a row in that of columns.
    order = np.argsort(owners * len(state.vocabulary) + columns[known], kind="stable")
    sizes = np.bincount(owners, minlength=dataset.n_customers)
    return CustomerItemMatrix(
        np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        columns[known][order].astype(np.int32),
        recency(dataset)[known][order].astype(np.float32),
        len(state.vocabulary),
    )


def model_scores(history: PreferenceDataset, state: ModelState) -> FloatArray:
    """float64[n_customers, m]: a trained model's scores of the vocabulary, above 0; more is better.

    The autoencoder's and the sequential model's are how likely a purchase is of each item, by
    softmax; the factorisation's are predicted preferences, those below 0 counting as next to none.
    """
    rows = examples(history, state)
    parts = [
        _scores(rows.rows(start, min(start + _SCORED_CUSTOMERS, rows.n_rows)), state)
        for start in range(0, rows.n_rows, _SCORED_CUSTOMERS)
    ]
    return np.concatenate(parts) if parts else np.zeros((0, len(state.vocabulary)))


def _scores(rows: CustomerItemMatrix, state: ModelState) -> FloatArray:
    if state.strategy == TIED_AUTOENCODER:
        from client.training.models.tied_autoencoder import TiedAutoencoder

        return _softmax(TiedAutoencoder(state.parameters).scores(rows))
    if state.strategy == SASREC:
        # What the next purchase is, whatever the step and its negatives.
        return _softmax(_sasrec(state, first_step=0, seed=0).scores(rows))
    preferences = _matrix_factorisation(state).scores(rows).astype(np.float64)
    kept: FloatArray = np.maximum(preferences, 0.0) + 1e-6 * np.exp(np.minimum(preferences, 0.0))
    return kept


def _softmax(logits: npt.NDArray[np.float32]) -> FloatArray:
    """float64[n, m]: each row's shares, above 0 and adding up to 1."""
    odds: FloatArray = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    odds /= odds.sum(axis=1, keepdims=True)
    return odds


def _require_catalogue(dataset: PreferenceDataset, state: ModelState) -> None:
    if state.n_items != dataset.n_items:
        raise InputError(
            f"The model is over {state.n_items} items, the data set over {dataset.n_items}.",
            remedy="Use the public catalogue that the run plan names.",
        )


def _sasrec(state: ModelState, *, first_step: int, seed: int) -> SasRec:
    from client.training.models.sasrec import SasRec

    return SasRec(
        state.parameters,
        blocks=int(state.options["blocks"]),
        heads=int(state.options["heads"]),
        negatives=int(state.options["negatives"]),
        seed=seed,
        first_step=first_step,
    )


def _matrix_factorisation(state: ModelState) -> MatrixFactorisation:
    from client.training.models.matrix_factorisation import MatrixFactorisation

    return MatrixFactorisation(
        state.parameters,
        unobserved_weight=float(state.options["unobserved_weight"]),
        regularisation=float(state.options["regularisation"]),
    )


def _unit_rows(rows: CustomerItemMatrix, values: FloatArray) -> CustomerItemMatrix:
    owners = np.repeat(np.arange(rows.n_rows), np.diff(rows.indptr))
    squares = np.bincount(owners, weights=values**2, minlength=rows.n_rows)
    norms = np.sqrt(np.where(squares > 0, squares, 1.0))[owners]
    return CustomerItemMatrix(
        rows.indptr, rows.indices, (values / norms).astype(np.float32), rows.n_items
    )
