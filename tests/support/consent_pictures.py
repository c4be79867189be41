"""Takes the picture of the documentation from the customers' pages, on a made-up region.

    python -m tests.support.consent_pictures docs/images

``consent.png`` has three phones side by side: what a customer is asked and the receipt of a
withdrawal, in English; and choices in force, in Chinese.
"""

from __future__ import annotations

import base64
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from playwright.sync_api import Browser, Page

from common.consent import FEDERATED_TRAINING, RECOMMENDATIONS
from tests.support.chromium import chromium
from tests.support.consent_service import free_port, open_service, serving

WIDTH, HEIGHT, MARGIN = 390, 960, 16


def take_picture(out: Path) -> None:
    """Takes the picture.

    Args:
        out: The folder it goes to.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        open_service(Path(folder)) as service,
        chromium() as browser,
    ):
        port = free_port()
        with serving(service.app(url=f"http://127.0.0.1:{port}"), port) as url:
            english = _page(browser, "en")
            english.goto(f"{url}/login?token={service.issuer.token('customer-0001')}")
            english.wait_for_url(f"{url}/")
            asked = _picture(english)
            chinese = _page(browser, "zh")
            chinese.goto(f"{url}/login?token={service.issuer.token('customer-0002')}")
            chinese.wait_for_url(f"{url}/")
            for page, action in ((english, "agree"), (english, "withdraw"), (chinese, "agree")):
                _choose(page, url, action)
            receipt = _picture(english)
            chinese.goto(f"{url}/")
            pictures = [asked, receipt, _picture(chinese)]
            side_by_side(browser, pictures, out / "consent.png", widths=(WIDTH,) * 3)


def _page(browser: Browser, lang: str) -> Page:
    context = browser.new_context(viewport={"width": WIDTH, "height": HEIGHT}, locale=lang)
    return context.new_page()


def _choose(page: Page, url: str, action: str) -> None:
    page.goto(f"{url}/")
    if action == "agree":
        for purpose in (FEDERATED_TRAINING, RECOMMENDATIONS):
            page.locator(f'input[value="{purpose}"]').check()
    page.locator(f'button[value="{action}"]').click()
    page.wait_for_url("**/receipts/*")


def _picture(page: Page) -> bytes:
    page.evaluate("document.fonts.ready")
    return page.screenshot()


def side_by_side(
    browser: Browser, pictures: Sequence[bytes], path: Path, *, widths: Sequence[int]
) -> None:
    """One picture of several, each with a thin frame: a page of their own shows them.

    Args:
        browser: An open browser.
        pictures: PNG files.
        path: Where it is written.
        widths: Of each picture, in pixels.
    """
    shown = "".join(
        f'<img width="{width}" src="data:image/png;base64,{base64.b64encode(each).decode()}">'
        for each, width in zip(pictures, widths, strict=True)
    )
    whole = sum(width + 2 + MARGIN for width in widths) + MARGIN
    page = browser.new_page(viewport={"width": whole, "height": 100})
    page.set_content(
        f"<style>body {{ margin: {MARGIN}px; display: flex; align-items: start; gap: {MARGIN}px; "
        f"background: #fff }} img {{ border: 1px solid #bbb }}</style>{shown}",
        wait_until="load",
    )
    page.screenshot(path=path, full_page=True)


if __name__ == "__main__":
    take_picture(Path(sys.argv[1]))
