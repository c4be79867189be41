"""All gates over the real trainer and over the planted faults, as rows of a table."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from client.training.audit_gates.audit import GateResult, Subject, Trainer
from client.training.audit_gates.canary_gate import canary_gate
from client.training.audit_gates.contribution_gate import contribution_gate
from client.training.audit_gates.faults import FAULTS, Fault
from client.training.audit_gates.noise_gates import noise_reuse_gate, noise_size_gate
from client.training.audit_gates.sampling_gate import sampling_gate
from client.training.audit_gates.subjects import subjects
from client.training.local_steps import train_locally
from client.training.noise import NoiseSource, SystemNoise

GATES = {
    "noise size": noise_size_gate,
    "noise reuse": noise_reuse_gate,
    "contribution": contribution_gate,
    "sampling": sampling_gate,
    "canaries": canary_gate,
}
HONEST = "the real trainer"


@dataclass(frozen=True)
class GateRow:
    """What the gates found of one trainer.

    Attributes:
        subject: The model's name.
        trainer: `HONEST`, or the name of a planted fault.
        results: Of each gate, in the order of `GATES`.
        meant: The gates that the fault is planted for; none for the real trainer.
    """

    subject: str
    trainer: str
    results: tuple[GateResult, ...]
    meant: tuple[str, ...] = ()

    @property
    def as_it_should_be(self) -> bool:
        """Whether the real trainer passes all, or all gates meant for the fault catch it."""
        if not self.meant:
            return all(result.passed for result in self.results)
        caught = {result.gate for result in self.results if not result.passed}
        return caught.issuperset(self.meant)


def gate_row(
    subject: Subject,
    fault: Fault | None = None,
    *,
    trainer: Trainer = train_locally,
    noise: NoiseSource | None = None,
    gates: Iterable[str] = tuple(GATES),
) -> GateRow:
    """Audits one trainer.

    Args:
        subject: The model.
        fault: What is planted into the trainer, if anything.
        trainer: The trainer.
        noise: Where it draws from; the operating system's by default.
        gates: Which gates.
    """
    source = SystemNoise() if noise is None else noise
    audited = fault.plant(trainer) if fault else trainer
    results = tuple(GATES[gate](subject, audited, source) for gate in gates)
    name, meant = (fault.name, fault.gates) if fault else (HONEST, ())
    return GateRow(subject.name, name, results, meant)


def gate_table(names: Iterable[str] = ()) -> list[GateRow]:
    """The real trainer and every planted fault under every gate.

    Args:
        names: The models to audit; all of the family by default.
    """
    wanted = set(names)
    return [
        gate_row(subject, fault)
        for subject in subjects()
        if not wanted or subject.name in wanted
        for fault in (None, *FAULTS)
    ]


def as_text(rows: list[GateRow]) -> str:
    """The table in plain text: each gate's statistic, × where it raises the alarm.

    Args:
        rows: At least one, all of the same gates.
    """
    gates = [result.gate for result in rows[0].results]
    heads = ["model", "trainer", *gates, "as it should be"]
    limits = ["", "threshold", *(_number(result.threshold) for result in rows[0].results), ""]
    lines = [heads, limits]
    lines += [
        [
            row.subject,
            row.trainer,
            *(_number(each.statistic) + ("  " if each.passed else " ×") for each in row.results),
            "yes" if row.as_it_should_be else "NO",
        ]
        for row in rows
    ]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _number(value: float) -> str:
    if math.isinf(value):
        return "∞"
    return f"{value:.5f}" if value < 2 else f"{value:.2f}"
