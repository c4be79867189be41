"""The region's own records: registry, keys, log, policy, permits, budget, consents, notices."""

from __future__ import annotations

from collections.abc import Sequence

from client.consent_service.notices import offered
from client.engine.budget_view import BudgetView, read_budget
from client.engine.home import KEY_ROLES, RegionHome
from client.engine.log_state import LogState
from client.engine.permit_files import PermitFile, permit_files
from client.engine.permit_shelf import PermitShelf
from client.engine.policy import RegionPolicy, read_policy, require_logged
from client.engine.policy_desk import policy_changes
from client.inspection.findings import Findings, Kind
from client.inspection.subject import Inspected
from common.audit.log import AuditLog
from common.errors import (
    BudgetError,
    ConsentError,
    PolicyError,
    VerificationError,
)
from common.key_status import key_states
from common.keys import Registry
from common.timestamps import format_time

#: The operator is told of keys and consents that end within so many days.
SOON_DAYS = 30
_DAY_MS = 24 * 3600 * 1000


def check_registry(subject: Inspected, home: RegionHome, findings: Findings) -> Registry | None:
    """Checks the key registry, the region's place in it, and that a quorum of witnesses exists."""
    with findings.catching(Kind.REGISTRY, home.registry):
        registry = home.read_registry()
        if registry.federation != home.federation:
            findings.add(
                Kind.REGISTRY,
                home.registry,
                f"It is the registry of {registry.federation}, and the home is of "
                f"{home.federation}.",
                "Install the registry of the region's own federation.",
                exit_code=VerificationError.exit_code,
            )
        others = {
            entry.party
            for entry in registry.entries
            if entry.role == "witness"
            and entry.party != home.region
            and entry.not_before_ms <= subject.at_ms < entry.not_after_ms
            and not (entry.revoked_at_ms is not None and entry.revoked_at_ms <= subject.at_ms)
        }
        if len(others) < registry.witness_quorum:
            findings.add(
                Kind.REGISTRY,
                home.registry,
                f"{registry.witness_quorum} other parties must cosign the region's log, and "
                f"{len(others)} have a witness key that is valid now: no round could begin.",
                "Let the officers of the root enrol witnesses, or renew their keys.",
                exit_code=VerificationError.exit_code,
            )
        return registry
    return None


def check_keys(
    subject: Inspected, home: RegionHome, registry: Registry, findings: Findings
) -> None:
    """Checks that every role has a key that opens, signs, is enrolled and valid now."""
    for each in key_states(home.key_store, registry, KEY_ROLES, subject.at_ms):
        place = f"{home.root / (each.place or f'keys/{each.name}.pem')}"
        if not each.is_usable:
            findings.add(
                Kind.KEYS,
                place,
                f"The {each.name} key is not usable: {each.state}."
                + (f" {each.problem}" if each.problem else ""),
                "See `fedpref-region keys check`; enrol, renew or restore the key.",
                exit_code=VerificationError.exit_code,
            )
        elif each.days_left is not None and each.days_left < SOON_DAYS:
            findings.note(
                f"The {each.name} key ends in {each.days_left} days: fedpref-region keys rotate."
            )


def check_log(
    subject: Inspected, home: RegionHome, registry: Registry, findings: Findings
) -> LogState | None:
    """Replays the log as the engine does when it starts, and holds the clock against it."""
    with findings.catching(Kind.LOG, home.log), AuditLog.open_read_only(home.log) as log:
        if log.origin != home.origin:
            findings.add(
                Kind.LOG,
                home.log,
                f"It is the log {log.origin}, and the home is of {home.origin}.",
                "Restore the region's own log.",
                exit_code=VerificationError.exit_code,
            )
        state = LogState(log, registry, home.region)
        state.refresh()
        if subject.at_ms < state.newest_ms:
            findings.add(
                Kind.CLOCK,
                home.log,
                f"The clock says {format_time(subject.at_ms)}, before the log's newest entry "
                f"({format_time(state.newest_ms)}): nothing would be charged or trained.",
                "Set the clock by NTP.",
                exit_code=PolicyError.exit_code,
            )
        return state
    return None


def check_policy(
    subject: Inspected, home: RegionHome, state: LogState | None, findings: Findings
) -> RegionPolicy | None:
    """Checks that one policy is in the file, in the log and in the settings."""
    policy: RegionPolicy | None = None
    with findings.catching(Kind.POLICY, home.policy):
        policy = read_policy(home.policy)
        if state is not None:
            require_logged(policy, state.policy_sha256, home.policy)
    if policy is not None and subject.settings is not None:
        declared = subject.settings.policy.to_record()
        for change in policy_changes(policy.to_record(), declared):
            findings.add(
                Kind.POLICY,
                subject.setting(f"[policy] {change.field}"),
                f"It is {_shown(change.after)}, and the policy in force has "
                f"{_shown(change.before)}.",
                "Sign what region.toml says, `fedpref-region policy sign`, or take it back.",
                exit_code=PolicyError.exit_code,
            )
    return policy


def check_permits(
    subject: Inspected,
    home: RegionHome,
    policy: RegionPolicy,
    registry: Registry,
    findings: Findings,
) -> list[PermitFile]:
    """Checks every permit that holds now as the engine does before it works.

    Returns:
        Those that it would work under.
    """
    working: list[PermitFile] = []
    with findings.catching(Kind.PERMITS, home.permits):
        shelf = PermitShelf(home, policy, registry, lambda: subject.at_ms)
        for permit in permit_files(home.permits):
            if not permit.holds(subject.at_ms):
                continue
            with findings.catching(Kind.PERMITS, permit.path):
                shelf.open(permit.run)
                working.append(permit)
    if not working:
        findings.note("No permit holds now: nothing would be trained, and nothing leave.")
    return working


def check_budget(
    subject: Inspected, home: RegionHome, permits: Sequence[PermitFile], findings: Findings
) -> BudgetView | None:
    """Checks ledger and log against each other, and that permitted runs are paid for."""
    with findings.catching(Kind.BUDGET, home.ledger):
        view = read_budget(home, at_ms=subject.at_ms)
        for permit in permits:
            excess = view.budget.outlook(permit.plan()).excess
            if excess is not None:
                findings.add(
                    Kind.BUDGET,
                    home.ledger,
                    f"The rest of run {permit.run} is not paid for: it would bring ε of "
                    f"{excess.account.words} to {excess.epsilon:.4f}, above the cap of "
                    f"{excess.account.cap:g}.",
                    "Permit a run with a smaller ε, or wait for the next budget year.",
                    exit_code=BudgetError.exit_code,
                )
        return view
    return None


def check_consents(
    subject: Inspected,
    home: RegionHome,
    policy: RegionPolicy,
    state: LogState,
    findings: Findings,
) -> int:
    """Checks that consents are in force, and for how long they stay so.

    Returns:
        How many customers' are.
    """
    in_force = len(state.eligible(policy, subject.at_ms))
    if not offered(state.notices, subject.at_ms):
        findings.add(
            Kind.CONSENTS,
            home.log,
            "No notice is in force: customers cannot be asked.",
            "Publish one: fedpref-region notice publish.",
            exit_code=ConsentError.exit_code,
        )
    if not in_force:
        findings.add(
            Kind.CONSENTS,
            home.log,
            f"No customer's consent for {policy.purpose} is in force.",
            "Import consents, or let customers decide: fedpref-region consents import, "
            "fedpref-region consent serve.",
            exit_code=ConsentError.exit_code,
        )
        return 0
    later = len(state.eligible(policy, subject.at_ms + SOON_DAYS * _DAY_MS))
    if later < in_force:
        findings.note(
            f"{in_force - later:,} of {in_force:,} consents lapse within {SOON_DAYS} days unless "
            "they are renewed."
        )
    return in_force


def check_declared_files(subject: Inspected, findings: Findings) -> None:
    """Checks that the files which the settings name for installation are there."""
    settings = subject.settings
    if settings is None:
        return
    for kind, field, named in (
        (Kind.CONSENTS, "[consents] file", settings.consents),
        (Kind.CONSENTS, "[notice] file", settings.notice),
    ):
        if named is not None and not named.file.is_file():
            findings.add(
                kind,
                subject.setting(field),
                f"There is no file {named.file}.",
                "Correct the path; the table may be left out once the region is installed.",
            )


def _shown(value: object) -> str:
    return "not stated" if value is None else str(value)
