"""``fedpref-region budget``: what the privacy budget has spent, has left, and still pays for."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from common.errors import EXIT_OK

if TYPE_CHECKING:
    from client.engine.budget_view import BudgetView
    from client.engine.forecast import AccountState, Fit, PlanOutlook
    from client.engine.spending import Account
    from common.canonical_json import JsonValue

HomeArgument = Annotated[Path, typer.Argument(help="The region's home folder.")]
_UNIT = 10_000  # ε is printed with four decimals.
_MOST_REFUSALS = 10


def budget(
    home: HomeArgument,
    plan: Annotated[
        Path | None,
        typer.Option(help="Forecast this run plan (plan.json), permitted or not."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> int:
    """Show what the region's privacy budget has spent, what is left, and what it still pays for.

    For the year, each model and each purpose; since the first charge; and for each run that is
    permitted now, whether the rest of it is paid for, and how many more rounds and runs like it. An
    engine may run meanwhile. What was refused for want of budget is shown, and is no error.
    """
    from client.engine.budget_view import read_budget
    from client.engine.home import RegionHome
    from client.engine.plan_file import read_plan
    from common.timestamps import now_ms

    view = read_budget(RegionHome.read(home), at_ms=now_ms())
    plans = view.plans if plan is None else (read_plan(plan),)
    outlooks = [view.budget.outlook(each) for each in plans]
    if as_json:
        typer.echo(json.dumps(_record(view, outlooks), indent=2, ensure_ascii=False))
        return EXIT_OK
    console = Console(highlight=False)
    for part in (
        _accounts(view),
        *(_outlook(view, outlook) for outlook in outlooks),
        _charges(view),
        _refusals(view),
    ):
        console.print(part)
        console.print()
    return EXIT_OK


def _at(view: BudgetView) -> str:
    """What stands beside every ε."""
    from common.privacy import UNIT_AND_RELATION

    return f"δ = {view.budget.delta:g}; {UNIT_AND_RELATION}"


def _accounts(view: BudgetView) -> RenderableType:
    budget = view.budget
    year, *parts = budget.accounts()
    text = Text.assemble(
        (view.region, "bold"),
        f": ε = {_spent(year.spent)} of {year.account.cap:g} spent in {budget.year}, "
        f"{_left(year)} left ({_at(view)}).",
    )
    table = _table("account", "cap of ε", "ε spent", "ε left")
    for state in (year, *parts):
        capped = math.isfinite(state.account.cap)
        table.add_row(
            _name(state.account),
            f"{state.account.cap:g}" if capped else "the year's",
            _spent(state.spent),
            _left(state) if capped else "",
        )
    table.add_row("since the first charge", "none", _spent(budget.lifetime), "")
    return Group(text, Padding(table, (1, 0, 0, 2)))


def _outlook(view: BudgetView, outlook: PlanOutlook) -> RenderableType:
    table = _table("mechanism", "rounds", "noise multiplier σ/C", "more rounds")
    for each in outlook.mechanisms:
        first, last = each.mechanism.rounds[0], each.mechanism.rounds[-1]
        table.add_row(
            each.mechanism.name,
            str(first) if first == last else f"{first} to {last}",
            each.mechanism.noise_multiplier,
            _times(each.more_rounds),
        )
    text = Text.assemble((f"Run {outlook.plan.run_id}", "bold"), _words(view, outlook))
    return Group(text, Padding(table, (1, 0, 0, 2)))


def _words(view: BudgetView, outlook: PlanOutlook) -> str:
    plan = outlook.plan
    text = (
        f" (model {plan.model}, purpose {plan.purpose}): "
        f"{outlook.rounds_charged} of {plan.total_rounds} rounds are charged. "
    )
    if (excess := outlook.excess) is not None:
        text += (
            f"The rest is not paid for: it would bring ε of {excess.account.words} to "
            f"{_spent(excess.epsilon)}, above the cap of {excess.account.cap:g} ({_at(view)})."
        )
    else:
        text += "" if outlook.finished else "The rest is paid for. "
        text += f"After it {_times(outlook.more_runs)} more such runs are paid for"
        stopped_by = outlook.more_runs.stopped_by
        text += "." if stopped_by is None else f", then the budget of {stopped_by.words} ends."
    return text + (
        f" A year in which nothing is spent pays for {_times(outlook.runs_a_year)} of them; "
        f"{view.budget.year + 1} begins one."
    )


def _charges(view: BudgetView) -> RenderableType:
    from client.engine.spending import spent_by

    charges = view.budget.charges
    if not charges:
        return "Nothing was ever charged."
    table = _table(
        "charge", "run", "round", "mechanism", "noise multiplier σ/C", "ε of the run", "time"
    )
    for charge in charges:
        request = charge.request
        of_run = [
            each.request
            for each in charges
            if each.request.run == request.run and each.seq <= charge.seq
        ]
        table.add_row(
            str(charge.seq),
            request.run,
            str(request.server_round),
            request.mechanism,
            request.noise_multiplier,
            _spent(spent_by(of_run, view.budget.delta)),
            request.time,
        )
    return Group(f"Charges ({_at(view)}):", Padding(table, (0, 0, 0, 2)))


def _refusals(view: BudgetView) -> RenderableType:
    refusals = view.refusals
    if not refusals:
        return "No round was ever refused for want of budget."
    table = _table("time", "run", "round", "why")
    for each in refusals[-_MOST_REFUSALS:]:
        table.add_row(
            each.time,
            each.run or "",
            "" if each.server_round is None else str(each.server_round),
            Text(each.detail),
        )
    shown = min(len(refusals), _MOST_REFUSALS)
    title = f"Refused for want of budget, as the log has it: {len(refusals)}"
    title += f", of which the last {shown}:" if shown < len(refusals) else ":"
    return Group(title, Padding(table, (0, 0, 0, 2)))


def _record(view: BudgetView, outlooks: list[PlanOutlook]) -> dict[str, JsonValue]:
    from common.privacy import NEIGHBORING_RELATION, PRIVACY_UNIT

    budget = view.budget
    return {
        "v": "fedpref-budget/1",
        "region": view.region,
        "year": budget.year,
        "delta": view.policy.delta_max,
        "neighboring_relation": NEIGHBORING_RELATION,
        "privacy_unit": PRIVACY_UNIT,
        "accounts": [_account_record(state) for state in budget.accounts()],
        "lifetime": _spent(budget.lifetime),
        "charges": len(budget.charges),
        "runs": [_outlook_record(outlook) for outlook in outlooks],
        "refused": [
            {
                "time": each.time,
                "run": each.run,
                "round": each.server_round,
                "detail": each.detail,
            }
            for each in view.refusals
        ],
    }


def _account_record(state: AccountState) -> dict[str, JsonValue]:
    capped = math.isfinite(state.account.cap)
    return {
        "kind": state.account.kind,
        "name": state.account.name,
        "cap": f"{state.account.cap:g}" if capped else None,
        "spent": _spent(state.spent),
        "left": _left(state) if capped else None,
    }


def _outlook_record(outlook: PlanOutlook) -> dict[str, JsonValue]:
    stopped_by, excess = outlook.more_runs.stopped_by, outlook.excess
    return {
        "run": outlook.plan.run_id,
        "model": outlook.plan.model,
        "purpose": outlook.plan.purpose,
        "rounds": outlook.plan.total_rounds,
        "rounds_charged": outlook.rounds_charged,
        "rest_is_paid_for": excess is None,
        "exceeds": None if excess is None else excess.account.words,
        "more_runs": outlook.more_runs.count,
        "more_runs_stopped_by": None if stopped_by is None else stopped_by.words,
        "runs_in_a_fresh_year": outlook.runs_a_year.count,
        "mechanisms": [
            {
                "name": each.mechanism.name,
                "rounds": list(each.mechanism.rounds),
                "noise_multiplier": each.mechanism.noise_multiplier,
                "sampling_probability": each.mechanism.sampling_probability,
                "steps": each.mechanism.steps,
                "more_rounds": each.more_rounds.count,
            }
            for each in outlook.mechanisms
        ],
    }


def _table(*titles: str) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False)
    for title in titles:
        table.add_column(title, overflow="fold")
    return table


def _name(account: Account) -> str:
    return f"year {account.name}" if account.kind == "year" else f"{account.kind} {account.name}"


def _spent(epsilon: float) -> str:
    """Rounded up: never less than was spent."""
    return f"{math.ceil(epsilon * _UNIT) / _UNIT:.4f}" if math.isfinite(epsilon) else "∞"


def _left(state: AccountState) -> str:
    """Rounded down: never more than is left."""
    return f"{math.floor(state.left * _UNIT) / _UNIT:.4f}"


def _times(fit: Fit) -> str:
    from common.search import MAX_MORE

    return f"{fit.count:,}" + (" or more" if fit.count >= MAX_MORE else "")
