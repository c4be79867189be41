"""The verdict on a bundle: what was checked, what failed, and what no bundle can prove."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, overload

from common.canonical_json import JsonValue

Status = Literal["passed", "failed", "not checked", "not in this bundle"]

MANIFEST, REGISTRY, LOGS, RECORDS, SUBJECTS, ROUNDS, BUDGET, CHAIN, COMPLETENESS = range(9)

# Title and clause of each step, in the specification's order.
STEPS: tuple[tuple[str, str], ...] = (
    ("Files and manifest", "Bundles: a signed manifest covers every file"),
    ("Key registry", "1: threshold signatures, versions, roles, revocations"),
    ("Logs", "2: leaf hashes, tree root, checkpoint signatures and cosignatures, consistency"),
    ("Records", "3: canonical bytes, signature, role of the signer, unique id"),
    ("Consent chains", "4: per subject seq and prev chain; replay at every size"),
    (
        "Rounds",
        "5: the train root is the eligible-set root; its checkpoint is freshly cosigned",
    ),
    ("Privacy budget", "6: charge precedes release; ε recomputed, never above the cap"),
    ("Model chain", "7: model in is the last model out; round and aggregate entries agree"),
    ("Completeness", "8: gaps in rounds, entries without permit, releases without charge"),
)

# What no bundle can show, in the words of the design. Every rendering of a verdict repeats it.
LIMITS: tuple[str, ...] = (
    "A region's entries are non-repudiable claims of that region.",
    "That training really read only that table, and really used that noise, needs attestation of "
    "the running code.",
    "A grant of consent is as good as its signature: a region could invent grants unless its "
    "evidence binds a token signed by the customer's identity provider or the customer's own "
    "passkey.",
    "Withdrawal is prospective and is not unlearning.",
    "A withdrawal that a region never logged shows only against the customer's receipt.",
    "A history rewritten with all parties' keys together shows only against an outside witness or "
    "an earlier copy.",
    "Regions' updates are not in the bundle: that the server took them together as its rule says "
    "is its claim.",
)

_KEPT_PER_CODE = 5


@dataclass(frozen=True)
class Failure:
    """One thing that does not hold.

    Attributes:
        step: The number of the step that found it.
        code: A stable kebab-case code.
        message: One plain sentence.
        file: The file's path inside the run or bundle folder, if one file is at fault.
        party: The party whose log is at fault.
        index: The entry's index in that log.
    """

    step: int
    code: str
    message: str
    file: str | None = None
    party: str | None = None
    index: int | None = None

    @property
    def place(self) -> str:
        """Where it is: the log and entry, or the file."""
        if self.party is not None and self.index is not None:
            return f"log {self.party}, entry {self.index}"
        return self.file or (f"log {self.party}" if self.party is not None else "the bundle")

    def to_record(self) -> dict[str, JsonValue]:
        """As JSON values."""
        return {
            "step": self.step,
            "code": self.code,
            "message": self.message,
            "file": self.file,
            "party": self.party,
            "index": self.index,
        }


@dataclass(frozen=True)
class StepResult:
    """The outcome of one numbered step.

    Attributes:
        number: 0 for the manifest, then the specification's 1 to 8.
        title: A short name.
        clause: What the specification asks of this step.
        status: ``not checked`` if something that it builds on is missing or broken; ``not in this
            bundle`` if its subject is left out of bundles of this scope.
        counts: What was looked at, by name.
    """

    number: int
    title: str
    clause: str
    status: Status
    counts: Mapping[str, int]

    def to_record(self) -> dict[str, JsonValue]:
        """As JSON values."""
        return {
            "number": self.number,
            "title": self.title,
            "clause": self.clause,
            "status": self.status,
            "counts": dict(self.counts),
        }


@dataclass(frozen=True)
class RootKey:
    """A root key the registry rests on; whether it is the right one is for the reader to say."""

    key_id: str
    pinned: bool


@dataclass(frozen=True)
class WitnessFacts:
    """What a party that has a witness key did in this bundle.

    Attributes:
        party: Who.
        outside: Whether it has no log of its own, thus nothing to hide.
        logs: The parties whose logs it cosigned.
        cosignatures: How many of their checkpoints it cosigned.
    """

    party: str
    outside: bool
    logs: tuple[str, ...]
    cosignatures: int

    def to_record(self) -> dict[str, JsonValue]:
        """As JSON values."""
        return {
            "party": self.party,
            "outside": self.outside,
            "logs": list(self.logs),
            "cosignatures": self.cosignatures,
        }


@dataclass(frozen=True)
class Verdict:
    """What a bundle proves, or the first place where it does not.

    Attributes:
        federation: The federation's name; empty if the manifest is unreadable.
        run: The run's id; empty if the manifest is unreadable.
        scope: What the bundle holds: ``regional``, every log whole; ``one-region``, that of one
            region and the server's; ``cross-border``, no consents at all. Empty if unreadable.
        signed_by: Whose key signed the manifest, and so made the bundle; None if it did not hold.
        steps: One result per step, in order.
        failures: What does not hold, by step, then as found; at most five of one kind per log.
        failures_total: All failures, those not listed included.
        root_keys: The root keys the registry was signed with.
        witnesses: Every party that has a witness key, and what it cosigned.
        notes: What the reader should know and what is no failure.
    """

    federation: str
    run: str
    scope: str
    signed_by: str | None
    steps: tuple[StepResult, ...]
    failures: tuple[Failure, ...]
    failures_total: int
    root_keys: tuple[RootKey, ...]
    witnesses: tuple[WitnessFacts, ...]
    notes: tuple[str, ...]

    @property
    def integrity(self) -> bool:
        """Whether steps 0 to 7 passed, as far as this scope has them: nothing was altered."""
        return all(
            step.status == "passed"
            or (step.number == SUBJECTS and step.status == "not in this bundle")
            for step in self.steps[:COMPLETENESS]
        )

    @property
    def complete(self) -> bool:
        """Whether step 8 passed: nothing that should be there is missing."""
        return self.steps[COMPLETENESS].status == "passed"

    @property
    def verified(self) -> bool:
        """Whether the bundle is whole and unaltered."""
        return self.integrity and self.complete

    @property
    def first_failure(self) -> Failure | None:
        """The first broken entry if one is known, else the first failure."""
        located = (failure for failure in self.failures if failure.index is not None)
        return next(located, None) or next(iter(self.failures), None)

    def to_record(self) -> dict[str, JsonValue]:
        """As JSON values, for ``--json``: fields are added to version 1, none changes or goes.

        Beside what `Verdict` has by the same names: ``integrity`` (steps 0 to 7) and
        ``completeness`` (step 8), both true in ``verified``; ``first_failure``; ``cannot_prove``.
        """
        first = self.first_failure
        return {
            "v": "fedpref-verdict/1",
            "verified": self.verified,
            "integrity": self.integrity,
            "completeness": self.complete,
            "federation": self.federation,
            "run": self.run,
            "scope": self.scope,
            "signed_by": self.signed_by,
            "first_failure": first.to_record() if first else None,
            "failures": [failure.to_record() for failure in self.failures],
            "failures_total": self.failures_total,
            "steps": [step.to_record() for step in self.steps],
            "root_keys": [{"key_id": key.key_id, "pinned": key.pinned} for key in self.root_keys],
            "witnesses": [witness.to_record() for witness in self.witnesses],
            "notes": list(self.notes),
            "cannot_prove": list(LIMITS),
        }


class Findings:
    """Collects what the steps find; a step is ``not checked`` until it is begun."""

    def __init__(self) -> None:
        self._failures: list[Failure] = []
        self._totals: Counter[tuple[int, str, str | None]] = Counter()
        self._counts: list[Counter[str]] = [Counter() for _ in STEPS]
        self._begun: set[int] = set()
        self._notes: list[str] = []
        self.witnesses: tuple[WitnessFacts, ...] = ()
        self.signed_by: str | None = None
        self._left_out: set[int] = set()

    def begin(self, step: int) -> None:
        """Marks a step as carried out."""
        self._begun.add(step)

    def leave_out(self, step: int) -> None:
        """Marks a step as having no subject in bundles of this scope."""
        self._left_out.add(step)

    def count(self, step: int, what: str, number: int = 1) -> None:
        """Counts things that a step has looked at."""
        self._counts[step][what] += number

    def note(self, text: str) -> None:
        """Records something the reader should know that is no failure."""
        if text not in self._notes:
            self._notes.append(text)

    def fail(
        self,
        step: int,
        code: str,
        message: str,
        *,
        file: str | None = None,
        party: str | None = None,
        index: int | None = None,
    ) -> None:
        """Records a failure; of one code in one log the first five are kept, all are counted."""
        kind = (step, code, party)
        self._totals[kind] += 1
        if self._totals[kind] <= _KEPT_PER_CODE:
            self._failures.append(
                Failure(step, code, _printable(message), _printable(file), _printable(party), index)
            )

    def failed(self, step: int) -> bool:
        """Whether a step has failed so far."""
        return any(kind[0] == step for kind in self._totals)

    def verdict(
        self, federation: str, run: str, root_keys: tuple[RootKey, ...], *, scope: str = ""
    ) -> Verdict:
        """The verdict on everything found."""
        steps = tuple(
            StepResult(number, title, clause, self._status(number), dict(self._counts[number]))
            for number, (title, clause) in enumerate(STEPS)
        )
        return Verdict(
            federation=federation,
            run=run,
            scope=scope,
            signed_by=self.signed_by,
            steps=steps,
            failures=tuple(sorted(self._failures, key=lambda failure: failure.step)),
            failures_total=self._totals.total(),
            root_keys=root_keys,
            witnesses=self.witnesses,
            notes=tuple(self._notes),
        )

    def _status(self, step: int) -> Status:
        if self.failed(step):
            return "failed"
        if step in self._left_out:
            return "not in this bundle"
        return "passed" if step in self._begun else "not checked"


@overload
def _printable(text: str) -> str: ...
@overload
def _printable(text: None) -> None: ...
def _printable(text: str | None) -> str | None:
    """A text that may quote foreign names and fields, safe for a terminal and for encoding."""
    if text is None:
        return None
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
