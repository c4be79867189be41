from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from client.training.clipping import clip_factors, clip_rows
from common.errors import InputError


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([np.float32, np.float64]).flatmap(
        lambda dtype: hnp.arrays(
            dtype,
            st.tuples(st.integers(1, 4), st.integers(1, 30)),
            elements=st.floats(
                -1e6, 1e6, width=32 if dtype is np.float32 else 64, allow_subnormal=False
            ),
        )
    ),
    st.floats(1e-3, 10.0),
)
def test_no_contribution_exceeds_the_norm_even_by_rounding(
    gradients: np.ndarray, clipping_norm: float
) -> None:
    clipped = clip_rows(torch.from_numpy(gradients), clipping_norm)
    assert clipped.dtype == torch.from_numpy(gradients).dtype
    norms = np.linalg.norm(clipped.numpy().astype(np.longdouble), axis=1)
    assert (norms <= clipping_norm).all()


def test_a_short_gradient_is_left_alone_and_a_long_one_keeps_its_direction() -> None:
    gradients = torch.tensor([[0.3, 0.4], [3.0, 4.0], [0.0, 0.0]], dtype=torch.float64)
    clipped = clip_rows(gradients, 1.0)
    assert torch.equal(clipped[0], gradients[0])
    assert clipped[1].numpy() == pytest.approx([0.6, 0.8], rel=2e-6)
    assert torch.equal(clipped[2], gradients[2])


def test_gradients_of_several_axes_are_clipped_as_a_whole() -> None:
    clipped = clip_rows(torch.ones((2, 3, 4), dtype=torch.float64), 1.0)
    assert clipped.flatten(1).norm(dim=1).numpy() == pytest.approx([1.0, 1.0], rel=2e-6)


def test_no_samples_give_no_factors() -> None:
    assert clip_factors(torch.zeros((0, 2, 3)), 1.0).shape == (0,)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(InputError, match="not finite"):
        clip_rows(torch.tensor([[1.0, value]]), 1.0)


@pytest.mark.parametrize("clipping_norm", [0.0, -1.0, float("nan"), float("inf")])
def test_a_senseless_norm_is_refused(clipping_norm: float) -> None:
    with pytest.raises(InputError, match="clipping norm"):
        clip_rows(torch.ones((1, 1)), clipping_norm)
