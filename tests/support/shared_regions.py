"""Real engines of a provisioned federation, asked as a coordinator would with distributed noise."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np

from client.engine.service import PrivacyEngine, open_engine
from common.canonical_json import JsonValue
from common.double_masking.codec import (
    bytes_from_json,
    deliveries_to_json,
    envelopes_to_json,
    reveal_from_json,
    shares_from_json,
)
from common.double_masking.coordinator import CoordinatorExecution
from common.double_masking.records import Execution
from common.envelope import Envelope
from common.parameters import arrays_digest
from common.plan import RunPlan
from common.secure_aggregation import RoundContext
from common.timestamps import now_ms
from simulations.run_folder import RunFolder
from tests.support.cosigning import ask
from tests.support.secure_regions import flattened, train_header
from tests.support.small_federation import home_of

Header = dict[str, JsonValue]
Arrays = dict[str, np.ndarray]


class SharedRegions:
    """A federation's engines under a plan with distributed noise, and a coordinator's view."""

    def __init__(self, folder: RunFolder, plan: RunPlan, engines: dict[str, PrivacyEngine]) -> None:
        self.folder = folder
        self.plan = plan
        self.engines = engines
        self.model: Mapping[str, np.ndarray] = {}

    def ask_to_train(self, region: str, *, server_round: int = 1, attempt: int = 1) -> Header:
        header = {**train_header(self.plan, server_round), "attempt": attempt}
        reply, arrays = ask(self.engines[region], header, self.model)
        assert arrays == {}, "an update left without masks"
        return reply

    def train(self, *, server_round: int = 1, attempt: int = 1) -> None:
        for region, engine in self.engines.items():
            reply = self.ask_to_train(region, server_round=server_round, attempt=attempt)
            assert reply["status"] == "ok", engine.last_refusal

    def coordinator(self, *, server_round: int = 1, attempt: int = 1) -> CoordinatorExecution:
        context = RoundContext.of(self.plan, server_round, arrays_digest(self.model))
        execution = Execution(context, attempt, frozenset(self.plan.regions), self.plan.quorum)
        specs = self.plan.released_arrays(context.mechanism)
        registry = next(iter(self.engines.values())).registry
        size = sum(math.prod(spec.shape) for spec in specs)
        return CoordinatorExecution(execution, registry, now_ms, n_values=size)

    def step(
        self, region: str, step: str, content: JsonValue = None, *, attempt: int = 1, **more: int
    ) -> tuple[Header, Arrays]:
        header: Header = {
            "run": self.plan.run_id,
            "round": more.get("server_round", 1),
            "attempt": attempt,
            "step": step,
            "content": content,
        }
        return self.engines[region].call("execute", header, {})

    def done(
        self, region: str, step: str, content: JsonValue = None, *, attempt: int = 1
    ) -> tuple[Header, Arrays]:
        reply, arrays = self.step(region, step, content, attempt=attempt)
        assert reply["status"] == "ok", self.engines[region].last_refusal
        return reply, arrays

    def refusal(
        self, region: str, step: str, content: JsonValue = None, *, attempt: int = 1
    ) -> str:
        reply, arrays = self.step(region, step, content, attempt=attempt)
        assert (reply["status"], arrays) == ("refused", {}), reply
        return str(reply["reason"])

    def to_shares(self, coordinator: CoordinatorExecution) -> None:
        """Keys and shares of everybody."""
        attempt = coordinator.execution.attempt
        for region in self.engines:
            keys = self.done(region, "pin", attempt=attempt)[0]["keys"]
            coordinator.accept_keys(region, bytes_from_json(keys))
        keys, threshold = coordinator.close_keys()
        content: JsonValue = {"keys": envelopes_to_json(keys), "threshold": threshold}
        for region in self.engines:
            shares = self.done(region, "share", content, attempt=attempt)[0]["shares"]
            coordinator.accept_shares(region, shares_from_json(shares))

    def mask(self, coordinator: CoordinatorExecution, region: str) -> tuple[Header, Arrays]:
        content: JsonValue = deliveries_to_json(coordinator.deliveries(region))
        return self.done(region, "mask", content, attempt=coordinator.execution.attempt)

    def to_sum(
        self, coordinator: CoordinatorExecution, there: Sequence[str] | None = None
    ) -> np.ndarray:
        """Masked values of those who are there, and what they open to."""
        attempt = coordinator.execution.attempt
        for region in there or list(self.engines):
            coordinator.accept_masked(region, flattened(self.mask(coordinator, region)[1]))
        survivors = coordinator.close_masked()
        for region in survivors:
            reply, _ = self.done(region, "agree", [*survivors], attempt=attempt)
            coordinator.accept_agreement(region, bytes_from_json(reply["agreement"]))
        agreements = envelopes_to_json(coordinator.close_agreement())
        for region in survivors:
            reply, _ = self.done(region, "unmask", agreements, attempt=attempt)
            coordinator.accept_reveal(region, reveal_from_json(reply["reveal"]))
        return coordinator.sum()

    def sealed_sum(self, regions: Sequence[str], server_round: int = 1) -> np.ndarray:
        """The same of the sealed updates as they lie."""
        total: np.ndarray | None = None
        for region in regions:
            seal = self.engines[region]._seals.read(self.plan.run_id, server_round)
            assert seal is not None
            flat = flattened({name: array.copy() for name, array in seal.arrays.items()})
            total = flat if total is None else total + flat
        assert total is not None
        return total

    def entries(self, region: str, kind: str) -> list[Header]:
        envelopes = [Envelope.decode(data) for _, data in self.engines[region].log.entries()]
        return [envelope.record() for envelope in envelopes if envelope.kind == kind]


@contextmanager
def shared_regions(folder: RunFolder, plan: RunPlan) -> Iterator[SharedRegions]:
    """Opens every region's engine."""
    with ExitStack() as stack:
        engines = {
            region: stack.enter_context(open_engine(home_of(folder, region)))
            for region in plan.regions
        }
        yield SharedRegions(folder, plan, engines)
