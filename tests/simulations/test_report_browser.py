"""The report in a real browser: nothing fails, nothing is fetched, nothing is cut off."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from simulations.report import write_report
from tests.simulations.test_report import hostile_inputs
from tests.support.chromium import chromium
from tests.support.report_inputs import report_inputs, verdict

LEAST_TEXT_PX = 12.0


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("reports")
    inputs = {
        "verified": report_inputs(),
        "broken": {**report_inputs(), "verdict": verdict(verified=False)},
        "hostile": hostile_inputs(),
    }
    for name, each in inputs.items():
        write_report(folder / f"{name}.html", **each)
    return {name: folder / f"{name}.html" for name in inputs}


class Visit:
    """An open page, and everything that it complained of or asked for."""

    def __init__(self, browser: Browser, path: Path, *, width: int, scheme: str = "light") -> None:
        self.page: Page = browser.new_page(
            viewport={"width": width, "height": 900}, color_scheme=scheme
        )
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(dialog.message))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())
        self.page.evaluate("document.fonts.ready")

    def overflow(self) -> int:
        return self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth")


@pytest.fixture
def visit(browser: Browser, reports: dict[str, Path]) -> Iterator:
    opened: list[Visit] = []

    def open_report(name: str = "verified", *, width: int = 1280, scheme: str = "light") -> Visit:
        opened.append(Visit(browser, reports[name], width=width, scheme=scheme))
        return opened[-1]

    yield open_report
    for each in opened:
        each.page.close()


@pytest.mark.parametrize("name", ["verified", "broken", "hostile"])
def test_it_opens_without_a_complaint_and_asks_for_nothing(visit, reports, name):
    opened = visit(name)
    assert opened.complaints == []
    outside = [url for url in opened.requests if not url.startswith("data:font/")]
    assert outside == [reports[name].as_uri()]
    loaded = opened.page.evaluate("[...document.fonts].map(font => font.status)")
    assert loaded == ["loaded"] * 3


@pytest.mark.parametrize("width", [320, 390, 820, 1280, 1920])
def test_nothing_sticks_out_at_any_width(visit, width):
    opened = visit(width=width)
    assert opened.overflow() <= 0
    opened.page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert opened.overflow() <= 0


def test_the_hostile_page_does_not_stick_out_either(visit):
    assert visit("hostile", width=390).overflow() <= 0


def test_text_is_large_enough_on_a_phone(visit):
    smallest = visit(width=390).page.evaluate(
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


def test_chart_names_and_values_do_not_cover_each_other(visit):
    for width in (390, 1280):
        covered = visit(width=width).page.evaluate(
            """() => [...document.querySelectorAll('.bars > li')].filter(row => {
                const parts = ['.name', '.plot', '.value'].map(name => row.querySelector(name))
                    .filter(part => part).map(part => part.getBoundingClientRect());
                return parts.some((a, i) => parts.slice(i + 1).some(b =>
                    a.left < b.right - 1 && b.left < a.right - 1 &&
                    a.top < b.bottom - 1 && b.top < a.bottom - 1));
            }).map(row => row.innerText)"""
        )
        assert covered == []


def test_landmarks_and_names(visit):
    page = visit().page
    for role in ("banner", "navigation", "main", "contentinfo"):
        assert page.get_by_role(role).count() == 1, role
    nameless = page.evaluate(
        """() => [...document.querySelectorAll('[role=img], [role=region], nav, section')]
            .filter(each => !each.getAttribute('aria-label') &&
                            !document.getElementById(each.getAttribute('aria-labelledby')))
            .map(each => each.outerHTML.slice(0, 80))"""
    )
    assert nameless == []
    assert page.get_by_role("img").count() > 40
    assert page.get_by_role("heading", name="Verified", exact=True).count() == 1
    assert page.get_by_role("table").count() > 10


def test_the_keyboard_reaches_the_report(visit):
    page = visit().page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the report"
    box = page.evaluate("document.activeElement.getBoundingClientRect().toJSON()")
    assert box["left"] >= 0
    page.keyboard.press("Enter")
    assert page.evaluate("location.hash") == "#main"


def test_dark_readers_get_a_dark_page(visit):
    ground = "getComputedStyle(document.body).backgroundColor"
    light = visit().page.evaluate(ground)
    dark = visit(scheme="dark").page.evaluate(ground)
    assert light == "rgb(250, 249, 245)"
    assert dark == "rgb(17, 22, 27)"


def test_print_shows_what_the_screen_folds_away(visit):
    page = visit(width=680).page
    visible = "[...document.querySelectorAll('details table')].map(each => each.checkVisibility())"
    assert set(page.evaluate(visible)) == {False}
    page.emulate_media(media="print")
    assert set(page.evaluate(visible)) == {True}
    cut = page.evaluate(
        """() => [...document.querySelectorAll('.scroll')]
            .filter(each => each.scrollWidth > each.clientWidth)
            .map(each => each.getAttribute('aria-label'))"""
    )
    assert cut == []
