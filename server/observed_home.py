"""A coordinator's home as it grows: its log and its runs' events, each line read once.

Nothing here writes, locks or needs a key. Counts come from the log, so that whoever looks again
after a restart counts the same; what a run is at just now comes from its events, which are for
people's eyes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from common import canonical_json
from common.audit.log import AuditLog
from common.canonical_json import JsonValue
from common.envelope import Envelope
from common.errors import FormatError, InputError, StorageError
from common.timestamps import parse_time
from common.validate import DECIMAL, is_power_of_two_interval

Record = Mapping[str, JsonValue]

#: What an event says of its run as a whole; a run of which none is the last is under way.
ENDINGS = {"run-finished": "finished", "run-paused": "paused", "run-failed": "failed"}


@dataclass(frozen=True)
class LoggedRound:
    """A round that the log has.

    Attributes:
        number: The round, from 1.
        mechanism: Its mechanism.
        updates: How many regions' updates its model was made of.
        refused: How many regions of the plan's are not in it.
        signal: How much its change is like the last one's, in [0, 1]; None where none is kept.
        seconds: From its first request till its model was made.
        end_ms: When that was, in milliseconds since the epoch.
    """

    number: int
    mechanism: str
    updates: int
    refused: int
    signal: float | None
    seconds: float
    end_ms: int


@dataclass
class LoggedRun:
    """What the log has of one run.

    Attributes:
        rounds: Its rounds, in order.
        published_ms: When its model was published; None till then.
    """

    rounds: list[LoggedRound] = field(default_factory=list)
    published_ms: int | None = None


class ObservedLog:
    """The coordinator's log, read on from where it was read to.

    Args:
        path: Its file; it may not be there yet.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.size = 0
        self.runs: dict[str, LoggedRun] = {}
        #: Refusals and faults, by region (empty if it was none's) and reason.
        self.incidents: Counter[tuple[str, str]] = Counter()
        #: Rounds that were read and that nobody took from here yet.
        self.new_rounds: list[LoggedRound] = []

    def read_on(self) -> None:
        """Reads what was appended since the last call.

        Raises:
            InputError: An entry is malformed.
            StorageError: The log is damaged, or shorter than it was.
        """
        if not self._path.is_file() or not self._path.stat().st_size:
            return
        with AuditLog.open_read_only(self._path) as log:
            if log.size < self.size:
                raise StorageError(
                    f"The log {self._path} had {self.size} entries and has {log.size}.",
                    remedy="A log never shrinks: look at what replaced it.",
                )
            for index, data in log.entries(self.size):
                self._take(index, data)
                self.size = index + 1

    def _take(self, index: int, data: bytes) -> None:
        try:
            envelope = Envelope.decode(data)
            if envelope.kind == "aggregate":
                self._take_aggregate(envelope.record())
            elif envelope.kind == "incident":
                record = envelope.record()
                self.incidents[str(record["region"] or ""), str(record["reason"])] += 1
            elif envelope.kind in ("model", "answers"):
                record = envelope.record()
                self._run(record).published_ms = parse_time(str(record["time"]))
        except (FormatError, KeyError, ValueError) as error:
            raise InputError(
                f"Entry {index} of the log {self._path} is malformed.",
                remedy="Verify the log with fedpref-audit.",
            ) from error

    def _take_aggregate(self, record: Record) -> None:
        used, refused, signal = record["regions"], record["refused"], record["signal"]
        end_ms = parse_time(str(record["end"]))
        done = LoggedRound(
            number=int(str(record["round"])),
            mechanism=str(record["mechanism"]),
            updates=len(used) if isinstance(used, list) else 0,
            refused=len(refused) if isinstance(refused, list) else 0,
            signal=None if signal is None else float(str(signal)),
            seconds=(end_ms - parse_time(str(record["start"]))) / 1000,
            end_ms=end_ms,
        )
        self._run(record).rounds.append(done)
        self.new_rounds.append(done)

    def _run(self, record: Record) -> LoggedRun:
        return self.runs.setdefault(str(record["run"]), LoggedRun())


@dataclass(frozen=True)
class StatedByRegion:
    """What a region's newest reply states of itself.

    Attributes:
        customers_at_least: The lower end of its customers' power-of-two interval.
        epsilon_spent: ε that its customers have spent in the budget year.
    """

    customers_at_least: int | None
    epsilon_spent: float | None


class ObservedEvents:
    """A run's events, read on from where they were read to.

    Args:
        path: Their file; it may not be there yet.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = 0
        #: ``waiting`` before the first event, ``running``, or one of `ENDINGS`.
        self.state = "waiting"
        self.last_ms: int | None = None
        self.stated: dict[str, StatedByRegion] = {}
        #: When enough others have last cosigned the coordinator's log.
        self.witnessed_ms: int | None = None

    def read_on(self) -> None:
        """Takes in what was appended since the last call; a torn last line waits.

        Raises:
            StorageError: The file cannot be read.
        """
        for event in self._new_events():
            kind = event.get("event")
            try:
                at_ms = parse_time(str(event.get("time")))
            except FormatError:
                continue
            self.last_ms = at_ms
            # What a published model's event follows is still its run at work.
            self.state = ENDINGS.get(str(kind), "running")
            if kind == "log-witnessed":
                self.witnessed_ms = at_ms
            elif kind == "region-replied":
                self.stated[str(event.get("region"))] = _stated(event)

    def _new_events(self) -> Iterator[Record]:
        try:
            with self._path.open("rb") as file:
                if file.seek(0, 2) < self._position:
                    # A torn line was cut off, or the run was begun anew.
                    self._position = 0
                file.seek(self._position)
                data = file.read()
        except FileNotFoundError:
            return
        except OSError as error:
            raise StorageError(
                f"The events {self._path} cannot be read: {error.strerror}.",
                remedy="Give this user the right to read the coordinator's home.",
            ) from error
        whole = data.rfind(b"\n") + 1
        self._position += whole
        for line in data[:whole].splitlines():
            try:
                event = canonical_json.decode(line)
            except FormatError:
                # A line that a hand changed is nobody's event.
                continue
            if isinstance(event, dict):
                yield event


def _stated(event: Record) -> StatedByRegion:
    customers, epsilon = event.get("customers"), event.get("epsilon_total")
    interval = isinstance(customers, str) and is_power_of_two_interval(customers)
    number = isinstance(epsilon, str) and DECIMAL.fullmatch(epsilon)
    return StatedByRegion(
        customers_at_least=int(str(customers).partition("-")[0]) if interval else None,
        epsilon_spent=float(str(epsilon)) if number else None,
    )
