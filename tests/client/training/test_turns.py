from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.engine import round_release, round_training
from client.training.releases import release
from client.training.turns import TRAINING_TURN
from simulations.federate import federate
from simulations.provision import open_regions
from tests.support.small_federation import make_federation


def test_there_are_as_many_turns_as_cores() -> None:
    taken = 0
    while TRAINING_TURN.acquire(blocking=False):
        taken += 1
    for _ in range(taken):
        TRAINING_TURN.release()
    assert taken == len(os.sched_getaffinity(0))


def test_engines_of_one_process_train_one_after_another_where_there_is_one_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once, training, lock = [], 0, threading.Lock()

    def watched(*data: Any, **asked: Any) -> Mapping[str, np.ndarray]:
        nonlocal training
        with lock:
            training += 1
            at_once.append(training)
        # Long enough for the other regions' requests to arrive.
        time.sleep(0.1)
        released = release(*data, **asked)
        with lock:
            training -= 1
        return released

    folder, plan, set_ups = make_federation(tmp_path / "run", regions=3, quorum=2)
    monkeypatch.setattr(round_release, "release", watched)
    monkeypatch.setattr(round_training, "TRAINING_TURN", threading.BoundedSemaphore(1))
    with open_regions(folder, set_ups) as regions:
        channels = {name: region.channel for name, region in regions.items()}
        federate("inprocess", folder, plan, channels)
    assert len(at_once) == 3 * plan.total_rounds
    assert set(at_once) == {1}
