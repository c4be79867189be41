"""Opacus's `PrivacyEngine` that looks before it wraps: for users of our modules, and of their own.

    module = opacus_module("tied-autoencoder", arrays)
    engine = CheckedPrivacyEngine(
        losses=lambda module, rows: CustomerLikelihood("none")(module(rows), rows),
        probe=made_up_rows,
    )
    module, optimizer, criterion, loader = engine.make_private(
        module=module, criterion=CustomerLikelihood(), loss_reduction="sum",
        grad_sample_mode="ghost", ...
    )

Its noise, samples and accountant stay Opacus's own. What a region releases goes through
`client.training.dp_sgd` and `client.training.local_steps` instead (decision 19).
"""

from __future__ import annotations

from typing import Any

import torch
from opacus import PrivacyEngine
from torch import nn

from client.training.module_safety import GradSampleMode, Losses, require_safe
from common.errors import InputError

_MODES = ("hooks", "ghost")


class CheckedPrivacyEngine(PrivacyEngine):  # type: ignore[misc] # Opacus has no types.
    """Makes a module private only if Opacus clips each of its customers to C.

    Args:
        losses: Gives each customer's loss, (n,), by the module or by a wrapped copy of it.
        probe: Made-up customers to try it on: see `client.training.module_safety.require_safe`.
        accountant: Of Opacus: ``rdp`` or ``prv``; ``gdp`` under-reports and is refused.
        secure_mode: Of Opacus: noise of a cryptographic generator, if its library is installed.

    Raises:
        InputError: The accountant is refused.
    """

    def __init__(
        self,
        *,
        losses: Losses,
        probe: torch.Tensor,
        accountant: str = "prv",
        secure_mode: bool = False,
    ) -> None:
        if accountant == "gdp":
            raise InputError(
                "Opacus's accountant gdp takes a limit for the value and under-reports ε.",
                remedy="Use prv or rdp.",
            )
        super().__init__(accountant=accountant, secure_mode=secure_mode)
        self._losses = losses
        self._probe = probe

    def make_private(
        self,
        *,
        module: nn.Module,
        loss_reduction: str = "mean",
        grad_sample_mode: str = "hooks",
        **arguments: Any,
    ) -> Any:
        """As `opacus.PrivacyEngine.make_private`, once the module is found safe.

        Raises:
            InputError: A customer would not be bounded by C, or the releases would be divided by
                the number of customers: names what is unsafe. The module is left as it was.
        """
        if loss_reduction != "sum":
            raise InputError(
                "With loss_reduction='mean' Opacus divides by a batch size that it computes from "
                "the number of customers: whoever joins changes the scale of the noise.",
                remedy="Take loss_reduction='sum', and divide by a public number.",
            )
        if grad_sample_mode not in _MODES:
            raise InputError(
                f"The mode {grad_sample_mode!r} of Opacus is not checked here.",
                remedy=f"Use one of {', '.join(_MODES)}.",
            )
        mode: GradSampleMode = "ghost" if grad_sample_mode == "ghost" else "hooks"
        require_safe(module, self._losses, self._probe, mode=mode)
        return super().make_private(
            module=module,
            loss_reduction=loss_reduction,
            grad_sample_mode=grad_sample_mode,
            **arguments,
        )
