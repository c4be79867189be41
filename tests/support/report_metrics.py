"""A quality study's result as the report gets it, in the shape `run_quality_study` documents."""

from __future__ import annotations

from typing import Any

# method → label, NDCG@10 on new items and on all (None: not measured), whether it has chance.
METHODS: dict[str, tuple[str, float | None, float | None, bool]] = {
    "fedpref": ("fedpref: shared factors alone", 0.0504, 0.1772, True),
    "fedpref_tilt": (
        "fedpref: + local tilt by category and type (new items: as served)",
        0.0539,
        0.1875,
        True,
    ),
    "fedpref_fused": ("fedpref: + tilt, fused with recent own purchases", None, 0.4341, True),
    "no_factors": ("fedpref without its factors", 0.0458, 0.4338, True),
    "popularity": ("Popularity, all regions (number of customers)", 0.0431, 0.1770, False),
    "popularity_recent": (
        "Popularity, all regions, recent purchases (fedpref's rows, no noise)",
        0.0446,
        0.1793,
        False,
    ),
    "popularity_tilt": ("Recent popularity without noise, + tilt", 0.0464, 0.1902, False),
    "popularity_regional": ("Popularity, own region", 0.0437, 0.1781, False),
    "personal_frequency": ("Own purchases by frequency", None, 0.4178, False),
    "personal_recency": (
        "Own purchases, recent ones count more (half-life 12 weeks)",
        None,
        0.4305,
        False,
    ),
    "personal_popularity": (
        "Own recent purchases × a power of popularity without noise",
        None,
        0.4340,
        False,
    ),
    "local_only": ("Each region alone, same ε", 0.0352, 0.4318, True),
    "local_only_no_dp": ("Each region alone, without privacy", 0.0541, 0.4352, False),
    "federated_no_dp": (
        "Federated, without privacy, same sizes as the private model",
        0.0571,
        0.4362,
        False,
    ),
    "centralised_no_dp": (
        "Centralised, without privacy, same sizes as the private model",
        0.0571,
        0.4362,
        False,
    ),
    "centralised_no_dp_large": (
        "Centralised, without privacy, sizes chosen for that",
        0.0590,
        0.4358,
        False,
    ),
    "ease": (
        "EASE, centralised, without privacy (orientation; over 5,000 items)",
        0.0603,
        0.2501,
        False,
    ),
}
_CUSTOMERS = {"new": 2_264, "all": 2_301}
_SCALES = {"ndcg@10": 1.0, "recall@20": 0.81, "hit_rate@10": 4.1}
_REFUSALS_COST = 0.985
_POPULAR_GAIN = 1.03
_SERVED = {"new": "fedpref_tilt", "all": "fedpref_fused"}
_ON_EARLIER_WEEKS = {
    "new": ("fedpref_tilt", "no_factors", "popularity", "popularity_tilt"),
    "all": ("fedpref_fused", "no_factors", "personal_recency", "personal_popularity"),
}


def metrics(
    *, seeds: int = 5, with_refusals: bool = True, with_earlier: bool = True
) -> dict[str, Any]:
    settings = {"no_refusals": {"customers": [2_469] * 5}}
    if with_refusals:
        settings["with_refusals"] = {"customers": [2_320, 2_301, 2_272, 2_245, 2_245]}
    return {
        "seeds": list(range(1, seeds + 1)),
        "replicates": 1000,
        "universe_size": 5000,
        "epsilon": "8",
        "delta": "0.000001",
        "customers": {
            "region-1": {"train": 726, "test": 677},
            "region-2": {"train": 631, "test": 588},
            "region-3": {"train": 393, "test": 366},
            "region-4": {"train": 364, "test": 339},
            "region-5": {"train": 355, "test": 331},
        },
        "settings": settings,
        "methods": [{"method": key, "label": row[0]} for key, row in METHODS.items()],
        "rows": [
            row
            for setting in settings
            for protocol in ("new", "all")
            for universe in ("catalogue", "top-5000")
            for metric in (*_SCALES, "coverage@10")
            for method in METHODS
            for row in _rows(setting, protocol, universe, metric, method, seeds)
        ],
        "earlier": _earlier(seeds) if with_earlier else None,
        "attacks": attacks(),
        "not_applicable": [
            {"method": method, "protocol": "new", "why": "it ranks only own purchases"}
            for method in ("personal_frequency", "personal_recency", "personal_popularity")
        ],
    }


def _earlier(seeds: int) -> dict[str, Any]:
    rows = [
        row
        for protocol, methods in _ON_EARLIER_WEEKS.items()
        for metric in (*_SCALES, "coverage@10")
        for method in methods
        for row in _rows("earlier_weeks", protocol, "catalogue", metric, method, seeds)
    ]
    return {
        "weeks": "44–48",
        "judged": "49–53",
        "note": "Both were seen while the constants were chosen.",
        "customers": 2_449,
        "rows": rows,
    }


def _rows(
    setting: str, protocol: str, universe: str, metric: str, method: str, seeds: int
) -> list[dict[str, Any]]:
    label, new, repeat, has_chance = METHODS[method]
    value = new if protocol == "new" else repeat
    if value is None or (method == "ease" and setting == "with_refusals"):
        return []
    factor = _POPULAR_GAIN if universe == "top-5000" else 1.0
    if setting == "with_refusals" and not method.startswith("personal"):
        factor *= _REFUSALS_COST
    head = {
        "setting": setting,
        "method": method,
        "label": label,
        "protocol": protocol,
        "universe": universe,
        "metric": metric,
    }
    if metric == "coverage@10":
        return [
            {
                **head,
                "mean": 0.0021 * factor,
                "ci_low": None,
                "ci_high": None,
                "per_seed": [0.0021 * factor] * (seeds if has_chance else 1),
                "customers": None,
                "ratio_to_popularity": None,
                "ratio_to_personal_recency": None,
                "ratio_to_served": None,
            }
        ]
    mean = value * factor * _SCALES[metric]
    half = 0.0031 * _SCALES[metric] if protocol == "new" else 0.0094 * _SCALES[metric]
    recency = METHODS["personal_recency"][2] if protocol == "all" else None
    popular = METHODS["popularity"][1 if protocol == "new" else 2]
    spread = [(number - (seeds - 1) / 2) * 0.0004 for number in range(seeds)]
    return [
        {
            **head,
            "mean": mean,
            "ci_low": mean - half,
            "ci_high": mean + half,
            "per_seed": [mean + each for each in spread] if has_chance else [mean],
            "customers": _CUSTOMERS[protocol],
            "ratio_to_popularity": _ratio(value, popular, 0.06),
            "ratio_to_personal_recency": _ratio(value, recency, 0.006),
            "ratio_to_served": _ratio(
                value, METHODS[_SERVED[protocol]][1 if protocol == "new" else 2], 0.004
            ),
        }
    ]


def _ratio(value: float, reference: float | None, half: float) -> dict[str, float] | None:
    if reference is None:
        return None
    ratio = value / reference
    return {"mean": ratio, "ci_low": ratio - half, "ci_high": ratio + half}


def attacks(*, auc: float = 0.512, rate: float = 0.0113, epsilon: float = 2.9) -> dict[str, Any]:
    """What `simulations.privacy_audit.audit_run` gives."""

    def risk(area: float, found: float) -> dict[str, Any]:
        return {
            "auc": area,
            "auc_low": area - 0.01,
            "auc_high": area + 0.01,
            "rates": [
                {
                    "false_positive_rate": share,
                    "true_positive_rate": found * share / 0.01,
                    "low": found * share / 0.02,
                    "high": min(1.0, found * share / 0.005),
                }
                for share in (0.001, 0.01)
            ],
        }

    return {
        "models": 16,
        "customers": 2469,
        "epsilon": "8",
        "delta": "0.000001",
        "allowed": {
            "auc": 0.99966,
            "rates": [
                {"false_positive_rate": share, "true_positive_rate": most}
                for share, most in ((0.001, 0.99966), (0.01, 0.99967))
            ],
        },
        "membership": {"with_noise": risk(auc, rate), "without_noise": risk(0.741, 0.1934)},
        "canaries": {
            "epsilon_at_least": epsilon,
            "confidence": 0.95,
            "canaries": 299,
            "runs": 24,
        },
        "within": epsilon <= 8,
    }
