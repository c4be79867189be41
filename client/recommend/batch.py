"""Lists for all customers at once, as a Parquet file, in memory that does not grow with them.

A list is the one that `Recommender.recommend` gives a customer without live events. A customer has
a row only if her consent stands when the file is finished and she has a history; one row, without a
customer, has what everybody else is shown. Who is not in the file may have refused, never have been
asked, or have bought nothing: it does not say.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from client.data.consent_filter import EligibleCustomers
from client.recommend.answers import popular_choice
from client.recommend.batch_file import BatchFile, drafted, leave_out, opened, publish
from client.recommend.bulk_lists import BulkLists
from client.recommend.bulk_tables import BulkTables
from client.recommend.filters import allowed_items
from client.recommend.recommender import Recommender
from client.recommend.scoring import ScoringTables
from client.recommend.served import Served
from client.recommend.types import Query, Scene
from client.training.evaluation import select_customers
from common.errors import InputError, StorageError
from common.timestamps import format_time, now_ms

IntArray = npt.NDArray[np.int64]
Progress = Callable[[int, int], None]

#: The longest list of a batch.
MAX_BATCH_K = 10_000

# So many scores at a time are in tables of customers × items, and so many customers at most.
_TABLE_SCORES = 1 << 22
_MOST_CUSTOMERS = 1 << 13


@dataclass(frozen=True)
class BatchRequest:
    """What lists are made.

    Attributes:
        k: How long they are, 1 to `MAX_BATCH_K`; shorter where the catalogue has fewer items.
        scene: When and where they are shown; None for any.
        new_only: Whether to leave out what a customer has bought before.
        in_stock: The items that can be had; None if all can.
        exclude: Items not to show.
    """

    k: int = 10
    scene: Scene | None = None
    new_only: bool = False
    in_stock: frozenset[str] | None = None
    exclude: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if type(self.k) is not int or not 1 <= self.k <= MAX_BATCH_K:
            raise InputError(
                f"Lists of {self.k!r} items cannot be made.",
                remedy=f"Ask for 1 to {MAX_BATCH_K}.",
            )


@dataclass(frozen=True)
class BatchSummary:
    """What a batch came to.

    Attributes:
        customers: How many have a list of their own in the file.
        withdrawn: How many lost theirs while the file was made: consent ended, or they were erased.
        not_finite: How many have none because their scores are no numbers.
        model: The digest of the model.
        consent_size: The size of the region's log that the file's consents were judged at.
        size_bytes: The file's size.
    """

    customers: int
    withdrawn: int
    not_finite: int
    model: str
    consent_size: int
    size_bytes: int


def write_batch(
    recommender: Recommender,
    out: Path,
    request: BatchRequest | None = None,
    *,
    threads: int | None = None,
    progress: Progress = lambda _done, _all: None,
) -> BatchSummary:
    """Writes every customer's list to a file, which is there whole or as it was before.

    Args:
        recommender: Whose lists; what it serves when the batch begins is used throughout.
        out: The file.
        request: What lists; ten items for any moment by default.
        threads: How many threads at most; one for each processor by default.
        progress: Is told how many customers are done, and of how many.

    Raises:
        InputError: The scene is unknown, an experiment runs, or the file cannot be made there.
        StorageError: It cannot be written, or consents cannot be read.
        VerificationError: The region's log does not verify.
    """
    request = request or BatchRequest()
    recommender.settings.scenes.require(request.scene)
    if recommender.settings.experiment is not None:
        raise InputError(
            "An experiment runs: who saw which list is counted when a list is asked for, and a "
            "batch is not.",
            remedy="Let the service answer, or end the experiment in recommend/settings.toml.",
        )
    batch = _Batch(recommender.served, recommender.consenting(), request, threads or _processors())
    with drafted(out) as draft:
        try:
            return _written(recommender, batch, draft, out, progress)
        except OSError as error:
            raise StorageError(
                f"The batch {out} cannot be written: {error.strerror or error}.",
                remedy="Make room on the disk; the file is as it was before.",
            ) from error


def _written(
    recommender: Recommender, batch: _Batch, draft: Path, out: Path, progress: Progress
) -> BatchSummary:
    with opened(draft, batch.metadata(batch.eligible)) as writer:
        listed, not_finite = batch.write(BatchFile(writer, batch.served.catalogue.items), progress)
    # Hours may have passed: nobody is in the file whose consent has ended meanwhile.
    withdrawn: set[str] = set()
    while True:
        now = recommender.consenting()
        gone = (listed - withdrawn) - now.customer_refs
        if not gone:
            break
        withdrawn |= gone
        leave_out(draft, gone, batch.metadata(now))
    return BatchSummary(
        customers=len(listed) - len(withdrawn),
        withdrawn=len(withdrawn),
        not_finite=not_finite,
        model=batch.served.release.digest,
        consent_size=now.consent_size,
        size_bytes=publish(draft, out),
    )


class _Batch:
    """One batch: what is served, who consents, and what is asked for."""

    def __init__(
        self, served: Served, eligible: EligibleCustomers, request: BatchRequest, threads: int
    ) -> None:
        self.served, self.eligible, self._request = served, eligible, request
        tables = served.tables
        self._scene = served.scene_factor(request.scene)
        self._allowed = allowed_items(
            tables, Query(customer=None, exclude=request.exclude, in_stock=request.in_stock)
        )
        bulk = BulkTables.of(tables, allowed=self._allowed, scene=self._scene)
        self._lists = BulkLists(bulk, request.k, new_only=request.new_only, threads=threads)

    def metadata(self, eligible: EligibleCustomers) -> dict[str, str]:
        """What the file says of itself: none of it is about a customer."""
        scene = self._request.scene
        named = () if scene is None else (scene.daypart, scene.weekday, scene.store_type)
        return {
            "model": self.served.release.digest,
            "run": self.served.release.plan.run_id,
            "consent_size": str(eligible.consent_size),
            "made_at": format_time(now_ms()),
            "k": str(self._request.k),
            "scene": " ".join(str(each) for each in named if each is not None),
            "new_only": str(self._request.new_only).lower(),
        }

    def write(self, file: BatchFile, progress: Progress) -> tuple[set[str], int]:
        """Writes all rows; gives who has one, and of how many scores were no numbers."""
        self._write_for_everybody_else(file)
        histories = self.served.histories
        reference_of = {sid: reference for reference, sid in self.eligible.pseudonyms.items()}
        listed: set[str] = set()
        not_finite = 0
        block = _block_size(self.served.tables)
        for start in range(0, histories.n_customers, block):
            stop = min(start + block, histories.n_customers)
            rows = histories.part(start, stop)
            known = [sid for sid in rows.sids if sid in reference_of]
            if len(known) < len(rows.sids):
                rows = select_customers(rows, known)
            numbers, scores, finite = self._lists.lists(rows)
            not_finite += int((~finite).sum())
            kept = np.flatnonzero(finite)
            references = [reference_of[rows.sids[row]] for row in kept.tolist()]
            file.add(references, numbers[kept], scores[kept], personal=True)
            listed.update(references)
            progress(stop, histories.n_customers)
        return listed, not_finite

    def _write_for_everybody_else(self, file: BatchFile) -> None:
        chosen = popular_choice(
            self.served, self._request.k, allowed=self._allowed, scene=self._scene
        )
        file.add([None], chosen.items[None, :], chosen.scores[None, :], personal=False)


def _block_size(tables: ScoringTables) -> int:
    """How many customers at a time: bounds the memory of tables of customers × items or groups."""
    levels = sum(len(level.shares) for level in tables.cold.levels)
    width = tables.n_vocabulary + levels + 1
    return max(32, min(_MOST_CUSTOMERS, _TABLE_SCORES // width))


def _processors() -> int:
    return len(os.sched_getaffinity(0))
