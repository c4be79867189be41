"""Which steps of the verifier each section of the report rests on, and whether they hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from common.audit.verify.verdict import (
    BUDGET,
    CHAIN,
    COMPLETENESS,
    LOGS,
    MANIFEST,
    RECORDS,
    REGISTRY,
    ROUNDS,
    SUBJECTS,
    Failure,
    Verdict,
)

State = Literal["holds", "incomplete", "broken", "unchecked"]

_ENTRIES = (MANIFEST, REGISTRY, LOGS, RECORDS)

#: The steps without which a section's figures mean nothing.
SECTION_STEPS: Mapping[str, tuple[int, ...]] = {
    "federation": (MANIFEST, REGISTRY),
    "consents": (*_ENTRIES, SUBJECTS),
    "rounds": (*_ENTRIES, SUBJECTS, ROUNDS, CHAIN, COMPLETENESS),
    "released": (*_ENTRIES, BUDGET, COMPLETENESS),
    "budget": (*_ENTRIES, BUDGET, COMPLETENESS),
    "incidents": (*_ENTRIES, COMPLETENESS),
    "withdrawals": (*_ENTRIES, SUBJECTS, ROUNDS),
    "keys": (MANIFEST, REGISTRY),
    "witnesses": (MANIFEST, REGISTRY, LOGS),
    "policies": (*_ENTRIES, BUDGET),
}


@dataclass(frozen=True)
class Trust:
    """Whether a section may be relied on.

    Attributes:
        state: ``broken`` if a step it rests on failed, ``incomplete`` if only completeness did,
            ``unchecked`` if a step could not be carried out, else ``holds``.
        steps: The numbers of those steps.
        failed: The numbers of those that failed.
        failures: The failures found by them.
    """

    state: State
    steps: tuple[int, ...]
    failed: tuple[int, ...]
    failures: tuple[Failure, ...]


def section_trust(verdict: Verdict) -> dict[str, Trust]:
    """What the verdict means for each section of the report."""
    return {name: _trust(verdict, steps) for name, steps in SECTION_STEPS.items()}


def _trust(verdict: Verdict, steps: tuple[int, ...]) -> Trust:
    status = {number: verdict.steps[number].status for number in steps}
    failed = tuple(number for number in steps if status[number] == "failed")
    state: State = "holds"
    if set(failed) - {COMPLETENESS}:
        state = "broken"
    elif "not checked" in status.values():
        state = "unchecked"
    elif failed:
        state = "incomplete"
    failures = tuple(failure for failure in verdict.failures if failure.step in failed)
    return Trust(state, steps, failed, failures)
