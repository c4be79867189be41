"""The service in a real browser: give, withdraw, look back, keep the receipt; by keyboard, on a
phone, in both languages and colour schemes, without a script, without a fault."""

from __future__ import annotations

import http.server
import itertools
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, expect

from common.consent import FEDERATED_ANALYTICS, FEDERATED_TRAINING, RECOMMENDATIONS
from tests.support.chromium import chromium
from tests.support.consent_service import Service, free_port, open_service, serving

LEAST_TEXT_PX = 14.0
LEAST_TARGET_PX = 44.0
SERIOUS = {"serious", "critical"}
_numbers = itertools.count()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as opened:
        yield opened


@dataclass
class Site:
    """A running service, and the retailer's login."""

    service: Service
    url: str

    def login_link(self, name: str, **claims: bool) -> str:
        return f"{self.url}/login?token={self.service.issuer.token(name, **claims)}"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with open_service(tmp_path_factory.mktemp("browser")) as service:
        port = free_port()
        app = service.app(
            url=f"http://127.0.0.1:{port}",
            requests_per_minute=100_000,
            reads_per_minute=100_000,
            logins_per_minute=100_000,
            changes_per_hour=100_000,
        )
        with serving(app, port) as url:
            yield Site(service, url)


@dataclass
class Visit:
    """An open browser window, and everything that it complained of or asked for."""

    site: Site
    context: BrowserContext
    page: Page
    name: str
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    @classmethod
    def open(cls, browser: Browser, site: Site, **options: object) -> Visit:
        options = {"viewport": {"width": 1280, "height": 900}, "locale": "en", **options}
        context = browser.new_context(**options)  # type: ignore[arg-type]
        visit = cls(site, context, context.new_page(), f"browser-customer-{next(_numbers)}")
        page = visit.page
        page.on("console", lambda message: visit.complaints.append(message.text))
        page.on("pageerror", lambda error: visit.complaints.append(str(error)))
        page.on("dialog", lambda dialog: visit.complaints.append(dialog.message))
        page.on("request", lambda request: visit.requests.append(request.url))
        return visit

    def log_in(self, **claims: bool) -> None:
        self.page.goto(self.site.login_link(self.name, **claims))
        self.page.wait_for_url(f"{self.site.url}/")

    def go(self, path: str) -> None:
        self.page.goto(self.site.url + path)

    def press(self, action: str) -> None:
        """Presses a button that records something, and waits for the receipt."""
        self.page.locator(f'button[value="{action}"]').click()
        self.page.wait_for_url("**/receipts/*")

    def agree(self, *purposes: str) -> None:
        for purpose in purposes:
            self.page.locator(f'input[value="{purpose}"]').check()
        self.press("agree")

    @property
    def overflow(self) -> int:
        return int(self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth"))

    def assert_quiet(self) -> None:
        assert self.complaints == []
        assert {url.split("/", 3)[2] for url in self.requests} <= {self.site.url.split("/")[2]}


@pytest.fixture
def visit(browser: Browser, site: Site) -> Iterator[partial[Visit]]:
    opened: list[Visit] = []

    def open_visit(**options: object) -> Visit:
        opened.append(Visit.open(browser, site, **options))
        return opened[-1]

    yield open_visit  # type: ignore[misc]
    for each in opened:
        each.context.close()


def test_give_withdraw_look_back_and_keep_the_receipt(visit, site: Site, tmp_path: Path) -> None:
    customer = visit()
    customer.go("/")
    expect(customer.page.get_by_role("heading", level=1)).to_contain_text("You decide")
    customer.log_in()
    page = customer.page
    assert page.locator("input[type=checkbox]:checked").count() == 0
    customer.agree(FEDERATED_TRAINING, RECOMMENDATIONS)
    expect(page.get_by_role("status")).to_have_text("Your choice is recorded.")
    assert site.service.opened.registrar.consents(customer.name)
    customer.go("/")
    customer.press("withdraw")
    assert not site.service.opened.registrar.consents(customer.name)
    expect(page.get_by_text("from the next round at the latest")).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download the receipt").click()
    saved = tmp_path / download.value.suggested_filename
    download.value.save_as(saved)
    receipt = json.loads(saved.read_bytes())
    assert receipt["v"] == "fedpref-receipt/1"
    assert receipt["first_excluded"] is None
    site.service.log_round("run-w", 5, site.service.opened.log.size)
    page.reload()
    expect(page.get_by_text("Round 5 of the training “run-w”")).to_be_visible()
    page.get_by_role("link", name="History").click()
    states = page.locator(".history .state").all_inner_texts()
    assert states == ["Withdrawn", "Agreed"]
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("You are signed out")
    customer.assert_quiet()


@contextmanager
def retailer(page_text: str, folder: Path) -> Iterator[str]:
    """A site of another name, from which the customer comes."""
    (folder / "account.html").write_text(page_text)
    handler = partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            # "localhost" and "127.0.0.1" are two sites to a browser.
            yield f"http://localhost:{server.server_address[1]}/account.html"
        finally:
            server.shutdown()
            thread.join()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        """Says nothing."""


def test_the_retailers_page_signs_in_by_link_and_by_form(visit, site: Site, tmp_path: Path) -> None:
    """The session's cookie is strict, and yet whoever comes from another site arrives."""
    customer = visit()
    token = site.service.issuer.token(customer.name)
    text = (
        f'<a href="{site.login_link(customer.name)}">link</a>'
        f'<form method="post" action="{site.url}/login">'
        f'<input type="hidden" name="token" value="{token}"><button>form</button></form>'
    )
    with retailer(text, tmp_path) as account:
        for role, name in (("link", "link"), ("button", "form")):
            customer.page.goto(account)
            customer.page.get_by_role(role, name=name).click()
            customer.page.wait_for_url(f"{site.url}/")
            expect(customer.page.locator(".reference")).to_have_text(customer.name)


def test_another_sites_form_cannot_choose(visit, site: Site, tmp_path: Path) -> None:
    """A forged form in a real browser, with everything but the session's secret."""
    customer = visit()
    customer.log_in()
    notice = site.service.desk.notice("en").sha256
    text = (
        f'<form method="post" action="{site.url}/choices">'
        f'<input name="action" value="agree"><input name="purpose" value="{FEDERATED_TRAINING}">'
        f'<input name="notice" value="{notice}"><button>go</button></form>'
    )
    with retailer(text, tmp_path) as evil:
        customer.page.goto(evil)
        with customer.page.expect_response(f"{site.url}/choices") as answer:
            customer.page.get_by_role("button", name="go").click()
        # The strict cookie did not come along.
        assert answer.value.status == 401
    assert site.service.desk.history(customer.name) == ()


def test_everything_works_without_scripts(visit, site: Site) -> None:
    customer = visit(java_script_enabled=False)
    customer.log_in()
    customer.agree(FEDERATED_ANALYTICS)
    customer.go("/")
    customer.press("withdraw")
    states = [each.state for each in site.service.desk.history(customer.name)]
    assert states == ["dpv:ConsentWithdrawn", "dpv:ConsentGiven"]
    customer.assert_quiet()


def test_the_keyboard_alone_gives_and_withdraws(visit, site: Site) -> None:
    customer = visit()
    customer.log_in()
    page = customer.page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    assert page.evaluate("document.activeElement.getBoundingClientRect().left") >= 0
    page.keyboard.press("Enter")
    assert page.evaluate("location.hash") == "#main"

    def focused() -> dict[str, str]:
        return page.evaluate(
            """() => ({ value: document.activeElement.value || '',
                        outline: getComputedStyle(document.activeElement).outlineStyle })"""
        )

    def tab_to(value: str) -> None:
        for _ in range(13):
            page.keyboard.press("Tab")
            found = focused()
            assert found["outline"] == "solid"
            if found["value"] == value:
                return
        raise AssertionError(value)

    tab_to(RECOMMENDATIONS)
    page.keyboard.press("Space")
    tab_to("agree")
    page.keyboard.press("Enter")
    page.wait_for_url("**/receipts/*")
    assert site.service.desk.position(customer.name, "en").granted == {RECOMMENDATIONS}
    customer.go("/")
    tab_to("withdraw")
    page.keyboard.press("Enter")
    page.wait_for_url("**/receipts/*")
    assert site.service.desk.position(customer.name, "en").granted == frozenset()
    customer.assert_quiet()


# Every page, on every kind of screen


def walk(customer: Visit) -> Iterator[str]:
    """Leads through every page that a customer can see; gives the name of each."""
    page = customer.page
    customer.go("/")
    yield "welcome"
    customer.log_in()
    yield "choose"
    customer.agree(FEDERATED_TRAINING, RECOMMENDATIONS)
    yield "receipt"
    customer.go("/")
    yield "given"
    customer.press("withdraw")
    customer.go("/history")
    yield "history"
    customer.go("/profile")
    yield "profile"
    customer.go("/")
    page.locator('button[value="agree"]').click()
    yield "nothing ticked"
    customer.go("/receipts/unknown")
    yield "problem"
    customer.name += "-child"
    customer.log_in(minor=True)
    yield "minor"
    customer.log_in(minor=True, guardian=True)
    yield "guardian"


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_nothing_sticks_out_and_all_can_be_read_and_pressed_on_a_phone(visit, lang: str) -> None:
    customer = visit(viewport={"width": 390, "height": 800}, locale=lang, has_touch=True)
    customer.name = "a-customer-whose-reference-is-unusually-long-0123456789-0123456789-" + str(
        next(_numbers)
    )
    for name in walk(customer):
        page = customer.page
        assert page.evaluate("document.documentElement.lang") == lang, name
        for width in (320, 390):
            page.set_viewport_size({"width": width, "height": 800})
            assert customer.overflow <= 0, (name, width)
        text, least = page.evaluate(SMALLEST_TEXT)
        assert least >= LEAST_TEXT_PX, (name, text)
        assert page.evaluate(SMALL_TARGETS, LEAST_TARGET_PX) == [], name


SMALLEST_TEXT = """() => {
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    let least = ['', 99];
    while (walker.nextNode()) {
        const box = walker.currentNode.parentElement;
        if (!walker.currentNode.data.trim() || box.closest('.skip, .print-only')) continue;
        const size = parseFloat(getComputedStyle(box).fontSize);
        if (size < least[1]) least = [walker.currentNode.data.trim(), size];
    }
    return least;
}"""
# Buttons, labels of boxes and the links of the head; links within text may be as small as text.
SMALL_TARGETS = """least => [...document.querySelectorAll('button, .button, label, header nav a')]
    .filter(each => each.getBoundingClientRect().height < least)
    .map(each => each.outerHTML)"""


@pytest.mark.parametrize(
    ("lang", "schemes"),
    [
        ("en", ("light", "dark")),
        ("zh", ("light",)),
        # Colours do not depend on the language.
        pytest.param("zh", ("dark",), marks=pytest.mark.slow),
    ],
)
def test_axe_finds_no_serious_fault_on_any_page(visit, lang: str, schemes: tuple[str]) -> None:
    customer, axe = visit(locale=lang), Axe()
    seen = 0
    for name in walk(customer):
        for scheme in schemes:
            customer.page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            violations = axe.run(customer.page).response["violations"]
            found = [
                (each["id"], [node["html"] for node in each["nodes"]])
                for each in violations
                if each["impact"] in SERIOUS
            ]
            assert found == [], (name, scheme)
            seen += 1
    assert seen == 10 * len(schemes)


def test_axe_would_find_a_fault(visit) -> None:
    customer = visit()
    customer.log_in()
    customer.page.evaluate("document.querySelector('label').replaceWith('unnamed')")
    customer.page.evaluate("document.querySelector('fieldset').innerHTML += '<input>'")
    impacts = {each["impact"] for each in Axe().run(customer.page).response["violations"]}
    assert impacts & SERIOUS


def test_agreeing_refusing_and_withdrawing_look_alike(visit) -> None:
    customer = visit(viewport={"width": 390, "height": 800})
    customer.log_in()

    def looks() -> list[list[object]]:
        return customer.page.evaluate(
            """() => [...document.querySelectorAll('main .buttons button')].map(each => {
                const style = getComputedStyle(each), box = each.getBoundingClientRect();
                return [style.backgroundColor, style.color, style.fontSize, style.fontWeight,
                        style.borderColor, Math.round(box.width), Math.round(box.height)];
            })"""
        )

    agree, refuse = looks()
    assert agree == refuse
    customer.agree(FEDERATED_TRAINING)
    customer.go("/")
    (withdraw,) = looks()
    assert withdraw == agree


def test_dark_readers_get_a_dark_page_and_print_leaves_the_buttons_out(visit) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    customer = visit(color_scheme="dark")
    customer.log_in()
    assert customer.page.evaluate(ground) == "rgb(17, 22, 27)"
    customer.agree(FEDERATED_TRAINING)
    page = customer.page
    page.emulate_media(media="print", color_scheme="light")
    assert page.evaluate(ground) == "rgb(255, 255, 255)"
    assert page.locator(".button").first.is_hidden()
    expect(page.get_by_text("Receipt of a choice of the customer")).to_be_visible()


def test_the_language_is_switched_and_stays(visit) -> None:
    customer = visit()
    customer.log_in()
    page = customer.page
    page.get_by_role("link", name="中文").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("您的购买记录用于什么，由您决定")
    page.get_by_role("link", name="历史记录").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("历史记录")
    page.get_by_role("link", name="English").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("History")
    customer.assert_quiet()
