"""What the federation layer promises: rounds, throughput, secure sums, memory, growth with regions.

Everything runs through the code of a real run. What takes the place of a part is named at the
figure: `benchmarks.federations` for training that takes no time, `benchmarks.contenders` for the
local work that all simulators share.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import secure_sum
from benchmarks.federations import NoTraining, RoundTimes, run, set_up
from benchmarks.results import Bar, Figure
from benchmarks.scaling_chart import Point, write_chart

ROOT = Path(__file__).parent.parent
#: Where `make bench-federation` installs the peers of `benchmarks/peers.txt`.
PEERS = ROOT / ".venv" / "peers"
CHART = Path(__file__).parent / "rounds-scaling.svg"

REGIONS = 16
#: 2,400 customers in all, about as many as retail-5 has.
CUSTOMERS_EACH = 150
#: Rounds of the throughput comparison; the first is not counted.
COMPARED_ROUNDS = 4
SUMMED_REGIONS, SUMMED_ITEMS, SUMMED_RANK = 50, 100_000, 100
SCALES = (4, 16, 64, 256)
SCALE_CUSTOMERS = 8
_MODEL_BYTES = 4 * SUMMED_ITEMS * SUMMED_RANK
_FLUSHES = 50

OVERHEAD = Bar("in-process round beside training, 16 regions, a region", "ms", 20.0)
THROUGHPUT = Bar("simulation throughput, share of the bare loop's", "", 0.9, least=True)
AHEAD_OF_PFL = Bar("simulation throughput, times that of pfl-research 0.6", "", 1.0, least=True)
AHEAD_OF_FLOWER = Bar("simulation throughput, times that of Flower on Ray", "", 1.0, least=True)
MEMORY = Bar("server memory, 50 × 10M parameters, models over the idle process", "", 3.0)
GROWTH = Bar(
    f"growth of a round's processor time, {SCALES[0]} to {SCALES[-1]} regions, exponent", "", 1.1
)

BARS = (
    OVERHEAD,
    THROUGHPUT,
    AHEAD_OF_PFL,
    AHEAD_OF_FLOWER,
    *secure_sum.BARS,
    MEMORY,
    GROWTH,
)


def measure() -> dict[str, Figure]:
    """Measures every bar of this area; takes a quarter of an hour."""
    with tempfile.TemporaryDirectory(prefix="fedpref-bench-") as name:
        folder = Path(name)
        measured = measure_overhead(folder)
        measured |= measure_throughput(folder)
        measured |= measure_memory(folder)
        measured |= measure_growth(folder)
    named = {bar.name: figure for bar, figure in measured.items()}
    return named | secure_sum.measure()


def measure_overhead(folder: Path, n_regions: int = REGIONS) -> dict[Bar, Figure]:
    """A run of all rounds in which training takes no time, and a disk that takes its own."""
    times = _run_without_training(folder / "overhead", n_regions, CUSTOMERS_EACH)
    region_rounds = times.rounds * n_regions
    beside = (
        f"processor time {1000 * times.cpu_s / region_rounds:.1f} ms with the closing witness "
        f"phase; one durable write of 4 kB here takes {_flush_ms(folder):.1f} ms"
    )
    return {OVERHEAD: Figure(1000 * times.wall_s / region_rounds, beside)}


def measure_throughput(folder: Path, rounds: int = COMPARED_ROUNDS) -> dict[Bar, Figure]:
    """The same local work in four simulators, each on one core, without its start-up."""
    work = folder / "work.npz"
    ours, bare = (_contend(name, work, rounds) for name in ("fedpref", "bare"))
    share = bare["rounds_s"] / ours["rounds_s"]
    unit = f"seconds a round: fedpref {_a_round(ours, rounds)}, bare {_a_round(bare, rounds)}"
    measured = {THROUGHPUT: Figure(share, unit)}
    flower = _contend("flower-ray", work, rounds)
    measured[AHEAD_OF_FLOWER] = Figure(
        flower["rounds_s"] / ours["rounds_s"],
        f"Flower {_a_round(flower, rounds)} s a round, {flower['first_s']:.0f} s before the second",
    )
    # Without the package there is no figure: its row says "not run".
    if (PEERS / "pfl").is_dir():
        pfl = _contend("pfl", work, rounds)
        measured[AHEAD_OF_PFL] = Figure(
            pfl["rounds_s"] / ours["rounds_s"], f"pfl {_a_round(pfl, rounds)} s a round"
        )
    return measured


def measure_memory(
    folder: Path,
    n_regions: int = SUMMED_REGIONS,
    items: int = SUMMED_ITEMS,
    rank: int = SUMMED_RANK,
) -> dict[Bar, Figure]:
    """A coordinator's round over replies that lie in files; see `benchmarks.aggregation_memory`."""
    replies = folder / "replies"
    replies.mkdir()
    module = "benchmarks.aggregation_memory"
    _python("-m", module, "make", replies, n_regions, items, rank)
    taken = json.loads(_python("-m", module, "measure", replies).splitlines()[-1])
    model = 4 * items * rank
    beside = (
        "waiting with the model that it sent; over a process without any model: "
        f"{(taken['peak'] - taken['bare']) / model:.2f}"
    )
    return {MEMORY: Figure((taken["peak"] - taken["waiting"]) / model, beside)}


def measure_growth(
    folder: Path, scales: Sequence[int] = SCALES, chart: Path = CHART
) -> dict[Bar, Figure]:
    """Runs without training over ever more regions; draws what a round costs."""
    points = []
    for n_regions in scales:
        times = _run_without_training(folder / f"scale-{n_regions}", n_regions, SCALE_CUSTOMERS)
        points.append(Point(n_regions, times.cpu_s / times.rounds, times.wall_s / times.rounds))
    write_chart(points, chart)
    each = ", ".join(
        f"{point.regions}: {1000 * point.cpu_s / point.regions:.1f}" for point in points
    )
    return {GROWTH: Figure(growth_exponent(points), f"CPU-ms a region and round: {each}")}


def growth_exponent(points: Sequence[Point]) -> float:
    """The slope of log cost by log regions, least squares: 1 is linear."""
    xs = [math.log(point.regions) for point in points]
    ys = [math.log(point.cpu_s) for point in points]
    x0, y0 = sum(xs) / len(xs), sum(ys) / len(ys)
    rise = sum((x - x0) * (y - y0) for x, y in zip(xs, ys, strict=True))
    return rise / sum((x - x0) ** 2 for x in xs)


def _run_without_training(folder: Path, n_regions: int, customers_each: int) -> RoundTimes:
    federation = set_up(folder, n_regions=n_regions, customers_each=customers_each)
    return run(federation, NoTraining(federation.plan))


def _flush_ms(folder: Path) -> float:
    """What the folder's disk takes to make 4 kB durable."""
    with (folder / "flushed").open("wb", buffering=0) as file:
        started = time.perf_counter()
        for _ in range(_FLUSHES):
            file.write(bytes(4096))
            os.fsync(file.fileno())
        return 1000 * (time.perf_counter() - started) / _FLUSHES


def _contend(name: str, work: Path, rounds: int) -> dict[str, float]:
    lines = _python("-m", "benchmarks.contenders", name, work, rounds).splitlines()
    taken: dict[str, float] = json.loads(lines[-1])
    return taken


def _a_round(taken: dict[str, float], rounds: int) -> str:
    return f"{taken['rounds_s'] / (rounds - 1):.2f}"


def _python(*arguments: object) -> str:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(PEERS)]),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(  # noqa: S603
        [sys.executable, *map(str, arguments)],
        env=environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    return done.stdout
