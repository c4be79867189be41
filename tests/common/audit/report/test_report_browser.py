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


@pytest.fixture(scope="module")
def files(
    pages: dict[tuple[str, str], str], tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, str], Path]:
    folder = tmp_path_factory.mktemp("pages")
    for (name, lang), html in pages.items():
        (folder / f"{name}.{lang}.html").write_text(html, encoding="utf-8")
    return {key: folder / f"{key[0]}.{key[1]}.html" for key in pages}


@pytest.fixture
def visit(browser: Browser, files: dict[tuple[str, str], Path]) -> Iterator[Visit]:
    """Opens a page; at the end none may have complained, or asked for anything but itself."""
    with still_pages(browser) as open_page:

        def visit(name: str, lang: str = "en", **how: Any) -> Page:
            return open_page(files[name, lang], **how)

        yield visit


@pytest.mark.parametrize("width", [320, 390, 820, 1280])
def test_nothing_sticks_out_at_any_width(visit: Visit, width: int) -> None:
    for name, lang in (("eventful", "en"), ("altered", "zh")):
        page = visit(name, lang, width=width)
        assert sticks_out(page) <= 0
        page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
        assert sticks_out(page) <= 0


# Axe looks at every piece of text and takes seconds a page: one of each kind of page is enough for
# every day.
@pytest.mark.parametrize(
    ("name", "lang", "scheme", "width"),
    [
        ("altered", "zh", "dark", 390),
        ("no-registry", "en", "light", 1280),
        pytest.param("eventful", "en", "light", 1280, marks=pytest.mark.slow),
        pytest.param("eventful", "zh", "dark", 390, marks=pytest.mark.slow),
        pytest.param("altered", "en", "light", 1280, marks=pytest.mark.slow),
        pytest.param("cross-border", "en", "light", 390, marks=pytest.mark.slow),
    ],
)
def test_axe_finds_no_fault(visit: Visit, name: str, lang: str, scheme: str, width: int) -> None:
    page = visit(name, lang, scheme=scheme, width=width)
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    found = Axe().run(page).response["violations"]
    serious = [
        (each["id"], each["nodes"][0]["html"])
        for each in found
        if each["impact"] in ("serious", "critical", "moderate")
    ]
    assert serious == []


def test_text_is_large_enough_on_a_phone(visit: Visit) -> None:
    smallest = visit("eventful", width=390).evaluate(
        """() => {
            document.querySelectorAll('details').forEach(each => each.open = true);
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


def test_landmarks_names_and_the_keyboard(visit: Visit) -> None:
    page = visit("eventful")
    for role in ("banner", "navigation", "main", "contentinfo"):
        assert page.get_by_role(role).count() == 1, role
    assert page.get_by_role("heading", name="Verified", exact=True).count() == 1
    assert page.get_by_role("img").count() >= 6
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the report"
    page.keyboard.press("Enter")
    assert page.evaluate("location.hash") == "#main"


def test_dark_readers_get_a_dark_page(visit: Visit) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    assert visit("eventful").evaluate(ground) == "rgb(250, 249, 245)"
    assert visit("eventful", scheme="dark").evaluate(ground) == "rgb(17, 22, 27)"


def test_print_shows_all_that_the_screen_folds_away_and_cuts_nothing(visit: Visit) -> None:
    page = visit("eventful", "zh", width=680)
    visible = "[...document.querySelectorAll('details table')].map(each => each.checkVisibility())"
    assert set(page.evaluate(visible)) == {False}
    page.emulate_media(media="print")
    assert set(page.evaluate(visible)) == {True}
    cut = page.evaluate(
        """() => [...document.querySelectorAll('.scroll, pre')]
            .filter(each => each.scrollWidth > each.clientWidth + 1)
            .map(each => each.getAttribute('aria-label'))"""
    )
    assert cut == []
    assert page.pdf(prefer_css_page_size=True).startswith(b"%PDF")


def test_hidden_characters_and_rtl_names_leave_their_surroundings_in_order(visit: Visit) -> None:
    isolated = visit("eventful").evaluate(
        """() => [...document.querySelectorAll('bdi')]
            .map(each => getComputedStyle(each).unicodeBidi)"""
    )
    assert set(isolated) == {"isolate"}
