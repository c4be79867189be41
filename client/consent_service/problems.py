"""Refusals as customers' programs and pages get them: RFC 9457 problems, without internals."""

from __future__ import annotations

from client.web.problems import COMMON, Problem, RefusedError, by_code

_AGAIN = "Open the page anew and repeat the choice there."


class ProblemError(RefusedError):
    """One refusal, on its way to whoever asked.

    Args:
        code: One of `PROBLEMS`; pages have a text for each in every language.
        headers: Headers of the answer, such as ``Retry-After``.
    """

    def __init__(self, code: str, *, headers: dict[str, str] | None = None) -> None:
        super().__init__(PROBLEMS[code], headers=headers)


PROBLEMS = by_code(
    (
        *COMMON,
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
            _AGAIN,
        ),
        Problem("form-expired", 403, "The form is not of this session.", _AGAIN),
        Problem(
            "guardian-needed",
            403,
            "A minor's consent needs a guardian.",
            "The guardian signs in and chooses; refusing and withdrawing need nobody.",
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
            "nothing-chosen",
            422,
            "No purpose was chosen.",
            "Choose at least one purpose, or refuse.",
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
)
