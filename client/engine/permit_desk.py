"""Where a region signs permits, and keeps them with the plans they are for."""

from __future__ import annotations

from client.engine.ledger import Ledger
from client.engine.permit import CodeIdentity, make_permit
from client.engine.policy import RegionPolicy
from client.engine.provenance import dependencies_digest, engine_digest
from client.engine.service import PrivacyEngine
from common.audit.entry import make_entry
from common.durable_file import write_durably
from common.errors import BudgetError, InputError, PolicyError, UsageError
from common.plan import RunPlan
from common.timestamps import format_time, now_ms


def sign_permit(engine: PrivacyEngine, plan: RunPlan, *, app: str, valid_for_s: int) -> str:
    """Signs, stores and logs a permit for one run.

    Args:
        engine: The region's open engine; its log takes the permit.
        plan: The run's public constants.
        app: SHA-256 of the app bundle that may run, in hex.
        valid_for_s: For how long the permit holds, in seconds.

    Returns:
        The permit's id.

    Raises:
        PolicyError: The policy does not allow the plan or the bundle, or the run was charged
            already.
        BudgetError: The budget could not pay for the run at any time that the permit would hold.
        InputError: The app bundle's digest is malformed.
    """
    if len(app) != 64 or set(app) - set("0123456789abcdef"):
        raise InputError("The app bundle's digest is not 64 lower-case hex digits.")
    home = engine.home
    if any(charge.request.run == plan.run_id for charge in engine.ledger.charges):
        raise PolicyError(
            f"{home.region}: run {plan.run_id} was charged already; its permit stands.",
            remedy="Begin a new run under a new run id.",
        )
    code = CodeIdentity(app=app, engine=engine_digest(), deps=dependencies_digest())
    issued_ms = now_ms()
    record = make_permit(plan, engine.policy, code, issued_at_ms=issued_ms, valid_for_s=valid_for_s)
    _require_payable(engine.ledger, plan, issued_ms, issued_ms + valid_for_s * 1000)
    envelope = make_entry(record, home.signer("permit"))
    home.permits.mkdir(mode=0o700, exist_ok=True)
    # The plan lies there before the permit that names it; the permit is logged before it works.
    write_durably(home.permits / f"{plan.run_id}.plan.json", plan.to_bytes())
    engine.log.append([envelope])
    write_durably(home.permits / f"{plan.run_id}.json", envelope)
    return str(record["permit_id"])


def _require_payable(ledger: Ledger, plan: RunPlan, issued_ms: int, expires_ms: int) -> None:
    """Signs no permit that the ledger would make worthless.

    Held against it is only what is charged, which never becomes less: what runs under way have
    reserved may be free again before this one begins, and a new year's budget is a whole one.

    Raises:
        BudgetError: No budget year in which the permit holds has enough left; of the first of them.
    """
    first, last = (int(format_time(each)[:4]) for each in (issued_ms, expires_ms))
    refusals = []
    for year in range(first, last + 1):
        try:
            ledger.admit(
                plan.run_id, year, plan.privacy_events(), model=plan.model, purpose=plan.purpose
            )
        except BudgetError as refusal:
            refusals.append(refusal)
        else:
            return
    raise refusals[0]


def only_bundle(policy: RegionPolicy) -> str:
    """The app bundle to permit where none is named: the only one that the policy allows.

    Returns:
        Its SHA-256, in hex.

    Raises:
        UsageError: The policy allows several, or names none.
    """
    bundles = policy.app_bundles or []
    if len(bundles) != 1:
        raise UsageError(
            f"{policy.region}: its policy allows {len(bundles) or 'any'} app bundles: which one is "
            "to be permitted must be said.",
            remedy="Name its SHA-256: --app.",
        )
    return bundles[0]
