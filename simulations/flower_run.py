"""Runs the app bundle with ``flwr run`` on a local SuperLink: the path a deployment takes.

The bundle is built from this checkout, sent to a SuperLink of our own in simulation mode (a free
port on the loopback interface, its state in memory), and run by the processes that it starts.
Flower keeps its files in the run's work folder, not in the user's home. Nothing outlives the run.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from common.engine_channel import EngineChannel
from common.errors import FederationError
from server.app_bundle import stage_app
from server.config import ServerHome
from simulations.external_runtime import RunOutcome, engine_sockets
from simulations.supervisor import supervised

_CONNECTION = "fedpref-local"
_START_TIMEOUT_S = 90.0
_COMMAND_TIMEOUT_S = 120.0
_POLL_S = 0.25
_LOOK_EVERY_S = 15.0
_COMPLETED = "finished:completed"
_LOOPBACK = "127.0.0.1"


def run_with_flower(
    channels: Sequence[EngineChannel],
    server_home: Path,
    *,
    work_folder: Path,
    run_config: Mapping[str, bool | float | int | str] | None = None,
    timeout_s: float = 24 * 3600.0,
) -> None:
    """Runs a coordinator's run with ``flwr run``, from its next round to the published model.

    Args:
        channels: The regions' engines, in the plan's order.
        server_home: The coordinator's home folder.
        work_folder: Where Flower's files and output go: an empty folder, or none yet.
        run_config: More of Flower's run configuration.
        timeout_s: For how long the run may last, in seconds.

    Raises:
        FedprefError: As the ServerApp raises it; FederationError if Flower itself fails.
    """
    config = {"server-home": str(server_home.resolve()), **(run_config or {})}
    app, flower_home = work_folder / "app", work_folder / "flwr-home"
    flower_home.mkdir(parents=True)
    stage_app(app)
    port = _free_port()
    _write_toml(work_folder / "run-config.toml", config)
    (flower_home / "config.toml").write_text(
        f'[superlink]\ndefault = "{_CONNECTION}"\n\n[superlink.{_CONNECTION}]\n'
        f'address = "{_LOOPBACK}:{port}"\ninsecure = true\n',
        encoding="utf-8",
    )
    log = work_folder / "superlink.log"
    outcome = RunOutcome(ServerHome(server_home))
    with engine_sockets(channels) as environment:
        environment["FLWR_HOME"] = str(flower_home)
        # Flower starts its parts by name: those of this environment, whatever PATH was.
        environment["PATH"] = f"{Path(sys.executable).parent}:{environment.get('PATH', '')}"
        command = [_program("flower-superlink"), *_superlink_options(port)]
        with supervised(command, environment=environment, folder=work_folder, log=log) as superlink:
            flower = _Flower(environment, work_folder)
            _wait_for_superlink(superlink, port, log)
            run_id = flower.start(app, work_folder / "run-config.toml", len(channels))
            status = flower.wait(run_id, superlink, outcome, timeout_s=timeout_s)
            if status != _COMPLETED:
                flower.save_log(run_id, work_folder / "run.log")
    outcome.check(what=f"flwr run ({status})", log=work_folder)
    if status != _COMPLETED:
        raise FederationError(
            f"flwr run ended as {status}.", remedy=f"Flower's output is in {work_folder}."
        )


class _Flower:
    """The ``flwr`` command, with its answers as JSON: its exit codes are not to be trusted."""

    def __init__(self, environment: Mapping[str, str], folder: Path) -> None:
        self._environment = dict(environment)
        self._folder = folder

    def start(self, app: Path, run_config: Path, nodes: int) -> str:
        answer = self._call(
            "run",
            str(app),
            _CONNECTION,
            "--run-config",
            str(run_config),
            "--federation-config",
            f"num-supernodes={nodes} client-resources-num-cpus=1 init-args-log-to-driver=false",
        )
        run_id = answer.get("run-id")
        if answer.get("success") is not True or not isinstance(run_id, str):
            raise FederationError(f"flwr run did not start the run: {json.dumps(answer)[:500]}")
        return run_id

    def wait(
        self,
        run_id: str,
        superlink: subprocess.Popen[bytes],
        outcome: RunOutcome,
        *,
        timeout_s: float,
    ) -> str:
        """Waits till the run has ended, and gives the status it ended with."""
        deadline = time.monotonic() + timeout_s
        next_look = time.monotonic()
        while time.monotonic() < deadline and superlink.poll() is None:
            # A look costs seconds of a core; the last event says when it is worth it.
            if outcome.ended or time.monotonic() > next_look:
                status = self._status(run_id)
                if status.startswith("finished"):
                    return status
                next_look = time.monotonic() + _LOOK_EVERY_S
            time.sleep(_POLL_S)
        raise FederationError(
            f"flwr run did not end within {timeout_s:g} s, or its SuperLink did before it."
        )

    def save_log(self, run_id: str, path: Path) -> None:
        """Keeps what the run's processes put out."""
        with path.open("wb") as file:
            subprocess.run(  # noqa: S603  # our own program, no shell
                [_program("flwr"), "log", run_id, _CONNECTION, "--show"],
                env=self._environment,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                timeout=_COMMAND_TIMEOUT_S,
                check=False,
            )

    def _status(self, run_id: str) -> str:
        runs = self._call("ls", _CONNECTION, "--run-id", run_id).get("runs")
        if not isinstance(runs, list) or len(runs) != 1 or not isinstance(runs[0], dict):
            raise FederationError(f"flwr ls does not know the run {run_id}.")
        return str(runs[0].get("status"))

    def _call(self, *arguments: str) -> dict[str, object]:
        ended = subprocess.run(  # noqa: S603  # our own program, no shell
            [_program("flwr"), *arguments, "--format", "json"],
            env=self._environment,
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_COMMAND_TIMEOUT_S,
            check=False,
        )
        output = ended.stdout.decode(errors="replace")
        try:
            answer = json.loads(output[output.index("{") :])
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise FederationError(
                f"flwr {arguments[0]} gave no answer: {output[-300:]} "
                f"{ended.stderr.decode(errors='replace')[-300:]}"
            )
        return answer


def _superlink_options(port: int) -> list[str]:
    return [
        "--insecure",
        "--simulation",
        "--isolation",
        "subprocess",
        "--disable-runtime-dependency-installation",
        "--host",
        _LOOPBACK,
        "--port",
        str(port),
    ]


def _wait_for_superlink(superlink: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline and superlink.poll() is None:
        with socket.socket() as probe:
            probe.settimeout(1.0)
            if probe.connect_ex((_LOOPBACK, port)) == 0:
                return
        time.sleep(_POLL_S)
    raise FederationError(
        "The local SuperLink did not start.", remedy=f"Flower's output is in {log}."
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_LOOPBACK, 0))
        return int(probe.getsockname()[1])


def _program(name: str) -> str:
    path = Path(sys.executable).parent / name
    if not path.is_file():
        raise FederationError(
            f"{path} is missing: Flower is not installed in this environment.",
            remedy="Install fedpref with the extra [simulation].",
        )
    return str(path)


def _write_toml(path: Path, values: Mapping[str, bool | float | int | str]) -> None:
    # JSON's strings, numbers and booleans are TOML's too.
    lines = [f"{key} = {json.dumps(value)}\n" for key, value in values.items()]
    path.write_text("".join(lines), encoding="utf-8")
