"""Our step, as a region takes it: `train_locally` with all its checks, sampling and noise."""

from __future__ import annotations

from collections.abc import Callable

from client.data.dataset import CustomerItemMatrix
from client.training.local_steps import LocalSettings, train_locally
from client.training.models.protocol import ClippedModel
from client.training.noise import SystemNoise

#: C of all benchmarks; most customers' gradients are above it.
CLIPPING_NORM = 0.2
# So small that however many steps are measured, the parameters stay what they were.
RATE = 1e-6


def steps(
    model: ClippedModel,
    rows: CustomerItemMatrix,
    *,
    sampling_probability: float = 1.0,
    n_steps: int = 1,
) -> Callable[[], None]:
    """What takes this many private steps on these customers.

    Args:
        model: What is trained.
        rows: The customers; all of them take part in a step unless a probability says otherwise.
        sampling_probability: q.
        n_steps: How many steps a call takes.
    """
    settings = LocalSettings(
        noise_multiplier=1.0,
        clipping_norm=CLIPPING_NORM,
        sampling_probability=sampling_probability,
        steps=n_steps,
        expected_batch_size=max(rows.n_rows * sampling_probability, 1.0),
        learning_rate=RATE,
    )
    noise = SystemNoise()
    return lambda: train_locally(model, rows, settings, noise)
