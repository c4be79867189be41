"""A process that uses a witness's file: submits one branch at a signal, or dies at a chosen point.

Its mode decides: ``race`` waits for a file and submits; ``die-before`` and ``die-after`` are killed
on either side of the commit; ``run`` cosigns some sizes one after the other, says so, and waits
to be killed.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Barrier

import common.audit.witness.witness as rules
from common.audit.witness.database import WitnessDatabase
from common.audit.witness.store import WitnessStore
from common.audit.witness.witness import ConflictError, StaleSizeError, Witness
from tests.support.branching_log import BranchingLog
from tests.support.memory_signer import MemorySigner

LOG = BranchingLog()
SIZES_A_RUN = 9


def make_witness(store: WitnessStore) -> Witness:
    keys = {LOG.origin: [LOG.key]}
    return Witness(store, name="witness", signer=MemorySigner("witness"), log_keys=keys)


def outcome(store: WitnessStore, size: int, old: int, branch: str) -> str:
    """What came of submitting one checkpoint, in one word."""
    try:
        make_witness(store).cosign(LOG.note(size, branch), old, LOG.proof(old, size, branch))
    except StaleSizeError as error:
        return "stale-split" if error.split_view else "stale"
    except ConflictError:
        return "conflict"
    return "cosigned"


@contextmanager
def slow_judgement(wait_s: float, *, meeting: Barrier | None = None) -> Iterator[None]:
    """Widens the time between what a witness reads and what it stores.

    Args:
        wait_s: By how much, in seconds.
        meeting: Where all judges wait for each other instead, if they can all come that far.
    """
    verify = rules.verify_consistency

    def slowly(*arguments: object) -> None:
        if meeting is None:
            time.sleep(wait_s)
        else:
            meeting.wait(60)
        verify(*arguments)  # type: ignore[arg-type]

    rules.verify_consistency = slowly
    try:
        yield
    finally:
        rules.verify_consistency = verify


def say(word: str) -> None:
    """Writes one line that its parent reads at once."""
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def die(mode: str) -> None:
    whole = WitnessDatabase.transaction

    @contextmanager
    def transaction(self: WitnessDatabase) -> Iterator[None]:
        with whole(self):
            yield
            if mode == "die-before":
                os.kill(os.getpid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)

    WitnessDatabase.transaction = transaction  # type: ignore[method-assign]


def main(path: str, mode: str, branch: str, size: str) -> None:
    store = WitnessStore.open(Path(path))
    if mode == "race":
        say("ready")
        while not Path(f"{path}.go").exists():
            time.sleep(0.001)
        with slow_judgement(0.3):
            say(outcome(store, int(size), 3, branch))
    elif mode == "run":
        for old in range(int(size), int(size) + SIZES_A_RUN):
            make_witness(store).cosign(LOG.note(old + 1), old, LOG.proof(old, old + 1))
            say(str(old + 1))
            time.sleep(0.002)
        time.sleep(600)
    else:
        die(mode)
        say(outcome(store, int(size), 3, branch))


if __name__ == "__main__":
    main(*sys.argv[1:])
