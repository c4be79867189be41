"""Reason codes: all that one side of a region's door tells the other about what went wrong.

An error's words may quote a record, and the process that reads them runs code that the coordinator
ships. So an error crosses the engine's socket as a code, and becomes an error of the same kind at
the other end, with words that were written here.
"""

from __future__ import annotations

from common.errors import (
    BudgetError,
    ConsentError,
    FedprefError,
    FormatError,
    InputError,
    PolicyError,
    QualityGateError,
    StorageError,
    VerificationError,
)


class EngineBusyError(InputError):
    """The engine has as much to do as it takes on; asking again later helps."""


class OtherProtocolError(InputError):
    """The other end of the engine's socket speaks another version of its protocol."""


class EngineFailedError(FedprefError):
    """The engine met with a defect of its own, and its log says which."""


#: From the particular to the general: the first kind that an error is of gives its code.
REASON_CODES: tuple[tuple[type[FedprefError], str], ...] = (
    (EngineBusyError, "engine-busy"),
    (EngineFailedError, "engine-failure"),
    (OtherProtocolError, "other-protocol"),
    (FormatError, "malformed-request"),
    (BudgetError, "budget-exhausted"),
    (ConsentError, "no-consent"),
    (QualityGateError, "data-quality"),
    (PolicyError, "not-permitted"),
    (VerificationError, "own-records-do-not-verify"),
    (StorageError, "storage-failure"),
    (InputError, "configuration"),
)
#: What stands for an error of ours without a code, and for any other exception.
REFUSED, FAILED = "refused", "engine-failure"

_WORDS = {
    "engine-busy": ("The privacy engine has too much to do.", "Ask again later."),
    "other-protocol": (
        "The relay and the privacy engine speak different versions of their protocol.",
        "Install the same version of fedpref on both sides.",
    ),
    FAILED: ("The privacy engine failed.", "Its own log says how."),
}


def reason_code(error: BaseException) -> str:
    """The code that stands for an error; nothing else of it is told."""
    if not isinstance(error, FedprefError):
        return FAILED
    return next((code for kind, code in REASON_CODES if isinstance(error, kind)), REFUSED)


def relay_reason_code(error: FedprefError) -> str:
    """The code by which a relay answers for an error that it met with itself."""
    # A relay has no configuration of its own but the way to its engine.
    return "engine-unreachable" if type(error) is InputError else reason_code(error)


def error_of(code: str) -> FedprefError:
    """The error that a code stands for; an unknown code gives the most general one."""
    kind = next((kind for kind, known in REASON_CODES if known == code), FedprefError)
    known = REFUSED if kind is FedprefError else code
    message, remedy = _WORDS.get(
        known, (f"The privacy engine refused: {known}.", "Its own log says why.")
    )
    return kind(message, remedy=remedy)
