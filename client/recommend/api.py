"""The JSON API (version 1), for the shop's own programs: they ask for their customers.

Every request carries the region's access token as a bearer token; no cookie counts here. Customers
are named in bodies only, so that no reference is in an address that others write down. What the
model's types refuse is refused here with the same bounds, before a recommender is asked.
"""

from __future__ import annotations

import hmac
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.security import HTTPBearer
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from client.recommend.problems import NOT_ADMITTED, PROBLEMS, REFRESH_RUNNING, UNAVAILABLE
from client.recommend.records import answer_record, item_records
from client.recommend.types import (
    MAX_ITEMS_NAMED,
    MAX_K,
    MAX_REF_BYTES,
    Event,
    EventKind,
    NotPersonal,
    Query,
    ReasonCode,
    Recommends,
    RefreshRunningError,
    Scene,
    require_reference,
)
from client.web.description import refusals
from client.web.problems import RefusedError
from common.errors import InputError

API = "/api/"
PREFIX = f"{API}v1"
REFRESH_PATH = "/refresh"
# For the description only: `TokenGate` asks for it, before a body is read.
_BEARER = HTTPBearer(auto_error=False, description="The region's access token.")
_EXAMPLE_CUSTOMER = "customer-0001"
_EXAMPLE_ITEM = "item-00042"
# Clocks of shops disagree, but not by more.
_MAX_LEAD_MS = 3_600_000

_log = logging.getLogger("fedpref.recommend")


def _reference(text: str) -> str:
    try:
        require_reference("reference", text)
    except InputError as error:
        raise ValueError(error.message) from error
    return text


Reference = Annotated[
    str, Field(min_length=1, max_length=MAX_REF_BYTES), AfterValidator(_reference)
]
# Lists of what is in stock are long: what is in no catalogue is left alone there, printable or not.
Listed = Annotated[str, Field(min_length=1, max_length=MAX_REF_BYTES)]
Places = Annotated[int, Field(ge=1, le=MAX_K)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class SceneBody(_Body):
    """When and where the recommendation is shown; null stands for any."""

    daypart: Annotated[str, Field(max_length=64)] | None = None
    weekday: Annotated[int, Field(ge=0, le=6, description="0 for Monday.")] | None = None
    store_type: Annotated[str, Field(max_length=64)] | None = None


class QueryBody(_Body):
    """One request for recommendations."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"customer": _EXAMPLE_CUSTOMER, "k": 10}]}
    )

    customer: Reference | None = Field(
        default=None, description="As the store refers to her; null for nobody in particular."
    )
    k: Places = Field(default=10, description="How many items; fewer if there are no more.")
    scene: SceneBody | None = None
    exclude: Annotated[
        list[Listed], Field(max_length=MAX_ITEMS_NAMED, description="Items not to show.")
    ] = []
    in_stock: (
        Annotated[
            list[Listed],
            Field(max_length=MAX_ITEMS_NAMED, description="The items that can be had."),
        ]
        | None
    ) = None
    new_only: bool = Field(default=False, description="Leave out what she has bought before.")
    diversity: Annotated[float, Field(ge=0, le=1, strict=False)] = Field(
        default=0.0, description="0 for the best scores, 1 for the widest spread of categories."
    )

    def query(self) -> Query:
        """As the recommender is asked."""
        scene = self.scene
        return Query(
            customer=self.customer,
            k=self.k,
            scene=None if scene is None else Scene(scene.daypart, scene.weekday, scene.store_type),
            exclude=frozenset(self.exclude),
            in_stock=None if self.in_stock is None else frozenset(self.in_stock),
            new_only=self.new_only,
            diversity=self.diversity,
        )


class ItemBody(_Body):
    """One request about an item."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"item": _EXAMPLE_ITEM, "k": 10}]})

    item: Reference
    k: Places = 10


class EventBody(_Body):
    """Something a customer has just done."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"customer": _EXAMPLE_CUSTOMER, "kind": "view", "item": _EXAMPLE_ITEM}]
        }
    )

    customer: Reference
    kind: EventKind
    item: Reference | None = Field(default=None, description="What it was done with.")
    category: Reference | None = Field(
        default=None, description="What was searched for, as the catalogue names it."
    )
    at_ms: Annotated[int, Field(ge=0, lt=1 << 53)] | None = Field(
        default=None, description="When, in milliseconds since the epoch; null for now."
    )

    def event(self, now_ms: int) -> Event:
        """As the recommender is told.

        Raises:
            InputError: It names nothing, or comes from the future.
        """
        at_ms = now_ms if self.at_ms is None else self.at_ms
        if at_ms > now_ms + _MAX_LEAD_MS:
            raise InputError(
                "An event's time is more than an hour ahead.", remedy="Send when it happened."
            )
        return Event(self.customer, self.kind, self.item, self.category, at_ms)


class CustomerBody(_Body):
    """One request about a customer."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"customer": _EXAMPLE_CUSTOMER}]})

    customer: Reference


class ReasonAnswer(BaseModel):
    """Why an item is recommended."""

    code: ReasonCode
    about: str | None = Field(description="The item or category that the code is about, if any.")


class RecommendedAnswer(BaseModel):
    """One item of a list."""

    item: str
    score: float = Field(description="Comparable within one answer only.")
    reasons: list[ReasonAnswer] = Field(description="The strongest first.")


class RecommendationsAnswer(BaseModel):
    """What is recommended, and on what ground."""

    items: list[RecommendedAnswer]
    personal: bool
    why_not_personal: NotPersonal | None
    model: str = Field(description="The digest of the published model that was used.")
    variant: str = Field(description="The customer's arm of the running experiment.")
    consent_size: int = Field(description="The size of the consent log that was looked at.")


class ItemsAnswer(BaseModel):
    """A list that is about an item."""

    items: list[RecommendedAnswer]
    model: str


class KeptAnswer(BaseModel):
    """What became of an event."""

    kept: bool = Field(description="False if the customer is unknown or has not consented.")


class PurchaseAnswer(BaseModel):
    """An item of a customer's history."""

    item: str
    at_ms: int = Field(description="When she last bought it, in milliseconds since the epoch.")


class HistoryAnswer(BaseModel):
    """A customer's history, latest first; empty without consent."""

    items: list[PurchaseAnswer]


class ModelAnswer(BaseModel):
    """What is served."""

    model: str
    region: str
    dayparts: list[str]
    store_types: list[str]


@dataclass(frozen=True)
class Serving:
    """What every route works with.

    Attributes:
        recommender: Who answers.
        token: The access token.
        region: The region's name.
        dayparts: The parts of the day that a scene may name.
        store_types: The kinds of stores that a scene may name.
        faults: Tells what is wrong and makes answers less personal than they could be.
        refreshed: Is told whether a refresh went well.
    """

    recommender: Recommends
    token: str
    region: str
    dayparts: tuple[str, ...] = ()
    store_types: tuple[str, ...] = ()
    faults: Callable[[], Sequence[str]] = tuple
    refreshed: Callable[[bool], None] = lambda _well: None

    def refresh(self) -> None:
        """Reads the store and the published model anew.

        Raises:
            RefreshRunningError: It is being done already.
            FedprefError: They cannot be read, or do not verify.
        """
        try:
            self.recommender.refresh()
        except RefreshRunningError:
            # Its outcome is told by whoever asked for it.
            raise
        except BaseException:
            self.refreshed(False)
            raise
        self.refreshed(True)

    def admits(self, token: str) -> bool:
        """Whether a token is the service's; takes as long whichever it is."""
        return hmac.compare_digest(token.encode("utf-8", "surrogatepass"), self.token.encode())


# Functions of the event loop, all of them: what runs in a worker thread instead would wait for the
# interpreter's lock, and cost more than what most requests take.
async def serving_of(request: Request) -> Serving:
    """What a request is to."""
    serving: Serving = request.app.state.serving
    return serving


ServingOf = Annotated[Serving, Depends(serving_of)]


class TokenGate:
    """ASGI middleware: without the access token nothing of the API is even read.

    Args:
        app: The application.
        admits: Whether a token is the service's.
    """

    def __init__(self, app: ASGIApp, admits: Callable[[str], bool]) -> None:
        self._app = app
        self._admits = admits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request.

        Raises:
            RefusedError: It is to the API, and has no token or another.
        """
        if scope["type"] == "http" and scope["path"].startswith(API):
            scheme, _, token = Headers(scope=scope).get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not self._admits(token.strip()):
                raise RefusedError(NOT_ADMITTED, headers={"WWW-Authenticate": "Bearer"})
        await self._app(scope, receive, send)


def _refusals(*codes: str) -> dict[int | str, dict[str, Any]]:
    everywhere = ("malformed", "not-admitted", "request-too-large", "foreign-host", "unavailable")
    return refusals(PROBLEMS[code] for code in (*codes, *everywhere))


router = APIRouter(prefix=PREFIX, tags=["recommend"], dependencies=[Depends(_BEARER)])


@router.post(
    "/recommendations", response_model=RecommendationsAnswer, responses=_refusals("invalid")
)
async def recommend(body: QueryBody, serving: ServingOf) -> JSONResponse:
    """The best items for a customer, or for anyone. Has the same form whether personal or not."""
    return JSONResponse(answer_record(serving.recommender.recommend(body.query())))


@router.post("/similar", response_model=ItemsAnswer, responses=_refusals("unknown-item", "invalid"))
async def similar(body: ItemBody, serving: ServingOf) -> JSONResponse:
    """The items most like an item."""
    items = serving.recommender.similar(body.item, body.k)
    return JSONResponse({"items": item_records(items), "model": serving.recommender.model})


@router.post(
    "/also-bought", response_model=ItemsAnswer, responses=_refusals("unknown-item", "invalid")
)
async def also_bought(body: ItemBody, serving: ServingOf) -> JSONResponse:
    """The items that customers who bought an item bought, too."""
    items = serving.recommender.also_bought(body.item, body.k)
    return JSONResponse({"items": item_records(items), "model": serving.recommender.model})


@router.post("/events", responses=_refusals("unknown-item", "invalid"))
async def observe(body: EventBody, serving: ServingOf) -> KeptAnswer:
    """Takes in a live event; when this answers, the very next answer has it."""
    event = body.event(time.time_ns() // 1_000_000)
    return KeptAnswer(kept=serving.recommender.observe(event))


@router.post("/history", responses=_refusals("invalid"))
async def history(body: CustomerBody, serving: ServingOf) -> HistoryAnswer:
    """What a customer bought, for as long as she consents."""
    bought = serving.recommender.history(body.customer)
    return HistoryAnswer(items=[PurchaseAnswer(item=item, at_ms=at) for item, at in bought])


@router.get("/model", responses=_refusals())
async def read_model(serving: ServingOf) -> ModelAnswer:
    """Which model is served, and what a scene may name."""
    return ModelAnswer(
        model=serving.recommender.model,
        region=serving.region,
        dayparts=list(serving.dayparts),
        store_types=list(serving.store_types),
    )


@router.post(REFRESH_PATH, responses=_refusals("refresh-running"))
def refresh(serving: ServingOf) -> ModelAnswer:
    """Reads the store and the published model anew; others are answered meanwhile.

    It answers when that is done, or at once if one is running already: it is not waited for.
    """
    try:
        serving.refresh()
    except RefreshRunningError as error:
        raise RefusedError(REFRESH_RUNNING) from error
    except InputError as error:
        # It names a file of the region's: for the operator, not for whoever asked.
        _log.error("the recommender cannot be refreshed: %s", error)
        raise RefusedError(UNAVAILABLE) from error
    return ModelAnswer(
        model=serving.recommender.model,
        region=serving.region,
        dayparts=list(serving.dayparts),
        store_types=list(serving.store_types),
    )
