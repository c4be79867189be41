"""One evaluation from a request to its files: data, split, checks, study, table, picture."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from common.durable_file import write_durably
from common.errors import InputError, StorageError, UsageError
from common.plan import RunPlan
from common.privacy import UNIT_AND_RELATION
from common.strategies import FACTORS, StrategyChoice
from simulations.evaluation.contenders import Contender, own_contenders
from simulations.evaluation.data import EvaluationData, mapped_data, scenario_data
from simulations.evaluation.judge import Metrics
from simulations.evaluation.kept import KeptParts, Parts, evaluation_digest
from simulations.evaluation.leaks import CHECKS, require_no_leaks
from simulations.evaluation.libraries import library_contenders
from simulations.evaluation.picture import picture
from simulations.evaluation.plans import (
    LOCAL,
    Omission,
    Setting,
    plan_of,
    require_modes,
    settings_of,
)
from simulations.evaluation.protocols import Fold, Split, folds_of, n_asked
from simulations.evaluation.results import Results
from simulations.evaluation.study import Measured, Progress, measure
from simulations.outcome import shown_progress
from simulations.quality_table import REPLICATES
from simulations.run_folder import open_run_folder
from simulations.scenarios import find_scenario

RESULT_NAME, PICTURE_NAME = "evaluation.json", "privacy-utility.svg"
#: What an evaluation under way has measured, in a folder for each.
UNFINISHED = "unfinished"
_FORMAT = "fedpref-evaluation/1"
_PUBLIC_NOTE = "The data are public: choosing settings by these figures costs no ε."
_PRIVATE_NOTE = (
    "These figures are of customers' records, without noise. They may not leave where they were "
    "made; and choosing a strategy, an ε or any constant by them is a release of its own, which "
    "must be noised and charged before it is used. Plans by default choose by public numbers alone "
    "and need no such choice."
)
_L2_NOTE = (
    "λ of EASE ({l2}) was chosen on a split of what is learnt from. It is a yardstick's, and no "
    "constant of a plan."
)


@dataclass(frozen=True)
class EvaluationRequest:
    """What is to be evaluated.

    Attributes:
        scenario: A scenario's name; None with `data`.
        data: Mapping files; empty with `scenario`.
        epsilons: Which ε, decimal strings.
        delta: δ, a decimal string.
        seeds: Over how many seeds of noise.
        strategies: Which strategies.
        modes: Whose noise protects: ``local``, ``distributed``.
        protocol: ``temporal`` or ``strong``; None for what the data are made for.
        places: At which places metrics are measured.
        refusal_share: Share of customers who refuse training; None for the data's.
        libraries: Whether the kept library's baselines are measured.
        replicates: Bootstrap resamples.
        catalogue: The public catalogue as Parquet, if not as the mapping files say.
        data_seed: Of made-up data.
    """

    scenario: str | None
    data: tuple[Path, ...]
    epsilons: tuple[str, ...]
    delta: str
    seeds: int
    strategies: tuple[StrategyChoice, ...]
    modes: tuple[str, ...]
    protocol: str | None = None
    places: tuple[int, ...] = (10, 20)
    refusal_share: float | None = None
    libraries: bool = True
    replicates: int = REPLICATES
    catalogue: Path | None = None
    data_seed: int = 1

    def __post_init__(self) -> None:
        if (self.scenario is None) == (not self.data):
            raise UsageError(
                "An evaluation is of a scenario or of mapped data.",
                remedy="Give either --scenario NAME or --data MAPPING.toml.",
            )


@dataclass(frozen=True, eq=False)
class Evaluation:
    """An evaluation whose data are read, split and found without leaks.

    Attributes:
        request: What is asked.
        data: The data.
        split: How purchases are split.
        folds: The splits.
        metrics: What is measured.
        settings: What is trained.
        contenders: Who is measured.
        omitted: What is asked for and not measured.
    """

    request: EvaluationRequest
    data: EvaluationData = field(repr=False)
    split: Split
    folds: Sequence[Fold] = field(repr=False)
    metrics: Metrics
    settings: Sequence[Setting] = field(repr=False)
    contenders: Sequence[Contender] = field(repr=False)
    omitted: Sequence[Omission] = field(repr=False)

    @property
    def refusal_share(self) -> float:
        """Share of customers who refuse training."""
        asked = self.request.refusal_share
        return self.data.refusal_share if asked is None else asked

    @property
    def digest(self) -> str:
        """SHA-256 of all that each measured part follows from, in hex."""
        return evaluation_digest(
            self.folds,
            self.split,
            self.settings,
            self.contenders,
            self.metrics,
            self.refusal_share,
        )

    def result(self, progress: Progress, parts: Parts | None = None) -> dict[str, Any]:
        """Measures.

        Args:
            progress: Called as the study goes on.
            parts: Where what was measured before is, and what is measured now is kept; None keeps
                nothing.

        Returns:
            A dictionary that JSON can hold; docs/data-scientist.md has its fields.

        Raises:
            StorageError: What is measured cannot be kept.
        """
        measured = measure(
            self.data,
            self.folds,
            self.split,
            self.contenders,
            seeds=range(1, self.request.seeds + 1),
            metrics=self.metrics,
            rounds=max(setting.plan.total_rounds for setting in self.settings),
            refusal_share=self.refusal_share,
            progress=progress,
            parts=parts,
        )
        request = self.request
        results = Results(measured, n_seeds=request.seeds, replicates=request.replicates)
        return {
            **_head(request, self.data, self.split, self.folds, self.metrics),
            "refusal_share": self.refusal_share,
            "plans": [_plan(setting) for setting in self.settings],
            "methods": results.methods(),
            "rows": results.rows(),
            "segments": results.segments(),
            "refusals": results.refusals(),
            "omitted": [{"what": each.what, "why": each.why} for each in self.omitted],
            "leak_checks": list(CHECKS),
            "notes": _notes(self.data, measured),
        }


def run_evaluation(request: EvaluationRequest, progress: Progress) -> dict[str, Any]:
    """Evaluates, after checking that nothing leaks; keeps nothing on disk.

    Raises:
        FedprefError: As in `prepare`.
    """
    return prepare(request).result(progress)


def prepare(request: EvaluationRequest) -> Evaluation:
    """Reads and splits the data, and checks that nothing leaks.

    Args:
        request: What is to be evaluated.

    Raises:
        InputError: The data cannot be read or split, an option is out of range, or a check found a
            leak.
        QualityGateError: A store is below the quality threshold.
        UsageError: There is no such scenario.
    """
    metrics = Metrics(request.places)
    data = _data_of(request)
    split = Split(request.protocol or data.protocol)
    settings, omitted = settings_of(
        data,
        split,
        strategies=request.strategies,
        modes=require_modes(request.modes),
        epsilons=request.epsilons,
        delta=request.delta,
    )
    if not settings:
        raise InputError(
            f"Nothing is left to be measured: {omitted[0].what}: {omitted[0].why}",
            remedy="Choose local noise, or another strategy.",
        )
    folds = folds_of(data, split)
    require_no_leaks(folds)
    contenders, left_out = _contenders(request, data, split, settings)
    return Evaluation(
        request, data, split, folds, metrics, settings, contenders, (*omitted, *left_out)
    )


def _data_of(request: EvaluationRequest) -> EvaluationData:
    if request.scenario is None:
        return mapped_data(request.data, request.catalogue)
    scenario = find_scenario(request.scenario)
    with tempfile.TemporaryDirectory(prefix="fedpref-evaluation-") as folder:
        return scenario_data(scenario, Path(folder), seed=request.data_seed)


def _contenders(
    request: EvaluationRequest, data: EvaluationData, split: Split, settings: Sequence[Setting]
) -> tuple[list[Contender], list[Omission]]:
    reference: RunPlan = plan_of(
        data,
        split,
        strategy=FACTORS,
        mode=LOCAL,
        epsilon=request.epsilons[0],
        delta=request.delta,
    )
    own = own_contenders(settings, reference)
    if not request.libraries:
        return own, []
    libraries, left_out = library_contenders(by_time=split is Split.TEMPORAL)
    return [*own, *libraries], left_out


def _head(
    request: EvaluationRequest,
    data: EvaluationData,
    split: Split,
    folds: Sequence[Fold],
    metrics: Metrics,
) -> dict[str, Any]:
    learnt = {sid for fold in folds for each in fold.train.values() for sid in each.sids}
    return {
        "v": _FORMAT,
        "data": {
            "name": data.name,
            "title": data.title,
            "items": data.catalogue.n_items,
            "catalogue": data.catalogue.digest,
            "regions": {region.name: region.n_customers for region in data.regions},
            "planned_customers": data.planned_customers,
            "public": data.is_public,
        },
        "protocol": split.value,
        "folds": len(folds),
        "customers": {"learnt": len(learnt), "asked": n_asked(folds)},
        "unit": UNIT_AND_RELATION,
        "delta": request.delta,
        "seeds": list(range(1, request.seeds + 1)),
        "replicates": request.replicates,
        "places": list(metrics.places),
        "main_metric": metrics.main,
    }


def _plan(setting: Setting) -> dict[str, Any]:
    """A plan's public constants, as far as they differ between settings."""
    plan = setting.plan
    return {
        "setting": setting.key,
        "strategy": plan.strategy,
        "mode": plan.mode,
        "epsilon": plan.epsilon,
        "vocabulary_size": plan.vocabulary_size,
        "rank": plan.rank,
        "total_rounds": plan.total_rounds,
        "mechanisms": [
            {
                "name": each.name,
                "noise_multiplier": each.noise_multiplier,
                "clipping_norm": each.clipping_norm,
                "sampling_probability": each.sampling_probability,
            }
            for each in plan.mechanisms
        ],
    }


def _notes(data: EvaluationData, measured: Measured) -> list[str]:
    l2 = ", ".join(f"{each:g}" for each in dict.fromkeys(measured.ease_l2))
    return [
        _PUBLIC_NOTE if data.is_public else _PRIVATE_NOTE,
        *data.notes,
        _L2_NOTE.format(l2=l2),
    ]


def write_result(result: dict[str, Any], out: Path) -> tuple[Path, Path]:
    """Writes ``evaluation.json`` and ``privacy-utility.svg`` into a folder, each whole or not.

    Raises:
        StorageError: The disk refuses.
    """
    written, drawn = out / RESULT_NAME, out / PICTURE_NAME
    text = json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False)
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_durably(written, text.encode() + b"\n", mode=0o644)
        write_durably(drawn, picture(result).encode(), mode=0o644)
    except OSError as error:
        raise StorageError(
            f"The evaluation cannot be written to {out}: {error.strerror}.",
            remedy="Free some space, or choose another folder with --out.",
        ) from error
    return written, drawn


def evaluate_into(
    request: EvaluationRequest, out: Path | None, console: Console
) -> tuple[dict[str, Any], tuple[Path, Path]]:
    """Evaluates with a bar on a terminal, and writes the result; goes on where one was interrupted.

    Args:
        request: What is to be evaluated.
        out: The folder of the result, and until there is one of what is measured; None for one
            named by the data.
        console: Where progress is shown.

    Returns:
        The result, and the files of `write_result`.

    Raises:
        StorageError: The disk refuses, or another command is working in the folder.
        FedprefError: As in `prepare`.
    """
    with shown_progress(console, "evaluation") as show:
        evaluation = prepare(request)
        folder = out or Path("runs") / f"evaluation-{evaluation.data.name}"
        with open_run_folder(folder):
            unfinished = KeptParts(folder / UNFINISHED / evaluation.digest)
            if unfinished.count:
                console.print(f"{unfinished.count} parts are measured already: going on.")
            result = evaluation.result(show, unfinished)
            files = write_result(result, folder)
            unfinished.remove()
    return result, files
