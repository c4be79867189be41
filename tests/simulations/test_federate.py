"""Real engines, a real coordinator and every witness, from provisioning to the verdict."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from client.consent_service.registrar import Choice
from common.audit.checkpoint import NoteKey, open_checkpoint
from common.audit.cosigners import Cosigners
from common.audit.log import AuditLog
from common.canonical_json import JsonValue
from common.envelope import Envelope
from common.errors import FederationError, InputError
from server.config import ServerHome
from server.outside_witnesses import outside_witnesses
from simulations.federate import federate
from simulations.outside_witness import witness_over_http
from simulations.provision import OpenRegion, open_regions
from simulations.run_folder import RunFolder
from tests.support.run_bundle import FEDERATION, bundled
from tests.support.small_federation import make_federation

Arrays = Mapping[str, np.ndarray]


class LateWithdrawal:
    """A region in which someone withdraws between publishing and training, in one round."""

    def __init__(self, region: OpenRegion, server_round: int) -> None:
        self.region = region
        self.server_round = server_round
        self.withdrawn = 0

    def call(
        self, method: str, header: dict[str, JsonValue], arrays: Arrays
    ) -> tuple[dict[str, JsonValue], dict[str, np.ndarray]]:
        if method == "train" and header["round"] == self.server_round and not self.withdrawn:
            leaving = next(c for c in self.region.customers if self.region.registrar.consents(c))
            self.withdrawn = len(self.region.registrar.record([Choice.withdraw(leaving)]))
        return self.region.channel.call(method, header, arrays)


def records(folder: RunFolder, region: str, kind: str) -> list[dict[str, JsonValue]]:
    with AuditLog.open_read_only(folder.region_home(region) / "log.sqlite") as log:
        envelopes = [Envelope.decode(data) for _, data in log.entries()]
    return [each.record() for each in envelopes if each.kind == kind]


@pytest.mark.parametrize("choice", ["finish", "discard"])
def test_a_withdrawal_in_a_round_ends_as_the_policy_says_and_verifies(
    choice: str, tmp_path: Path
) -> None:
    folder, plan, set_ups = make_federation(
        tmp_path / "run",
        regions=3,
        quorum=2,
        withdrawal_in_round=choice,  # type: ignore[arg-type]
    )
    with open_regions(folder, set_ups) as regions:
        late = LateWithdrawal(regions["region-2"], 3)
        channels = {name: region.channel for name, region in regions.items()}
        federate("inprocess", folder, plan, {**channels, "region-2": late})
    assert late.withdrawn == 1
    rounds = [record["round"] for record in records(folder, "region-2", "round")]
    everyone = list(range(1, plan.total_rounds + 1))
    assert rounds == [n for n in everyone if choice == "finish" or n != 3]
    assert len(records(folder, "region-2", "charge")) == plan.total_rounds
    reasons = [record["reason"] for record in records(folder, "region-2", "incident")]
    assert reasons == ([] if choice == "finish" else ["discarded-for-withdrawal"])
    verdict = bundled(folder, plan)
    assert verdict.verified, verdict.first_failure
    took_part = {each.party: set(each.logs) for each in verdict.witnesses}
    assert took_part["witness"] == {"server", *plan.regions}
    assert took_part["region-1"] == {"server", "region-2", "region-3"}


def test_a_bundle_without_the_cosignatures_does_not_verify(tmp_path: Path) -> None:
    folder, plan, set_ups = make_federation(tmp_path / "run", regions=2, quorum=1)
    with open_regions(folder, set_ups) as regions:
        federate("inprocess", folder, plan, {n: region.channel for n, region in regions.items()})
    assert bundled(folder, plan).verified
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "common.audit.witness.store.CosignatureStore.sizes", lambda self: [], raising=True
        )
        assert not bundled(folder, plan).verified


def test_a_region_whose_witness_lost_its_memory_does_not_open(tmp_path: Path) -> None:
    folder, _, set_ups = make_federation(tmp_path / "run", regions=1, quorum=1)
    (folder.region_home("region-1") / "witness.sqlite").unlink()
    with pytest.raises(InputError, match="no witness file"), open_regions(folder, set_ups):
        pass


def test_the_outside_witness_is_reached_over_http_and_gone_afterwards(tmp_path: Path) -> None:
    folder, _, _ = make_federation(tmp_path / "run", regions=1, quorum=1)
    home = ServerHome(folder.server)
    registry = home.read_registry()
    region = folder.region_home("region-1")
    with AuditLog.open_read_only(region / "log.sqlite") as log:
        note = log.checkpoint()
    with witness_over_http(folder):
        ((address, channel),) = outside_witnesses(home, timeout_s=10.0).items()
        assert json.loads(home.witnesses.read_bytes()) == [address]
        assert address.startswith("http://127.0.0.1:")
        (line,) = channel.add_checkpoint(note, 0, [])
    assert not home.witnesses.exists()
    with pytest.raises(FederationError):
        channel.add_checkpoint(note, 0, [])
    (key,) = registry.keys_of("region-1", "log")
    signed = open_checkpoint(
        note + line.encode(),
        NoteKey(f"{FEDERATION}/region-1", key.public_key),
        Cosigners(registry).keys(but="region-1"),
    )
    assert set(signed.cosigned_at_s) == {"witness"}
