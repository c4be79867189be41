"""The model card: what a published model is, and is not for, by public numbers alone.

It is written with every published model, as JSON for programs and Markdown for people. The form
follows Mitchell et al., "Model Cards for Model Reporting" (2019). What it says comes from the run
plan and from the coordinator's log, which all parties may read: written again, it is the same.
No figure of quality is among them. One would be computed from customers' records, and would have to
be noised and charged before it left a region.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, Decimal
from pathlib import Path

from common import canonical_json
from common.audit.log import AuditLog
from common.canonical_json import JsonValue
from common.durable_file import write_durably
from common.envelope import Envelope, verify_envelope
from common.errors import InputError, StorageError
from common.plan import Mechanism, RunPlan
from server.config import SERVER_PARTY, ServerHome
from server.model_card_page import LIMITS, NOT_FOR, USES, card_page
from server.robust_noise import noise_gain
from server.run_figures import epsilon_after

CARD_JSON = "model-card.json"
CARD_PAGE = "model-card.md"
#: A run's results that hold no more than the public numbers of plan and log.
CARD_FILES = (CARD_JSON, CARD_PAGE)

_VERSION = "fedpref-model-card/1"
_MARKS = (b'"application/vnd.fedpref.model+json"', b'"application/vnd.fedpref.aggregate+json"')
_NO_MODEL_REMEDY = "Let the run finish: fedpref-server status."


@dataclass(frozen=True)
class ModelCard:
    """A published model's card.

    Attributes:
        record: What it says, as canonical JSON values; decimals are strings.
    """

    record: Mapping[str, JsonValue] = field(repr=False)

    def files(self) -> dict[str, bytes]:
        """The card's files, by name."""
        return {
            CARD_JSON: canonical_json.encode(dict(self.record)),
            CARD_PAGE: card_page(self.record).encode(),
        }

    def write(self, folder: Path) -> None:
        """Writes the card's files, each whole or not at all; an earlier card is replaced.

        Raises:
            StorageError: The disk refuses.
        """
        self.write_as({name: folder / name for name in CARD_FILES})

    def write_as(self, paths: Mapping[str, Path]) -> None:
        """Writes the card's files under other names, by their own.

        Raises:
            StorageError: The disk refuses.
        """
        for name, data in self.files().items():
            try:
                write_durably(paths[name], data, mode=0o644)
            except OSError as error:
                raise StorageError(
                    f"The model card cannot be written to {paths[name]}: {error.strerror}.",
                    remedy="Free disk space; the same command then writes it.",
                ) from error


def card_of(home: ServerHome) -> ModelCard:
    """The card of the model that a run has published, from its plan and the coordinator's log.

    Args:
        home: The coordinator's home, for the run.

    Raises:
        InputError: The run has published no model.
        VerificationError: An entry is not signed by the coordinator.
    """
    plan = home.read_plan()
    published: Mapping[str, JsonValue] | None = None
    aggregates: list[Mapping[str, JsonValue]] = []
    for kind, record in _records(home, plan.run_id):
        if kind == "model":
            published = record
        else:
            aggregates.append(record)
    if published is None:
        raise InputError(f"The run {plan.run_id} has published no model.", remedy=_NO_MODEL_REMEDY)
    return model_card(plan, published, aggregates)


def model_card(
    plan: RunPlan,
    published: Mapping[str, JsonValue],
    aggregates: Iterable[Mapping[str, JsonValue]],
) -> ModelCard:
    """The card of a model.

    Args:
        plan: The run plan.
        published: The record of its ``fedpref-model/1`` entry.
        aggregates: Those of the run's ``fedpref-aggregate/1`` entries.
    """
    rounds = [_regions_used(each) for each in aggregates]
    record: dict[str, JsonValue] = {
        "v": _VERSION,
        "federation": plan.federation,
        "run": plan.run_id,
        "scenario": plan.scenario,
        "name": plan.model,
        "model": published["model"],
        "published": published["time"],
        "plan": plan.digest,
        "catalogue": plan.catalogue,
        "catalogue_items": plan.n_items,
        "strategy": plan.strategy,
        "arrays": [
            {"name": spec.name, "dtype": spec.dtype, "shape": list(spec.shape)}
            for spec in plan.model_arrays(plan.total_rounds + 1)
        ],
        "vocabulary_items": plan.vocabulary_size,
        "training": {
            "from": plan.train_from,
            "until": plan.train_until,
            "purpose": plan.purpose,
            "planned_customers": plan.planned_customers,
            "rounds": len(rounds),
            "rounds_planned": plan.total_rounds,
            "quorum": plan.quorum,
            "aggregation": plan.aggregation.name,
            "rule": plan.aggregation.rule,
            "regions": [
                {"region": region, "rounds": sum(region in used for used in rounds)}
                for region in plan.regions
            ],
        },
        "privacy": _privacy(plan, rounds),
        "for": [*USES],
        "not_for": [*NOT_FOR],
        "limits": [*LIMITS],
    }
    return ModelCard(record)


def _privacy(plan: RunPlan, rounds: list[frozenset[str]]) -> dict[str, JsonValue]:
    summed = len(rounds[0]) if rounds else len(plan.regions)
    noise = plan.mechanisms[0].noise_stddev * noise_gain(plan.aggregation, max(1, summed))
    return {
        "unit": plan.privacy_unit,
        "neighboring_relation": plan.neighboring_relation,
        "mode": plan.mode,
        "honest_survivors_min": plan.aggregation.honest_survivors_min,
        "epsilon": plan.epsilon,
        "epsilon_of_rounds": _up(epsilon_after(plan, len(rounds))),
        "delta": plan.delta,
        "mechanisms": [_mechanism(each) for each in plan.mechanisms],
        "popularity_noise_stddev": _up(noise),
    }


def _mechanism(mechanism: Mechanism) -> dict[str, JsonValue]:
    return {
        "name": mechanism.name,
        "rounds": len(mechanism.rounds),
        "steps": mechanism.steps,
        "noise_multiplier": mechanism.noise_multiplier,
        "clipping_norm": mechanism.clipping_norm,
        "sampling_probability": mechanism.sampling_probability,
    }


def _up(value: float) -> str:
    """A number to four places, never rounded down: what it bounds is bounded by what is said."""
    if not math.isfinite(value):
        raise InputError("A figure of the model card is not a finite number.")
    return format(Decimal(value).quantize(Decimal("0.0001"), rounding=ROUND_CEILING), "f")


def _regions_used(aggregate: Mapping[str, JsonValue]) -> frozenset[str]:
    regions = aggregate["regions"]
    used = regions if isinstance(regions, list) else []
    return frozenset(str(each["region"]) for each in used if isinstance(each, dict))


def _records(home: ServerHome, run: str) -> Iterable[tuple[str, Mapping[str, JsonValue]]]:
    """A run's model and aggregate entries in the order of the log, each by its kind."""
    keys = {
        key.key_id: key.public_key
        for key in home.read_registry().keys_of(SERVER_PARTY, "aggregator")
    }
    with AuditLog.open_read_only(home.log) as log:
        for _, data in log.entries():
            if not any(mark in data for mark in _MARKS):
                continue
            envelope = Envelope.decode(data)
            verify_envelope(envelope, keys)
            record = envelope.record()
            if record["run"] == run:
                yield envelope.kind, record
