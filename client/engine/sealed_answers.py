"""Sealed answers to queries: fixed on disk, with the signed entry, before the log has them.

As with a round's update (`client.engine.seal`): whoever asks again gets the same values, and noise
is never drawn twice for one charge.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from client.engine.sealed_file import sealed_bytes, unsealed
from common.durable_file import make_folder_durably, sync_folder, write_durably
from common.errors import FedprefError, StorageError
from common.failpoints import AnswerPoint, reach

_VERSION = "fedpref-sealed-answer/1"
_SUFFIX = ".answer"


@dataclass(frozen=True)
class SealedAnswer:
    """The answer to one part of a query.

    Attributes:
        query: The signed ``fedpref-query/1`` envelope.
        entry: The signed ``fedpref-answer/1`` envelope.
        log_size: The log's size when it was sealed: its entry is at or after this index.
        arrays: What was computed.
    """

    query: bytes
    entry: bytes
    log_size: int
    arrays: Mapping[str, npt.NDArray[np.generic]] = field(repr=False)

    def encode(self) -> bytes:
        """The bytes of its file."""
        return sealed_bytes(
            {
                "entry": base64.b64encode(self.entry).decode(),
                "log_size": self.log_size,
                "query": base64.b64encode(self.query).decode(),
                "v": _VERSION,
            },
            self.arrays,
        )

    @classmethod
    def decode(cls, data: bytes, path: Path) -> SealedAnswer:
        """Reads a file's bytes back.

        Args:
            data: The bytes.
            path: The file, to name it.

        Raises:
            StorageError: It was altered.
        """
        try:
            header, arrays = unsealed(data, _VERSION)
            return cls(
                query=base64.b64decode(str(header["query"]), validate=True),
                entry=base64.b64decode(str(header["entry"]), validate=True),
                log_size=int(str(header["log_size"])),
                arrays=arrays,
            )
        except (FedprefError, KeyError, TypeError, ValueError, binascii.Error) as error:
            raise StorageError(
                f"The sealed answer {path} is damaged: {error}.",
                remedy="Restore it from a backup, or ask anew: that is charged anew.",
            ) from error


class AnswerStore:
    """The folder of a region's queries and sealed answers.

    Args:
        folder: The folder; it need not be there yet.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, run: str, number: int) -> Path:
        """The file of the answer to a part of a query."""
        return self._folder / f"{run}-{number:04d}{_SUFFIX}"

    def query_path(self, permit_id: str) -> Path:
        """The file of a signed query."""
        return self._folder / f"{permit_id}.json"

    def queries(self) -> list[str]:
        """The ids of the signed queries, the newest first."""
        return sorted((path.stem for path in self._folder.glob("*.json")), reverse=True)

    def write_query(self, permit_id: str, envelope: bytes) -> None:
        """Keeps a signed query.

        Raises:
            StorageError: The disk refuses.
        """
        self._write(self.query_path(permit_id), envelope)

    def write(self, run: str, number: int, answer: SealedAnswer) -> None:
        """Seals an answer durably, or not at all.

        Raises:
            StorageError: The disk is full or refuses; there is no seal then.
        """
        self._write(self.path(run, number), answer.encode())

    def read(self, run: str, number: int) -> SealedAnswer | None:
        """Reads an answer back, or None if it was never sealed.

        Raises:
            StorageError: It was altered; it is never replaced by a new draw of noise.
        """
        path = self.path(run, number)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageError(f"{path} cannot be read: {error.strerror}.") from error
        return SealedAnswer.decode(data, path)

    def remove(self, run: str, number: int) -> None:
        """Removes an answer durably: nobody will ever use it.

        Raises:
            StorageError: The disk refuses.
        """
        path = self.path(run, number)
        try:
            path.unlink(missing_ok=True)
            reach(AnswerPoint.ANSWER_REMOVED)
            if self._folder.is_dir():
                sync_folder(self._folder)
        except OSError as error:
            raise StorageError(f"{path} cannot be removed: {error.strerror}.") from error

    def remove_leftovers(self) -> None:
        """Removes what a crash left half-written: for the one engine that writes here.

        Raises:
            StorageError: The disk refuses.
        """
        try:
            for path in self._folder.glob(".*.tmp"):
                path.unlink()
        except OSError as error:
            raise StorageError(
                f"A half-written file in {self._folder} cannot be removed: {error.strerror}."
            ) from error

    def _write(self, path: Path, data: bytes) -> None:
        try:
            make_folder_durably(self._folder)
            write_durably(path, data)
        except OSError as error:
            raise StorageError(
                f"{path} cannot be written: {error.strerror}.",
                remedy="Free disk space; the query can then be asked again.",
            ) from error
