"""The exposure log: what was shown to whom in an experiment, for measuring what it brought.

It holds customers whose consent for recommendations stands, and nobody else: the others are shown
popularity and leave no trace here. It calls a customer by a pseudonym of its own. Whoever's consent
ends is taken out with the next refresh, and nothing is kept for longer than the experiment's
settings say, nor once there is no experiment. It stays in the region; figures from it are for the
region alone.

Exposures are written in batches. A crash loses those of the last second: fewer, never wrong ones.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import apsw

from common import canonical_json
from common.errors import FormatError, StorageError

FILE_NAME = "exposures.sqlite"

_FLUSH_ROWS = 256
_FLUSH_AFTER_S = 1.0
# Not written because the disk refuses; beyond that the oldest are given up.
_MOST_WAITING = 65_536
# Of the longest list there is, of the longest references.
_MAX_ITEMS_BYTES = 1 << 22
_SCHEMA = """
CREATE TABLE IF NOT EXISTS exposures (
  experiment TEXT NOT NULL,
  customer BLOB NOT NULL,
  arm TEXT NOT NULL,
  shown_at_ms INTEGER NOT NULL,
  items TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS exposures_of_customer ON exposures (experiment, customer);
"""


@dataclass(frozen=True, slots=True)
class Exposure:
    """One list that a customer was shown.

    Attributes:
        experiment: The experiment's name.
        customer: Her pseudonym of this log, 16 bytes.
        arm: Her arm's name.
        shown_at_ms: When, milliseconds since the epoch.
        items: The items, as the catalogue refers to them, best first.
    """

    experiment: str
    customer: bytes
    arm: str
    shown_at_ms: int
    items: tuple[str, ...]


class ExposureLog:
    """An open exposure log. Safe to use from several threads.

    Args:
        path: Its file; made if it is not there.
        clock_s: Gives a time that only goes forward, in seconds.

    Raises:
        StorageError: The file cannot be used.
    """

    def __init__(self, path: Path, *, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock_s = clock_s
        self._lock = threading.Lock()
        self._waiting: list[Exposure] = []
        self._written_s = clock_s()
        with self._storage_errors():
            # Made readable by its owner alone before anything is in it.
            path.touch(mode=0o600)
            self._connection = apsw.Connection(str(path))
            self._connection.set_busy_timeout(5_000)
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=NORMAL")
            # What is taken out must not linger in free pages.
            self._connection.execute("PRAGMA secure_delete=ON")
            with self._connection:
                self._connection.execute(_SCHEMA)

    def add(self, exposure: Exposure) -> None:
        """Takes in an exposure, to be written with others.

        Raises:
            StorageError: The disk refuses; what waits is tried again with the next one.
        """
        with self._lock:
            self._waiting.append(exposure)
            del self._waiting[:-_MOST_WAITING]
            due = self._clock_s() - self._written_s >= _FLUSH_AFTER_S
            if due or len(self._waiting) >= _FLUSH_ROWS:
                self._flush()

    def flush(self) -> None:
        """Writes what waits.

        Raises:
            StorageError: The disk refuses.
        """
        with self._lock:
            self._flush()

    def all(self, experiment: str) -> Iterator[Exposure]:
        """The exposures of an experiment, each customer's in the order of time.

        Raises:
            StorageError: The file is damaged.
        """
        self.flush()
        with self._storage_errors():
            rows = self._connection.execute(
                "SELECT customer, arm, shown_at_ms, items FROM exposures WHERE experiment = ?"
                " ORDER BY customer, shown_at_ms, rowid",
                (experiment,),
            )
            for customer, arm, shown_at_ms, items in rows:
                yield Exposure(experiment, customer, arm, shown_at_ms, self._items(items))

    def keep_only(self, experiment: str, customers: Collection[bytes], *, since_ms: int) -> int:
        """Takes out the exposures of all others, those from before a time, and other experiments'.

        Args:
            experiment: The experiment that runs.
            customers: The pseudonyms of all whose consent stands.
            since_ms: Milliseconds since the epoch.

        Returns:
            How many exposures were taken out.

        Raises:
            StorageError: The disk refuses.
        """
        with self._lock, self._storage_errors():
            self._flush()
            known = self._connection.execute(
                "SELECT DISTINCT customer FROM exposures WHERE experiment = ?", (experiment,)
            ).fetchall()
            gone = [(experiment, each) for (each,) in known if each not in customers]
            before = self._connection.total_changes()
            with self._connection:
                self._connection.execute(
                    "DELETE FROM exposures WHERE experiment <> ? OR shown_at_ms < ?",
                    (experiment, since_ms),
                )
                self._connection.executemany(
                    "DELETE FROM exposures WHERE experiment = ? AND customer = ?", gone
                )
            taken_out = self._connection.total_changes() - before
            # The write-ahead log has the pages as they were.
            self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
            return taken_out

    def clear(self) -> None:
        """Takes out everything: no experiment runs.

        Raises:
            StorageError: The disk refuses.
        """
        with self._lock, self._storage_errors():
            self._waiting.clear()
            with self._connection:
                self._connection.execute("DELETE FROM exposures")
            # The write-ahead log has the pages as they were.
            self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)

    def close(self) -> None:
        """Writes what waits, and closes the file.

        Raises:
            StorageError: The disk refuses; the file is closed nevertheless.
        """
        try:
            self.flush()
        finally:
            self._connection.close()

    def _flush(self) -> None:
        self._written_s = self._clock_s()
        if not self._waiting:
            return
        with self._storage_errors(), self._connection:
            self._connection.executemany(
                "INSERT INTO exposures VALUES (?, ?, ?, ?, ?)",
                [
                    (
                        each.experiment,
                        each.customer,
                        each.arm,
                        each.shown_at_ms,
                        canonical_json.encode(
                            list(each.items), max_bytes=_MAX_ITEMS_BYTES
                        ).decode(),
                    )
                    for each in self._waiting
                ],
            )
        self._waiting.clear()

    def _items(self, text: str) -> tuple[str, ...]:
        try:
            items = canonical_json.decode(text.encode(), max_bytes=_MAX_ITEMS_BYTES)
        except FormatError as error:
            raise StorageError(f"An exposure in {self._path} is malformed.") from error
        if not isinstance(items, list):
            raise StorageError(f"An exposure in {self._path} is no list.")
        return tuple(str(item) for item in items)

    @contextmanager
    def _storage_errors(self) -> Iterator[None]:
        try:
            yield
        except (apsw.Error, OSError) as error:
            raise StorageError(
                f"The exposure log {self._path} cannot be used: {error}.",
                remedy="Check the disk's space and the file's mode and owner.",
            ) from error
