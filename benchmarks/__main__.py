"""``python -m benchmarks [AREA…]``: measures, prints each figure beside its bar, keeps them."""

from __future__ import annotations

import sys

from benchmarks import (
    analytics,
    audit,
    data,
    demo,
    federation,
    insights,
    node,
    profiles,
    recommend,
    training,
)
from benchmarks.results import Figure, report

AREAS = {
    "demo": demo,
    "audit": audit,
    "training": training,
    "federation": federation,
    "data": data,
    "node": node,
    "recommend": recommend,
    "profiles": profiles,
    "analytics": analytics,
    "insights": insights,
}


def main(names: list[str]) -> int:
    """Measures the named areas, or all."""
    unknown = set(names) - AREAS.keys()
    if unknown:
        print(f"No area {', '.join(sorted(unknown))}; there are {', '.join(AREAS)}.")  # noqa: T201
        return 2
    measured: dict[str, Figure] = {}
    for name, area in AREAS.items():
        if not names or name in names:
            measured.update(area.measure())
    return 0 if report({name: area.BARS for name, area in AREAS.items()}, measured) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
