"""Takes the pictures of the README from a finished run's report, and prints its figures.

    python -m tests.support.report_pictures runs/demo docs/images

``report.png`` is the top of the page, ``report-quality.png`` its first chart of quality. Printed is
what the README says below the latter, as this run has it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.support.chromium import chromium
from tests.support.report_figures import figures_of_run
from tests.support.still_pages import box_of, cut_around

WIDTH, MARGIN, SCALE = 1280, 22, 1.5


def take_pictures(run: Path, out: Path) -> None:
    """Takes both pictures.

    Args:
        run: The folder of a finished run.
        out: Where the pictures go.
    """
    with chromium() as browser:
        page = browser.new_page(viewport={"width": WIDTH, "height": 900}, device_scale_factor=SCALE)
        page.goto((run / "report.html").resolve().as_uri())
        page.evaluate("document.fonts.ready")
        meaning = box_of(page, "section[aria-labelledby=verdict] .pair")
        top = {"x": 0, "y": 0, "width": WIDTH, "height": meaning["y"] + meaning["height"] + MARGIN}
        page.screenshot(path=out / "report.png", full_page=True, clip=top)
        around = cut_around(page, "section[aria-labelledby=quality] figure")
        page.screenshot(path=out / "report-quality.png", full_page=True, clip=around)


if __name__ == "__main__":
    take_pictures(Path(sys.argv[1]), Path(sys.argv[2]))
    sys.stdout.writelines(f"{line}\n" for line in figures_of_run(Path(sys.argv[1])))
