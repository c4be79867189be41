"""The page on which a region's operator tries the recommender, without any script.

It is for the operator alone: whoever is signed in looks at any customer who consents. So it is off
unless it is asked for, asks for the access token, and is served on this machine only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, Form, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from client.recommend.api import Serving
from client.recommend.problems import NOT_SIGNED_IN, PROBLEMS
from client.recommend.try_view import TryView
from client.recommend.types import EVENT_KINDS, Event, Query, Scene, UnknownItemError
from client.web.guard import check_origin
from client.web.language import LANGUAGE_COOKIE, LANGUAGES, Messages, negotiate, read_messages
from client.web.problems import FORM_EXPIRED, RefusedError
from client.web.rendering import fill
from client.web.sessions import Session, Sessions
from common.catalogue import Catalogue
from common.errors import InputError

PATH = "/try"
COOKIE = "fedpref-try"
MOST_SESSIONS = 32
#: How many places the page offers to choose.
PLACES = (5, 10, 20, 50)
#: How widely a list may be spread, as the page offers it.
DIVERSITIES = ("0", "0.25", "0.5", "1")

_HERE = Path(__file__).parent
_TEMPLATES, _LOCALES = _HERE / "templates", _HERE / "locales"
_YEAR_S = 365 * 24 * 3600

Text = Annotated[str, Form(max_length=1024)]


@dataclass(frozen=True)
class Looking:
    """What the page shows to one session.

    Attributes:
        customer: Who is looked at; None for nobody in particular.
        scene: When and where.
        new_only: Whether what she bought before is left out.
        diversity: How widely the list is spread.
        k: How many places.
        shown: The list that was shown last, of the same customer; empty before the first.
        events: What was added on this page for her, latest first: kind, item or category, kept.
        problem: What was wrong with the latest form, as a key of the page's words; None if nothing.
    """

    customer: str | None = None
    scene: Scene = field(default_factory=Scene)
    new_only: bool = False
    diversity: str = DIVERSITIES[0]
    k: int = 10
    shown: tuple[str, ...] = ()
    events: tuple[tuple[str, str, bool], ...] = ()
    problem: str | None = None

    def query(self) -> Query:
        """What the recommender is asked."""
        return Query(
            customer=self.customer,
            k=self.k,
            scene=self.scene,
            new_only=self.new_only,
            diversity=float(self.diversity),
            dry=True,
        )


class _Visit:
    """One signed-in operator: what they look at, which forms change."""

    def __init__(self) -> None:
        self.looking = Looking()


@dataclass(frozen=True)
class TryPage:
    """What the page works with.

    Attributes:
        serving: The recommender, and the token that signs in.
        catalogue: Gives the catalogue: what items are called.
        customers: Gives customers that are worth looking at.
        origin: Scheme, host and port as the browser shows them.
        session_s: How long a session lasts, in seconds.
        idle_s: How long without a request, in seconds.
    """

    serving: Serving
    catalogue: Callable[[], Catalogue]
    customers: Callable[[], Sequence[str]]
    origin: str
    session_s: int
    idle_s: int
    sessions: Sessions[_Visit] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        sessions = Sessions[_Visit](
            lifetime_s=self.session_s, idle_s=self.idle_s, limit=MOST_SESSIONS
        )
        object.__setattr__(self, "sessions", sessions)


def add_try_page(app: FastAPI, page: TryPage) -> None:
    """Adds the page to an application."""
    app.state.try_page = page
    app.include_router(router)


def problem_page(request: Request, code: str) -> bytes:
    """A refusal as a page."""
    t = _words(request)
    values = {"code": code, "signed_in": False, "csrf": "", "back": PATH}
    return fill(_TEMPLATES, "message", t, **values).encode()


async def page_of(request: Request) -> TryPage:
    """The page that a request is to."""
    page: TryPage = request.app.state.try_page
    return page


PageOf = Annotated[TryPage, Depends(page_of)]


async def signed_in(request: Request, page: PageOf) -> Session[_Visit]:
    """The session of a request.

    Raises:
        RefusedError: There is none.
    """
    session = page.sessions.find(request.cookies.get(COOKIE))
    if session is None:
        raise RefusedError(NOT_SIGNED_IN)
    return session


SignedIn = Annotated[Session[_Visit], Depends(signed_in)]


async def own_form(
    request: Request, page: PageOf, session: SignedIn, csrf: Text = ""
) -> Session[_Visit]:
    """The session whose page a form is of.

    Raises:
        RefusedError: The form is of no page of a session of this service.
    """
    check_origin(request.headers, request.method, page.origin)
    if not session.accepts(csrf):
        raise RefusedError(FORM_EXPIRED)
    return session


OwnForm = Annotated[Session[_Visit], Depends(own_form)]

router = APIRouter(prefix=PATH, include_in_schema=False)


@router.get("")
async def look(request: Request, page: PageOf) -> Response:
    """The list and all that goes into it; for whoever is not signed in, how to."""
    session = page.sessions.find(request.cookies.get(COOKIE))
    if session is None:
        return _render(request, "sign_in", refused=False)
    visit = session.identity
    looking = visit.looking
    recommender = page.serving.recommender
    answer = recommender.recommend(looking.query())
    history = () if looking.customer is None else recommender.history(looking.customer)
    catalogue = page.catalogue()
    view = TryView(_words(request), catalogue, looking.shown, answer, history)
    # What is shown now is what the next list is compared with; a problem is told once.
    visit.looking = replace(looking, shown=tuple(each.item for each in answer.items), problem=None)
    return _render(
        request,
        "look",
        csrf=session.csrf,
        signed_in=True,
        looking=looking,
        view=view,
        customers=page.customers(),
        region=page.serving.region,
        dayparts=page.serving.dayparts,
        store_types=page.serving.store_types,
        weekdays=range(7),
        places=PLACES,
        diversities=DIVERSITIES,
        kinds=EVENT_KINDS,
        categories=catalogue.category_names,
    )


@router.post("/sign-in")
async def sign_in(request: Request, page: PageOf, token: Text = "") -> Response:
    """Exchanges the access token for a session."""
    check_origin(request.headers, request.method, page.origin)
    if not page.serving.admits(token.strip()):
        return _render(request, "sign_in", status=401, refused=True)
    page.sessions.end(request.cookies.get(COOKIE))
    response = _onward()
    response.set_cookie(
        COOKIE,
        page.sessions.begin(_Visit()),
        max_age=page.session_s,
        httponly=True,
        samesite="strict",
        path=PATH,
    )
    return response


@router.post("/sign-out")
async def sign_out(request: Request, page: PageOf, session: OwnForm) -> Response:
    """Ends the session."""
    del session
    page.sessions.end(request.cookies.get(COOKIE))
    response = _onward()
    response.delete_cookie(COOKIE, path=PATH, httponly=True, samesite="strict")
    return response


@router.post("/look")
async def change(
    page: PageOf,
    session: OwnForm,
    customer: Text = "",
    daypart: Text = "",
    weekday: Text = "",
    store_type: Text = "",
    new_only: Text = "",
    diversity: Text = DIVERSITIES[0],
    k: Text = "10",
) -> Response:
    """Changes who is looked at, the scene, or how the list is made."""
    visit = session.identity
    before = visit.looking
    named = customer.strip() or None
    try:
        wanted = replace(
            before,
            customer=named,
            scene=_scene(page.serving, daypart, weekday, store_type),
            new_only=bool(new_only),
            diversity=diversity if diversity in DIVERSITIES else DIVERSITIES[0],
            k=int(k) if k in map(str, PLACES) else before.k,
            problem=None,
        )
        wanted.query()
    except InputError:
        visit.looking = replace(before, problem="invalid")
        return _onward()
    if named != before.customer:
        # Another customer's list moves nowhere.
        wanted = replace(wanted, shown=(), events=())
    visit.looking = wanted
    return _onward()


@router.post("/event")
async def add_event(
    page: PageOf, session: OwnForm, kind: Text = "", item: Text = "", category: Text = ""
) -> Response:
    """Adds a live event of the customer who is looked at."""
    visit = session.identity
    looking = visit.looking
    item_ref, category_ref = item.strip() or None, category.strip() or None
    try:
        if looking.customer is None:
            raise InputError("An event is somebody's.", remedy="Pick a customer first.")
        now_ms = time.time_ns() // 1_000_000
        # Checked there, whatever the form says.
        event = Event(looking.customer, kind, item_ref, category_ref, now_ms)  # type: ignore[arg-type]
        kept = page.serving.recommender.observe(event)
    except UnknownItemError:
        visit.looking = replace(looking, problem="unknown-item")
    except InputError:
        visit.looking = replace(looking, problem="event-invalid")
    else:
        told = (kind, item_ref or category_ref or "", kept)
        visit.looking = replace(looking, events=(told, *looking.events)[:20], problem=None)
    return _onward()


def _scene(serving: Serving, daypart: str, weekday: str, store_type: str) -> Scene:
    """The scene of a form; what it cannot name counts as any."""
    return Scene(
        daypart=daypart if daypart in serving.dayparts else None,
        weekday=int(weekday) if weekday in {str(day) for day in range(7)} else None,
        store_type=store_type if store_type in serving.store_types else None,
    )


def _onward() -> RedirectResponse:
    return RedirectResponse(PATH, status_code=303)


def _words(request: Request) -> Messages:
    chosen = request.query_params.get("lang") or request.cookies.get(LANGUAGE_COOKIE)
    return read_messages(_LOCALES, negotiate(request.headers.get("accept-language"), chosen))


def _render(request: Request, template: str, *, status: int = 200, **values: object) -> Response:
    t = _words(request)
    values = {"signed_in": False, "csrf": "", **values}
    response = HTMLResponse(
        fill(_TEMPLATES, template, t, **values), status, headers={"Content-Language": t.lang}
    )
    if request.query_params.get("lang") in LANGUAGES:
        response.set_cookie(
            LANGUAGE_COOKIE, t.lang, max_age=_YEAR_S, httponly=True, samesite="strict"
        )
    return response


#: Each problem that a page tells has words in every language; a test holds the two together.
TOLD = frozenset({*PROBLEMS, "event-invalid"})
