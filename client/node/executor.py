"""The relay's task loop: in the place of Flower's executor, which runs whatever it is sent.

For each task, in this order: is it a ClientApp's; does the engine permit this bundle, by its
digest; is the message one of ours; only then is the bundle unpacked and run, confined, and what it
replies is sent if it is what the engine answered. Whatever else happens, a constant code is sent:
no text of a bundle, of Flower or of an exception leaves the region.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, Message

from client.node.bundle import UnpackedBundle, bundle_digest, unpack
from client.node.bundle_job import BundleJob
from client.node.bundle_runner import BundleFailedError, BundleRunner
from client.node.confinement import Limits
from client.node.flower_runtime import RuntimeUnavailableError, Task, TaskSource
from client.node.pacing import Pacing
from common.answer_book import AnswerBook
from common.bounded_inflation import OVERSIZE_STYPE
from common.canonical_json import JsonValue
from common.egress_form import EgressRefusedError
from common.engine_channel import EngineChannel, serve_descriptor
from common.engine_frames import MAX_BODY_BYTES
from common.errors import FedprefError, FormatError, InputError
from common.messages import decode_message, encode_message
from common.reason_codes import relay_reason_code
from common.structured_log import say

_log = logging.getLogger("fedpref.relay")

_LEAST_PAUSE_S, _MOST_PAUSE_S = 0.05, 1.0
_QUERY = "query."
#: For how long an engine that cannot be reached is asked again, in seconds.
_PATIENCE_S = 15.0
_UNREACHABLE = "engine-unreachable"

Header = dict[str, JsonValue]
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class _Refusal:
    """A constant answer, and what is reported of it to the region's log, if anything is."""

    reason: str
    incident: str | None = None


class _RefusedError(Exception):
    """A task is answered by a code."""

    def __init__(self, reason: str, incident: str | None = None) -> None:
        super().__init__(reason)
        self.refusal = _Refusal(reason, incident)


class Executor:
    """Works on a SuperNode's tasks, one after another.

    Args:
        tasks: Where they come from.
        engine: The way to the region's privacy engine, which nobody else here has.
        runner: Has bundles run.
        work_folder: Where bundles are unpacked; a folder of the relay's own.
        limits: What a bundle may use for one message.
    """

    def __init__(
        self,
        tasks: TaskSource,
        engine: EngineChannel,
        runner: BundleRunner,
        *,
        work_folder: Path,
        limits: Limits,
    ) -> None:
        self._tasks = tasks
        self._engine = engine
        self._runner = runner
        self._work_folder = work_folder
        self._limits = limits
        self._ending = threading.Event()
        self._pacing = Pacing(least_s=_LEAST_PAUSE_S, most_s=_MOST_PAUSE_S)

    def serve_forever(self) -> None:
        """Works until `stop`. To be called by the main thread."""
        self._clear_work_folder()
        self._runner.start()
        while not self._ending.is_set():
            try:
                task = self._tasks.acquire()
            except RuntimeUnavailableError as error:
                say(_log, logging.WARNING, "node-unavailable", reason=error.reason)
                self._ending.wait(_MOST_PAUSE_S)
                continue
            if task is None:
                self._ending.wait(self._pacing.next_pause_s())
                continue
            self._pacing.arrived()
            self.work_on(task)

    def stop(self) -> None:
        """Ends the loop; a message under way is answered by a code. Any thread may call it."""
        self._ending.set()
        self._runner.stop_child()

    def work_on(self, task: Task) -> None:
        """Answers one task; one that cannot be pulled or answered is left, and lapses."""
        lost, began = threading.Event(), time.monotonic()

        def on_lost() -> None:
            lost.set()
            self._runner.stop_child()

        with task.alive(on_lost):
            try:
                pulled = task.pull()
                answer, arrays = self._answer(task, pulled.message, pulled.bundle)
                if lost.is_set():
                    say(_log, logging.WARNING, "task-lost")
                    return
                task.answer(encode_message(answer, arrays))
                seconds = round(time.monotonic() - began, 3)
                say(_log, logging.INFO, "message-answered", seconds=seconds)
            except RuntimeUnavailableError as error:
                say(_log, logging.WARNING, "task-unanswered", reason=error.reason)

    def _answer(
        self, task: Task, message: Message | None, bundle: bytes
    ) -> tuple[Mapping[str, JsonValue], Mapping[str, np.ndarray]]:
        digest, run = bundle_digest(bundle), None
        try:
            if not task.is_client_app:
                raise _RefusedError("not-permitted", "task-not-permitted")
            request = _Request.of(message)
            run = request.run
            if (refused := self._admit(digest, run)) is not None:
                return refused, {}
            request.require_ours()
            return self._run(request, digest, bundle)
        except _RefusedError as error:
            refusal = error.refusal
        except FedprefError as error:
            refusal = _Refusal(relay_reason_code(error))
        # A full disk, a defect of ours: the region answers all the same, and goes on.
        except Exception as error:  # noqa: BLE001
            _log.error("a message was not relayed", exc_info=error)
            refusal = _Refusal("relay-failure")
        say(_log, logging.WARNING, "message-refused", reason=refusal.incident or refusal.reason)
        if refusal.incident is not None:
            self._report(refusal.incident, digest, run)
        return {"status": "refused", "reason": refusal.reason}, {}

    def _admit(self, digest: str, run: str | None) -> Header | None:
        """Asks the engine whether a bundle may run; gives the engine's refusal, if it is one."""
        answer = self._ask_patiently("admit", {"bundle": digest, "run": run})
        if answer.get("status") == "ok":
            return None
        say(_log, logging.WARNING, "bundle-refused", reason=answer.get("reason"))
        return answer

    def _ask_patiently(self, method: str, header: Header) -> Header:
        """Asks the engine, and again for a while if it cannot be reached: it may be starting."""
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                return self._engine.call(method, header, {})[0]
            except InputError as error:
                if type(error) is not InputError or time.monotonic() > deadline:
                    raise
            if self._ending.wait(_MOST_PAUSE_S):
                raise _RefusedError(_UNREACHABLE)

    def _run(self, request: _Request, digest: str, content: bytes) -> tuple[Header, Arrays]:
        book = AnswerBook(self._engine)
        with self._unpacked(content, digest) as bundle:
            job = BundleJob(
                folder=bundle.folder,
                app=bundle.app,
                message_type=request.message_type,
                run_id=request.run_number,
                node_id=request.node_number,
                limits=self._limits,
            )
            with serve_descriptor(book) as engine:
                try:
                    header, arrays = self._runner.run(job, request.header, request.arrays, engine)
                except BundleFailedError as error:
                    if error.ending == "stopped":
                        # Told to end, or the task was taken back: the coordinator asks again.
                        raise _RefusedError(_UNREACHABLE) from error
                    raise _RefusedError("relay-failure", "bundle-failed") from error
        try:
            book.require_answered(request.method, header, arrays)
        except EgressRefusedError as error:
            raise _RefusedError("relay-failure", "reply-not-released") from error
        return header, arrays

    def _report(self, incident: str, digest: str, run: str | None) -> None:
        try:
            self._engine.call("report", {"incident": incident, "bundle": digest, "run": run}, {})
        except FedprefError as error:
            say(_log, logging.ERROR, "incident-not-reported", reason=relay_reason_code(error))

    @contextmanager
    def _unpacked(self, content: bytes, digest: str) -> Iterator[UnpackedBundle]:
        """A permitted bundle's files, for one message."""
        folder = Path(tempfile.mkdtemp(dir=self._work_folder))
        try:
            try:
                unpacked = unpack(content, digest, folder / "app")
            except FormatError as error:
                raise _RefusedError("relay-failure", "bundle-failed") from error
            yield unpacked
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _clear_work_folder(self) -> None:
        """Removes what a killed relay left."""
        for left in self._work_folder.iterdir():
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)


@dataclass(frozen=True)
class _Request:
    """A coordinator's message, as far as it can be read."""

    message_type: str
    run_number: int
    node_number: int
    header: Header
    arrays: Arrays
    fault: str | None

    @classmethod
    def of(cls, message: Message | None) -> _Request:
        if message is None:
            return cls("", 0, 0, {}, {}, "malformed-message")
        metadata = message.metadata
        header: Header = {}
        arrays: Arrays = {}
        fault = None
        try:
            if _oversized(message):
                fault = "oversized-message"
            else:
                header, arrays = decode_message(message.content, max_array_bytes=MAX_BODY_BYTES)
        except (FormatError, ValueError):
            fault = "malformed-message"
        return cls(
            metadata.message_type, metadata.run_id, metadata.dst_node_id, header, arrays, fault
        )

    @property
    def method(self) -> str:
        """What the engine is to be asked."""
        return self.message_type.removeprefix(_QUERY)

    @property
    def run(self) -> str | None:
        """The run that the request names, if it names one."""
        run = self.header.get("run")
        return run if isinstance(run, str) else None

    def require_ours(self) -> None:
        """Refuses a message that is none of ours."""
        if self.fault is not None:
            raise _RefusedError("malformed-request", self.fault)


def _oversized(message: Message) -> bool:
    if not message.has_content():
        return False
    records = [each for each in message.content.values() if isinstance(each, ArrayRecord)]
    return any(array.stype == OVERSIZE_STYPE for record in records for array in record.values())
