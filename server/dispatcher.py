"""Takes runs from the queue, one at a time, and sees each to its end.

``python -m server.dispatcher FOLDER``. It keeps the SuperLink's nodes as the folder ``nodes`` has
them, starts the next run, starts it again when its coordinator was killed, stops it when asked,
queues what a schedule has due, and makes the newest published model the current one. All it knows
is on disk: killed and started again, it goes on where it was.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from common.audit.log import AuditLog
from common.errors import FederationError, FedprefError, StorageError
from common.process_control import end_with_supervisor
from common.structured_log import log_as_json, say
from common.timestamps import now, now_ms, parse_time
from server.control import FINISHED, ControlApi, encoded_key, open_control
from server.coordinator_process import is_running, noted_process
from server.current_model import publish_current
from server.deployment import Deployment
from server.provisioning.enrolment import NODE_SUFFIX
from server.provisioning.federation_config import FederationConfig, read_federation
from server.queue import Queued, read_queue, stop_requested, submit, update
from server.schedule import take_due
from server.status import read_status

_PAUSE_S = 0.5
_NODES_EVERY_S = 2.0
#: How often a run is started again without a new entry in the coordinator's log in between.
MOST_IDLE_ATTEMPTS = 10
_PAUSE_AFTER_FAILURE_S = 5.0
# For how long a coordinator that was told to stop may take, in seconds.
_GRACE_S = 10.0
# A restart goes on where these ended the run: they pass. Others would only come again.
_PASSING = frozenset({"FederationError", "StorageError"})

_log = logging.getLogger("fedpref.dispatcher")


@dataclass
class _Progress:
    """How far a run was when it was last started, and how often it was started since."""

    number: int
    log_size: int
    attempts: int


class Dispatcher:
    """One pass after another over queue, nodes and schedules.

    Args:
        deployment: The deployment.
        api: The control API.
    """

    def __init__(self, deployment: Deployment, api: ControlApi) -> None:
        self._deployment = deployment
        self._api = api
        self._nodes_at = 0.0
        self._not_before = 0.0
        self._progress: _Progress | None = None

    def step(self) -> None:
        """Does what there is to do now.

        Raises:
            FederationError: The SuperLink does not answer.
            InputError: A file of the deployment is malformed.
            StorageError: The disk refuses.
        """
        config = read_federation(self._deployment.config)
        if time.monotonic() >= self._nodes_at:
            self._keep_nodes(config)
            self._nodes_at = time.monotonic() + _NODES_EVERY_S
        for run in take_due(self._deployment, at_ms=now_ms()):
            with suppress(FedprefError):
                submit(self._deployment, run)
                say(_log, logging.INFO, "run-due")
        active = [entry for entry in read_queue(self._deployment) if entry.active]
        if active:
            self._advance(config, active[0])

    def _keep_nodes(self, config: FederationConfig) -> None:
        """Registers the nodes that may connect and unregisters all others."""
        locations = {region.name: region.location for region in config.regions}
        wanted = {
            (path.stem, encoded_key(path.read_text("ascii").strip()))
            for path in sorted(self._deployment.nodes.glob(f"*{NODE_SUFFIX}"))
        }
        present = {(node.name, node.public_key): node.node_id for node in self._api.nodes()}
        for name, key in sorted(present.keys() - wanted):
            self._api.unregister(present[name, key])
            say(_log, logging.INFO, "node-unregistered", region=name)
        for name, key in sorted(wanted - present.keys()):
            self._api.register(name, key, locations.get(name, ""))
            say(_log, logging.INFO, "node-registered", region=name)

    def _advance(self, config: FederationConfig, entry: Queued) -> None:
        if stop_requested(self._deployment, entry):
            self._stop(entry)
        elif entry.state == "waiting" or entry.flower_run is None:
            self._start(config, entry)
        else:
            self._watch(entry)

    def _start(self, config: FederationConfig, entry: Queued) -> None:
        if time.monotonic() < self._not_before:
            return
        home = self._deployment.home(entry.run)
        if read_status(home, last_events=0).published is not None:
            self._end(entry, "finished", None)
            return
        home.process.unlink(missing_ok=True)
        entry = update(
            self._deployment,
            entry,
            state="running",
            started_at=entry.started_at or now(),
            attempt_at=now(),
            attempts=entry.attempts + 1,
        )
        flower_run = self._api.start(
            self._deployment.bundle.read_bytes(), self._config(config, entry)
        )
        update(self._deployment, entry, flower_run=flower_run)
        say(_log, logging.INFO, "run-started", attempt=entry.attempts)

    def _config(
        self, config: FederationConfig, entry: Queued
    ) -> dict[str, bool | float | int | str]:
        waits = {
            name.replace("_", "-"): float(value)
            for name, value in config.waits.model_dump().items()
        }
        return {"server-home": str(self._deployment.server.absolute()), "run": entry.run, **waits}

    def _watch(self, entry: Queued) -> None:
        if entry.flower_run is None:
            return
        process = noted_process(self._deployment.home(entry.run).process)
        if process is not None and not is_running(process) and not self._has_ended(entry):
            # Killed: Flower would notice in a minute.
            say(_log, logging.WARNING, "coordinator-gone", attempt=entry.attempts)
            with suppress(FederationError):
                self._api.stop(entry.flower_run)
            self._again(entry, "Its process was killed.")
            return
        status = self._api.status(entry.flower_run)
        if not status or status.startswith(FINISHED):
            self._judge(entry)

    def _has_ended(self, entry: Queued) -> bool:
        """Whether the coordinator said that it ended by itself, whatever Flower makes of it."""
        return self._last_words(entry) is not None

    def _last_words(self, entry: Queued) -> dict[str, object] | None:
        """The event with which the run ended since it was last started; None if it did not."""
        home = self._deployment.home(entry.run)
        events = read_status(home, last_events=1).events
        if not events or str(events[-1].get("event")) not in (
            "run-finished",
            "run-failed",
            "run-paused",
        ):
            return None
        # An earlier attempt's last words are not this one's.
        ended_ms = parse_time(str(events[-1]["time"]))
        begun_ms = parse_time(entry.attempt_at) if entry.attempt_at else 0
        return dict(events[-1]) if ended_ms >= begun_ms else None

    def _judge(self, entry: Queued) -> None:
        """Says how a run ended that Flower says has ended."""
        home = self._deployment.home(entry.run)
        if read_status(home, last_events=0).published is not None and home.ended.is_file():
            publish_current(self._deployment.home())
            self._end(entry, "finished", None)
            return
        words = self._last_words(entry)
        if words is None:
            self._again(entry, "Its process ended without a word.")
        elif words.get("event") == "run-failed" and words.get("error") in _PASSING:
            self._again(entry, str(words.get("reason")))
        else:
            self._end(entry, "failed", str(words.get("reason") or words.get("event")))

    def _again(self, entry: Queued, reason: str) -> None:
        """Has a run started again, unless it came to nothing too often."""
        size = self._log_size()
        known = self._progress
        if known is None or (known.number, known.log_size) != (entry.number, size):
            known = _Progress(entry.number, size, 0)
        known.attempts += 1
        self._progress = known
        if known.attempts >= MOST_IDLE_ATTEMPTS:
            self._end(entry, "failed", f"{reason} It was started {known.attempts} times in vain.")
            return
        update(self._deployment, entry, state="waiting", flower_run=None, reason=reason)
        pause_s = 0.0 if known.attempts == 1 else _PAUSE_AFTER_FAILURE_S
        self._not_before = time.monotonic() + pause_s

    def _stop(self, entry: Queued) -> None:
        if entry.flower_run is not None:
            with suppress(FederationError):
                self._api.stop(entry.flower_run)
            self._end_process(entry)
        self._end(entry, "stopped", None)

    def _end_process(self, entry: Queued) -> None:
        """Ends the coordinator's process, which Flower leaves running."""
        process = noted_process(self._deployment.home(entry.run).process)
        deadline = time.monotonic() + _GRACE_S
        number = signal.SIGTERM
        while process is not None and is_running(process):
            with suppress(ProcessLookupError):
                os.kill(process[0], number)
            if time.monotonic() > deadline:
                number = signal.SIGKILL
            time.sleep(_PAUSE_S)

    def _end(self, entry: Queued, state: str, reason: str | None) -> None:
        update(self._deployment, entry, state=state, ended_at=now(), reason=reason)
        say(_log, logging.INFO, f"run-{state}", attempt=entry.attempts)

    def _log_size(self) -> int:
        path = self._deployment.home().log
        if not path.is_file():
            return 0
        with AuditLog.open_read_only(path) as log:
            return log.size


def serve(deployment: Deployment, ended: threading.Event) -> None:
    """Steps on until told to end; whatever fails is said, and tried again."""
    port = read_federation(deployment.config).server.admin_port
    with open_control(port, deployment.token(deployment.coordinator)) as api:
        dispatcher = Dispatcher(deployment, api)
        while not ended.is_set():
            try:
                dispatcher.step()
            except FederationError:
                # The SuperLink is starting, or gone: its supervisor brings it back.
                say(_log, logging.WARNING, "superlink-unreachable")
                ended.wait(_PAUSE_S)
            except FedprefError as error:
                say(_log, logging.ERROR, "dispatch-failed", reason=_code(error))
                ended.wait(_PAUSE_AFTER_FAILURE_S)
            ended.wait(_PAUSE_S)


def main(arguments: list[str] | None = None) -> int:
    """Runs the dispatcher of a deployment."""
    parser = argparse.ArgumentParser(prog="python -m server.dispatcher", description=__doc__)
    parser.add_argument("deployment", type=Path)
    folder = parser.parse_args(arguments).deployment
    end_with_supervisor()
    log_as_json("dispatcher")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    try:
        serve(Deployment.read(folder), ended)
    except FedprefError as error:
        print(f"{error.message} {error.remedy}".strip(), file=sys.stderr)  # noqa: T201 - its log
        return error.exit_code
    return 0


def _code(error: FedprefError) -> str:
    return "storage-failure" if isinstance(error, StorageError) else "malformed-file"


if __name__ == "__main__":
    raise SystemExit(main())
