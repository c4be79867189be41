"""A run's records as the report gets them: five regions, five rounds, a refusal, an incident."""

from __future__ import annotations

import hashlib
from typing import Any

from tests.support.report_metrics import metrics

REGIONS = (
    # name, jurisdiction, customers, refused, withdrawals before rounds 2, 3 and 4
    ("region-1", "DE", 726, 44, (7, 9, 6)),
    ("region-2", "FR", 631, 38, (5, 4, 10)),
    ("region-3", "IE", 393, 24, (4, 5, 3)),
    ("region-4", "NL", 364, 22, (3, 6, 2)),
    ("region-5", "SE", 355, 21, (0, 5, 6)),
)
EPSILONS = ("2.806113", "4.519377", "5.891502", "7.014858", "7.999214")
N_ITEMS = 91_418
VOCABULARY, RANK = 200, 8


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def settings() -> dict[str, Any]:
    return {
        "run_id": "retail-5-20261103-140501-a3f09c",
        "title": "2,469 real households of a grocery chain, in five regions by home store",
        "scenario": "retail-5",
        "strategy": "factors",
        "epsilon": "8",
        "delta": "0.000001",
        "epsilon_cap": "8",
        "seed": 1,
        "engine": "inprocess",
        "refusal_share": "0.06",
        "withdrawal_share": "0.03",
        "quality_seeds": 5,
    }


def plan() -> dict[str, Any]:
    return {
        "v": "fedpref-plan/1",
        "run_id": settings()["run_id"],
        "federation": "retail-5.example",
        "scenario": "retail-5",
        "model": "preference-model",
        "strategy": "factors",
        "local_training": None,
        "early_stop": None,
        "mode": "local",
        "aggregation": {"rule": "sum", "tolerated": 0, "honest_survivors_min": 0},
        "regions": [name for name, *_ in REGIONS],
        "quorum": 3,
        "purpose": "fedpref:FederatedTraining",
        "catalogue": digest("catalogue"),
        "n_items": N_ITEMS,
        "train_from": "2016-12-26T05:00:00.000Z",
        "train_until": "2017-11-27T05:00:00.000Z",
        "epsilon": "8",
        "delta": "0.000001",
        "neighboring_relation": "add-or-remove-one-customer",
        "privacy_unit": "customer",
        "vocabulary_size": VOCABULARY,
        "rank": RANK,
        "training_rounds": 4,
        "popularity_share": "0.15",
        "mechanisms": [
            {
                "name": "popularity",
                "rounds": [1],
                "steps": 1,
                "noise_multiplier": "1.706131",
                "clipping_norm": "1",
                "sampling_probability": "1",
                "grid_exponent": -12,
            },
            {
                "name": "factors",
                "rounds": [2, 3, 4, 5],
                "steps": 1,
                "noise_multiplier": "1.433402",
                "clipping_norm": "0.3",
                "sampling_probability": "1",
                "grid_exponent": -12,
            },
        ],
        "row_exponent": "-0.25",
        "init_seed": 1,
        "round_timeout_s": 120,
        "planned_customers": 2500,
    }


def history() -> dict[str, Any]:
    return {
        "v": "fedpref-history/1",
        "run": settings()["run_id"],
        "rounds": [_round(number) for number in range(1, 6)],
        "regions": [_region(number) for number in range(len(REGIONS))],
        "server": {"log_size": 8, "log_root": digest("server")},
        "seconds": {"provisioned": 17.402, "trained": 6.911, "evaluated": 96.27, "finished": 3.2},
        "peak_memory_bytes": 1_483_210_752,
        "incidents": [
            {
                "party": "server",
                "reason": "reply-refused",
                "detail": "region-4: factor_gradient has 1,599 rows, the plan has 200.",
                "time": "2026-11-03T14:05:24.120Z",
            }
        ],
    }


def _round(number: int) -> dict[str, Any]:
    start, seconds = ((18_000, 2.412), (20_420, 0.911), (21_340, 0.874), (22_230, 1.204))[
        min(number, 4) - 1
    ]
    start += 1_260 * (number == 5)
    mechanism = "popularity" if number == 1 else "factors"
    return {
        "round": number,
        "mechanism": mechanism,
        "start": f"2026-11-03T14:05:{start // 1000:02d}.{start % 1000:03d}Z",
        "end": f"2026-11-03T14:05:{(start + round(seconds * 1000)) // 1000:02d}."
        f"{(start + round(seconds * 1000)) % 1000:03d}Z",
        "seconds": seconds,
        "regions": [_part(region, number, mechanism) for region in range(len(REGIONS))],
        "model_in": digest(f"model {number - 1}"),
        "model_out": digest(f"model {number}"),
    }


def _part(region: int, number: int, mechanism: str) -> dict[str, Any]:
    name, _, customers, refused, withdrawals = REGIONS[region]
    if (name, number) == ("region-4", 3):
        return {"region": name, "status": "refused", "reason": "update-shape"}
    eligible = customers - refused - sum(withdrawals[: max(0, number - 1)])
    low = 1 << (eligible.bit_length() - 1)
    array = (
        {"name": "popularity", "dtype": "<f4", "shape": [N_ITEMS]}
        if mechanism == "popularity"
        else {"name": "factor_gradient", "dtype": "<f4", "shape": [VOCABULARY, RANK]}
    )
    return {
        "region": name,
        "status": "accepted",
        "reason": None,
        "n_bucket": f"{low}-{2 * low - 1}",
        "eligible": eligible,
        "withdrawn_before": withdrawals[number - 2] if 2 <= number <= 4 else 0,
        "epsilon_run": EPSILONS[number - 1],
        "bytes": 4 * (N_ITEMS if mechanism == "popularity" else VOCABULARY * RANK),
        "arrays": [array],
        "update": digest(f"{name} {number}"),
    }


def _region(number: int) -> dict[str, Any]:
    name, jurisdiction, customers, refused, withdrawals = REGIONS[number]
    read = 590 * customers
    away, beyond, bad = read // 18, read // 41, 37 * number
    return {
        "region": name,
        "jurisdiction": jurisdiction,
        "customers": customers,
        "consented": customers - refused,
        "refused": refused,
        "withdrawn": sum(withdrawals),
        "epsilon_spent": EPSILONS[-1],
        "epsilon_cap": "8",
        "delta": "0.000001",
        "quality": {
            "region": name,
            "origin": "transactions.parquet",
            "rows_read": read,
            "rows_out_of_home": away,
            "rows_out_of_scope": beyond,
            "rows_in_scope": read - away - beyond,
            "rows_accepted": read - away - beyond - bad,
            "reasons": {"quantity-out-of-range": bad - 3 * number, "duplicate-row": 3 * number}
            if bad
            else {},
            "score": f"{1 - bad / (read - away - beyond):.6f}",
            "threshold": "0.98",
        },
        "log_size": 3 + customers + sum(withdrawals) + 1 + 15,
        "log_root": digest(name),
    }


def verdict(*, verified: bool = True) -> dict[str, Any]:
    from common.audit.verify.verdict import BUDGET, STEPS, Findings, RootKey

    findings = Findings()
    for step in range(len(STEPS)):
        findings.begin(step)
        findings.count(step, "entries", 2_640)
    findings.note("No root key was named: the keys are those found in the bundle.")
    if not verified:
        findings.fail(
            BUDGET, "charge-after-release", "The release comes before its charge.",
            party="region-2", index=701,
        )  # fmt: skip
    keys = tuple(RootKey(digest(f"root {number}"), pinned=False) for number in (1, 2))
    return findings.verdict("retail-5.example", settings()["run_id"], keys).to_record()


def report_inputs() -> dict[str, dict[str, Any]]:
    """All arguments of `write_report` but the path."""
    return {
        "settings": settings(),
        "plan": plan(),
        "history": history(),
        "metrics": metrics(),
        "verdict": verdict(),
    }
