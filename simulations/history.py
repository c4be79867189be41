"""What happened in a run, round by round, read from the logs themselves."""

from __future__ import annotations

import resource
from collections import Counter
from collections.abc import Mapping
from typing import Any

from common.audit.log import AuditLog
from common.consent import FEDERATED_TRAINING, GIVEN, REFUSED, WITHDRAWN
from common.envelope import Envelope
from common.plan import RunPlan
from common.timestamps import parse_time
from simulations.provision import OpenRegion

Record = dict[str, Any]


def run_history(
    plan: RunPlan,
    server_log: AuditLog,
    regions: Mapping[str, OpenRegion],
    *,
    jurisdictions: Mapping[str, str],
    seconds: Mapping[str, float],
) -> Record:
    """The run's history as JSON values.

    Exact counts of customers are in it: only a simulation, which sees every region, can have them.

    Args:
        plan: The run's public constants.
        server_log: The coordinator's log.
        regions: Every region, open.
        jurisdictions: Each region's country code.
        seconds: How long each stage took.
    """
    entries = {name: _RegionEntries(name, region, plan.run_id) for name, region in regions.items()}
    server = [Envelope.decode(data) for _, data in server_log.entries()]
    aggregates = [envelope.record() for envelope in server if envelope.kind == "aggregate"]
    incidents = [envelope.record() for envelope in server if envelope.kind == "incident"]
    for region in entries.values():
        incidents += region.incidents
    return {
        "v": "fedpref-history/1",
        "run": plan.run_id,
        "rounds": [
            _round(record, entries) for record in aggregates if record["run"] == plan.run_id
        ],
        "regions": [region.summary(jurisdictions[name]) for name, region in entries.items()],
        "server": {"log_size": server_log.size, "log_root": server_log.root.hex()},
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "incidents": [
            {name: record[name] for name in ("party", "reason", "detail", "time")}
            for record in sorted(incidents, key=lambda record: str(record["time"]))
        ],
    }


class _RegionEntries:
    """One region's log, read once, by kind."""

    def __init__(self, name: str, region: OpenRegion, run: str) -> None:
        self.name = name
        self._region = region
        self._consents: list[tuple[int, Record]] = []
        self._by_round: dict[str, dict[int, Record]] = {"round": {}, "release": {}, "charge": {}}
        self.incidents: list[Record] = []
        for index, data in region.engine.log.entries():
            envelope = Envelope.decode(data)
            record: Record = envelope.record()
            if envelope.kind == "consent":
                self._consents.append((index, record))
            elif envelope.kind == "incident":
                self.incidents.append(record)
            elif envelope.kind in self._by_round and record["run"] == run:
                self._by_round[envelope.kind][record["round"]] = record

    def part_in(self, server_round: int, status: str, reason: str | None) -> Record:
        """The region's part of one round; what it released counts even if it was refused."""
        part: Record = {"region": self.name, "status": status, "reason": reason}
        if server_round not in self._by_round["release"]:
            return part
        entry = self._by_round["round"][server_round]
        release = self._by_round["release"][server_round]
        return part | {
            "n_bucket": entry["train"]["n_bucket"],
            "eligible": self._eligible(entry["consent"]["size"]),
            "withdrawn_before": self._withdrawn_before(server_round),
            "epsilon_run": self._by_round["charge"][server_round]["epsilon_run"],
            "bytes": release["bytes"],
            "arrays": release["arrays"],
            "update": entry["update"],
        }

    def summary(self, jurisdiction: str) -> Record:
        """The region's customers, budget, data quality and log."""
        engine = self._region.engine
        states = Counter(record["state"] for record in self._latest(engine.log.size).values())
        charges = list(self._by_round["charge"].values())
        return {
            "region": self.name,
            "jurisdiction": jurisdiction,
            "customers": len(self._region.customers),
            "consented": states[GIVEN] + states[WITHDRAWN],
            "refused": states[REFUSED],
            "withdrawn": states[WITHDRAWN],
            "epsilon_spent": charges[-1]["epsilon_total"] if charges else "0",
            "epsilon_cap": engine.policy.epsilon_cap_per_year,
            "delta": engine.policy.delta_max,
            "quality": engine.data_quality().to_record(),
            "log_size": engine.log.size,
            "log_root": engine.log.root.hex(),
        }

    def _latest(self, size: int) -> dict[str, Record]:
        return {record["sid"]: record for index, record in self._consents if index < size}

    def _eligible(self, size: int) -> int:
        return sum(
            record["state"] == GIVEN and record["purposes"].get(FEDERATED_TRAINING) is True
            for record in self._latest(size).values()
        )

    def _withdrawn_before(self, server_round: int) -> int:
        """Withdrawals logged since the previous round's consent snapshot."""
        rounds = self._by_round["round"]
        until = rounds[server_round]["consent"]["size"]
        since = rounds[server_round - 1]["consent"]["size"] if server_round - 1 in rounds else 0
        return sum(
            since <= index < until and record["state"] == WITHDRAWN
            for index, record in self._consents
        )


def _round(aggregate: Record, entries: Mapping[str, _RegionEntries]) -> Record:
    accepted = {item["region"] for item in aggregate["regions"]}
    refused = {item["region"]: item["reason"] for item in aggregate["refused"]}
    parts = []
    for name, region in entries.items():
        status = "accepted" if name in accepted else "refused" if name in refused else "missing"
        parts.append(region.part_in(aggregate["round"], status, refused.get(name)))
    return {
        "round": aggregate["round"],
        "mechanism": aggregate["mechanism"],
        "start": aggregate["start"],
        "end": aggregate["end"],
        "seconds": (parse_time(aggregate["end"]) - parse_time(aggregate["start"])) / 1000,
        "regions": parts,
        "model_in": aggregate["model_in"],
        "model_out": aggregate["model_out"],
    }
