"""The queue of runs: one file for each submission, so that it outlives every process.

Runs go one at a time, in the order they were submitted: a federation's coordinator has one log with
one writer, and its regions' budgets are charged in turn. The dispatcher (`server.dispatcher`) is
the only one that changes an entry; whoever submits or stops a run only makes a file.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from common import canonical_json
from common.canonical_json import JsonValue
from common.durable_file import write_durably
from common.errors import FormatError, InputError, StorageError, UsageError
from common.key_files import create_whole
from common.system_users import as_owner
from common.timestamps import now
from common.validate import exact_fields, line, whole_number
from server.config import RUN_NAME
from server.deployment import Deployment

State = Literal["waiting", "running", "stopping", "finished", "failed", "stopped"]

_VERSION = "fedpref-queued/1"
_FIELDS = frozenset(
    {
        "v",
        "number",
        "run",
        "state",
        "submitted_at",
        "started_at",
        "ended_at",
        "attempt_at",
        "attempts",
        "flower_run",
        "reason",
    }
)
_STATES = frozenset(get_args(State))
_ACTIVE = frozenset({"waiting", "running", "stopping"})
_STOP_SUFFIX = ".stop"
_MAX_TRIES = 100


@dataclass(frozen=True)
class Queued:
    """One submission.

    Attributes:
        number: Its place in the order of submission, from 1.
        run: The run's name.
        state: How far it is.
        submitted_at: When it was submitted.
        started_at: When it was first started; None before.
        ended_at: When it ended; None before.
        attempt_at: When it was started last; None before.
        attempts: How often it was started: once more after each kill.
        flower_run: Flower's id of what was started last.
        reason: Why it failed, in the coordinator's own words.
    """

    number: int
    run: str
    state: State
    submitted_at: str
    started_at: str | None = None
    ended_at: str | None = None
    attempt_at: str | None = None
    attempts: int = 0
    flower_run: int | None = None
    reason: str | None = None

    @property
    def active(self) -> bool:
        """Whether it has not ended yet."""
        return self.state in _ACTIVE

    def to_record(self) -> dict[str, JsonValue]:
        """As its file has it."""
        return {
            "v": _VERSION,
            "number": self.number,
            "run": self.run,
            "state": self.state,
            "submitted_at": self.submitted_at,
            "started_at": self.started_at,
            "ended_at": self.ended_at,
            "attempt_at": self.attempt_at,
            "attempts": self.attempts,
            # Larger than what every JSON reader takes for a whole number.
            "flower_run": None if self.flower_run is None else str(self.flower_run),
            "reason": self.reason,
        }


def submit(deployment: Deployment, run: str) -> Queued:
    """Puts a run at the queue's end.

    Args:
        deployment: The deployment.
        run: The run's name; it has a plan.

    Raises:
        InputError: The run has no plan, or is in the queue already.
        StorageError: The disk is full or refuses.
    """
    if not deployment.home(run).plan.is_file():
        raise InputError(
            f"There is no run {run}: it has no plan in {deployment.home(run).folder}.",
            remedy=f"The runs are {', '.join(deployment.home().runs()) or 'none yet'}; plans are "
            "made once the regions are enrolled.",
        )
    for _ in range(_MAX_TRIES):
        queue = read_queue(deployment)
        if any(each.run == run and each.active for each in queue):
            raise InputError(
                f"The run {run} is in the queue already.",
                remedy=f"See fedpref-server status {deployment.root}.",
            )
        number = max((each.number for each in queue), default=0) + 1
        entry = Queued(number, run, "waiting", now())
        path = _path(deployment, entry)
        try:
            with as_owner(deployment.queue):
                create_whole(path, canonical_json.encode(entry.to_record()), mode=0o644)
        except FileExistsError:
            continue
        except OSError as error:
            raise StorageError(f"{path} cannot be written: {error.strerror}.") from error
        # Two who submit at once may have got the same number for different runs.
        if [each.number for each in read_queue(deployment)].count(number) == 1:
            return entry
        path.unlink()
    raise StorageError(f"The queue in {deployment.queue} changes too fast; try again.")


def request_stop(deployment: Deployment, run: str) -> Queued:
    """Asks for a run in the queue to be stopped; the dispatcher does it.

    Raises:
        InputError: It is not in the queue.
    """
    for entry in read_queue(deployment):
        if entry.run == run and entry.active:
            path = _path(deployment, entry).with_suffix(_STOP_SUFFIX)
            try:
                with as_owner(deployment.queue):
                    write_durably(path, b"", mode=0o644)
            except OSError as error:
                raise StorageError(f"{path} cannot be written: {error.strerror}.") from error
            return entry
    raise InputError(f"The run {run} is not in the queue.")


def stop_requested(deployment: Deployment, entry: Queued) -> bool:
    """Whether somebody asked for a run to be stopped."""
    return _path(deployment, entry).with_suffix(_STOP_SUFFIX).exists()


def update(deployment: Deployment, entry: Queued, **changes: object) -> Queued:
    """Changes an entry, durably; for the dispatcher only.

    Raises:
        StorageError: The disk is full or refuses.
    """
    changed = replace(entry, **changes)  # type: ignore[arg-type]  # checked by whoever reads it
    path = _path(deployment, changed)
    try:
        write_durably(path, canonical_json.encode(changed.to_record()), mode=0o644)
        if not changed.active:
            path.with_suffix(_STOP_SUFFIX).unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(
            f"{path} cannot be written: {error.strerror}.", remedy="Free disk space."
        ) from error
    return changed


def read_queue(deployment: Deployment) -> list[Queued]:
    """Every submission, oldest first.

    Raises:
        InputError: A file in the queue is none.
    """
    return [_read(path) for path in sorted(deployment.queue.glob("*.json"))]


def queued(deployment: Deployment) -> int:
    """How many runs wait or are under way."""
    return sum(each.active for each in read_queue(deployment))


def find(deployment: Deployment, number: int) -> Queued:
    """One submission by its number.

    Raises:
        InputError: There is none.
    """
    for entry in read_queue(deployment):
        if entry.number == number:
            return entry
    raise InputError(f"There is no submission {number} in {deployment.queue}.")


def require_run_name(name: str) -> str:
    """A run's name.

    Raises:
        UsageError: It is none.
    """
    if RUN_NAME.fullmatch(name) is None:
        raise UsageError(
            f"{name[:64]!r} is no name of a run.",
            remedy="A name has up to 48 lower-case letters, digits and hyphens.",
        )
    return name


def _path(deployment: Deployment, entry: Queued) -> Path:
    return deployment.queue / f"{entry.number:06d}-{entry.run}.json"


def _read(path: Path) -> Queued:
    try:
        fields = exact_fields(canonical_json.decode(path.read_bytes()), _FIELDS, "A submission")
        state, run = fields["state"], fields["run"]
        if fields["v"] != _VERSION or state not in _STATES:
            raise FormatError(f"It is no {_VERSION}.")
        if type(run) is not str or RUN_NAME.fullmatch(run) is None:
            raise FormatError("It names no run.")
        flower = fields["flower_run"]
        return Queued(
            number=whole_number(fields["number"], "number", least=1),
            run=run,
            state=state,  # type: ignore[arg-type]  # one of them, see above
            submitted_at=line(fields["submitted_at"], "submitted_at"),
            started_at=_optional(fields["started_at"]),
            ended_at=_optional(fields["ended_at"]),
            attempt_at=_optional(fields["attempt_at"]),
            attempts=whole_number(fields["attempts"], "attempts", least=0),
            flower_run=None if flower is None else int(str(flower)),
            reason=_optional(fields["reason"]),
        )
    except OSError as error:
        raise InputError(f"The submission {path} cannot be read: {error.strerror}.") from error
    except (FormatError, ValueError) as error:
        raise InputError(
            f"The submission {path} is malformed: {error}", remedy="Remove the file."
        ) from error


def _optional(value: JsonValue) -> str | None:
    return None if value is None else str(value)
