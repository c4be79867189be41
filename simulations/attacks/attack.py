"""What an attack is, and how it is judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from common.audit.verify import Failure, verify_bundle
from common.errors import FedprefError
from simulations.attacks.forgery import Forgery


@dataclass(frozen=True)
class Mark:
    """What the verifier must say of a forged bundle for the attack to count as caught.

    Attributes:
        codes: The codes of the check that is meant to catch it; one is enough.
        party: The log that must be named, if one is at fault.
        index: The entry that must be named, if one is at fault.
        file: The file that must be named, if one is at fault.
    """

    codes: frozenset[str]
    party: str | None = None
    index: int | None = None
    file: str | None = None

    def found_in(self, failure: Failure) -> bool:
        """Whether a failure is the one that is meant."""
        return (
            failure.code in self.codes
            and self.party in (None, failure.party)
            and self.index in (None, failure.index)
            and self.file in (None, failure.file)
        )


@dataclass(frozen=True)
class Outcome:
    """How an attack ended.

    Attributes:
        caught: Whether the check that is meant for it caught it.
        place: Where it was found: log and entry, or file.
        message: What the reader is told.
    """

    caught: bool
    place: str
    message: str


#: Carries the attack out on a copy, in a folder of its own, and says how it ended.
Trial = Callable[[Forgery, Path], Outcome]


@dataclass(frozen=True)
class Attack:
    """One attack of the specification.

    Attributes:
        id: Its id there.
        title: What is done, in a few words.
        trial: Carries it out and judges it.
    """

    id: str
    title: str
    trial: Trial


def on_bundle(forge: Callable[[Forgery], Mark]) -> Trial:
    """An attack on a bundle: it is forged, written, and given to the verifier."""

    def trial(forgery: Forgery, folder: Path) -> Outcome:
        mark = forge(forgery)
        verdict = verify_bundle(forgery.write(folder))
        for failure in verdict.failures:
            if mark.found_in(failure):
                place = f"step {failure.step}, {failure.code}: {failure.place}"
                return Outcome(caught=not verdict.verified, place=place, message=failure.message)
        first = verdict.first_failure
        seen = f"{first.code}: {first.message}" if first else "the bundle verified"
        wanted = " or ".join(sorted(mark.codes))
        return Outcome(caught=False, place="", message=f"wanted {wanted}; found {seen}")

    return trial


def refused(what: str, attempt: Callable[[], object]) -> Outcome:
    """The outcome of something that must be refused with one of our errors."""
    try:
        attempt()
    except FedprefError as error:
        return Outcome(caught=True, place=what, message=error.message)
    return Outcome(caught=False, place=what, message="it was accepted")
