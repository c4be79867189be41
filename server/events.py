"""What happens during a run, one JSON object a line, for a display in whatever process to follow.

Events are for people's eyes. The audit log is what counts.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

from common import canonical_json
from common.canonical_json import JsonValue
from common.errors import StorageError
from common.timestamps import format_time, now_ms


class EventWriter:
    """Appends events to a file; each line is whole when `write` returns.

    Args:
        path: The file; it is made if it is not there.
        run: The run's id, in every event.

    Raises:
        StorageError: The file cannot be opened.
    """

    def __init__(self, path: Path, run: str) -> None:
        self._path = path
        self._run = run
        try:
            _drop_torn_line(path)
            self._file = path.open("ab")
        except OSError as error:
            raise StorageError(f"Events cannot be written to {path}: {error.strerror}.") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def write(self, event: str, **fields: JsonValue) -> None:
        """Appends one event.

        Args:
            event: round-started, log-witnessed, region-replied, region-refused, round-closed,
                model-published or answers-published, run-paused, run-finished or run-failed.
            fields: What belongs to it: round, mechanism, region, reason, size, customers as a
                power-of-two interval.

        Raises:
            StorageError: The disk is full or refuses.
        """
        record: dict[str, JsonValue] = {
            **fields,
            "event": event,
            "run": self._run,
            "time": format_time(now_ms()),
        }
        try:
            self._file.write(canonical_json.encode(record) + b"\n")
            self._file.flush()
        except OSError as error:
            raise StorageError(
                f"Events cannot be written to {self._path}: {error.strerror}.",
                remedy="Free disk space; the same command then goes on from here.",
            ) from error


def _drop_torn_line(path: Path) -> None:
    """Cuts off what a kill left of a last line."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return
    whole = data.rfind(b"\n") + 1
    if whole != len(data):
        with path.open("r+b") as file:
            file.truncate(whole)
