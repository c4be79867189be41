"""Inspects a region before anything starts: what it would allow, and every problem there is.

The order is that in which one thing rests on another: settings, files, keys, log, policy, permits,
budget, consents, store, then the network. What cannot be looked at because of an earlier problem is
left out; nothing is changed anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from client.engine.budget_view import BudgetView
from client.engine.home import RegionHome
from client.engine.log_state import LogState
from client.engine.permit_files import PermitFile
from client.engine.policy import RegionPolicy
from client.inspection.findings import Findings, Kind, Problem
from client.inspection.leaving import PermittedRun, leaving_arrays
from client.inspection.machine import Machine, ThisMachine
from client.inspection.network import check_authority, check_superlink, check_witnesses
from client.inspection.node_key import check_node_key
from client.inspection.places import check_disk, check_places, is_commissioned
from client.inspection.ports import check_ports
from client.inspection.records import (
    check_budget,
    check_consents,
    check_declared_files,
    check_keys,
    check_log,
    check_permits,
    check_policy,
    check_registry,
)
from client.inspection.store import check_catalogue, check_store, check_tables
from client.inspection.subject import Inspected, open_subject
from client.inspection.users import check_users
from client.inspection.versions import check_versions
from common.audit.writer_lock import writer_of


@dataclass(frozen=True)
class Inspection:
    """What an inspection has found.

    Attributes:
        region: The region's name; empty if neither settings nor home tell it.
        policy: The policy in the home; None if it cannot be read.
        in_force: How many customers' consents are in force; None if the log cannot be replayed.
        runs: The runs that the region permits now.
        problems: Every problem.
        notes: What the operator should know besides.
        exit_code: 0 if there is no problem, else that of the first.
    """

    region: str
    policy: RegionPolicy | None
    in_force: int | None
    runs: tuple[PermittedRun, ...]
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]
    exit_code: int


def inspect_region(
    folder: Path,
    *,
    settings: Path | None = None,
    offline: bool = False,
    machine: Machine | None = None,
) -> Inspection:
    """Inspects a region.

    Args:
        folder: Its folder or its home.
        settings: Its settings, if they are elsewhere.
        offline: Reaches nobody: neither SuperLink nor witnesses.
        machine: A test's own machine.
    """
    findings = Findings()
    subject = open_subject(folder, settings, machine or ThisMachine(), findings)
    check_places(subject, findings)
    check_users(subject, findings)
    records = _Records()
    if subject.home is not None:
        _import_accounting()
        with subject.as_engine():
            if _can_enter(subject, subject.home, findings):
                records = _check_records(subject, subject.home, findings)
    check_disk(subject, sum(run.total_bytes for run in records.runs), findings)
    check_declared_files(subject, findings)
    check_node_key(subject, findings)
    check_versions(findings)
    authority_reads = check_authority(subject, findings)
    if offline:
        findings.note("SuperLink and witnesses were not asked: --offline.")
    else:
        check_superlink(subject, findings, authority_reads=authority_reads)
        check_witnesses(subject, findings)
    if records.busy:
        findings.note(
            f"The region is at work: process {records.busy} writes its log. Ports were not tried."
        )
    else:
        check_ports(subject, findings)
    return Inspection(
        region=_name(subject),
        policy=records.policy,
        in_force=records.in_force,
        runs=records.runs,
        problems=tuple(findings.problems),
        notes=tuple(findings.notes),
        exit_code=findings.exit_code,
    )


@dataclass(frozen=True)
class _Records:
    """What a home's records tell; ``busy`` says who writes the log, if anyone does."""

    policy: RegionPolicy | None = None
    in_force: int | None = None
    runs: tuple[PermittedRun, ...] = ()
    busy: str = ""


def _import_accounting() -> None:
    """Imports what is imported late: Python's own files may be closed to the engine's user."""
    from dp_accounting.pld import privacy_loss_distribution  # noqa: F401 # for its import alone
    from dp_accounting.rdp import rdp_privacy_accountant  # noqa: F401 # likewise


def _can_enter(subject: Inspected, home: RegionHome, findings: Findings) -> bool:
    try:
        next(home.root.iterdir(), None)
    except OSError as error:
        findings.add(
            Kind.FILES,
            home.root,
            f"User {subject.engine_user}, as whom the engine runs, cannot enter it: "
            f"{error.strerror}.",
            f"chown -R {subject.engine_user} {home.root}, and let others pass the folders above.",
        )
        return False
    return True


def _check_records(subject: Inspected, home: RegionHome, findings: Findings) -> _Records:
    """Checks what the home holds; what rests on something that is broken is left out."""
    in_force: int | None = None
    permits: list[PermitFile] = []
    view: BudgetView | None = None
    state: LogState | None = None
    if not is_commissioned(home):
        check_store(subject, home, findings)
        check_tables(home, findings)
        return _Records()
    registry = check_registry(subject, home, findings)
    if registry is not None:
        check_keys(subject, home, registry, findings)
        if home.log.exists():
            state = check_log(subject, home, registry, findings)
    policy = check_policy(subject, home, state, findings)
    if policy is not None and registry is not None:
        permits = check_permits(subject, home, policy, registry, findings)
    if policy is not None and state is not None:
        in_force = check_consents(subject, home, policy, state, findings)
        if home.ledger.exists() and state.policy_sha256 == policy.digest:
            view = check_budget(subject, home, permits, findings)
    check_store(subject, home, findings)
    check_tables(home, findings)
    check_catalogue(home, permits, findings)
    return _Records(policy, in_force, tuple(_runs(permits, view)), writer_of(home.log))


def _runs(permits: Sequence[PermitFile], view: BudgetView | None) -> list[PermittedRun]:
    return [
        PermittedRun(
            permit=permit,
            plan=plan,
            arrays=tuple(leaving_arrays(plan)),
            outlook=None if view is None else view.budget.outlook(plan),
        )
        for permit, plan in ((each, each.plan()) for each in permits)
    ]


def _name(subject: Inspected) -> str:
    if subject.home is not None:
        return subject.home.region
    return "" if subject.settings is None else subject.settings.region.name
