"""Sealed updates: what a region is about to send, fixed on disk before anything is sent.

A retry of the same round sends the same bytes; noise is never drawn twice for one charge. The seal
also holds the signed round and release entries, so that a crash between sealing and logging is
mended by logging exactly those.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from client.engine.sealed_file import sealed_bytes, unsealed
from common.canonical_json import JsonValue
from common.durable_file import make_folder_durably, sync_folder, write_durably
from common.errors import FedprefError, StorageError
from common.failpoints import Point, reach

_VERSION = "fedpref-seal/1"
_SUFFIX = ".seal"


@dataclass(frozen=True)
class Seal:
    """One sealed update.

    Attributes:
        model_in: Digest of the model it was trained from.
        round_entry: The signed ``fedpref-round/1`` envelope.
        release_entry: The signed ``fedpref-release/1`` envelope.
        log_size: The log's size when it was sealed: both entries are at or after this index.
        arrays: What leaves the region.
    """

    model_in: str
    round_entry: bytes
    release_entry: bytes
    log_size: int
    arrays: Mapping[str, np.ndarray]


class SealStore:
    """The folder of a region's seals."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._folder_is_durable = False

    def write(self, run: str, server_round: int, seal: Seal) -> None:
        """Writes a seal durably, or not at all.

        Raises:
            StorageError: The disk is full or refuses; there is no seal then.
        """
        header: dict[str, JsonValue] = {
            "log_size": seal.log_size,
            "model_in": seal.model_in,
            "release_entry": base64.b64encode(seal.release_entry).decode(),
            "round_entry": base64.b64encode(seal.round_entry).decode(),
            "v": _VERSION,
        }
        path = self._path(run, server_round)
        try:
            if not (self._folder_is_durable and self._folder.is_dir()):
                make_folder_durably(self._folder)
                self._folder_is_durable = True
            write_durably(path, sealed_bytes(header, seal.arrays))
        except OSError as error:
            raise StorageError(
                f"The update of round {server_round} cannot be sealed at {path}: {error.strerror}.",
                remedy="Free disk space; the round can then be asked for again.",
            ) from error

    def read(self, run: str, server_round: int) -> Seal | None:
        """Reads a seal back, or None if the round was never sealed.

        Raises:
            StorageError: The seal was altered; it is never replaced by a new draw of noise.
        """
        path = self._path(run, server_round)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageError(f"The seal {path} cannot be read: {error.strerror}.") from error
        try:
            return _decode(data)
        except (FedprefError, KeyError, TypeError, ValueError, binascii.Error) as error:
            raise StorageError(
                f"The seal {path} is damaged: {error}",
                remedy="Restore it from a backup; the round cannot be trained a second time.",
            ) from error

    def remove(self, run: str, server_round: int) -> None:
        """Removes a seal durably: its update will never be sent.

        Raises:
            StorageError: The disk refuses.
        """
        path = self._path(run, server_round)
        try:
            path.unlink(missing_ok=True)
            reach(Point.SEAL_REMOVED)
            if self._folder.is_dir():
                sync_folder(self._folder)
        except OSError as error:
            raise StorageError(f"The seal {path} cannot be removed: {error.strerror}.") from error

    def remove_leftovers(self) -> None:
        """Removes what a crash left half-written: for the one engine that writes here.

        Raises:
            StorageError: The disk refuses.
        """
        try:
            for path in self._folder.glob(f".*{_SUFFIX}.*.tmp"):
                path.unlink()
        except OSError as error:
            raise StorageError(
                f"A half-written seal in {self._folder} cannot be removed: {error.strerror}."
            ) from error

    def _path(self, run: str, server_round: int) -> Path:
        return self._folder / f"{run}-{server_round:04d}{_SUFFIX}"


def is_whole_seal(path: Path) -> bool:
    """Whether a file is a seal that was not altered."""
    try:
        _decode(path.read_bytes())
    except (FedprefError, OSError, KeyError, TypeError, ValueError, binascii.Error):
        return False
    return True


def _decode(data: bytes) -> Seal:
    header, arrays = unsealed(data, _VERSION)
    return Seal(
        model_in=str(header["model_in"]),
        round_entry=base64.b64decode(str(header["round_entry"]), validate=True),
        release_entry=base64.b64decode(str(header["release_entry"]), validate=True),
        log_size=int(str(header["log_size"])),
        arrays=arrays,
    )
