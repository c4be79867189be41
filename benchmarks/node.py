"""What a message costs between SuperNode and engine: this relay, and Flower's executor beside it.

The same app bundle, the same messages, a SuperNode's real Runtime API, and an engine that answers
at once; timed from the moment a message is in the SuperNode to the moment its answer is.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from benchmarks import deployed_round
from benchmarks.results import Bar, Figure
from client.node.bundle_runner import BundleRunner
from client.node.confinement import Limits
from client.node.executor import Executor
from client.node.flower_runtime import FlowerTasks
from common.canonical_json import JsonValue
from common.engine_channel import SOCKET_VARIABLE, serve_channel
from common.node_environment import process_environment
from server.app_bundle import build_app_bundle, stage_app
from tests.support.flower_messages import request
from tests.support.node_runtime import SECRET, NodeRuntime, node_runtime

MESSAGES = 15
FLOWER_MESSAGES = 4
MODEL_VALUES = 1_000_000

SMALL = Bar("a message without arrays, SuperNode to engine and back", "s", 0.5)
RATIO = Bar("… of what it takes Flower's executor", "ratio", 0.2)
PROCESSOR = Bar("… processor time", "s", 0.5)
LARGE = Bar("a message with a model of 4 MB, and as much back", "s", 1.5)
START = Bar("the relay's start", "s", 20)

BARS = (SMALL, RATIO, PROCESSOR, LARGE, START, *deployed_round.BARS)

Header = dict[str, JsonValue]
Arrays = dict[str, np.ndarray]
_DIGEST = "ab" * 32


class _Engine:
    """Permits everything, and answers at once what an engine could."""

    def call(
        self,
        method: str,
        header: Header,  # noqa: ARG002 - the protocol's
        arrays: Mapping[str, np.ndarray],
    ) -> tuple[Header, Arrays]:
        if method in ("admit", "report"):
            return {"status": "ok", "region": "region-1"}, {}
        if method == "describe":
            return {
                "region": "region-1",
                "protocol": 1,
                "engine": _DIGEST,
                "trainer_key": _DIGEST,
            }, {}
        answer: Header = {
            "status": "ok",
            "region": "region-1",
            "run": "run-1",
            "round": 1,
            "attempt": 1,
            "mechanism": "popularity",
            "update": _DIGEST,
            "round_entry": "YWJj",
            "leaf_index": 1,
            "checkpoint": f"log\n2\n{'A' * 43}=\n\n— log AAAA\n",
            "inclusion_proof": [],
        }
        return answer, {name: values.copy() for name, values in arrays.items()}


def measure() -> dict[str, Figure]:
    """Measures every bar of this area; takes four minutes, one where nobody is root."""
    with tempfile.TemporaryDirectory(prefix="fedpref-bench-") as name:
        folder = Path(name)
        stage_app(folder / "app")
        bundle = build_app_bundle(folder / "app")
        with node_runtime() as runtime:
            ours = _measure_relay(runtime, bundle, folder)
            flower_s = _measure_flower(runtime, bundle, folder)
    measured = {
        **ours,
        RATIO: Figure(ours[SMALL].value / flower_s, f"Flower's executor: {flower_s:.2f} s"),
    }
    return {bar.name: figure for bar, figure in measured.items()} | deployed_round.measure()


def _measure_relay(runtime: NodeRuntime, bundle: bytes, folder: Path) -> dict[Bar, Figure]:
    work = folder / "work"
    work.mkdir()
    runner = BundleRunner(process_environment(work))
    began = time.monotonic()
    runner.start()
    start_s = time.monotonic() - began
    executor = Executor(
        FlowerTasks(runtime.address, SECRET),
        _Engine(),
        runner,
        work_folder=work,
        limits=Limits(wall_s=60.0),
    )
    # The parent was started by this thread, and the kernel ends it with it.
    loop = threading.Thread(target=executor.serve_forever, daemon=True)
    loop.start()
    model = {"model": np.arange(MODEL_VALUES, dtype="<f4")}
    try:
        spent = time.process_time()
        small = [_timed(runtime, bundle, number, {}) for number in range(MESSAGES)]
        spent = (time.process_time() - spent) / MESSAGES
        large = [_timed(runtime, bundle, 100 + number, model) for number in range(MESSAGES // 3)]
    finally:
        executor.stop()
        loop.join()
        runner.close()
    return {
        SMALL: Figure(statistics.median(small), f"slowest of {MESSAGES}: {max(small):.2f} s"),
        PROCESSOR: Figure(spent, "of relay and SuperNode, without the child"),
        LARGE: Figure(statistics.median(large)),
        START: Figure(start_s),
    }


def _measure_flower(runtime: NodeRuntime, bundle: bytes, folder: Path) -> float:
    """The same messages, with Flower's executor and the app that it starts for each."""
    secret = folder / "secret"
    secret.write_bytes(SECRET)
    with _flower_executor(runtime, folder, secret):
        times = [_timed(runtime, bundle, 200 + number, {}) for number in range(FLOWER_MESSAGES)]
    # The first one waits for the executor's own start.
    return statistics.median(times[1:])


@contextmanager
def _flower_executor(runtime: NodeRuntime, folder: Path, secret: Path) -> Iterator[None]:
    socket = folder / "engine.sock"
    environment = {**process_environment(folder / "flower"), SOCKET_VARIABLE: str(socket)}
    command = [
        str(Path(sys.executable).parent / "flower-superexec"),
        "--insecure",
        "--runtime-api-address",
        runtime.address,
        "--superexec-auth-secret-file",
        str(secret),
    ]
    with serve_channel(_Engine(), socket):
        process = subprocess.Popen(  # noqa: S603  # Flower's own program, no shell
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            yield
        finally:
            process.terminate()
            process.wait()


def _timed(runtime: NodeRuntime, bundle: bytes, number: int, arrays: Arrays) -> float:
    """From a message's arrival in the SuperNode to its answer's, in seconds."""
    kind = "train" if arrays else "query.describe"
    header: Header = {"run": "run-1", "round": number + 1} if arrays else {}
    message = request(header, arrays, message_type=kind, message_id=str(number))
    began = time.monotonic()
    if not runtime.deliver(message, bundle):
        raise RuntimeError("the SuperNode did not take a message")
    _until(runtime.replies)
    return time.monotonic() - began


def _until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while not holds():
        if time.monotonic() > deadline:
            raise RuntimeError("a message was not answered")
        time.sleep(0.005)
