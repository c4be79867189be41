"""Takes the pictures of the documentation from the page of insights of a finished run.

    python -m tests.support.insight_pictures PAGE.html docs/images

``insights.png`` is the top of the page with its first chart, ``insights-wishes.png`` the plane of a
Kano survey.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.support.chromium import chromium
from tests.support.still_pages import cut_around

WIDTH, HEIGHT, SCALE = 1280, 1500, 1.5


def take_pictures(page_file: Path, out: Path) -> None:
    """Takes both pictures.

    Args:
        page_file: The page.
        out: Where the pictures go.
    """
    with chromium() as browser:
        page = browser.new_page(viewport={"width": WIDTH, "height": 900}, device_scale_factor=SCALE)
        page.goto(page_file.resolve().as_uri())
        page.evaluate("document.fonts.ready")
        top = {"x": 0, "y": 0, "width": WIDTH, "height": HEIGHT}
        page.screenshot(path=out / "insights.png", full_page=True, clip=top)
        around = cut_around(page, "section[aria-labelledby=wishes] .plane-and-list")
        page.screenshot(path=out / "insights-wishes.png", full_page=True, clip=around)


if __name__ == "__main__":
    take_pictures(Path(sys.argv[1]), Path(sys.argv[2]))
