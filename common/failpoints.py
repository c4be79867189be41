"""Named places at which a test may end its own process, or let a write fail.

A round's promise, that nothing leaves uncharged whenever the process ends, is tested by ending it
at every durable write and at every boundary between two stages; and so is the coordinator's, that
the same round goes on. Code that writes says where it is: ``reach(Point.SEALED)``. Nothing happens
there, unless a test has put a function of its own in `hook` within its own process. Nothing that a
region or a coordinator runs does, and no message, policy, file, option or environment variable can:
who is able to set a variable of this process can do anything else too. `simulations.faults`, which
only simulations can import, does it in processes that it forks for nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum


class Point(StrEnum):
    """Every place, in the order in which a region's round passes it first."""

    #: The checkpoint of a round is published; who consents is fixed, in memory.
    PUBLISHED = "published"
    #: The permit holds and nothing is sealed yet: a round begins.
    BEGUN = "round begun"
    #: A witness's file: everything is written, nothing committed.
    WITNESS_WRITTEN = "witness written"
    #: A witness's file: the commit is on the disk.
    WITNESS_COMMITTED = "witness committed"
    #: The cosignatures of the snapshot are kept; the ledger is asked next.
    WITNESSED = "witnessed"
    #: The ledger says that the charge fits, and has nothing of it.
    LEDGER_ADMITTED = "ledger admitted"
    #: The ledger: the row is written, not committed.
    LEDGER_WRITTEN = "ledger written"
    #: The ledger: the charge is on the disk.
    LEDGER_COMMITTED = "ledger committed"
    #: An audit log: entries, tiles and checkpoint are written, not committed.
    LOG_WRITTEN = "log written"
    #: An audit log: the commit is on the disk.
    LOG_COMMITTED = "log committed"
    #: The charge is in the ledger and in the log; training and noise come next.
    CHARGED = "charged"
    #: The noised update is in memory.
    NOISED = "noised"
    #: A folder is made; its name is not yet durable.
    FOLDER_MADE = "folder made"
    #: Names in a folder are durable.
    FOLDER_SYNCED = "folder synced"
    #: A file's temporary copy is open and empty.
    FILE_OPENED = "file opened"
    #: The temporary copy has its content, in memory of the system.
    FILE_WRITTEN = "file written"
    #: The temporary copy is on the disk.
    FILE_SYNCED = "file synced"
    #: The temporary copy took the file's name, not yet durably.
    FILE_RENAMED = "file renamed"
    #: The update is sealed; its entries are not logged.
    SEALED = "sealed"
    #: The round and the release are logged.
    LOGGED = "logged"
    #: The answer is made and leaves next.
    ANSWERED = "answered"
    #: Of a round that is given up: the incident is logged, the seal is still there.
    GIVEN_UP = "given up"
    #: Of a round that is given up: the seal is removed, not yet durably.
    SEAL_REMOVED = "seal removed"
    #: For a secure sum: the round's key is kept; its statement is not sent.
    MASKING_KEY_KEPT = "masking key kept"
    #: For a secure sum: the mask is logged; the masked update leaves next.
    MASK_LOGGED = "mask logged"
    #: For a secure sum: the keys of rounds that are over are removed, not yet durably.
    MASKING_KEYS_REMOVED = "masking keys removed"


class CoordinatorPoint(StrEnum):
    """The coordinator's places, in the order in which its run passes them first.

    Its durable writes pass those of `Point` too: the log's, the witness's, and the files'.
    """

    #: The run is open: log and checkpoint agree, and the next round is known.
    RUN_OPENED = "run opened"
    #: A round begins; nobody has been asked anything.
    ROUND_STARTED = "round started"
    #: The regions' checkpoints are cosigned, as far as they are.
    COSIGNED = "checkpoints cosigned"
    #: The requests are made and leave next.
    REQUESTED = "requests made"
    #: A region's update counts.
    REPLY_TAKEN = "reply taken"
    #: Everyone who will be heard was heard, and the quorum is there.
    HEARD = "all heard"
    #: The next model is in memory; nothing of it is kept.
    SUMMED = "summed"
    #: The optimiser's state and the model are on the disk; the log does not name them.
    MODEL_KEPT = "model kept"
    #: The aggregate is logged; the checkpoint is the last round's.
    AGGREGATED = "aggregate logged"
    #: The checkpoint is this round's; the last round's files are still there.
    CHECKPOINT_REPLACED = "checkpoint replaced"
    #: The round is over.
    ROUND_CLOSED = "round closed"
    #: The published model's file is on the disk; the log does not name it.
    MODEL_WRITTEN = "published model written"
    #: The published model is logged.
    MODEL_LOGGED = "published model logged"
    #: All logs are cosigned to their last entries; that is noted next.
    END_COSIGNED = "end cosigned"
    #: That the run has ended is on the disk.
    ENDED = "ended"


class AnswerPoint(StrEnum):
    """The places of a region's answer to its own query, in the order in which it passes them.

    Its durable writes pass those of `Point` too: the ledger's, the log's, and the files'.
    """

    #: The query is known and nothing is sealed yet.
    ANSWER_BEGUN = "answer begun"
    #: The charge is in the ledger and in the log; computing and noise come next.
    ANSWER_CHARGED = "answer charged"
    #: The noised values are in memory.
    ANSWER_NOISED = "answer noised"
    #: The answer is sealed; its entry is not logged.
    ANSWER_SEALED = "answer sealed"
    #: The answer is logged.
    ANSWER_LOGGED = "answer logged"
    #: Of one that is given up: the incident is logged, the seal is still there.
    ANSWER_GIVEN_UP = "answer given up"
    #: Of one that is given up: the seal is removed, not yet durably.
    ANSWER_REMOVED = "answer removed"


#: Any place.
AnyPoint = Point | CoordinatorPoint | AnswerPoint

#: A test's function. It may end the process or raise what a disk would answer.
hook: Callable[[AnyPoint], None] | None = None


def reach(point: AnyPoint) -> None:
    """Says that this place is reached; does nothing outside tests."""
    if hook is not None:
        hook(point)
