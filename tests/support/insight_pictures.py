"""Takes the pictures of the documentation from the page of insights of a finished run.

    python -m tests.support.insight_pictures PAGE.html docs/images

``insights.png`` is the top of the page with its first chart, ``insights-wishes.png`` the plane of a
Kano survey.
"""

from __future__ import annotations

import sys
from pathlib import Path

from playwright.sync_api import FloatRect, Page

from tests.support.chromium import chromium

WIDTH, HEIGHT, MARGIN, SCALE = 1280, 1500, 22, 1.5


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
        plane = _box(page, "section[aria-labelledby=wishes] .plane-and-list")
        around = {
            "x": plane["x"] - MARGIN,
            "y": plane["y"] - MARGIN,
            "width": plane["width"] + 2 * MARGIN,
            "height": plane["height"] + 2 * MARGIN,
        }
        page.screenshot(path=out / "insights-wishes.png", full_page=True, clip=around)


def _box(page: Page, selector: str) -> FloatRect:
    box = page.locator(selector).first.bounding_box()
    if box is None:
        raise ValueError(f"The page shows no {selector}.")
    return box


if __name__ == "__main__":
    take_pictures(Path(sys.argv[1]), Path(sys.argv[2]))
