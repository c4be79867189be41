"""What of an evaluation is measured already: an interrupted one goes on from there.

The parts of an evaluation lie in a folder of its own, named by the digest of all that they follow
from: data, plans, methods, metrics, code. A part of another evaluation is thus never taken for one
of this, and each is a file that is there whole or not at all. Noise has its seed here, so the
figures of an evaluation that was interrupted are those of one that was not.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

import client
import common
import server
import simulations
from client.data.dataset import PreferenceDataset
from client.engine.provenance import code_digest, dependencies_digest
from common.durable_file import write_durably
from common.errors import FormatError, StorageError
from common.parameters import array_file_parts, element_bytes, load_arrays
from simulations.evaluation.contenders import Contender
from simulations.evaluation.judge import Metrics
from simulations.evaluation.plans import Setting
from simulations.evaluation.protocols import Fold, Split

Arrays = dict[str, npt.NDArray[np.generic]]

_FORMAT = "fedpref-evaluation-parts/1"
_SUFFIX = ".safetensors"
# Of one method, seed and setting: a hundred times what the most customers and places take.
_MOST_BYTES = 1 << 30


class Parts(Protocol):
    """Where the parts of an evaluation come from."""

    def arrays(self, name: str, make: Callable[[], Arrays]) -> Arrays:
        """A part's arrays: as they were measured before, or made now.

        Args:
            name: The part's name, unique within the evaluation.
            make: Measures it.
        """
        ...


class MadeAnew:
    """Keeps nothing."""

    def arrays(self, name: str, make: Callable[[], Arrays]) -> Arrays:
        """What is made now."""
        del name
        return make()


class KeptParts:
    """Parts as files of a folder, which only its owner may read: they are figures of customers.

    Args:
        folder: The folder; it is made with the first part.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def count(self) -> int:
        """How many parts there are."""
        return sum(1 for _ in self._folder.glob(f"*{_SUFFIX}"))

    def arrays(self, name: str, make: Callable[[], Arrays]) -> Arrays:
        """A part's arrays; one that cannot be read is made again.

        Raises:
            StorageError: The disk refuses. What was kept before stays.
        """
        # A name of a method has slashes, and no two names become one.
        path = self._folder / f"{quote(name, safe='')}{_SUFFIX}"
        with suppress(FileNotFoundError, FormatError), self._storing():
            return load_arrays(path.read_bytes(), _MOST_BYTES)
        made = make()
        with self._storing():
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_durably(path, array_file_parts(made))
        return made

    @contextmanager
    def _storing(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StorageError(
                f"What was measured cannot be kept in {self._folder}: {error.strerror}.",
                remedy="Free some space; the same command goes on from here.",
            ) from error

    def remove(self) -> None:
        """Removes the parts: the result is written. Another evaluation's, beside them, stay."""
        if self._folder.is_dir():
            shutil.rmtree(self._folder)
            with suppress(OSError):
                self._folder.parent.rmdir()


def evaluation_digest(
    folds: Sequence[Fold],
    split: Split,
    settings: Sequence[Setting],
    contenders: Sequence[Contender],
    metrics: Metrics,
    refusal_share: float,
) -> str:
    """SHA-256 of all that a part follows from, in hex.

    How many seeds and resamples there are is not of it: no part depends on that.
    """
    digest = hashlib.sha256()
    head = {
        "v": _FORMAT,
        "code": code_digest(client, common, server, simulations),
        "dependencies": dependencies_digest(),
        "split": split.value,
        "plans": [setting.plan.digest for setting in settings],
        "methods": [method.key for each in contenders for method in each.methods],
        "places": list(metrics.places),
        "refusal_share": repr(refusal_share),
    }
    digest.update(json.dumps(head, sort_keys=True).encode())
    for fold in folds:
        for piece in _content(fold):
            digest.update(hashlib.sha256(piece).digest())
    return digest.hexdigest()


def _content(fold: Fold) -> Iterator[bytes | memoryview]:
    """A fold's data; each piece is hashed by itself, so that none runs into the next."""
    yield repr((fold.test_from_ms, fold.test_until_ms)).encode()
    for datasets in (fold.train, fold.histories):
        yield from _datasets(datasets)
    for region, answers in fold.answers.items():
        yield repr((region, answers.n_items)).encode()
        yield from (element_bytes(array) for array in (answers.indptr, answers.items))
    if fold.tuning is not None:
        yield b"tuning"
        yield from _content(fold.tuning)


def _datasets(datasets: Mapping[str, PreferenceDataset]) -> Iterator[bytes | memoryview]:
    for region, each in datasets.items():
        yield repr((region, each.n_items, each.start_ms, each.end_ms)).encode()
        yield "\n".join(each.sids).encode()
        parts = (each.indptr, each.indices, each.counts.values, each.last_ms, each.ages_weeks)
        yield from (element_bytes(array) for array in parts)
