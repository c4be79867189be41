"""Takes the picture of the documentation from the operator's page, on a finished run.

    python -m tests.support.recommender_pictures RUN docs/images

``recommender.png`` has the page on a desk, after a live event moved a customer's list, and the same
on a phone, in Chinese, beside it. The run's region gets a model installed: take a copy.
"""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path

from playwright.sync_api import Browser, Page

from client.engine.home import RegionHome
from client.recommend.api import Serving
from client.recommend.app import create_app
from client.recommend.config import ServiceSettings
from client.recommend.recommender import Recommender
from client.recommend.release import install_release
from client.recommend.settings import HistorySettings, RecommendSettings
from client.recommend.try_page import TryPage
from tests.support.chromium import chromium
from tests.support.consent_pictures import side_by_side
from tests.support.consent_service import free_port, serving

TOKEN = "only-for-the-picture"
REGION = "region-1"
HEIGHT, DESK_WIDTH, PHONE_WIDTH = 1000, 1260, 390


def take_picture(run: Path, out: Path) -> None:
    """Takes the picture.

    Args:
        run: A copy of a finished run.
        out: The folder it goes to.
    """
    home = RegionHome.read(run / "regions" / REGION)
    install_release(home, run)
    settings = RecommendSettings(history=HistorySettings(until="model"))
    port = free_port()
    with closing(Recommender.open(home, settings)) as recommender, chromium() as browser:
        to_serve = Serving(
            recommender, TOKEN, home.region, dayparts=tuple(settings.scenes.dayparts)
        )
        service = ServiceSettings()
        page = TryPage(
            to_serve,
            lambda: recommender.served.catalogue,
            lambda: recommender.customers(50),
            origin=f"http://127.0.0.1:{port}",
            session_s=service.session_s,
            idle_s=service.idle_s,
        )
        app = create_app(to_serve, service, hosts={f"127.0.0.1:{port}"}, try_page=page)
        with serving(app, port) as url:
            pictures = [
                _picture(browser, url, "en", DESK_WIDTH),
                _picture(browser, url, "zh", PHONE_WIDTH),
            ]
            widths = (DESK_WIDTH, PHONE_WIDTH)
            side_by_side(browser, pictures, out / "recommender.png", widths=widths)


def _picture(browser: Browser, url: str, lang: str, width: int) -> bytes:
    context = browser.new_context(
        viewport={"width": width, "height": HEIGHT}, locale=lang, reduced_motion="reduce"
    )
    page = context.new_page()
    page.goto(f"{url}/try")
    page.locator("#token").fill(TOKEN)
    page.locator("#token").press("Enter")
    page.locator(".picks .small-button").first.click()
    page.wait_for_selector("#kind")
    _view_the_last(page)
    page.evaluate("document.fonts.ready")
    picture = page.screenshot()
    context.close()
    return picture


def _view_the_last(page: Page) -> None:
    """The customer looks at the item in the last place, which moves it."""
    last = page.locator(".row").last
    last.get_by_role("button").first.click()
    page.wait_for_selector(".move .up")


if __name__ == "__main__":
    take_picture(Path(sys.argv[1]), Path(sys.argv[2]))
