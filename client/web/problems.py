"""Refusals as programs and pages get them: RFC 9457 problems, without internals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from starlette.exceptions import HTTPException

from common.canonical_json import JsonValue

MEDIA_TYPE = "application/problem+json"


@dataclass(frozen=True)
class Problem:
    """A kind of refusal.

    Attributes:
        code: Its name, stable.
        status: The HTTP status.
        title: What it is, in English.
        detail: What to do about it, in English.
    """

    code: str
    status: int
    title: str
    detail: str
    type: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "type", f"urn:fedpref:problem:{self.code}")

    def record(self) -> dict[str, JsonValue]:
        """The answer's body."""
        return {
            "type": self.type,
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
        }


class RefusedError(HTTPException):
    """One refusal, on its way to whoever asked.

    Args:
        problem: Its kind.
        headers: Headers of the answer, such as ``Retry-After``.
    """

    def __init__(self, problem: Problem, *, headers: Mapping[str, str] | None = None) -> None:
        self.problem = problem
        super().__init__(problem.status, detail=problem.code, headers=dict(headers or {}) or None)


def by_code(problems: Iterable[Problem]) -> Mapping[str, Problem]:
    """Problems by their codes; a later one takes the place of an earlier one of its code."""
    return MappingProxyType({problem.code: problem for problem in problems})


MALFORMED = Problem(
    "malformed", 400, "The request is malformed.", "Compare it with the API's description."
)
FOREIGN_ORIGIN = Problem(
    "foreign-origin",
    403,
    "The request does not come from this service's own page.",
    "Open the page anew and repeat it there.",
)
FORM_EXPIRED = Problem(
    "form-expired",
    403,
    "The form is not of this session.",
    "Open the page anew and repeat it there.",
)
NOT_FOUND = Problem("not-found", 404, "There is nothing here.", "Check the address.")
METHOD_NOT_ALLOWED = Problem(
    "method-not-allowed", 405, "The method is not allowed here.", "See the Allow header."
)
TOO_LARGE = Problem(
    "request-too-large", 413, "The request is too large.", "Send only what is asked for."
)
FOREIGN_HOST = Problem(
    "foreign-host",
    421,
    "This service has another address.",
    "Use the address that the retailer gives.",
)
INVALID = Problem(
    "invalid",
    422,
    "The request does not say what is needed.",
    "Compare it with the API's description.",
)
INTERNAL = Problem("internal", 500, "The service failed.", "The failure was logged here.")

#: What any service may answer; each adds its own.
COMMON = (
    MALFORMED,
    FOREIGN_ORIGIN,
    FORM_EXPIRED,
    NOT_FOUND,
    METHOD_NOT_ALLOWED,
    TOO_LARGE,
    FOREIGN_HOST,
    INVALID,
    INTERNAL,
)
#: What the framework itself refuses, by status; anything else is malformed.
BY_STATUS = MappingProxyType({404: NOT_FOUND, 405: METHOD_NOT_ALLOWED, 413: TOO_LARGE})
