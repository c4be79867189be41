"""Pages from files in a real browser, and what each of them must leave undone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, FloatRect, Page

#: Opens a file: ``open_page(path, width=1280, scheme="light")``.
OpenPage = Callable[..., Page]
# Around what is cut out of a page, in CSS pixels.
_MARGIN = 22


@contextmanager
def still_pages(browser: Browser) -> Iterator[OpenPage]:
    """Opens pages; at the end none may have complained, or asked for anything but itself."""
    opened: list[Page] = []
    complaints: list[str] = []
    requests: list[str] = []
    wanted: list[str] = []

    def open_page(file: Path, *, width: int = 1280, scheme: str = "light") -> Page:
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        opened.append(page)
        wanted.append(file.resolve().as_uri())
        page.goto(wanted[-1])
        page.evaluate("document.fonts.ready")
        return page

    yield open_page
    for page in opened:
        page.close()
    assert complaints == []
    assert [url for url in requests if not url.startswith("data:font/")] == wanted


def sticks_out(page: Page) -> int:
    """By how many pixels a page is wider than its window."""
    return int(page.evaluate("document.documentElement.scrollWidth - window.innerWidth"))


def box_of(page: Page, selector: str) -> FloatRect:
    """Where the first element is that a selector finds."""
    box = page.locator(selector).first.bounding_box()
    if box is None:
        raise ValueError(f"The page shows no {selector}.")
    return box


def cut_around(page: Page, selector: str) -> FloatRect:
    """An element's box with a margin around it, for a picture of it."""
    box = box_of(page, selector)
    return {
        "x": box["x"] - _MARGIN,
        "y": box["y"] - _MARGIN,
        "width": box["width"] + 2 * _MARGIN,
        "height": box["height"] + 2 * _MARGIN,
    }
