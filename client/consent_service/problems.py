"""Refusals as customers' programs and pages get them: RFC 9457 problems, without internals."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType

from starlette.exceptions import HTTPException

from common.canonical_json import JsonValue

MEDIA_TYPE = "application/problem+json"


class ProblemError(HTTPException):
    """One refusal, on its way to whoever asked.

    Args:
        code: One of `PROBLEMS`; pages have a text for each in every language.
        headers: Headers of the answer, such as ``Retry-After``.
    """

    def __init__(self, code: str, *, headers: dict[str, str] | None = None) -> None:
        self.problem = PROBLEMS[code]
        super().__init__(self.problem.status, detail=code, headers=headers)


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


PROBLEMS = MappingProxyType(
    {
        problem.code: problem
        for problem in (
            Problem(
                "malformed",
                400,
                "The request is malformed.",
                "Compare it with the API's description.",
            ),
            Problem(
                "not-signed-in",
                401,
                "Nobody is signed in.",
                "Send a valid login token; a session ends after a few minutes.",
            ),
            Problem(
                "login-refused",
                401,
                "The login token does not hold.",
                "It may have expired or been used already: sign in anew.",
            ),
            Problem(
                "foreign-origin",
                403,
                "The request does not come from this service's own page.",
                "Open the page anew and repeat the choice there.",
            ),
            Problem(
                "form-expired",
                403,
                "The form is not of this session.",
                "Open the page anew and repeat the choice there.",
            ),
            Problem(
                "guardian-needed",
                403,
                "A minor's consent needs a guardian.",
                "The guardian signs in and chooses; refusing and withdrawing need nobody.",
            ),
            Problem("not-found", 404, "There is nothing here.", "Check the address."),
            Problem(
                "method-not-allowed",
                405,
                "The method is not allowed here.",
                "See the Allow header.",
            ),
            Problem(
                "choice-changed",
                409,
                "The choices were changed meanwhile.",
                "Look at them as they are now, then choose.",
            ),
            Problem(
                "notice-changed",
                409,
                "The notice was replaced meanwhile.",
                "Read the new notice, then choose.",
            ),
            Problem(
                "nothing-to-withdraw",
                409,
                "There is no consent to withdraw.",
                "Nothing needs to be done: nothing is used without a consent.",
            ),
            Problem(
                "request-too-large",
                413,
                "The request is too large.",
                "Send only what is asked for.",
            ),
            Problem(
                "foreign-host",
                421,
                "This service has another address.",
                "Use the address that the retailer gives.",
            ),
            Problem(
                "nothing-chosen",
                422,
                "No purpose was chosen.",
                "Choose at least one purpose, or refuse.",
            ),
            Problem(
                "invalid",
                422,
                "The request does not say what is needed.",
                "Compare it with the API's description.",
            ),
            Problem(
                "too-many-requests",
                429,
                "Too many requests.",
                "Wait for as long as Retry-After says.",
            ),
            Problem(
                "internal",
                500,
                "The service failed.",
                "The failure was logged here; nothing was recorded unless the history shows it.",
            ),
            Problem(
                "unavailable",
                503,
                "The consent log cannot be reached at present.",
                "Try again in a few minutes. Nothing was recorded unless the history shows it.",
            ),
        )
    }
)
