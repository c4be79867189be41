"""Where a page of insights is written, and its numbers for programs."""

from __future__ import annotations

import json
from pathlib import Path

from common.audit.report.output import made_by
from common.canonical_json import JsonValue
from common.durable_file import write_durably
from common.errors import InputError, StorageError, UsageError
from server.insights.findings import Findings
from server.insights.page import GENERATOR


def check_output(out: Path) -> None:
    """Checks, before any work is done, that a page may be written to a file.

    Raises:
        UsageError: It would overwrite what is no page of insights.
        InputError: There is no folder for the file.
    """
    if not out.parent.is_dir():
        raise InputError(
            f"There is no folder {out.parent} for the page.", remedy="Make it, or name another."
        )
    if (out.exists() or out.is_symlink()) and not made_by(GENERATOR, out):
        raise UsageError(
            f"{out} exists and is no page of insights.",
            remedy="Name another file, or move that one away.",
        )


def write_page(out: Path, page: str) -> None:
    """Writes a page durably; an earlier one of that name is replaced.

    Raises:
        StorageError: The disk is full or refuses; what was there is as it was.
    """
    try:
        write_durably(out, page.encode("utf-8"), mode=0o644)
    except OSError as error:
        raise StorageError(
            f"The page cannot be written to {out}: {error.strerror}.",
            remedy="Free disk space or correct the folder's mode; then make the page again.",
        ) from error


def answers_json(findings: Findings) -> str:
    """Every answer with its lines, intervals and ε as JSON; those that are noise without lines."""
    answers: list[JsonValue] = []
    for each in findings.all_answers():
        standing = findings.standing(each)
        lines: list[JsonValue] = [line.to_record() for line in each.lines()]
        answers.append(
            {
                "question": each.question.name,
                "scope": each.scope,
                "epsilon": each.epsilon,
                "noise_stddev": f"{each.noise_stddev:.6g}",
                "customers_at_least": each.customers_at_least,
                "shown": standing.shown,
                "lines": lines if standing.shown else [],
            }
        )
    record: dict[str, JsonValue] = {
        "federation": findings.runs[0].federation,
        "runs": [run.run for run in findings.runs],
        "epsilon": findings.epsilon,
        "delta": findings.delta,
        "answers": answers,
    }
    return json.dumps(record, indent=2, ensure_ascii=False)
