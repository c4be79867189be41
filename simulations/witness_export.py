"""What the witnesses of a run hold, as its bundle takes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from client.engine.home import RegionHome
from common.audit.log import AuditLog
from common.audit.witness.home import WitnessHome
from common.audit.witness.store import CosignatureStore, WitnessStore
from server.config import ServerHome
from simulations.provision import SERVER_PARTY, WITNESS_PARTY
from simulations.run_folder import RunFolder


@dataclass(frozen=True)
class WitnessMaterial:
    """What goes into a bundle (`common.audit.bundle.write_bundle`).

    Attributes:
        cosigned: By party and size, the cosigned checkpoints of its log.
        witnessed: By witness and log party, the newest note that the witness holds.
        evidence: By witness, the conflicts that it keeps.
    """

    cosigned: Mapping[str, Mapping[int, bytes]]
    witnessed: Mapping[str, Mapping[str, bytes]]
    evidence: Mapping[str, list[tuple[str, bytes, bytes]]]


def read_witnesses(
    folder: RunFolder, federation: str, logs: Mapping[str, AuditLog]
) -> WitnessMaterial:
    """Reads the witness files of every party of a run.

    Args:
        folder: The run's folder.
        federation: The federation's name.
        logs: Every party's log, by party name.
    """
    cosigned, witnessed, evidence = {}, {}, {}
    for party, path in _files(folder, logs).items():
        with WitnessStore.open(path) as store:
            witnessed[party] = {_party(origin): note for origin, note in store.notes().items()}
            evidence[party] = [
                (_party(each.origin), each.known, each.other) for each in store.evidence()
            ]
            if party in logs:
                kept = CosignatureStore(store, f"{federation}/{party}")
                cosigned[party] = {
                    size: kept.note(size, logs[party].checkpoint_at(size)) for size in kept.sizes()
                }
    return WitnessMaterial(cosigned, witnessed, evidence)


def _files(folder: RunFolder, logs: Mapping[str, AuditLog]) -> dict[str, Path]:
    files = {WITNESS_PARTY: WitnessHome(folder.witness).store_path}
    for party in logs:
        if party == SERVER_PARTY:
            files[party] = ServerHome(folder.server).witness
        else:
            files[party] = RegionHome.read(folder.region_home(party)).witness
    return files


def _party(origin: str) -> str:
    return origin.rpartition("/")[2]
