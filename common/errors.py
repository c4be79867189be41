"""The errors this system raises on purpose, each with the exit code its command ends with.

An error carries what went wrong, where, and what to do about it. It never exits, logs or formats
for a terminal: that is the command line's work (see ``common/terminal.py``).
"""

from __future__ import annotations

EXIT_OK = 0
EXIT_INTERNAL = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


class FedprefError(Exception):
    """Base of all errors that a user can act on.

    Args:
        message: What went wrong and where, in one or two sentences.
        remedy: What the user can do, as one imperative sentence; may be empty.
    """

    exit_code = EXIT_INTERNAL

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}".strip()


class UsageError(FedprefError):
    """An unknown scenario, option or combination of options."""

    exit_code = EXIT_USAGE


class InputError(FedprefError):
    """A file, column, configuration or foreign message is missing or malformed."""

    exit_code = 3


class FormatError(InputError):
    """Bytes from outside that are not the format they claim to be."""


class QualityGateError(FedprefError):
    """A region's data are below the quality threshold its policy sets."""

    exit_code = 4


class ConsentError(FedprefError):
    """No customer's consent allows what was asked."""

    exit_code = 5


class BudgetError(FedprefError):
    """The privacy budget cannot pay for what was asked."""

    exit_code = 6


class PolicyError(FedprefError):
    """The region's policy or permit does not allow what was asked."""

    exit_code = 7


class VerificationError(FedprefError):
    """A signature, proof, digest or audit bundle does not hold."""

    exit_code = 8


class FederationError(FedprefError):
    """A round could not be completed: too few regions, or every attempt failed."""

    exit_code = 9


class StorageError(FedprefError):
    """A store is locked, full, read-only or damaged."""

    exit_code = 10
