"""How simulated customers choose: who refuses, who withdraws, and before which round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from client.consent_service.registrar import Choice, ConsentRegistrar
from common.canonical_json import JsonValue
from common.consent import (
    FEDERATED_ANALYTICS,
    FEDERATED_TRAINING,
    PROFILING,
    RECOMMENDATIONS,
)
from common.engine_channel import EngineChannel


@dataclass(frozen=True)
class CustomerChoices:
    """What the customers of one region will do.

    Attributes:
        refusing: Customers who refuse training from the start.
        withdrawing: For each round, the customers who withdraw just before it begins.
    """

    refusing: frozenset[str]
    withdrawing: Mapping[int, tuple[str, ...]]


def draw_choices(
    customers: Sequence[str],
    *,
    refusal_share: float,
    withdrawal_share: float,
    rounds: int,
    seed: Sequence[int],
) -> CustomerChoices:
    """Draws choices from a seed.

    Args:
        customers: A region's customers.
        refusal_share: Share who refuse, in [0, 1]; 1 means all.
        withdrawal_share: Share who consent first and withdraw before one of rounds 2 to
            ``rounds``; with fewer than two rounds, nobody.
        rounds: The last round before which someone may withdraw.
        seed: Entropy of the draw.
    """
    generator = np.random.default_rng(list(seed))
    shuffled = [str(name) for name in generator.permutation(sorted(customers))]
    n_refusing = round(refusal_share * len(shuffled))
    n_withdrawing = min(round(withdrawal_share * len(shuffled)), len(shuffled) - n_refusing)
    leaving = shuffled[n_refusing : n_refusing + n_withdrawing]
    withdrawing: dict[int, list[str]] = {}
    if rounds > 1:
        for customer, when in zip(
            leaving, generator.integers(2, rounds + 1, len(leaving)), strict=True
        ):
            withdrawing.setdefault(int(when), []).append(customer)
    return CustomerChoices(
        refusing=frozenset(shuffled[:n_refusing]),
        withdrawing={key: tuple(value) for key, value in sorted(withdrawing.items())},
    )


def opening_choices(
    customers: Sequence[str], choices: CustomerChoices, *, analytics: bool = False
) -> list[Choice]:
    """Every customer's first choice, in order of customer reference.

    Args:
        customers: The region's customers.
        choices: How they choose.
        analytics: Whether those who consent do so to statistics, too.
    """
    return [
        Choice.refuse(customer)
        if customer in choices.refusing
        else Choice.give(
            customer,
            {
                FEDERATED_TRAINING: True,
                RECOMMENDATIONS: True,
                FEDERATED_ANALYTICS: analytics,
                PROFILING: True,
            },
        )
        for customer in sorted(customers)
    ]


class CustomersActing:
    """An engine channel whose customers act while a run is on.

    Just before a round's checkpoint is published, the customers due to withdraw do so: their
    records are logged first, and that round's consent snapshot no longer has them.
    """

    def __init__(
        self, engine: EngineChannel, registrar: ConsentRegistrar, choices: CustomerChoices
    ) -> None:
        self._engine = engine
        self._registrar = registrar
        self._choices = choices

    def call(
        self,
        method: str,
        header: dict[str, JsonValue],
        arrays: Mapping[str, np.ndarray],
    ) -> tuple[dict[str, JsonValue], dict[str, np.ndarray]]:
        """Lets customers act, then passes the request on."""
        server_round = header.get("round")
        if method == "publish" and isinstance(server_round, int):
            due = self._choices.withdrawing.get(server_round, ())
            self._registrar.record(
                [
                    Choice.withdraw(customer)
                    for customer in due
                    if self._registrar.consents(customer)
                ]
            )
        return self._engine.call(method, header, arrays)
