"""SASRec's attention and customers' sums of outer products, by a compiled kernel or by PyTorch.

The kernel (``client/training/native/sequences.c``) is used where it was built, the processor has
its vector instructions and it has just given what PyTorch gives; for single precision and heads and
layers of 32, 64, … columns.
"""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from client.training.models.native_kernels import built, in_threads

_LANES = 32
# What the kernel may differ from PyTorch by, relative to the largest value.
_AGREEMENT = 1e-5


@dataclass(frozen=True, eq=False)
class SequenceKernel:
    """The kernel.

    Attributes:
        library: Its functions.
        width: How many floats its vectors have: 8 or 16. Bits do not depend on it.
    """

    library: ctypes.CDLL
    width: int


def is_compiled() -> bool:
    """Whether the compiled kernel is in use; without it training is as exact, and slower."""
    return _usable() is not None


def causal_attention(three: torch.Tensor, lengths: torch.Tensor, heads: int) -> torch.Tensor:
    """Causal self-attention (Vaswani et al., 2017), differentiable by its first argument.

    Args:
        three: Float tensor (n, longest, 3 · d): queries, keys and values side by side.
        lengths: int64[n]: nothing behind a sequence's end is looked at by anything before it.
        heads: How many heads d is divided into.

    Returns:
        Float tensor (n, longest, d). What it has behind a sequence's end must not be used.
    """
    size = three.shape[2] // 3 // heads
    kernel = _usable()
    if kernel is None or three.dtype != torch.float32 or size % _LANES:
        return _attention(three, heads)
    attended: torch.Tensor = KernelAttention.apply(three, lengths, heads, kernel)  # type: ignore[no-untyped-call] # torch declares no types
    return attended


class KernelAttention(torch.autograd.Function):
    """Attention by the kernel, which writes the gradients by all three to one array."""

    @staticmethod
    def forward(
        ctx: Any, three: torch.Tensor, lengths: torch.Tensor, heads: int, kernel: SequenceKernel
    ) -> torch.Tensor:
        """See `causal_attention`; the shares are kept for the way back."""
        n, longest, width = three.shape
        three = three.contiguous()
        shares = torch.empty(n * heads * longest * (longest + -longest % _LANES))
        mixed = torch.empty(n, longest, width // 3)
        ctx.given, ctx.heads, ctx.kernel = (three.detach(), lengths, shares), heads, kernel
        _attend(kernel, "attention", ctx.given, heads, (mixed,))
        return mixed

    @staticmethod
    def backward(ctx: Any, *by_output: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        """The gradient by the first argument; zeros behind a sequence's end."""
        by_three = torch.empty_like(ctx.given[0])
        arrays = (by_output[0].contiguous(), by_three)
        _attend(ctx.kernel, "attention_back", ctx.given, ctx.heads, arrays)
        return by_three, None, None, None


def _attend(
    kernel: SequenceKernel,
    name: str,
    given: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    heads: int,
    arrays: tuple[torch.Tensor, ...],
) -> None:
    three, lengths, shares = given
    n, longest, width = three.shape
    size = width // 3 // heads
    function = getattr(kernel.library, f"fedpref_sequences_{name}")
    floats = kernel.library.fedpref_sequences_scratch(longest, size)

    def work(first: int, last: int) -> None:
        scratch = torch.empty(floats)
        function(
            *(kernel.width, three.data_ptr(), lengths.data_ptr(), longest, heads, size),
            *(shares.data_ptr(), *(each.data_ptr() for each in arrays)),
            *(scratch.data_ptr(), first, last),
        )

    in_threads(work, n)


def _attention(three: torch.Tensor, heads: int) -> torch.Tensor:
    n, longest, width = three.shape
    query, key, value = (
        part.reshape(n, longest, heads, -1).transpose(1, 2).flatten(0, 1)
        for part in three.chunk(3, dim=2)
    )
    later = query.new_full((longest, longest), -math.inf).triu(1)
    # One product that adds the mask, in place of three passes over length × length.
    scale = 1.0 / math.sqrt(query.shape[2])
    scores = torch.baddbmm(later, query, key.transpose(1, 2), alpha=scale)
    mixed = torch.bmm(torch.softmax(scores, dim=-1), value).view(n, heads, longest, -1)
    return mixed.transpose(1, 2).reshape(n, longest, width // 3)


class OuterSums:
    """Each customer's sum over her places t of inputs[t] ⊗ gradients[t].

    Args:
        inputs: Float tensor (n, longest, k), its last axis contiguous.
        gradients: Float tensor (n, longest, d), likewise; zeros behind a sequence's end.
        lengths: int64[n].
        kept: Where the sums may be kept, if it is large enough: fresh memory costs more than they.

    Attributes:
        sums: Float tensor (n, k, d).
        squared_norms: float64[n], of each sum.
    """

    def __init__(
        self,
        inputs: torch.Tensor,
        gradients: torch.Tensor,
        lengths: torch.Tensor,
        kept: torch.Tensor | None = None,
    ) -> None:
        (n, longest, k), d = inputs.shape, gradients.shape[2]
        kernel = _usable()
        single = inputs.dtype == gradients.dtype == torch.float32 and d % _LANES == 0
        # As the kernel takes them: the places of all customers at equal distances.
        even = inputs.stride(2) == 1 and inputs.stride(0) == longest * inputs.stride(1)
        self._kernel = kernel if single and even else None
        if self._kernel is None:
            self.sums = torch.bmm(inputs.transpose(1, 2), gradients)
            norms = torch.linalg.vector_norm(self.sums.flatten(1), dim=1)
            self.squared_norms: torch.Tensor = norms.double().square()
            return
        if kept is None or kept.numel() < n * k * d:
            kept = torch.empty(n * k * d)
        self.sums = kept[: n * k * d].view(n, k, d)
        self.squared_norms = torch.empty(n, dtype=torch.float64)
        _outer(self._kernel, inputs, gradients.contiguous(), lengths, self)

    def weighted(self, factor: torch.Tensor) -> torch.Tensor:
        """Float tensor (k, d): the sum over customers, each times her factor float[n]."""
        n, *shape = self.sums.shape
        factor = factor.to(self.sums.dtype).contiguous()
        if self._kernel is None:
            return torch.mv(self.sums.flatten(1).T, factor).view(shape)
        found, kernel = torch.zeros(shape), self._kernel

        def work(start: int, stop: int) -> None:
            kernel.library.fedpref_sequences_add(
                *(kernel.width, self.sums.data_ptr(), n, found.numel(), factor.data_ptr()),
                *(found.data_ptr(), start * _LANES, stop * _LANES),
            )

        in_threads(work, found.numel() // _LANES)
        return found


def _outer(
    kernel: SequenceKernel,
    inputs: torch.Tensor,
    gradients: torch.Tensor,
    lengths: torch.Tensor,
    into: OuterSums,
) -> None:
    def work(first: int, last: int) -> None:
        kernel.library.fedpref_sequences_outer(
            *(kernel.width, inputs.data_ptr(), inputs.stride(1)),
            *(gradients.data_ptr(), gradients.stride(1), lengths.data_ptr()),
            *(inputs.shape[1], inputs.shape[2], gradients.shape[2]),
            *(into.sums.data_ptr(), into.squared_norms.data_ptr(), first, last),
        )

    in_threads(work, len(lengths))


def place_sums(
    gradients: torch.Tensor, lengths: torch.Tensor, inputs: torch.Tensor | None = None
) -> torch.Tensor:
    """Each customer's sum over her places of her gradients, or of inputs ⊙ gradients.

    Args:
        gradients: Float tensor (n, longest, d); zeros behind a sequence's end.
        lengths: int64[n].
        inputs: As the gradients, or None.

    Returns:
        Float tensor (n, d).
    """
    n, longest, d = gradients.shape
    kernel = _usable()
    if kernel is None or gradients.dtype != torch.float32 or d % _LANES:
        return (gradients if inputs is None else inputs * gradients).sum(1)
    sums, given = torch.empty(n, d), gradients.contiguous()
    beside = None if inputs is None else inputs.contiguous()

    def work(first: int, last: int) -> None:
        kernel.library.fedpref_sequences_places(
            *(kernel.width, None if beside is None else beside.data_ptr(), given.data_ptr()),
            *(lengths.data_ptr(), longest, d, sums.data_ptr(), first, last),
        )

    in_threads(work, n)
    return sums


@cache
def _usable() -> SequenceKernel | None:
    """The kernel, if it is built and gives what PyTorch gives."""
    for path in built("_sequences"):
        try:
            library = load_kernel(path)
        except (OSError, AttributeError):
            continue
        kernel = SequenceKernel(library, int(library.fedpref_sequences_width()))
        if kernel.width and agrees(kernel):
            return kernel
    return None


def load_kernel(path: Path) -> ctypes.CDLL:
    """A compiled ``sequences.c``.

    Raises:
        OSError: It cannot be loaded.
        AttributeError: It is something else.
    """
    library = ctypes.CDLL(str(path))
    pointer, size, width = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    library.fedpref_sequences_width.restype = ctypes.c_int
    library.fedpref_sequences_width.argtypes = []
    if not library.fedpref_sequences_width():
        return library
    library.fedpref_sequences_scratch.restype = size
    library.fedpref_sequences_scratch.argtypes = [size, size]
    attention = [width, pointer, pointer, size, size, size, pointer]
    outer = [width, pointer, size, pointer, size, pointer]
    for name, arguments in {
        "attention": [*attention, pointer, pointer, size, size],
        "attention_back": [*attention, pointer, pointer, pointer, size, size],
        "outer": [*outer, size, size, size, pointer, pointer, size, size],
        "places": [width, pointer, pointer, pointer, size, size, pointer, size, size],
        "add": [width, pointer, size, size, pointer, pointer, size, size],
    }.items():
        function = getattr(library, f"fedpref_sequences_{name}")
        function.restype, function.argtypes = None, arguments
    return library


def agrees(kernel: SequenceKernel) -> bool:
    """Whether a kernel gives what PyTorch gives, up to rounding."""
    generator = torch.Generator().manual_seed(1)
    lengths, heads = torch.tensor([0, 1, 7, 37]), 2
    inside = (torch.arange(37) < lengths[:, None])[:, :, None]
    three = torch.randn(4, 37, 192, generator=generator) * inside
    upwards = torch.randn(4, 37, 64, generator=generator) * inside
    results = []
    for attend in (
        lambda each: KernelAttention.apply(each, lengths, heads, kernel),  # type: ignore[no-untyped-call] # torch declares no types
        lambda each: _attention(each, heads),
    ):
        given = three.clone().requires_grad_()
        # Asked for first by whoever only scores, it is checked without gradients else.
        with torch.enable_grad():
            mixed = attend(given)
            (by_three,) = torch.autograd.grad(mixed, given, grad_outputs=upwards)
        results.append((mixed.detach() * inside, by_three))
    return all(
        bool(((one - other).abs().max() <= _AGREEMENT * other.abs().max()).item())
        for one, other in zip(*results, strict=True)
    )
