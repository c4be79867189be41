"""What attacks on this system's deployment ask, and how what came of them is read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from decimal import Decimal
from pathlib import Path

from common import canonical_json
from common.canonical_json import JsonValue
from common.errors import FederationError
from common.plan import RunPlan
from simulations.deployment_attacks.apps import evil_relay
from simulations.deployment_attacks.evil_bundles import evil_bundle
from simulations.deployment_attacks.our_federation import OurFederation
from simulations.deployment_attacks.outcome import Found
from simulations.faults.evidence import Record

#: For how long a region may take to answer, in seconds.
ANSWER_S = 90.0
#: Flower's type of the message that asks a region who it is.
DESCRIBE = "query.describe"
_REFUSED = "request-refused"


class Said:
    """What the SuperLink refuses from now on, by its own log."""

    def __init__(self, ours: OurFederation) -> None:
        self._ours = ours
        self._before = len(self._lines())

    def refusals(self, *reasons: str) -> str:
        """The refusals, in words; empty if there were none of these reasons, or of any."""
        found = [str(line.get("reason")) for line in self._lines()[self._before :]]
        wanted = [reason for reason in found if not reasons or reason in reasons]
        return f"the SuperLink's log: {_REFUSED} ({one(wanted)})" if wanted else ""

    def _lines(self) -> list[Record]:
        said = self._ours.said(self._ours.server(), "superlink")
        return [line for line in said if line.get("event") == _REFUSED]


def ask(kind: str, header: dict[str, JsonValue], **more: JsonValue) -> Found:
    """A message of this system's to regions, as an attack's script has it."""
    text = canonical_json.encode(header).decode()
    return {"type": kind, "records": {"header": {"json": text}}, "timeout_s": ANSWER_S, **more}


def train_header(plan: RunPlan, digest: str) -> dict[str, JsonValue]:
    """The header of a request to train the first round, for a plan of some digest."""
    return {
        "run": plan.run_id,
        "round": 1,
        "attempt": 1,
        "mechanism": plan.mechanisms[0].name,
        "plan": digest,
        "cosignatures": [],
    }


def weaker_plans(plan: RunPlan) -> list[str]:
    """Digests of the same run with a hundredth of the noise, and with ten times the ε."""
    less_noise, more_epsilon = plan.to_record(), plan.to_record()
    for mechanism in less_noise["mechanisms"]:  # type: ignore[union-attr] # a list of objects
        mechanism["noise_multiplier"] = _times(mechanism["noise_multiplier"], "0.01")  # type: ignore[index,call-overload] # as above
    more_epsilon["epsilon"] = _times(more_epsilon["epsilon"], "10")
    return [
        hashlib.sha256(canonical_json.encode(record)).hexdigest()
        for record in (less_noise, more_epsilon)
    ]


def answers(found: Found) -> list[Found]:
    """All answers to all asks."""
    return [each for asked in found.get("rounds", []) for each in asked["answers"]]


def reasons(found: Found) -> dict[str, str]:
    """By region why it refused; ``accepted`` if it did not, or said so once."""
    by_region: dict[str, str] = {}
    for each in answers(found):
        text = each.get("records", {}).get("header", {}).get("json", "{}")
        reason = str(json.loads(text).get("reason", each.get("error", "accepted")))
        if by_region.get(each["node"]) != "accepted":
            by_region[each["node"]] = reason
    return by_region


def one(words: Iterable[str]) -> str:
    """Several words as one, each said once."""
    return " and ".join(sorted(set(words))) or "nothing"


def log_words(region: str, logged: Sequence[Record]) -> str:
    """Incidents of a region's log in words; empty for none."""
    return f"{region}'s log: {one(str(each['reason']) for each in logged)}" if logged else ""


def refusals_of(ours: OurFederation, run: str, region: str) -> list[tuple[int, str]]:
    """Round and reason of each refusal of a region's replies that the coordinator has logged."""
    run_id = ours.plan(run).run_id
    logged = [
        (int(each["round"]), str(who["reason"]))
        for each in ours.server_records("aggregate")
        if each["run"] == run_id
        for who in each["refused"]
        if who["region"] == region
    ]
    logged += [
        (int(each["round"]), str(each["reason"]))
        for each in ours.server_records("incident")
        if (each["run"], each["region"]) == (run_id, region) and each["round"] is not None
    ]
    # A node that was not there yet has sent nothing that could be refused.
    return [each for each in logged if each[1] != "node-unavailable"]


def run_evil_bundle(ours: OurFederation, region: str) -> Found:
    """Has a region permit the evil bundle, and a hostile coordinator run it there."""
    if region not in ours.evil:
        bundle = evil_bundle(_wanted(ours, region))
        ours.evil[region] = ours.coordinator.give("evil.fab", bundle)
        ours.permit_also(region, hashlib.sha256(bundle).hexdigest())
    return ours.coordinate(bundle=str(ours.evil[region]), asks=[ask(DESCRIBE, {}, of=[region])])


def logged_of_evil_bundle(ours: OurFederation, region: str) -> str:
    """That the region's log has a reply of the evil bundle that was not let out; else empty.

    A bundle's incident is logged once, however often it tries.
    """
    digest = hashlib.sha256(ours.evil[region].read_bytes()).hexdigest()
    return log_words(
        region,
        [
            each
            for each in ours.incidents(region)
            if each["reason"] == "reply-not-released" and digest in each["detail"]
        ],
    )


def told_by_bundle(ours: OurFederation, region: str) -> dict[str, str]:
    """What the evil bundle says that it tried, and what came of it, by the region's own log."""
    log = ours.region(region).log_path("relay")
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    found = [line.partition(evil_relay.TOLD)[2] for line in lines if evil_relay.TOLD in line]
    return dict(json.loads(each) for each in found)


def _wanted(ours: OurFederation, region: str) -> dict[str, list[str]]:
    """What the evil bundle tries: the region's files, its processes, its doors, the machine."""
    settings = ours.settings(region)
    folder, home = ours.folder(region), settings.home.root
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {
        "read": [*map(str, files), "/etc/passwd", str(ours.deployment.config)],
        "write": [str(home), str(folder), str(Path(evil_relay.__file__).parent)],
        "connect": [f"127.0.0.1:{settings.node.runtime_port}", ours.address],
        evil_relay.PAST_THE_RELAY: [
            f"{method} at {settings.engine.socket}"
            for method in ("describe", "data_quality", "mask")
        ],
        "start": ["/bin/true"],
        "processes nearby:": ["environment", "memory", "signal", "trace"],
        "methods": ["admit", "report", "data_quality"],
    }


def peak_bytes(process: int) -> int:
    """The most memory that a process has had.

    Raises:
        FederationError: It is gone.
    """
    for line in Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise FederationError(f"Process {process} is gone.")


def _times(decimal: JsonValue, factor: str) -> str:
    return format(Decimal(str(decimal)) * Decimal(factor), "f")
