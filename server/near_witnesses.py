"""The witnesses that the coordinator reaches without a region: itself, and the outside ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from common.audit.witness.channel import WitnessChannel, submit_all
from common.audit.witness.errors import ConflictError, StaleSizeError, UnreachableWitnessError
from common.audit.witness.witness import Submission
from common.errors import FedprefError
from server.config import SERVER_PARTY
from server.witness_replies import PublishedLog
from server.witness_sizes import WitnessSizes

#: Told of what is amiss: whose log or which witness's, a reason code, one sentence.
Trouble = Callable[[str, str, str], None]


@dataclass
class NearAnswers:
    """What these witnesses answered.

    Attributes:
        lines: By party, the signature lines of its checkpoint, not verified yet.
        forked: By party, how its log contradicts what the coordinator itself holds.
        stale: The parties whose log has to prove its way from another size.
    """

    lines: dict[str, list[str]] = field(default_factory=dict)
    forked: dict[str, str] = field(default_factory=dict)
    stale: set[str] = field(default_factory=set)


class NearWitnesses:
    """Asks each witness for each log.

    Args:
        channels: The witnesses by name: the coordinator's own by its party, the others by anything.
        sizes: What each holds of each log.
        trouble: Told of a witness that fails.
    """

    def __init__(
        self, channels: Mapping[str, WitnessChannel], sizes: WitnessSizes, trouble: Trouble
    ) -> None:
        self._channels = channels
        self._sizes = sizes
        self._trouble = trouble

    def cosign(self, logs: Sequence[PublishedLog]) -> NearAnswers:
        """Submits checkpoints; a witness that cannot be reached is not waited for twice."""
        answers = NearAnswers()
        for name, channel in self._channels.items():
            asked = [log for log in logs if log.party != name and log.party not in answers.forked]
            given = submit_all(
                channel, [Submission(log.note, *self._sizes.way_to(name, log)) for log in asked]
            )
            try:
                for log, answer in zip(asked, given, strict=True):
                    self._take(name, log, answer, answers)
            except UnreachableWitnessError as error:
                self._trouble(name, "witness-unreachable", error.message)
            except FedprefError as error:
                self._trouble(name, "witness-refused", f"{name} cosigns nothing: {error.message}")
        return answers

    def _take(
        self, name: str, log: PublishedLog, answer: list[str] | FedprefError, answers: NearAnswers
    ) -> None:
        if isinstance(answer, list):
            answers.lines.setdefault(log.party, []).extend(answer)
            self._sizes.learn(name, log.origin, log.size)
        elif isinstance(answer, StaleSizeError) and not answer.split_view:
            if self._sizes.corrected(name, log, answer.known_size, self._trouble):
                answers.stale.add(log.party)
        elif isinstance(answer, (ConflictError, StaleSizeError)):
            self._take_conflict(name, log, answer, answers)
        else:
            detail = f"{name} does not cosign the log of {log.party}: {answer.message}"
            self._trouble(name, "witness-refused", detail)

    def _take_conflict(
        self, name: str, log: PublishedLog, error: FedprefError, answers: NearAnswers
    ) -> None:
        """Only the coordinator's own witness convicts: it keeps both notes as evidence.

        What another says proves nothing here, and a proxy before it may say anything: that is told,
        and its cosignature is missing.
        """
        detail = f"{name} holds another history: {error.message}"
        if name == SERVER_PARTY:
            answers.forked[log.party] = detail
        else:
            self._trouble(log.party, "conflict-claimed", detail)
