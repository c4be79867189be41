"""A region's budget as it stands, read beside a running engine.

Everything is opened to read. The log is read before the ledger: whatever it has been told was
charged, a whole ledger has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from client.engine.forecast import Budget
from client.engine.home import RegionHome
from client.engine.ledger_store import read_charges
from client.engine.logged_charges import LoggedCharge, require_all_charged
from client.engine.permit_files import permit_files
from client.engine.policy import RegionPolicy, read_policy, require_logged
from common.audit.log import AuditLog
from common.canonical_json import JsonValue
from common.envelope import Envelope
from common.plan import RunPlan
from common.timestamps import format_time

#: The reason of a refusal for want of budget; see `client.engine.incidents`.
EXHAUSTED = "budget-exhausted"
# What an envelope is of can be told without reading it; nearly all are consents.
_MARKS = tuple(
    f'"application/vnd.fedpref.{kind}+json"'.encode() for kind in ("policy", "charge", "incident")
)


@dataclass(frozen=True)
class BudgetRefusal:
    """A round that was refused for want of budget, as the log has it.

    Attributes:
        time: When, as a UTC timestamp.
        run: The run, if it was in one.
        server_round: The round, if it was in one.
        detail: Which cap, and by how much.
    """

    time: str
    run: str | None
    server_round: int | None
    detail: str


@dataclass(frozen=True)
class BudgetView:
    """What a region's operator is shown.

    Attributes:
        region: The region.
        policy: The policy in force.
        budget: The ledger, under that policy.
        plans: The plans to forecast: of every permit that holds now, or else of the newest; the
            newest first.
        refusals: The refusals for want of budget that the log has, oldest first.
    """

    region: str
    policy: RegionPolicy
    budget: Budget
    plans: tuple[RunPlan, ...]
    refusals: tuple[BudgetRefusal, ...]


def read_budget(home: RegionHome, *, at_ms: int) -> BudgetView:
    """Reads a region's budget; nothing is changed, and an engine may run meanwhile.

    Args:
        home: The region's home.
        at_ms: Now, in milliseconds since the epoch. Its year is the budget year, unless a charge is
            of a later one: a clock that is behind shows no year that is over as unspent.

    Raises:
        InputError: A file of the home is missing or malformed.
        PolicyError: The policy is not the one that was logged last.
        StorageError: Log or ledger cannot be read, were altered, or the ledger is an old copy.
    """
    policy = read_policy(home.policy)
    digest, logged, refusals = _read_log(home.log)
    require_logged(policy, digest, home.policy)
    charges = read_charges(home.ledger)
    require_all_charged(logged, charges, home.ledger)
    year = max([int(format_time(at_ms)[:4]), *(charge.request.year for charge in charges)])
    return BudgetView(
        region=home.region,
        policy=policy,
        budget=Budget(tuple(charges), policy.epsilon_caps, float(policy.delta_max), year),
        plans=tuple(_permitted_plans(home.permits, at_ms)),
        refusals=tuple(refusals),
    )


def _read_log(path: Path) -> tuple[str | None, list[LoggedCharge], list[BudgetRefusal]]:
    """The digest of the last policy, the charges, and the refusals for want of budget."""
    digest: str | None = None
    charges: list[LoggedCharge] = []
    refusals: list[BudgetRefusal] = []
    with AuditLog.open_read_only(path) as log:
        for _, data in log.entries():
            if not any(mark in data for mark in _MARKS):
                continue
            envelope = Envelope.decode(data)
            record = envelope.record()
            if envelope.kind == "policy":
                digest = str(record["policy_sha256"])
            elif envelope.kind == "charge":
                charges.append(LoggedCharge.of(record))
            elif record["reason"] == EXHAUSTED:
                refusals.append(_refusal(record))
    return digest, charges, refusals


def _refusal(record: Mapping[str, JsonValue]) -> BudgetRefusal:
    run, server_round = record["run"], record["round"]
    return BudgetRefusal(
        time=str(record["time"]),
        run=run if isinstance(run, str) else None,
        server_round=server_round if isinstance(server_round, int) else None,
        detail=str(record["detail"]),
    )


def _permitted_plans(folder: Path, at_ms: int) -> Iterator[RunPlan]:
    """The plans of all permits that hold now, or of the newest one."""
    permits = permit_files(folder)
    holding = [each for each in permits if each.holds(at_ms)]
    for each in holding or permits[:1]:
        yield each.plan()
