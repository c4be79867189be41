"""Real engines of a provisioned federation, asked as a coordinator would for a secure sum."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from client.engine.service import PrivacyEngine, open_engine
from common.canonical_json import JsonValue
from common.envelope import Envelope
from common.plan import RunPlan
from common.secure_aggregation import Quantiser, Roster, encode_roster, ring_values
from simulations.run_folder import RunFolder
from tests.support.cosigning import ask
from tests.support.small_federation import home_of

Header = dict[str, JsonValue]
Arrays = dict[str, np.ndarray]


def train_header(plan: RunPlan, server_round: int = 1) -> Header:
    return {
        "run": plan.run_id,
        "round": server_round,
        "attempt": 1,
        "mechanism": plan.mechanism_of(server_round).name,
        "plan": plan.digest,
        "cosignatures": [],
    }


class SecureRegions:
    """A federation's engines, and what they have stated.

    Attributes:
        plan: The run plan, of a secure sum.
        engines: The open engines by region.
        statements: Each region's newest statement.
        hints: What each said it has masked.
    """

    def __init__(self, folder: RunFolder, plan: RunPlan, engines: dict[str, PrivacyEngine]) -> None:
        self.folder = folder
        self.plan = plan
        self.engines = engines
        self.statements: dict[str, Envelope] = {}
        self.hints: dict[str, JsonValue] = {}

    def train(
        self,
        server_round: int = 1,
        model: Mapping[str, np.ndarray] | None = None,
        regions: Sequence[str] | None = None,
    ) -> None:
        """Has regions train a round, and takes their statements."""
        for region in regions or self.engines:
            engine = self.engines[region]
            reply, arrays = ask(engine, train_header(self.plan, server_round), model or {})
            assert reply["status"] == "ok", engine.last_refusal
            assert arrays == {}, "an update left without masks"
            self.statements[region] = Envelope.decode(base64.b64decode(str(reply["masking_key"])))
            self.hints[region] = reply["masked"]

    def roster(self, regions: Sequence[str] | None = None) -> Roster:
        return Roster.of([self.statements[region] for region in regions or self.engines])

    def mask(
        self, region: str, roster: Roster, *, attempt: int = 1, server_round: int = 1
    ) -> tuple[Header, Arrays]:
        header: Header = {
            "run": self.plan.run_id,
            "round": server_round,
            "attempt": attempt,
            "roster": encode_roster(roster),
        }
        return self.engines[region].call("mask", header, {})

    def refusal(self, region: str, roster: Roster, **how: int) -> str:
        """The reason for which a region masks nothing."""
        reply, arrays = self.mask(region, roster, **how)
        assert (reply["status"], arrays) == ("refused", {}), reply
        return str(reply["reason"])

    def sum(self, roster: Roster, *, attempt: int = 1, server_round: int = 1) -> np.ndarray:
        """The sum over a roster, all its regions' masks off; flat, by array in order."""
        total: np.ndarray | None = None
        for region in roster.regions:
            reply, arrays = self.mask(region, roster, attempt=attempt, server_round=server_round)
            assert reply["status"] == "ok", self.engines[region].last_refusal
            flat = flattened(arrays)
            total = flat if total is None else total + flat
        assert total is not None
        mechanism = self.plan.mechanism_of(server_round)
        quantiser = Quantiser(mechanism.grid_exponent, len(self.plan.regions))
        return np.concatenate(list(ring_values(total, quantiser, n_summed=len(roster.regions))))

    def plain_sum(self, regions: Sequence[str], server_round: int = 1) -> np.ndarray:
        """The same of the sealed updates as they lie."""
        total: np.ndarray | None = None
        for region in regions:
            seal = self.engines[region]._seals.read(self.plan.run_id, server_round)
            assert seal is not None
            flat = np.concatenate(
                [seal.arrays[name].ravel().astype(np.float64) for name in sorted(seal.arrays)]
            )
            total = flat if total is None else total + flat
        assert total is not None
        return total

    def entries(self, region: str, kind: str) -> list[Header]:
        envelopes = [Envelope.decode(data) for _, data in self.engines[region].log.entries()]
        return [envelope.record() for envelope in envelopes if envelope.kind == kind]


def flattened(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Masked arrays as one vector of the ring."""
    assert all(array.dtype == np.int32 for array in arrays.values())
    return np.concatenate([arrays[name].ravel() for name in sorted(arrays)]).view(np.uint32)


@contextmanager
def secure_regions(folder: RunFolder, plan: RunPlan) -> Iterator[SecureRegions]:
    """Opens every region's engine."""
    with ExitStack() as stack:
        engines = {
            region: stack.enter_context(open_engine(home_of(folder, region)))
            for region in plan.regions
        }
        yield SecureRegions(folder, plan, engines)


def keys_in(folder: RunFolder, region: str) -> list[Path]:
    """The files of a region's masking keys."""
    return sorted(home_of(folder, region).masking.glob("*"))
