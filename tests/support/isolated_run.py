"""One run in a namespace that has only the loopback interface; prints what it found as JSON.

Run by `isolated` in a process of its own. The kernel counts what was sent where there is no route,
so a call to anyone outside shows even if whoever made it shrugged off its failure.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from common.errors import BudgetError, FedprefError
from common.parameters import arrays_digest
from simulations import supervisor
from tests.support.fake_federation import FakeFederation, fake_plan, open_federation

ROOT = Path(__file__).resolve().parents[2]
MODES = ("inprocess", "ray", "flower")


def isolated(
    mode: str, folder: Path, *, fault: str = "none", timeout_s: float = 800.0
) -> dict[str, Any]:
    """Runs a fake federation without any network, and gives what it found."""
    command = [sys.executable, "-m", "tests.support.isolated_run", mode, fault, str(folder)]
    ended = subprocess.run(
        [*_namespace(), *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert ended.returncode == 0, f"{ended.stdout}\n{ended.stderr}"
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


def _namespace() -> list[str]:
    """The command before a command that gives it a loopback interface and no other."""
    for rights in ([], ["--user", "--map-root-user"]):
        command = ["unshare", *rights, "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
        if (
            shutil.which("unshare")
            and subprocess.run([*command, "true"], check=False).returncode == 0
        ):
            return command
    pytest.skip("this machine lets nobody make a network namespace (unshare, ip)")


def sent_without_route() -> int:
    """How often this namespace was asked to send to where it has no route."""
    total = 0
    snmp = [line.split() for line in Path("/proc/net/snmp").read_text().splitlines()]
    for names, values in zip(snmp[::2], snmp[1::2], strict=True):
        if names[0] == "Ip:":
            total += int(values[names.index("OutNoRoutes")])
    for line in Path("/proc/net/snmp6").read_text().splitlines():
        name, value = line.split()
        if name == "Ip6OutNoRoutes":
            total += int(value)
    return total


def run(mode: str, federation: FakeFederation, folder: Path) -> None:
    """Runs the federation's apps in one of the modes."""
    channels = list(federation.engines.values())
    if mode == "inprocess":
        federation.run()
    elif mode == "ray":
        from simulations.ray_run import run_on_ray

        run_on_ray(channels, federation.home.root, log=folder / "ray.log")
    else:
        from simulations.flower_run import run_with_flower

        run_with_flower(channels, federation.home.root, work_folder=folder / "flower")


def main(mode: str, fault: str, folder: Path) -> None:
    """Runs one mode and prints what it found."""
    # Whatever a run leaves behind becomes our child, and is found.
    supervisor._prctl(supervisor._PR_SET_CHILD_SUBREAPER, 1)
    before, started, ended = sent_without_route(), time.monotonic(), "finished"
    with open_federation(folder, fake_plan()) as federation:
        FAULTS[fault](federation)
        try:
            run(mode, federation, folder)
        except FedprefError as error:
            ended = f"{type(error).__name__}: {error.message}"
        except KeyboardInterrupt:
            ended = "interrupted"
        found = {
            "ended": ended,
            "model": arrays_digest(federation.model()) if ended == "finished" else None,
            "rounds": [record["round"] for record in federation.records("aggregate")],
            "seconds": round(time.monotonic() - started, 1),
            "sent_without_route": sent_without_route() - before,
            "left_behind": len(supervisor._descendants(os.getpid())),
        }
    print(json.dumps(found))  # noqa: T201  # read by the test


def refuse(federation: FakeFederation) -> None:
    """Two of three regions have no budget."""

    def spent(number: int) -> None:
        raise BudgetError("spent: 7.31 of 8")

    federation.engines["region-1"].before_train = spent
    federation.engines["region-3"].before_train = spent


def interrupt(federation: FakeFederation) -> None:
    """A Ctrl-C in the middle of the second round."""
    # A shell starts background jobs with Ctrl-C ignored; these tests press it all the same.
    signal.signal(signal.SIGINT, signal.default_int_handler)

    def press(number: int) -> None:
        if number == 2:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(2)

    federation.engines["region-2"].before_train = press


FAULTS = {"none": lambda federation: None, "refuse": refuse, "interrupt": interrupt}


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
