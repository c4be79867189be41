"""How much memory a step takes, how long many take, and how fast noise is drawn."""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import torch

from benchmarks.results import Bar, Figure
from benchmarks.steps import made_up, ours
from benchmarks.steps.alternating import alternate
from client.training.models.tied_autoencoder import TiedAutoencoder
from client.training.noise import SystemNoise
from client.training.normals import is_compiled

_MEMORY_ITEMS, _MEMORY_CUSTOMERS = 100_000, 1_024
_ITEMS, _CUSTOMERS, _PROBABILITY, _STEPS = 20_000, 100_000, 0.1, 200
_NORMALS, _NOISE_TURNS = 1 << 25, 9

_MEMORY = Bar(
    f"tied autoencoder, {_MEMORY_ITEMS:,} items, {_MEMORY_CUSTOMERS:,} customers, d = 64: resident",
    "MB",
    500.0,
)
_LONG = Bar(
    f"{_STEPS} steps of {_PROBABILITY:.0%} of {_CUSTOMERS:,} customers, {_ITEMS:,} items, all run",
    "s",
    420.0,
)
_NOISE = Bar("normals for noise, AES-256", "M/s/core", 400.0, least=True)
BARS: tuple[Bar, ...] = (_MEMORY, _LONG, _NOISE)


def measure() -> dict[str, Figure]:
    """Measures these bars."""
    return {
        _NOISE.name: _measure_noise(),
        _MEMORY.name: _measure_memory(),
        _LONG.name: _measure_long(),
    }


def _measure_noise() -> Figure:
    noise, theirs = SystemNoise(), torch.empty(_NORMALS)
    mine = np.empty(_NORMALS, dtype=np.float32)
    things = {"ours": lambda: noise.fill(mine, 1.0), "torch": lambda: theirs.normal_()}
    times = alternate(things, turns=_NOISE_TURNS)
    rates = {name: _NORMALS / 1e6 / times.median_s(name) for name in things}
    kernel = "compiled kernel" if is_compiled() else "NumPy, for want of a C compiler"
    beside = f"{kernel}; torch's normal_, not cryptographic: {rates['torch']:.0f}"
    return Figure(rates["ours"], beside)


def _measure_memory() -> Figure:
    # A process of its own, or what was measured before would count.
    command = [sys.executable, "-m", "benchmarks.steps.memory"]
    sizes = [str(_MEMORY_ITEMS), str(_MEMORY_CUSTOMERS), "1.0"]
    done = subprocess.run([*command, *sizes], check=True, capture_output=True, text=True)  # noqa: S603
    _, highest_mb, before_mb = map(float, done.stdout.split())
    return Figure(highest_mb, f"Python, torch and the data before the first step: {before_mb:.0f}")


def _measure_long() -> Figure:
    model = TiedAutoencoder(made_up.autoencoder_arrays(_ITEMS))
    rows = made_up.unit_rows(_CUSTOMERS, _ITEMS)
    take = ours.steps(model, rows, sampling_probability=_PROBABILITY, n_steps=_STEPS)
    started, cpu = time.perf_counter(), time.process_time()
    take()
    wall_s, cpu_s = time.perf_counter() - started, time.process_time() - cpu
    return Figure(wall_s, f"processor time {cpu_s:.0f} s")
