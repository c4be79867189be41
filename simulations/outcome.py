"""The last stages of a run: its history, its bundle, the verifier's verdict and the report."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

from rich.console import Console
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from client.engine.home import RegionHome
from client.engine.subjects import open_subject_keys
from common.audit.bundle import write_bundle
from common.audit.log import AuditLog
from common.audit.verify import verify_bundle
from common.audit.verify.verdict import Verdict
from common.canonical_json import JsonValue
from common.catalogue import Catalogue
from common.durable_file import write_durably
from common.plan import RunPlan
from common.timestamps import now_ms
from server.config import ServerHome
from server.model_card import CARD_FILES, card_of
from simulations.evaluation_data import excluded_by_round, region_splits
from simulations.history import run_history
from simulations.privacy_audit import audit_run
from simulations.provision import SERVER_PARTY, OpenRegion, RegionSetUp
from simulations.quality import run_quality_study
from simulations.quality_earlier import EarlierWeeks
from simulations.quality_methods import RegionSplit
from simulations.report import write_report
from simulations.run_folder import RunFolder, RunState
from simulations.scenarios import Scenario
from simulations.witness_export import read_witnesses

ARTIFACTS = ("model.safetensors", *CARD_FILES, "metrics.json", "history.json")


def measure_quality(
    folder: RunFolder,
    scenario: Scenario,
    plan: RunPlan,
    set_ups: Sequence[RegionSetUp],
    *,
    seeds: Sequence[int],
    attack_models: int,
    console: Console,
) -> dict[str, JsonValue]:
    """Measures the model beside every baseline, at no refusals and at this run's; and attacks it.

    Args:
        folder: The run's folder.
        scenario: The scenario, for its temporal split.
        plan: The run's public constants.
        set_ups: Every region's, for how its customers chose.
        seeds: Seeds of the study.
        attack_models: How many models the attacker of `audit_run` trains; none with 0.
        console: Where progress is shown.
    """
    catalogue = Catalogue.load(folder.catalogue)
    cuts = [scenario.windows, *([scenario.earlier.windows] if scenario.earlier else [])]
    splits: list[list[RegionSplit]] = []
    excluded: dict[str, dict[int, frozenset[str]]] = {}
    for set_up in set_ups:
        home, pseudonyms = everybody(folder, set_up.region)
        splits.append(region_splits(home, pseudonyms, cuts, catalogue))
        choices = set_up.choose(sorted(pseudonyms))
        excluded[set_up.region] = excluded_by_round(choices, pseudonyms, plan.total_rounds)
    with shown_progress(console, "quality") as show:
        metrics: dict[str, JsonValue] = run_quality_study(
            [cut[0] for cut in splits],
            catalogue,
            plan,
            seeds=tuple(seeds),
            excluded=excluded,
            earlier=_earlier_weeks(scenario, splits),
            progress=show,
        )
    return metrics | {"attacks": _attacked(splits, plan, attack_models, console)}


def attack(
    folder: RunFolder, scenario: Scenario, plan: RunPlan, *, n_models: int, console: Console
) -> JsonValue:
    """What attacks find on a run's releases; see `audit_run`.

    Args:
        folder: The run's folder.
        scenario: The scenario, for its training window.
        plan: The run's public constants.
        n_models: How many models the attacker trains.
        console: Where progress is shown.
    """
    catalogue = Catalogue.load(folder.catalogue)
    splits = [
        region_splits(*everybody(folder, region), [scenario.windows], catalogue)
        for region in plan.regions
    ]
    return _attacked(splits, plan, n_models, console)


def everybody(folder: RunFolder, region: str) -> tuple[RegionHome, dict[str, str]]:
    """A region's home, and each customer's reference and pseudonym."""
    home = RegionHome.read(folder.region_home(region))
    with open_subject_keys(home.subjects, home.stored_key) as subjects:
        return home, dict(subjects.pseudonyms())


def _attacked(
    splits: Sequence[Sequence[RegionSplit]], plan: RunPlan, n_models: int, console: Console
) -> JsonValue:
    if not n_models:
        return None
    with shown_progress(console, "attacks") as show:
        found: JsonValue = audit_run(
            [cut[0] for cut in splits], plan, n_models=n_models, progress=show
        )
    return found


@contextmanager
def shown_progress(console: Console, name: str) -> Iterator[Callable[[str, int, int], None]]:
    """A bar for as long as something long goes on; nothing where nobody looks."""
    with Progress(
        TextColumn("  {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        console=console,
        disable=not console.is_terminal,
    ) as progress:
        task = progress.add_task(name, total=None)

        def show(what: str, done: int, total: int) -> None:
            progress.update(task, description=what, completed=done, total=total)

        yield show


def _earlier_weeks(
    scenario: Scenario, splits: Sequence[Sequence[RegionSplit]]
) -> EarlierWeeks | None:
    """The regions' second cuts with what the scenario says of them."""
    if scenario.earlier is None:
        return None
    return EarlierWeeks(
        weeks=scenario.earlier.weeks,
        judged=scenario.earlier.judged,
        note=scenario.earlier.note,
        splits=[cuts[1] for cuts in splits],
    )


def write_history(
    folder: RunFolder,
    scenario: Scenario,
    plan: RunPlan,
    regions: Mapping[str, OpenRegion],
    seconds: Mapping[str, float],
) -> None:
    """Writes ``history.json`` from the logs."""
    with AuditLog.open_read_only(folder.server / "log.sqlite") as server_log:
        history = run_history(
            plan,
            server_log,
            regions,
            jurisdictions=dict(zip(plan.regions, scenario.jurisdictions, strict=True)),
            seconds=seconds,
        )
    write_json(folder, "history.json", history)


def bundle_run(
    folder: RunFolder, scenario: Scenario, plan: RunPlan, artifacts: Sequence[str] = ARTIFACTS
) -> Verdict:
    """Puts what was published beside the run, bundles every log, and verifies the bundle.

    That is the model and its card, or the answers of a run of questions.

    Args:
        folder: The run's folder.
        scenario: Its scenario.
        plan: Its plan.
        artifacts: The files of the folder that the bundle covers.
    """
    home = ServerHome(folder.server)
    if plan.asks:
        for path in (home.answers, home.answers_facts):
            write_durably(folder.root / path.name, path.read_bytes(), mode=0o644)
    else:
        write_durably(folder.model, home.model.read_bytes(), mode=0o644)
        card_of(home).write(folder.root)
    with ExitStack() as stack:
        logs = {
            party: stack.enter_context(AuditLog.open_read_only(path / "log.sqlite"))
            for party, path in {
                SERVER_PARTY: folder.server,
                **{region: folder.region_home(region) for region in plan.regions},
            }.items()
        }
        witnesses = read_witnesses(folder, scenario.federation, logs)
        write_bundle(
            folder.root,
            federation=scenario.federation,
            run=plan.run_id,
            registry=home.registry_envelopes(),
            plan=home.plan.read_bytes(),
            logs=logs,
            artifacts=artifacts,
            signer=home.signer("aggregator"),
            created_at_ms=now_ms(),
            cosigned=witnesses.cosigned,
            witnessed=witnesses.witnessed,
            evidence=witnesses.evidence,
        )
    return verify_bundle(folder.root)


def report_run(
    folder: RunFolder, scenario: Scenario, plan: RunPlan, state: RunState, verdict: Verdict
) -> None:
    """Writes ``report.html`` from the run's own files."""
    write_report(
        folder.report,
        settings={
            **state.settings.model_dump(mode="json"),
            "run_id": state.run_id,
            "title": scenario.title,
        },
        plan=plan.to_record(),
        history=read_json(folder, "history.json"),
        metrics=read_json(folder, "metrics.json"),
        verdict=verdict.to_record(),
    )


def conclude(console: Console, folder: RunFolder, verdict: Verdict) -> None:
    """Says how the run ended, and what to open."""
    console.print(
        Panel.fit(
            f"[bold green]Verified[/bold green]: {len(verdict.steps)} steps, every log, consent, "
            f"charge and release.\n\n"
            f"Open   [bold]{folder.report}[/bold]\n"
            f"Check  fedpref-audit verify {folder.root}",
            title="Finished",
            border_style="green",
        )
    )


def write_json(folder: RunFolder, name: str, value: Mapping[str, object]) -> None:
    """Writes one of the run's result files for people and programs to read."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    write_durably(folder.root / name, text.encode() + b"\n", mode=0o644)


def read_json(folder: RunFolder, name: str) -> dict[str, JsonValue]:
    """Reads one of the run's result files."""
    value: dict[str, JsonValue] = json.loads((folder.root / name).read_bytes())
    return value
