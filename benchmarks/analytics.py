"""What analytics promise at ε = 1 in total: top lists, scenes, cuts, and what intervals cover."""

from __future__ import annotations

from benchmarks.results import Bar, Figure
from simulations.analytics_study import CUSTOMERS, TOP, coverage, one_region, retail

DRAWS = 5_000
_REGION = f"a region of {CUSTOMERS:,}"
RETAIL_TOP = Bar(f"top-{TOP} categories, retail-5, distributed noise: precision", "", 0.9, True)
TOP_LIST = Bar(f"top-{TOP} categories, {_REGION}: precision", "", 0.9, True)
SCENES = Bar(f"daypart × weekday shares, {_REGION}: worst cell off", "points", 1)
CUTS = Bar(f"recency and frequency cuts, {_REGION}: worst off", "percentiles", 2)
LEAST = Bar("95% intervals: least covered of a question", "%", 94, True)
MOST = Bar("… most covered of one", "%", 96)

BARS = (RETAIL_TOP, TOP_LIST, SCENES, CUTS, LEAST, MOST)


def measure() -> dict[str, Figure]:
    """Measures every bar of this area."""
    everywhere, region = retail(), one_region(CUSTOMERS, 1)
    covered = coverage(CUSTOMERS, 1, draws=DRAWS)
    least, most = (choose(covered, key=lambda name: covered[name]) for choose in (min, max))
    figures = {
        RETAIL_TOP: Figure(everywhere.top_precision, f"stated {everywhere.top_stated:.3f}"),
        TOP_LIST: Figure(region.top_precision, f"stated {region.top_stated:.3f}"),
        SCENES: Figure(region.share_points, "in 95 of 100 draws of noise"),
        CUTS: Figure(region.cut_percentiles, "in 95 of 100 draws of noise"),
        LEAST: Figure(100 * covered[least], f"{least}, {DRAWS:,} draws"),
        MOST: Figure(100 * covered[most], f"{most}, {DRAWS:,} draws"),
    }
    return {bar.name: figure for bar, figure in figures.items()}
