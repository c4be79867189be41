"""The page in a real browser: nothing fails, nothing is fetched, nothing is cut off or unnamed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page

from tests.support.chromium import chromium
from tests.support.still_pages import sticks_out, still_pages

LEAST_TEXT_PX = 12.0
Visit = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as opened:
        yield opened


@pytest.fixture
def visit(browser: Browser, insight_pages: dict[str, str], tmp_path: Path) -> Iterator[Visit]:
    """Opens a page; at the end none may have complained, or asked for anything but itself."""
    with still_pages(browser) as open_page:

        def visit(lang: str = "en", **how: Any) -> Page:
            file = tmp_path / f"{lang}.html"
            file.write_text(insight_pages[lang], encoding="utf-8")
            return open_page(file, **how)

        yield visit


@pytest.mark.parametrize("width", [320, 1280])
def test_nothing_sticks_out_and_text_is_large_enough(visit: Visit, width: int) -> None:
    page = visit("zh" if width == 320 else "en", width=width)
    assert sticks_out(page) <= 0
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert sticks_out(page) <= 0
    smallest = page.evaluate(
        """() => {
            const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
            let least = [99, ''];
            while (walker.nextNode()) {
                const box = walker.currentNode.parentElement;
                if (!walker.currentNode.data.trim() || box.closest('sup, title, style')) continue;
                const size = parseFloat(getComputedStyle(box).fontSize);
                if (size < least[0]) least = [size, walker.currentNode.data.trim()];
            }
            return least;
        }"""
    )
    assert smallest[0] >= LEAST_TEXT_PX, smallest


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lang", "scheme", "width"), [("en", "light", 1280), ("zh", "dark", 390), ("en", "dark", 820)]
)
def test_axe_finds_no_fault(visit: Visit, lang: str, scheme: str, width: int) -> None:
    page = visit(lang, scheme=scheme, width=width)
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    serious = [
        (each["id"], each["nodes"][0]["html"])
        for each in Axe().run(page).response["violations"]
        if each["impact"] in ("serious", "critical", "moderate")
    ]
    assert serious == []


def test_landmarks_and_headings(visit: Visit) -> None:
    page = visit("en")
    for role in ("banner", "navigation", "main", "contentinfo"):
        assert page.get_by_role(role).count() == 1, role
    assert page.get_by_role("heading", level=1).count() == 1
    # Every chart has its numbers in words.
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll('svg:not([aria-hidden])')].filter(each =>
            !each.closest('[aria-hidden]') && !each.getAttribute('aria-label')).length"""
    )
    assert unnamed == 0
