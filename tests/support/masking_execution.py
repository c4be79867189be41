"""Regions and a coordinator of one execution of double masking, without anything in between."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

import numpy as np

from common.double_masking.coordinator import CoordinatorExecution
from common.double_masking.messages import RegionIdentity
from common.double_masking.records import Execution
from common.double_masking.region import RegionExecution
from common.keys import Registry
from common.secure_aggregation import Quantiser, RoundContext, SecureSumRefusedError
from tests.support.memory_signer import MemorySigner
from tests.support.small_registry import START_MS, key_entry, registry_of

NOW_MS = START_MS + 1_000_000
N_VALUES = 1_000


def region_names(count: int) -> list[str]:
    return [f"region-{number:02d}" for number in range(count)]


def signer_of(region: str) -> MemorySigner:
    return MemorySigner(f"trainer of {region}")


def registry_for(regions: Collection[str]) -> Registry:
    return registry_of(
        [key_entry(region, "trainer", signer_of(region).public_key) for region in regions]
    )


def execution_of(
    regions: Collection[str], *, server_round: int = 2, attempt: int = 1, least: int = 3
) -> Execution:
    context = RoundContext(
        run="run-1",
        plan="a" * 64,
        server_round=server_round,
        mechanism="factors",
        model_in="b" * 64,
        quantiser=Quantiser(-18, len(regions)),
    )
    return Execution(context, attempt, frozenset(regions), least)


class Claims:
    """What a region keeps of the executions that it took part in."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def __call__(self, name: str) -> None:
        if name in self.names:
            raise SecureSumRefusedError("context-used", "This execution has happened.")
        self.names.add(name)


@dataclass
class Party:
    region: str
    run: RegionExecution
    vector: np.ndarray


class Federation:
    """One execution's parties; `advance` takes a step with those that are there."""

    def __init__(self, count: int, *, least: int = 3, n_values: int = N_VALUES) -> None:
        self.regions = region_names(count)
        self.registry = registry_for(self.regions)
        self.execution = execution_of(self.regions, least=least)
        generator = np.random.default_rng(count)
        self.claims = {region: Claims() for region in self.regions}
        self.parties = {
            region: Party(
                region,
                self.region(region),
                generator.integers(-(2**20), 2**20, n_values).astype(np.int32).view(np.uint32),
            )
            for region in self.regions
        }
        self.coordinator = CoordinatorExecution(
            self.execution, self.registry, lambda: NOW_MS, n_values=n_values
        )

    def region(self, region: str, execution: Execution | None = None) -> RegionExecution:
        identity = RegionIdentity(region, signer_of(region), self.registry, lambda: NOW_MS)
        return RegionExecution(
            execution or self.execution,
            identity,
            round_entry="c" * 64,
            claim=self.claims[region],
        )

    def pin(self, there: Collection[str] | None = None) -> tuple[list[bytes], int]:
        for region in there or self.regions:
            self.coordinator.accept_keys(region, self.parties[region].run.pin_keys())
        return self.coordinator.close_keys()

    def share(self, keys: tuple[list[bytes], int], there: Collection[str]) -> None:
        for region in there:
            given = self.parties[region].run.share(keys[0], threshold=keys[1])
            self.coordinator.accept_shares(region, given)

    def mask(self, there: Collection[str]) -> tuple[str, ...]:
        for region in there:
            party = self.parties[region]
            masked = party.run.mask(self.coordinator.deliveries(region), party.vector)
            self.coordinator.accept_masked(region, masked)
        return self.coordinator.close_masked()

    def agree(self, survivors: tuple[str, ...], there: Collection[str]) -> list[bytes]:
        for region in there:
            self.coordinator.accept_agreement(region, self.parties[region].run.agree(survivors))
        return self.coordinator.close_agreement()

    def unmask(self, agreements: list[bytes], there: Collection[str]) -> np.ndarray:
        for region in there:
            reveal = self.parties[region].run.unmask(agreements)
            self.coordinator.accept_reveal(region, reveal)
        return self.coordinator.sum()

    def expected(self, survivors: Collection[str]) -> np.ndarray:
        total = np.zeros(N_VALUES, np.uint32)
        for region in survivors:
            total += self.parties[region].vector
        return total

    def to_agreement(self) -> list[bytes]:
        """Everybody does everything up to what is signed about the survivors."""
        self.share(self.pin(), self.regions)
        return self.agree(self.mask(self.regions), self.regions)


def altered(execution: Execution, change: Callable[[RoundContext], RoundContext]) -> Execution:
    return replace(execution, context=change(execution.context))
