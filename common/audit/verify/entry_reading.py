"""Reads a log's entries and does, for the usual consents, all the work that needs no order.

What a consent says, and whether its signature holds, does not depend on what stands before it. In a
large log this is nearly all the work, so several processes share it. Whatever is not a usual
consent with a good signature comes back as it stands: the general way judges it, in order.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple

from common.audit.merkle import leaf_hash
from common.audit.verify.consent_bytes import ConsentForms
from common.audit.verify.consents import ConsentFacts, granted, ulid_bytes, until
from common.audit.verify.files import BundleFolder
from common.audit.verify.records import IMPORTED
from common.audit.verify.tiles import ENTRIES_PER_TILE, read_tile, tile_name
from common.envelope import pae
from common.errors import InputError, StorageError
from common.identifiers import ulid_ms
from common.keys import verify_signature

CONSENT_TYPE = "application/vnd.fedpref.consent+json"
#: Below this many entries, starting processes costs more than it saves.
_WORTH_PROCESSES = 40_000
_TILES_PER_TASK = 8
#: Tasks under way for each process: enough to keep it busy, few enough to bound memory.
_TASKS_AHEAD = 3
_MAX_PROCESSES = 16


class GoodConsent(NamedTuple):
    """A consent whose fields are valid and whose signature holds under the stated key.

    Attributes:
        leaf: The entry's leaf hash.
        digest: SHA-256 of its envelope.
        key_id: The key that signed: one of those the reader was given.
        signed_ms: When it says that it was signed, in milliseconds since the epoch.
        facts: What the replay needs of it.
    """

    leaf: bytes
    digest: bytes
    key_id: str
    signed_ms: int
    facts: ConsentFacts


#: An entry as read: a consent that needs only what depends on order, or the entry's bytes.
ReadEntry = GoodConsent | bytes


class _Reader:
    """Reads tiles of one log.

    Args:
        folder: The bundle.
        consent_keys: The public keys that may have signed its consents, by key id.
    """

    def __init__(self, folder: BundleFolder, consent_keys: Mapping[str, bytes]) -> None:
        self._folder = folder
        self._keys = consent_keys
        self._forms = ConsentForms()

    def read(self, name: str, expected: int) -> list[ReadEntry]:
        """Reads one tile.

        Raises:
            InputError: It is missing, or does not hold exactly its entries.
        """
        return [self._entry(data) for data in read_tile(self._folder, name, expected)]

    def _entry(self, data: bytes) -> ReadEntry:
        read = self._forms.read(data)
        if read is None:
            return data
        public_key = self._keys.get(read.key_id)
        if public_key is None or not verify_signature(
            public_key, pae(CONSENT_TYPE, read.payload), read.signature
        ):
            return data
        notice = read.form["notice"]
        if not isinstance(notice, dict):
            return data
        imported = read.form["method"] == IMPORTED
        facts = ConsentFacts(
            sid=read.sid,
            seq=read.seq,
            prev=read.prev,
            granted=granted(read.form),
            until_ms=until(read.expires_ms),
            notice_id=str(notice["id"]),
            notice=str(notice["sha256"]),
            record_id=ulid_bytes(read.record_id),
            event_ms=read.event_ms,
            imported=imported,
        )
        digest = hashlib.sha256(data).digest()
        signed_ms = ulid_ms(read.record_id) if imported else read.event_ms
        return GoodConsent(leaf_hash(data), digest, read.key_id, signed_ms, facts)


def read_entries(
    folder: BundleFolder, party: str, size: int, consent_keys: Mapping[str, bytes]
) -> Iterator[tuple[str, int, list[ReadEntry]]]:
    """Reads a log's entries in order, a tile at a time.

    Args:
        folder: The bundle.
        party: Whose log.
        size: How many entries it has.
        consent_keys: The public keys that may have signed its consents, by key id.

    Yields:
        The file's name, the index of its first entry, and its entries.

    Raises:
        InputError: A file is missing, unreadable, or does not hold exactly its entries.
    """
    tiles = [
        (tile_name(party, first, size), first, min(ENTRIES_PER_TILE, size - first))
        for first in range(0, size, ENTRIES_PER_TILE)
    ]
    processes = min(len(os.sched_getaffinity(0)), _MAX_PROCESSES)
    if size < _WORTH_PROCESSES or processes < 2:
        reader = _Reader(folder, consent_keys)
        for name, first, expected in tiles:
            yield name, first, reader.read(name, expected)
        return
    yield from _read_in_processes(folder, tiles, consent_keys, processes)


def _read_in_processes(
    folder: BundleFolder,
    tiles: list[tuple[str, int, int]],
    consent_keys: Mapping[str, bytes],
    processes: int,
) -> Iterator[tuple[str, int, list[ReadEntry]]]:
    tasks = [tiles[i : i + _TILES_PER_TASK] for i in range(0, len(tiles), _TILES_PER_TASK)]
    with ProcessPoolExecutor(
        processes,
        # A fork of a process with threads can hang; a verifier may be called from one.
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_process,
        initargs=(folder.root, dict(consent_keys)),
    ) as pool:
        ahead: deque[Future[list[list[ReadEntry] | str]]] = deque()
        try:
            for number in range(len(tasks) + processes * _TASKS_AHEAD):
                if number < len(tasks):
                    names = [(name, expected) for name, _, expected in tasks[number]]
                    ahead.append(pool.submit(_read_task, names))
                if number < processes * _TASKS_AHEAD or not ahead:
                    continue
                done = tasks[number - processes * _TASKS_AHEAD]
                for (name, first, _), entries in zip(done, ahead.popleft().result(), strict=True):
                    if isinstance(entries, str):
                        raise InputError(entries)
                    yield name, first, entries
        except BrokenProcessPool as error:
            raise StorageError(
                "A process that reads the log ended early.",
                remedy="The machine may be short of memory; verify again.",
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


_process_reader: _Reader | None = None


def _start_process(root: Path, consent_keys: Mapping[str, bytes]) -> None:
    global _process_reader
    _process_reader = _Reader(BundleFolder(root), consent_keys)


def _read_task(tiles: list[tuple[str, int]]) -> list[list[ReadEntry] | str]:
    """Reads some tiles; of one that cannot be read, why, and of those after it nothing."""
    results: list[list[ReadEntry] | str] = []
    for name, expected in tiles:
        if _process_reader is None:
            raise RuntimeError("the process was not started as a reader")
        try:
            results.append(_process_reader.read(name, expected))
        except InputError as error:
            results += [error.message] * (len(tiles) - len(results))
            break
    return results
