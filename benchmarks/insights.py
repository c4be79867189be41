"""What a page of insights promises at ε = 1 in total, by the plans of questions we ship."""

from __future__ import annotations

from benchmarks.results import Bar, Figure
from simulations.analytics_study import CUSTOMERS, TOP
from simulations.insights_study import coverage, one_region, retail

DRAWS = 20_000
_REGION = f"a region of {CUSTOMERS:,}"
RETAIL_TOP = Bar(f"page, top-{TOP} categories, retail-5, distributed: precision", "", 0.9, True)
TOP_LIST = Bar(f"page, top-{TOP} categories, {_REGION}: precision", "", 0.9, True)
SCENES = Bar(f"page, daypart × weekday shares, {_REGION}: worst cell off", "points", 1)
CUTS = Bar(f"page, recency and frequency cuts, {_REGION}: worst off", "percentiles", 2)
LEAST = Bar("page, 95% intervals: least covered of a question", "%", 94, True)
MOST = Bar("page, … most covered of one", "%", 96)

BARS = (RETAIL_TOP, TOP_LIST, SCENES, CUTS, LEAST, MOST)


def measure() -> dict[str, Figure]:
    """Measures every bar of this area."""
    everywhere, region = retail(), one_region()
    covered = coverage(draws=DRAWS)
    least, most = (choose(covered, key=lambda name: covered[name]) for choose in (min, max))
    draws = "in 95 of 100 draws of noise"
    figures = {
        RETAIL_TOP: Figure(everywhere.top_precision, f"stated {everywhere.top_stated:.3f}"),
        TOP_LIST: Figure(region.top_precision, f"stated {region.top_stated:.3f}"),
        SCENES: Figure(region.share_points, draws),
        CUTS: Figure(region.cut_percentiles, draws),
        LEAST: Figure(100 * covered[least], f"{least}, {DRAWS:,} draws"),
        MOST: Figure(100 * covered[most], f"{most}, {DRAWS:,} draws"),
    }
    return {bar.name: figure for bar, figure in figures.items()}
