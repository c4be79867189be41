"""How an API describes its refusals, in the place of the framework's own form."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, Field

from client.web.problems import MEDIA_TYPE, Problem


class ProblemAnswer(BaseModel):
    """A refusal (RFC 9457)."""

    type: str = Field(description="A URN that names the kind of refusal.")
    title: str = Field(description="What it is.")
    status: int = Field(description="The HTTP status.")
    detail: str = Field(description="What to do about it.")
    code: str = Field(description="The kind's short name.")


def refusals(problems: Iterable[Problem]) -> dict[int | str, dict[str, Any]]:
    """The documented refusals of a route: schema, and an example of each."""
    found: dict[int | str, dict[str, Any]] = {}
    for problem in problems:
        examples = found.setdefault(
            problem.status,
            {
                "description": problem.title,
                "content": {
                    MEDIA_TYPE: {
                        "schema": {"$ref": "#/components/schemas/ProblemAnswer"},
                        "examples": {},
                    }
                },
            },
        )["content"][MEDIA_TYPE]["examples"]
        examples[problem.code] = {"value": problem.record()}
    if 429 in found:
        found[429]["headers"] = {
            "Retry-After": {"schema": {"type": "integer"}, "description": "Seconds to wait."}
        }
    return found


def describe_problems(app: FastAPI) -> None:
    """Lets the API's description say what refusals look like, instead of FastAPI's own form."""
    made = app.openapi

    def openapi() -> dict[str, Any]:
        description = made()
        schemas = description["components"]["schemas"]
        schemas["ProblemAnswer"] = ProblemAnswer.model_json_schema()
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        for path in description["paths"].values():
            for operation in path.values():
                invalid = operation["responses"].get("422", {"content": {}})
                invalid["content"].pop("application/json", None)
                if not invalid["content"]:
                    operation["responses"].pop("422", None)
        return description

    app.openapi = openapi  # type: ignore[method-assign]
