"""The numbers of a page of insights, for programs."""

from __future__ import annotations

import json

from common.canonical_json import JsonValue
from server.insights.findings import Findings

#: What the page is called where it cannot be written.
KIND = "page of insights"


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
