"""The operator's page in a real browser: sign in, pick, change the scene, add an event, watch the
list move; on a phone, in both languages and colour schemes, without a fault."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, expect

from client.web.language import LANGUAGES
from tests.support.chromium import chromium
from tests.support.fake_recommender import FakeRecommender
from tests.support.recommender_service import TOKEN, RecommenderService, running

LEAST_TEXT_PX = 14.0
LEAST_TARGET_PX = 44.0
SERIOUS = {"serious", "critical"}
LONG = "a-customer-whose-reference-is-unusually-long-0123456789-0123456789"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def recommender() -> FakeRecommender:
    made = FakeRecommender()
    several = [f"{LONG}-{lang}-{where}" for lang in LANGUAGES for where in ("phone", "desk")]
    for name in (*several, "cy"):
        made.histories[name] = [("item-002", 1_700_000_000_000)]
        made.consenting.add(name)
    return made


@pytest.fixture(scope="module")
def url(recommender: FakeRecommender) -> Iterator[str]:
    with running(RecommenderService(recommender)) as address:
        yield address


@dataclass
class Visit:
    """An open browser window, and everything that it complained of or asked for."""

    url: str
    context: BrowserContext
    page: Page
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    @classmethod
    def open(cls, browser: Browser, url: str, **options: object) -> Visit:
        options = {"viewport": {"width": 1280, "height": 900}, "locale": "en", **options}
        context = browser.new_context(**options)  # type: ignore[arg-type]
        visit = cls(url, context, context.new_page())
        page = visit.page
        page.on("console", lambda message: visit.complaints.append(message.text))
        page.on("pageerror", lambda error: visit.complaints.append(str(error)))
        page.on("request", lambda request: visit.requests.append(request.url))
        return visit

    def sign_in(self) -> None:
        self.page.goto(f"{self.url}/try")
        self.page.locator("#token").fill(TOKEN)
        self.page.locator("#token").press("Enter")
        expect(self.page.locator(".rows")).to_be_visible()

    def look_at(self, customer: str, **chosen: str) -> None:
        self.page.locator("#customer").fill(customer)
        for name, value in chosen.items():
            self.page.locator(f"#{name}").select_option(value)
        with self.page.expect_navigation():
            self.page.locator('form[action="/try/look"] > button[type="submit"]').first.click()

    def items(self) -> list[str]:
        return self.page.locator(".row .item .code").all_inner_texts()

    def assert_quiet(self) -> None:
        assert self.complaints == []
        assert {each.split("/", 3)[2] for each in self.requests} == {self.url.split("/")[2]}


@pytest.fixture
def visits(browser: Browser, url: str) -> Iterator[list[Visit]]:
    opened: list[Visit] = []
    yield opened
    for each in opened:
        each.context.close()


@pytest.fixture
def open_visit(browser: Browser, url: str, visits: list[Visit]):
    def made(**options: object) -> Visit:
        visits.append(Visit.open(browser, url, **options))
        return visits[-1]

    return made


def test_pick_change_the_scene_add_an_event_and_watch_the_list_move(
    open_visit, recommender: FakeRecommender
) -> None:
    visit = open_visit()
    visit.sign_in()
    page = visit.page
    with page.expect_navigation():
        page.get_by_role("button", name="ada", exact=True).click()
    expect(page.get_by_role("heading", name="For ada")).to_be_visible()
    expect(page.get_by_text("Personal: made of her own history")).to_be_visible()
    before = visit.items()
    assert before[0] == "item-004"
    visit.look_at("ada", daypart="evening", weekday="5")
    assert page.locator("#daypart").input_value() == "evening"
    expect(page.get_by_role("status")).to_have_text("The list is as it was.")
    page.locator("#kind").select_option("view")
    page.locator("#item").fill("item-003")
    with page.expect_navigation():
        page.get_by_role("button", name="Add it").click()
    expect(page.get_by_role("status")).to_have_text("The list moved.")
    after = visit.items()
    assert after.index("item-003") < 3
    assert page.locator(".move .up").count() > 0
    expect(page.get_by_title("item-003").first).to_be_visible()
    with page.expect_navigation():
        page.locator(".row").nth(9).get_by_role("button", name="buys").click()
    assert recommender.events[-1].kind == "purchase"
    assert recommender.events[-1].item == after[9]
    assert visit.items()[0] != "item-004"
    visit.assert_quiet()


def test_a_withdrawal_while_looking_takes_effect_on_the_next_page(
    open_visit, recommender: FakeRecommender
) -> None:
    visit = open_visit()
    visit.sign_in()
    visit.look_at("bo")
    expect(visit.page.locator(".reason", has_text="bought before")).to_be_visible()
    recommender.consenting.discard("bo")
    visit.page.reload()
    expect(visit.page.get_by_text("no consent for recommendations stands")).to_be_visible()
    assert visit.page.locator(".reason", has_text="bought before").count() == 0
    visit.assert_quiet()


def test_everything_works_without_scripts_and_by_keyboard(open_visit) -> None:
    visit = open_visit(java_script_enabled=False)
    visit.sign_in()
    page = visit.page
    page.locator("#customer").fill("cy")
    with page.expect_navigation():
        page.locator("#customer").press("Enter")
    expect(page.get_by_role("heading", name="For cy")).to_be_visible()
    page.locator("#item").fill("item-003")
    with page.expect_navigation():
        page.locator("#item").press("Enter")
    expect(page.get_by_role("status")).to_have_text("The list moved.")
    visit.assert_quiet()


def states(visit: Visit, customer: str) -> Iterator[str]:
    """Leads through every state of the page, with a customer of its own; gives the name of each."""
    visit.page.goto(f"{visit.url}/try")
    yield "sign in"
    visit.sign_in()
    yield "nobody"
    visit.look_at(customer)
    yield "personal"
    visit.page.locator("#item").fill("item-003")
    visit.page.locator("#item").press("Enter")
    visit.page.wait_for_selector(".is-new")
    yield "moved"
    visit.look_at("x", places="5")
    yield "unknown"
    visit.page.locator("#item").fill("nothing")
    visit.page.locator("#item").press("Enter")
    visit.page.wait_for_selector('[role="alert"]')
    yield "problem"


@pytest.mark.parametrize("lang", ["en", pytest.param("zh", marks=pytest.mark.slow)])
def test_nothing_sticks_out_and_all_can_be_read_and_pressed_on_a_phone(
    open_visit, lang: str
) -> None:
    visit = open_visit(viewport={"width": 390, "height": 800}, locale=lang, has_touch=True)
    page = visit.page
    for name in states(visit, f"{LONG}-{lang}-phone"):
        assert page.evaluate("document.documentElement.lang") == lang, name
        for width in (320, 390):
            page.set_viewport_size({"width": width, "height": 800})
            over = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
            assert over <= 0, (name, width)
        text, least = page.evaluate(SMALLEST_TEXT)
        assert least >= LEAST_TEXT_PX, (name, text)
        assert page.evaluate(SMALL_TARGETS, LEAST_TARGET_PX) == [], name


SMALLEST_TEXT = """() => {
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    let least = ['', 99];
    while (walker.nextNode()) {
        const box = walker.currentNode.parentElement;
        if (!walker.currentNode.data.trim() || box.closest('.skip, datalist')) continue;
        const size = parseFloat(getComputedStyle(box).fontSize);
        if (size < least[1]) least = [walker.currentNode.data.trim(), size];
    }
    return least;
}"""
SMALL_TARGETS = """least => [...document.querySelectorAll(
        'button, .button, select, input[type=text], label.tick, header a')]
    .filter(each => each.getBoundingClientRect().height < least)
    .map(each => each.outerHTML)"""


@pytest.mark.parametrize(
    ("lang", "schemes"),
    [
        ("en", ("light", "dark")),
        # Colours do not depend on the language.
        pytest.param("zh", ("light", "dark"), marks=pytest.mark.slow),
    ],
)
def test_axe_finds_no_serious_fault(open_visit, lang: str, schemes: tuple[str]) -> None:
    visit, axe = open_visit(locale=lang, reduced_motion="reduce"), Axe()
    for name in states(visit, f"{LONG}-{lang}-desk"):
        for scheme in schemes:
            visit.page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            found = [
                (each["id"], [node["html"] for node in each["nodes"]])
                for each in axe.run(visit.page).response["violations"]
                if each["impact"] in SERIOUS
            ]
            assert found == [], (name, scheme)
