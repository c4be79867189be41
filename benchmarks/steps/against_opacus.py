"""Our steps and samples beside Opacus's own, on the same sizes.

Opacus cannot clip a table that is used twice, so that its model is that of two linear layers, d ×
items each, with the same loss: what it has samplers for of its own. Our leaf for Opacus
(`client.training.opacus_modules`), which is tied as ours is, is measured beside it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from opacus import PrivacyEngine
from opacus.data_loader import DPDataLoader
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.results import Bar, Figure
from benchmarks.steps import made_up, ours
from benchmarks.steps.alternating import Work, alternate
from client.data.dataset import CustomerItemMatrix
from client.training.models.tied_autoencoder import TiedAutoencoder
from client.training.noise import SystemNoise
from client.training.opacus_losses import CustomerLikelihood
from client.training.opacus_modules import OpacusTiedAutoencoder
from client.training.sampling import chunks, draw_customers

Mode = Literal["ghost", "hooks"]

_ITEMS, _CUSTOMERS = 20_000, 1_024
# Customers at a time: all of them would take hooks 10 GB and more for each of the layers.
PHYSICAL: dict[Mode, int] = {"ghost": 256, "hooks": 64}
_TURNS: dict[Mode, int] = {"ghost": 5, "hooks": 2}
_SAMPLED, _PROBABILITY, _SAMPLES = 100_000, 0.1, 5

_LEAST: dict[Mode, float] = {"ghost": 4.5, "hooks": 60.0}
_TIMES: dict[Mode, Bar] = {
    mode: Bar(
        f"tied autoencoder, {_ITEMS:,} items, {_CUSTOMERS:,} customers: Opacus 1.6 {mode} / ours",
        "×",
        least,
        least=True,
    )
    for mode, least in _LEAST.items()
}
_SAMPLER = Bar(
    f"Poisson samples of {_SAMPLED:,} customers, q = {_PROBABILITY}: Opacus's loader / ours",
    "×",
    10.0,
    least=True,
)
BARS: tuple[Bar, ...] = (*_TIMES.values(), _SAMPLER)


def measure() -> dict[str, Figure]:
    """Measures these bars; Opacus's warnings about its generator are not ours to print."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = {bar.name: _measure_steps(mode) for mode, bar in _TIMES.items()}
        return found | {_SAMPLER.name: _measure_sampler()}


def _measure_steps(mode: Mode) -> Figure:
    arrays, rows = made_up.autoencoder_arrays(_ITEMS), made_up.unit_rows(_CUSTOMERS, _ITEMS)
    layers = opacus_steps(two_layers(_ITEMS), mode, dense(rows), PHYSICAL[mode])
    leaf = opacus_steps(OpacusTiedAutoencoder(arrays), mode, dense(rows), PHYSICAL[mode])
    mine = ours.steps(TiedAutoencoder(arrays), rows)
    times = alternate({"ours": mine, "layers": layers, "leaf": leaf}, turns=_TURNS[mode])
    beside = (
        f"Opacus {times.median_s('layers'):.2f} s by its layers, {PHYSICAL[mode]} customers at a "
        f"time, ours {times.median_s('ours'):.3f} s; our tied leaf in Opacus "
        f"{times.ratio('leaf', 'ours'):.1f} ×"
    )
    return Figure(times.ratio("layers", "ours"), beside)


def two_layers(n_items: int, rank: int = made_up.RANK) -> nn.Module:
    """The autoencoder of Opacus's own layers, whose two tables are apart."""
    return nn.Sequential(nn.Linear(n_items, rank), nn.Tanh(), nn.Linear(rank, n_items))


def dense(rows: CustomerItemMatrix) -> torch.Tensor:
    """float32[n, m]: the rows, as Opacus's loaders give them."""
    matrix = np.zeros((rows.n_rows, rows.n_items), dtype=np.float32)
    matrix[np.repeat(np.arange(rows.n_rows), np.diff(rows.indptr)), rows.indices] = rows.values
    return torch.from_numpy(matrix)


def opacus_steps(
    module: nn.Module,
    mode: Mode,
    rows: torch.Tensor,
    physical: int,
    *,
    noise_multiplier: float = 1.0,
    rate: float = ours.RATE,
) -> Work:
    """A private step by Opacus's engine: one logical batch, in parts of so many customers."""
    made = PrivacyEngine(accountant="rdp").make_private(
        module=module,
        optimizer=torch.optim.SGD(module.parameters(), lr=rate),
        criterion=CustomerLikelihood(),
        data_loader=DataLoader(TensorDataset(rows), batch_size=len(rows)),
        noise_multiplier=noise_multiplier,
        max_grad_norm=ours.CLIPPING_NORM,
        loss_reduction="sum",
        poisson_sampling=False,
        grad_sample_mode=mode,
    )
    wrapped, optimizer = made[0], made[1]
    criterion = made[2] if mode == "ghost" else CustomerLikelihood()

    def step() -> None:
        parts = torch.split(rows, physical)
        for number, part in enumerate(parts):
            optimizer.signal_skip_step(do_skip=number + 1 < len(parts))
            criterion(wrapped(part), part).backward()
            optimizer.step()
            optimizer.zero_grad()

    return step


def _measure_sampler() -> Figure:
    rows = made_up.unit_rows(_SAMPLED, _ITEMS)
    mine, theirs = our_samples(rows, _PROBABILITY), opacus_samples(rows, _PROBABILITY)
    times = alternate({"ours": mine, "theirs": theirs}, turns=_SAMPLES)
    beside = (
        f"DPDataLoader over padded tensors, not cryptographic {times.median_s('theirs'):.3f} s, "
        f"ours to the chunks {times.median_s('ours'):.4f} s a sample"
    )
    return Figure(times.ratio("theirs", "ours"), beside)


def our_samples(rows: CustomerItemMatrix, probability: float) -> Callable[[], int]:
    """Draws a sample and brings it to the model's door; how many customers it had."""
    noise = SystemNoise()
    return lambda: sum(
        chunk.n_rows for chunk in chunks(rows, draw_customers(rows.n_rows, probability, noise))
    )


def opacus_samples(rows: CustomerItemMatrix, probability: float) -> Callable[[], int]:
    """The same by Opacus: items and values of each customer, padded, as a tensor data set."""
    sizes = np.diff(rows.indptr)
    owners = np.repeat(np.arange(rows.n_rows), sizes)
    places = np.arange(len(owners)) - rows.indptr[owners]
    items = np.zeros((rows.n_rows, int(sizes.max())), dtype=np.int32)
    values = np.zeros(items.shape, dtype=np.float32)
    items[owners, places], values[owners, places] = rows.indices, rows.values
    padded = TensorDataset(torch.from_numpy(items), torch.from_numpy(values))
    loader = DPDataLoader(padded, sample_rate=probability)
    return lambda: len(next(iter(loader))[0])
