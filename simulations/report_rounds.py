"""The report's view of the rounds: when, how long, which regions took part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from common.report_charts import Scale, Segment, Tick, bar
from common.timestamps import parse_time
from simulations import report_numbers as numbers

Record = Mapping[str, Any]

_STAGES = {
    "provisioned": "Preparing",
    "trained": "Training",
    "evaluated": "Measuring quality",
    "finished": "Verifying",
}


@dataclass(frozen=True)
class Part:
    """One region's part in a round.

    Attributes:
        region: Its name.
        status: accepted, refused or missing.
        note: The size bucket it stated, or why it took no part.
    """

    region: str
    status: str
    note: str


@dataclass(frozen=True)
class RoundRow:
    """One round."""

    number: int
    mechanism: str
    start: str
    duration: str
    bar: Segment
    parts: tuple[Part, ...]
    model_in: str
    model_out: str

    @property
    def accepted(self) -> int:
        """How many regions took part."""
        return sum(part.status == "accepted" for part in self.parts)


@dataclass(frozen=True)
class RoundsView:
    """All rounds on one time axis, and how long each stage of the run took."""

    rows: tuple[RoundRow, ...]
    ticks: tuple[Tick, ...]
    mechanisms: tuple[tuple[str, int], ...]
    seconds: tuple[tuple[str, float], ...]
    peak_memory: str

    @property
    def all_accepted(self) -> bool:
        """Whether every region took part in every round."""
        return all(row.accepted == len(row.parts) for row in self.rows)


def rounds_view(history: Record) -> RoundsView:
    """Reads the rounds from a run's history."""
    rounds = history["rounds"]
    begin = min((parse_time(each["start"]) for each in rounds), default=0)
    end = max((parse_time(each["end"]) for each in rounds), default=begin)
    scale = Scale(0.0, max((end - begin) / 1000.0, 0.001))
    counted: dict[str, int] = {}
    for each in rounds:
        counted[each["mechanism"]] = counted.get(each["mechanism"], 0) + 1
    return RoundsView(
        rows=tuple(_row(each, begin, scale) for each in rounds),
        ticks=tuple(Tick(tick.x, f"{tick.label} s") for tick in scale.ticks(4)),
        mechanisms=tuple(counted.items()),
        seconds=tuple(
            (_STAGES.get(stage, stage.capitalize()), value)
            for stage, value in history["seconds"].items()
        ),
        peak_memory=numbers.size(history["peak_memory_bytes"]),
    )


def _row(each: Record, begin: int, scale: Scale) -> RoundRow:
    start, end = ((parse_time(each[name]) - begin) / 1000.0 for name in ("start", "end"))
    duration = numbers.seconds(each["seconds"])
    label = f"round {each['round']}, {each['mechanism']}: {duration}"
    return RoundRow(
        number=each["round"],
        mechanism=each["mechanism"],
        start=numbers.clock(each["start"]),
        duration=duration,
        bar=bar(each["mechanism"], label, start, end, scale),
        parts=tuple(_part(part) for part in each["regions"]),
        model_in=each["model_in"],
        model_out=each["model_out"],
    )


def _part(part: Record) -> Part:
    note = part["n_bucket"] if part["status"] == "accepted" else part["reason"] or "no reply"
    return Part(
        part["region"], part["status"], note.replace("-", "–", 1) if note[:1].isdigit() else note
    )
