"""How far a coordinator's run got, read from its home as it lies there.

Nothing here writes, locks or needs a key, so that it may be asked while a run goes on. Entries are
read as the log has them; that their signatures hold is for ``fedpref-audit verify`` to say.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from common import canonical_json
from common.audit.log import AuditLog
from common.canonical_json import JsonValue
from common.envelope import Envelope
from common.errors import FormatError, InputError, StorageError
from common.parameters import arrays_digest, load_arrays
from common.plan import RunPlan
from server.checkpoint import Checkpoint, CheckpointStore
from server.config import ServerHome

# Enough for some hundred events: a status shows the last few of a file that may be long.
_EVENT_TAIL_BYTES = 1 << 16
_MAX_MODEL_BYTES = 4 << 30

Record = dict[str, JsonValue]


@dataclass(frozen=True)
class RoundDone:
    """One round that the log has.

    Attributes:
        server_round: The round.
        mechanism: Its mechanism.
        used: The regions whose updates were summed.
        refused: For every other region of the plan, why not.
        end: When it was closed.
        model_out: Digest of the model that came of it.
    """

    server_round: int
    mechanism: str
    used: tuple[str, ...]
    refused: tuple[tuple[str, str], ...]
    end: str
    model_out: str


@dataclass(frozen=True)
class Refusal:
    """An incident that the log has: a refusal or a fault, of a region or of all."""

    server_round: int | None
    region: str | None
    reason: str
    time: str


@dataclass(frozen=True)
class LogHead:
    """The newest entry of the coordinator's log, and the root that commits to all of them."""

    origin: str
    size: int
    root: str


@dataclass(frozen=True)
class ServerStatus:
    """How far a run got.

    Attributes:
        plan: The run plan.
        log: The log's head; None before the first start.
        rounds: The rounds the log has, in order.
        incidents: What was refused, in order.
        checkpoint: The checkpoint that a restart goes on from, if there is one yet.
        published: Digest of the published model, or of the published answers, as the log has it, if
            it was published.
        model_file: Digest of the arrays in the published model's file, if the file is there.
        events: The last events, oldest first.
    """

    plan: RunPlan
    log: LogHead | None
    rounds: tuple[RoundDone, ...]
    incidents: tuple[Refusal, ...]
    checkpoint: Checkpoint | None
    published: str | None
    model_file: str | None
    events: tuple[Record, ...]

    @property
    def foreign_model(self) -> bool:
        """Whether the model's file is another than the log says was published."""
        return self.published is not None and self.model_file not in (None, self.published)


def read_plan(home: ServerHome) -> RunPlan:
    """Reads the plan of a coordinator's home.

    Raises:
        InputError: The folder is no coordinator's home, or its plan is malformed.
    """
    if not home.root.is_dir():
        raise InputError(
            f"There is no folder {home.root}.", remedy="Name a coordinator's home folder."
        )
    try:
        return home.read_plan()
    except FormatError as error:
        raise InputError(
            f"{home.plan} is not a run plan: {error.message}", remedy=error.remedy
        ) from error


def read_status(home: ServerHome, *, last_events: int) -> ServerStatus:
    """Reads how far the run of a home got; whether it runs now does not matter.

    Args:
        home: The coordinator's home.
        last_events: How many events to give at most.

    Raises:
        InputError: The folder is no coordinator's home, or the log has a malformed entry.
        StorageError: The log, the checkpoint or the model's file is damaged.
    """
    plan = read_plan(home)
    log: LogHead | None = None
    rounds: list[RoundDone] = []
    incidents: list[Refusal] = []
    published: str | None = None
    if home.log.is_file() and home.log.stat().st_size:
        with AuditLog.open_read_only(home.log) as opened:
            log = LogHead(opened.origin, opened.size, opened.root.hex())
            for kind, record in _records(opened, plan.run_id):
                if kind == "aggregate":
                    rounds.append(_round_done(record))
                elif kind == "incident":
                    incidents.append(_refusal(record))
                elif kind in ("model", "answers"):
                    published = str(record[kind])
    return ServerStatus(
        plan=plan,
        log=log,
        rounds=tuple(rounds),
        incidents=tuple(incidents),
        checkpoint=_read_checkpoint(home),
        published=published,
        model_file=_model_digest(home.answers if plan.asks else home.model),
        events=tuple(_last_events(home.events, last_events)),
    )


def _records(log: AuditLog, run: str) -> Iterator[tuple[str, Record]]:
    for index, data in log.entries():
        try:
            envelope = Envelope.decode(data)
            record = envelope.record()
        except FormatError as error:
            raise InputError(
                f"Entry {index} of the log {log.origin} is malformed: {error.message}",
                remedy="Verify the log with fedpref-audit.",
            ) from error
        if record.get("run") == run:
            yield envelope.kind, record


def _round_done(record: Record) -> RoundDone:
    return RoundDone(
        server_round=int(str(record["round"])),
        mechanism=str(record["mechanism"]),
        used=tuple(str(part["region"]) for part in _objects(record["regions"])),
        refused=tuple(
            (str(part["region"]), str(part["reason"])) for part in _objects(record["refused"])
        ),
        end=str(record["end"]),
        model_out=str(record["model_out"]),
    )


def _refusal(record: Record) -> Refusal:
    server_round, region = record["round"], record["region"]
    return Refusal(
        server_round=server_round if isinstance(server_round, int) else None,
        region=region if isinstance(region, str) else None,
        reason=str(record["reason"]),
        time=str(record["time"]),
    )


def _objects(value: JsonValue) -> list[Record]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _read_checkpoint(home: ServerHome) -> Checkpoint | None:
    store = CheckpointStore(home.checkpoint)
    try:
        return store.read()
    except StorageError:
        # A run that goes on may have replaced the model's file since the index was read.
        return store.read()


def _model_digest(path: Path) -> str | None:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"The model {path} cannot be read: {error.strerror}.") from error
    try:
        return arrays_digest(load_arrays(data, max_bytes=_MAX_MODEL_BYTES))
    except FormatError as error:
        raise StorageError(
            f"The model {path} is damaged: {error.message}",
            remedy="Remove it and start the run again: it is published from the checkpoint.",
        ) from error


def _last_events(path: Path, number: int) -> list[Record]:
    """The last whole events of the file; a line that a kill tore or a hand changed is left out."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _EVENT_TAIL_BYTES))
            data = file.read()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StorageError(f"The events {path} cannot be read: {error.strerror}.") from error
    events: list[Record] = []
    for line in data[: data.rfind(b"\n") + 1].splitlines():
        try:
            event = canonical_json.decode(line)
        except FormatError:
            continue
        if isinstance(event, dict):
            events.append(event)
    return events[-number:] if number else []
