"""L6: two branches of one log, submitted at once by threads and by processes; killed witnesses."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, nullcontext
from pathlib import Path
from threading import Barrier, Thread

import pytest

from common.audit.checkpoint import open_checkpoint
from common.audit.witness.database import WitnessDatabase
from common.audit.witness.store import SPLIT_VIEW, WitnessStore
from common.errors import FedprefError
from tests.support.witness_racer import LOG, make_witness, outcome, slow_judgement


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "witness.sqlite"
    with WitnessStore.open(path, create=True) as store:
        assert outcome(store, 3, 0, "true") == "cosigned"
    return path


def racer(path, mode, branch, size):
    command = [sys.executable, "-m", "tests.support.witness_racer", path, mode, branch, str(size)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def race_threads(stores, size=8, *, meeting=None):
    outcomes, gate = [], Barrier(len(stores))

    def submit(store, branch):
        gate.wait()
        try:
            outcomes.append(outcome(store, size, 3, branch))
        except FedprefError as error:
            outcomes.append(type(error).__name__)

    branches = ["true", "forked"] * len(stores)
    threads = [Thread(target=submit, args=pair) for pair in zip(stores, branches, strict=False)]
    with slow_judgement(0.1, meeting=meeting):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return sorted(outcomes)


def check_one_branch(path):
    """One head, one piece of evidence, and they contradict each other."""
    with WitnessStore.open(path) as store:
        (evidence,) = store.evidence()
        head = store.seen(LOG.origin)
    assert evidence.kind == SPLIT_VIEW
    known, other = (
        open_checkpoint(note, LOG.key).checkpoint for note in (evidence.known, evidence.other)
    )
    assert (known.size, known.root) == (head.size, head.root)
    assert other.size == known.size
    assert other.root != known.root


def test_threads_with_one_store(path):
    with WitnessStore.open(path) as store:
        assert race_threads([store] * 2) == ["cosigned", "stale-split"]
    check_one_branch(path)


def test_threads_with_a_store_each(path):
    stores = [WitnessStore.open(path) for _ in range(4)]
    assert race_threads(stores) == ["cosigned", "stale", "stale-split", "stale-split"]
    for store in stores:
        store.close()
    check_one_branch(path)


def test_processes(path):
    racers = [racer(path, "race", branch, 8) for branch in ("true", "forked")]
    assert [each.stdout.readline() for each in racers] == ["ready\n"] * 2
    Path(f"{path}.go").touch()
    outcomes = sorted(each.communicate(timeout=200)[0].strip() for each in racers)
    assert outcomes == ["cosigned", "stale-split"]
    check_one_branch(path)


@pytest.mark.parametrize("begin", ["BEGIN", None])
def test_the_race_is_seen_where_the_transaction_does_not_shut_others_out(path, monkeypatch, begin):
    """Shows that the tests above would notice."""

    @contextmanager
    def weak(self):
        if begin is None:
            with nullcontext():
                yield
            return
        self._connection.execute(begin)
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise

    monkeypatch.setattr(WitnessDatabase, "transaction", weak)
    stores = [WitnessStore.open(path) for _ in range(2)]
    outcomes = race_threads(stores, meeting=Barrier(2))
    for store in stores:
        store.close()
    assert outcomes != ["cosigned", "stale-split"]


def test_many_threads_cosign_one_growing_tree(path):
    cosigned, generator = [], random.Random(5)
    sizes = sorted(generator.randint(3, 39) for _ in range(120))
    turns = [(size, generator.choice(["true", "forked"])) for size in sizes]
    stores = [WitnessStore.open(path) for _ in range(4)]

    def submit(store, mine):
        witness = make_witness(store)
        for size, branch in mine:
            old = store.seen(LOG.origin).size
            try:
                witness.cosign(LOG.note(size, branch), old, LOG.proof(old, size, branch))
            except FedprefError:
                continue
            cosigned.append((size, LOG.root(size, branch)))

    threads = [
        Thread(target=submit, args=(store, turns[number::4])) for number, store in enumerate(stores)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for store in stores:
        store.close()
    assert len({size for size, _ in cosigned}) > 4
    assert any(
        all(LOG.root(size, branch) == root for size, root in cosigned)
        for branch in ("true", "forked")
    )


def test_a_witness_killed_after_the_commit_and_before_the_answer_stands_by_it(path):
    killed = racer(path, "die-after", "true", 8)
    out, _ = killed.communicate(timeout=200)
    assert (killed.returncode, out) == (-signal.SIGKILL, "")
    with WitnessStore.open(path) as store:
        assert store.seen(LOG.origin).size == 8
        assert outcome(store, 8, 3, "true") == "stale"
        assert outcome(store, 8, 8, "true") == "cosigned"
        assert outcome(store, 8, 8, "forked") == "conflict"
    check_one_branch(path)


def test_a_witness_killed_before_the_commit_has_promised_nothing(path):
    killed = racer(path, "die-before", "true", 8)
    out, _ = killed.communicate(timeout=200)
    assert (killed.returncode, out) == (-signal.SIGKILL, "")
    with WitnessStore.open(path) as store:
        assert store.seen(LOG.origin).size == 3
        assert outcome(store, 8, 3, "forked") == "cosigned"


def test_killed_at_random_it_remembers_all_it_answered(path):
    generator, size = random.Random(7), 3
    for _ in range(4):
        running = racer(path, "run", "true", size)
        first = running.stdout.readline()
        time.sleep(generator.uniform(0, 0.03))
        running.kill()
        assert running.wait() == -signal.SIGKILL
        answered = [int(line) for line in (first + running.communicate()[0]).splitlines()]
        with WitnessStore.open(path) as store:
            head = store.seen(LOG.origin)
        assert head.root == LOG.root(head.size)
        assert head.size >= max(answered) > size
        size = head.size
