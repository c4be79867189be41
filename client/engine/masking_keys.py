"""A region's secret keys for masks: one for each round, kept till the round is over.

A key is made once for a round and lies with the statement that the region signed for it, so that an
engine that was restarted in between goes on with what it has said. When the next round begins, or
the run ends, it is removed: what was masked with it can then be unmasked by nobody. Keys are in no
backup; after a restore a region states a new one, and the coordinator asks for the mask anew.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from common import canonical_json
from common.durable_file import make_folder_durably, sync_folder, write_durably
from common.errors import FormatError, StorageError
from common.failpoints import Point, reach
from common.secure_aggregation import MaskingKey

_VERSION = "fedpref-masking-secret/1"
_FIELDS = {"v", "private_key", "statement"}
_SUFFIX = ".masking-key"
_MAX_BYTES = 1 << 16


@dataclass(frozen=True, repr=False)
class HeldKey:
    """A round's key. It is never printed.

    Attributes:
        key: The secret key.
        statement: The signed statement of its public key, as it was sent.
    """

    key: MaskingKey
    statement: bytes


class MaskingKeyStore:
    """The folder of a region's masking keys.

    Args:
        folder: It is made, for its owner alone, when first written to.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, run: str, server_round: int, held: HeldKey) -> None:
        """Keeps a round's key durably, readable by its owner alone, or not at all.

        Raises:
            StorageError: The disk is full or refuses.
        """
        data = canonical_json.encode(
            {
                "v": _VERSION,
                "private_key": held.key.private.hex(),
                "statement": base64.b64encode(held.statement).decode(),
            },
            max_bytes=_MAX_BYTES,
        )
        path = self._path(run, server_round)
        try:
            make_folder_durably(self._folder)
            write_durably(path, data)
        except OSError as error:
            raise StorageError(
                f"The masking key of round {server_round} cannot be kept at {path}: "
                f"{error.strerror}.",
                remedy="Free disk space; the round can then be asked for again.",
            ) from error

    def read(self, run: str, server_round: int) -> HeldKey | None:
        """A round's key, or None if there is none.

        Raises:
            StorageError: It is damaged or cannot be read.
        """
        path = self._path(run, server_round)
        try:
            fields = canonical_json.decode(path.read_bytes(), max_bytes=_MAX_BYTES)
            if not isinstance(fields, dict) or set(fields) != _FIELDS or fields["v"] != _VERSION:
                raise FormatError("it has other fields than a masking key")
            return HeldKey(
                MaskingKey(bytes.fromhex(str(fields["private_key"]))),
                base64.b64decode(str(fields["statement"]), validate=True),
            )
        except FileNotFoundError:
            return None
        except (OSError, FormatError, ValueError, binascii.Error) as error:
            raise StorageError(
                f"The masking key {path} cannot be used: {error}",
                remedy="Remove the file: the region then states a new key for the round.",
            ) from error

    def remove(self, run: str, *, before: int | None = None) -> None:
        """Removes a run's keys durably.

        Args:
            run: The run.
            before: Only those of rounds before this one; None for all.

        Raises:
            StorageError: The disk refuses.
        """
        gone = [
            self._path(run, number)
            for held, number in self.rounds()
            if held == run and (before is None or number < before)
        ]
        if not gone:
            return
        try:
            for path in gone:
                path.unlink(missing_ok=True)
            reach(Point.MASKING_KEYS_REMOVED)
            sync_folder(self._folder)
        except OSError as error:
            raise StorageError(
                f"Masking keys in {self._folder} cannot be removed: {error.strerror}."
            ) from error

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
                f"A half-written masking key in {self._folder} cannot be removed: {error.strerror}."
            ) from error

    def rounds(self) -> Iterator[tuple[str, int]]:
        """The run and the round of every key that is kept."""
        for path in sorted(self._folder.glob(f"*{_SUFFIX}")):
            run, _, number = path.name.removesuffix(_SUFFIX).rpartition("-")
            if run and number.isdecimal():
                yield run, int(number)

    def _path(self, run: str, server_round: int) -> Path:
        return self._folder / f"{run}-{server_round:04d}{_SUFFIX}"
