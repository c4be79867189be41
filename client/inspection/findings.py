"""Problems that an inspection finds: each says where it is, what it is, and what to do."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from types import TracebackType

from common.errors import EXIT_OK, FedprefError, InputError


class Kind(StrEnum):
    """What a problem is about."""

    SETTINGS = "settings"
    FILES = "files"
    USERS = "users"
    DISK = "disk"
    REGISTRY = "registry"
    KEYS = "keys"
    LOG = "log"
    POLICY = "policy"
    PERMITS = "permits"
    BUDGET = "budget"
    CONSENTS = "consents"
    STORE = "store"
    NODE_KEY = "node-key"
    VERSIONS = "versions"
    CLOCK = "clock"
    CERTIFICATES = "certificates"
    REACHABILITY = "reachability"
    PORTS = "ports"


@dataclass(frozen=True)
class Problem:
    """Something that keeps the region from working, or from working safely.

    Attributes:
        kind: What it is about.
        place: The file, and the field where there is one.
        message: What is wrong, as one or two sentences.
        remedy: What to do.
        exit_code: With which code the command that fails by it ends.
    """

    kind: Kind
    place: str
    message: str
    remedy: str
    exit_code: int


@dataclass
class Findings:
    """What an inspection has found so far.

    Attributes:
        problems: The problems, in the order in which they were looked for.
        notes: What the operator should know, and is no problem.
    """

    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0 if there is no problem, else the code of the first."""
        return self.problems[0].exit_code if self.problems else EXIT_OK

    def add(
        self,
        kind: Kind,
        place: object,
        message: str,
        remedy: str,
        *,
        exit_code: int = InputError.exit_code,
    ) -> None:
        """Adds a problem.

        Args:
            kind: What it is about.
            place: The file, and the field where there is one.
            message: What is wrong.
            remedy: What to do.
            exit_code: With which code the command that fails by it ends.
        """
        self.problems.append(Problem(kind, str(place), message, remedy, exit_code))

    def note(self, text: str) -> None:
        """Adds what the operator should know."""
        self.notes.append(text)

    def catching(self, kind: Kind, place: object) -> Catching:
        """Takes an error of ours that ends the body for a problem, and goes on after it.

        Args:
            kind: What the body looks at.
            place: The file, and the field where there is one.
        """
        return Catching(self, kind, str(place))


@dataclass(frozen=True)
class Catching:
    """A context in which an error of ours is a problem found; see `Findings.catching`.

    Attributes:
        findings: Takes the problem.
        kind: What the body looks at.
        place: The file, and the field where there is one.
    """

    findings: Findings
    kind: Kind
    place: str

    def __enter__(self) -> None:
        return

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if not isinstance(error, FedprefError):
            return False
        self.findings.add(
            self.kind,
            self.place,
            error.message,
            error.remedy or _REMEDIES.get(self.kind, "Mend what the message names."),
            exit_code=error.exit_code,
        )
        return True


# For errors that name none themselves.
_REMEDIES = {
    Kind.REGISTRY: "Install the federation's key registry: fedpref-region keys install.",
    Kind.LOG: "Verify the log with fedpref-audit; restore it if it is damaged.",
    Kind.BUDGET: "Compare ledger and log: fedpref-region budget.",
    Kind.STORE: "Correct the store's declaration.",
    Kind.PERMITS: "Sign a new permit: fedpref-region permit.",
}
