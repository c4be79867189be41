"""What docs/recommender.md says of codes, settings and routes is the code's own."""

from __future__ import annotations

import re
import tomllib
from typing import get_args

from fastapi.routing import APIRoute

from client.recommend import api
from client.recommend.config import ServiceSettings
from client.recommend.problems import PROBLEMS
from client.recommend.settings import (
    Action,
    Arm,
    ExperimentSettings,
    HistorySettings,
    LiveRule,
    LiveSettings,
    LiveSpread,
    LiveWeights,
    Method,
    ModelSettings,
    RecommendSettings,
    SceneSettings,
)
from client.recommend.types import EVENT_KINDS, NOT_PERSONAL, REASON_CODES
from tests.docs.test_docs import DOCS, codes, prose, table

PAGE = DOCS / "recommender.md"


def test_codes_are_those_of_the_answers() -> None:
    assert [codes(row[0])[0] for row in table(PAGE, "`why_not_personal`")] == list(NOT_PERSONAL)
    reasons = [code for row in table(PAGE, "reason", "what `about` is") for code in codes(row[0])]
    assert sorted(reasons) == sorted(REASON_CODES)
    events = re.search(r"An event is one of ([^.]*)\.", " ".join(prose(PAGE).split()))
    assert events is not None
    assert codes(events[1]) == list(EVENT_KINDS)


def test_problems_and_their_status_are_the_services() -> None:
    stated = {
        code: {int(status) for status in row[1].split(", ")}
        for row in table(PAGE, "problem", "status")
        for code in codes(row[0])
    }
    assert stated.keys() == PROBLEMS.keys()
    for code, problem in PROBLEMS.items():
        assert problem.status in stated[code]


def test_requests_are_the_apis() -> None:
    stated = {codes(row[0])[0] for row in table(PAGE, "request", "body")}
    routes = [route for route in api.router.routes if isinstance(route, APIRoute)]
    own = {f"{method} {route.path}" for route in routes for method in route.methods}
    assert stated == own | {"GET /healthz", "GET /readyz"}


def test_fields_of_requests_are_the_apis() -> None:
    bodies = {codes(row[0])[0].split("/")[-1]: row[1] for row in table(PAGE, "request", "body")}
    for name, model in (
        ("recommendations", api.QueryBody),
        ("similar", api.ItemBody),
        ("also-bought", api.ItemBody),
        ("events", api.EventBody),
        ("history", api.CustomerBody),
    ):
        fields = set(model.model_fields)
        if name == "recommendations":
            fields |= set(api.SceneBody.model_fields)
        assert set(codes(bodies[name])) == fields, name


def test_service_settings_are_the_services() -> None:
    rows = table(PAGE, "service setting", "default")
    assert [codes(row[0])[0] for row in rows] == list(ServiceSettings.model_fields)
    for row in rows:
        default = getattr(ServiceSettings(), codes(row[0])[0])
        assert row[1] == ("none" if default == [] else str(default))


def test_settings_are_the_recommenders() -> None:
    stated: dict[str, list[str]] = {}
    heading = ""
    for row in table(PAGE, "table", "setting"):
        heading = (codes(row[0]) or [heading])[0]
        stated.setdefault(heading, []).extend(codes(row[1]))
    sections = {
        "[model]": ModelSettings,
        "[history]": HistorySettings,
        "[scenes]": SceneSettings,
        "[live]": LiveSettings,
        "[experiment]": ExperimentSettings,
    }
    assert [f"[{name}]" for name in RecommendSettings.model_fields] == list(sections)
    assert stated == {name: list(model.model_fields) for name, model in sections.items()}
    text = " ".join(prose(PAGE).split())
    for name in (*LiveRule.model_fields, *Arm.model_fields, *get_args(Method)):
        assert f"`{name}`" in text, name
    assert [codes(row[0])[0] for row in table(PAGE, "`then`")] == list(get_args(Action))
    told = text.partition("Weights by default:")[2].partition("A rule has")[0]
    for name, value in LiveWeights().model_dump().items():
        assert f"{name} {value:g}" in told
    for name, value in LiveSpread().model_dump().items():
        shown = "like it" if name == "similar" else name.replace("_", " ")
        assert f"{shown} {value:g}" in told


def test_the_example_of_settings_is_one() -> None:
    example = PAGE.read_text(encoding="utf-8").partition("```text\n[live]")[2].partition("```")[0]
    read = RecommendSettings.model_validate(tomllib.loads(f"[live]{example}"))
    assert read.experiment is not None
    assert read.live.rules[0].then == "remind"
