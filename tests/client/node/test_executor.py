"""The relay's task loop: what is run, what leaves, and what is told when something is wrong."""

from __future__ import annotations

import logging
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from client.node import executor as executors
from client.node.bundle import bundle_digest
from client.node.bundle_runner import BundleRunner
from client.node.confinement import Limits
from client.node.executor import Executor
from client.node.flower_runtime import PulledTask, RuntimeUnavailableError, Task
from common.bounded_inflation import OVERSIZE_STYPE
from common.canonical_json import JsonValue
from common.errors import BudgetError, FedprefError, InputError, PolicyError
from common.messages import decode_message
from common.node_environment import process_environment
from tests.support.app_bundles import relay_bundle
from tests.support.flower_messages import request

Header = dict[str, JsonValue]
Arrays = dict[str, np.ndarray]
SECRET = "customer 1823 bought item 77"
DIGEST = "ab" * 32
OK: Header = {"status": "ok", "region": "region-1"}
DESCRIBED: Header = {
    "region": "region-1",
    "protocol": 1,
    "engine": DIGEST,
    "trainer_key": DIGEST,
}
TRAINED: Header = {
    **OK,
    "run": "run-1",
    "round": 1,
    "attempt": 1,
    "mechanism": "popularity",
    "update": DIGEST,
    "round_entry": "YWJj",
    "leaf_index": 1,
    "checkpoint": f"log\n2\n{'A' * 43}=\n\n— log AAAA\n",
    "inclusion_proof": [],
}
UPDATE = {"popularity": np.arange(3, dtype="<f4")}


class Engine:
    """An engine that permits some bundles and keeps what it was told."""

    def __init__(self, *permitted: bytes) -> None:
        self.permitted = {bundle_digest(content) for content in permitted}
        self.calls: list[tuple[str, Header]] = []
        self.failure: FedprefError | None = None

    def call(
        self, method: str, header: Header, arrays: Mapping[str, np.ndarray]
    ) -> tuple[Header, Arrays]:
        self.calls.append((method, dict(header)))
        if method == "admit":
            if header["bundle"] in self.permitted:
                return OK, {}
            return {"status": "refused", "region": "region-1", "reason": "bundle-not-permitted"}, {}
        if method == "report":
            return OK, {}
        if self.failure is not None:
            raise self.failure
        return (TRAINED, UPDATE) if method == "train" else (DESCRIBED, {})

    @property
    def incidents(self) -> list[JsonValue]:
        return [header["incident"] for method, header in self.calls if method == "report"]

    @property
    def asked(self) -> list[str]:
        return [method for method, _ in self.calls if method not in ("admit", "report")]


class Given:
    """A task of a test's own."""

    def __init__(
        self,
        message: Message | None,
        bundle: bytes,
        *,
        is_client_app: bool = True,
        unpulled: bool = False,
    ) -> None:
        self.pulled = PulledTask(message, bundle)
        self.is_client_app = is_client_app
        self.unpulled = unpulled
        self.answers: list[RecordDict] = []
        self.on_lost: Callable[[], None] | None = None

    @contextmanager
    def alive(self, on_lost: Callable[[], None]) -> Iterator[None]:
        self.on_lost = on_lost
        yield

    def pull(self) -> PulledTask:
        if self.unpulled:
            raise RuntimeUnavailableError("unreachable")
        return self.pulled

    def answer(self, content: RecordDict) -> None:
        self.answers.append(content)

    @property
    def answered(self) -> tuple[Header, Arrays]:
        (content,) = self.answers
        return decode_message(content)

    @property
    def reason(self) -> JsonValue:
        header, arrays = self.answered
        assert arrays == {}
        assert header["status"] == "refused"
        return header["reason"]


class Source:
    """Tasks one after another, then none."""

    def __init__(self, *tasks: Task | RuntimeUnavailableError) -> None:
        self.tasks = list(tasks)
        self.executor: Executor | None = None

    def acquire(self) -> Task | None:
        if not self.tasks:
            assert self.executor is not None
            self.executor.stop()
            return None
        task = self.tasks.pop(0)
        if isinstance(task, RuntimeUnavailableError):
            raise task
        return task


@pytest.fixture(scope="module")
def runner() -> Iterator[BundleRunner]:
    with tempfile.TemporaryDirectory() as home:
        runner = BundleRunner(process_environment(Path(home)))
        runner.start()
        yield runner
        runner.close()


@pytest.fixture
def work_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


Working = Callable[[Engine, Given], None]


@pytest.fixture
def work_on(runner: BundleRunner, work_folder: Path) -> Working:
    def work_on(engine: Engine, task: Given) -> None:
        executor = Executor(
            Source(), engine, runner, work_folder=work_folder, limits=Limits(wall_s=30.0)
        )
        executor.work_on(task)
        assert list(work_folder.iterdir()) == []

    return work_on


def describe() -> Message:
    return request({}, message_type="query.describe")


def train(run: str = "run-1") -> Message:
    return request({"run": run, "round": 1}, {"model": np.ones(2, "<f4")})


def test_a_permitted_bundle_carries_the_question_and_the_engines_answer_leaves(
    work_on: Working,
) -> None:
    content = relay_bundle()
    engine, task = Engine(content), Given(train(), content)
    work_on(engine, task)
    header, arrays = task.answered
    assert header == TRAINED
    np.testing.assert_array_equal(arrays["popularity"], UPDATE["popularity"])
    assert engine.calls == [
        ("admit", {"bundle": bundle_digest(content), "run": "run-1"}),
        ("train", {"run": "run-1", "round": 1}),
    ]


def test_a_node_is_asked_who_it_is_before_any_run_is_named(work_on: Working) -> None:
    content = relay_bundle()
    engine, task = Engine(content), Given(describe(), content)
    work_on(engine, task)
    assert task.answered[0] == DESCRIBED
    assert engine.calls[0] == ("admit", {"bundle": bundle_digest(content), "run": None})


def test_a_bundle_that_is_not_permitted_is_not_unpacked(
    work_on: Working, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executors, "unpack", lambda *_: pytest.fail("it was unpacked"))
    engine, task = Engine(relay_bundle()), Given(train(), relay_bundle(top="import os"))
    work_on(engine, task)
    assert task.reason == "bundle-not-permitted"
    assert engine.asked == []


@pytest.mark.parametrize(
    "after",
    [
        "arrays = {**arrays, 'secret': arrays['popularity']}",
        "arrays = {'popularity': arrays['popularity'] + 1}",
        "arrays = {}",
        "answer = {**answer, 'leaf_index': 77}",
        "answer = {**answer, 'note': 'customer 1823 bought item 77'}",
        "answer = {**answer, 'round_entry': 'Y3VzdG9tZXIgMTgyMw=='}",
        "answer = {'status': 'refused', 'reason': 'customer-1823'}",
        "answer, arrays = {'status': 'refused', 'reason': 'item-77'}, {}",
        "answer, arrays = {'status': 'ok', 'region': 'region-1'}, {}",
    ],
)
def test_what_the_engine_did_not_answer_does_not_leave(work_on: Working, after: str) -> None:
    content = relay_bundle(after=after)
    engine, task = Engine(content), Given(train(), content)
    work_on(engine, task)
    assert task.reason == "relay-failure"
    assert engine.incidents == ["reply-not-released"]


def test_an_answer_to_another_question_does_not_leave(work_on: Working) -> None:
    described = "encode_message(*relayed('describe', message, context))"
    content = relay_bundle(before=f"return Message({described}, reply_to=message)")
    engine, task = Engine(content), Given(train(), content)
    work_on(engine, task)
    assert engine.asked == ["describe"]
    assert task.reason == "relay-failure"
    assert engine.incidents == ["reply-not-released"]


def test_of_two_questions_the_engine_hears_one(work_on: Working) -> None:
    content = relay_bundle(after="relayed('train', message, context)")
    engine, task = Engine(content), Given(train(), content)
    work_on(engine, task)
    assert engine.asked == ["train"]
    assert task.reason == "relay-failure"
    assert engine.incidents == ["bundle-failed"]


@pytest.mark.parametrize("method", ["admit", "report", "no-such-method"])
def test_a_bundle_cannot_ask_what_is_the_relays_to_ask(work_on: Working, method: str) -> None:
    asks = f"relayed({method!r}, message, context)"
    content = relay_bundle(before=asks)
    engine, task = Engine(content), Given(train(), content)
    work_on(engine, task)
    assert task.reason == "relay-failure"
    assert engine.asked == []
    assert [method for method, _ in engine.calls].count("admit") == 1


def test_the_text_of_a_failing_bundle_does_not_leave(
    work_on: Working, caplog: pytest.LogCaptureFixture
) -> None:
    content = relay_bundle(before=f"raise ValueError({SECRET!r})")
    engine, task = Engine(content), Given(train(), content)
    with caplog.at_level(logging.DEBUG):
        work_on(engine, task)
    assert task.reason == "relay-failure"
    assert engine.incidents == ["bundle-failed"]
    assert SECRET not in caplog.text


def test_a_refusal_of_the_relays_own_may_be_chosen_by_the_bundle(work_on: Working) -> None:
    """As the real one does when it cannot reach its engine: codes of a closed list."""
    content = relay_bundle(
        before="return Message(encode_message("
        "{'status': 'refused', 'reason': 'engine-unreachable'}, {}), reply_to=message)"
    )
    engine, task = Engine(content), Given(train(), content)
    work_on(engine, task)
    assert task.reason == "engine-unreachable"


@pytest.mark.parametrize("failure", [BudgetError(SECRET), PolicyError(SECRET)])
def test_an_engines_error_reaches_a_bundle_without_its_words(
    work_on: Working, failure: FedprefError
) -> None:
    content = relay_bundle()
    engine, task = Engine(content), Given(train(), content)
    engine.failure = failure
    work_on(engine, task)
    # The test's bundle raises what it was told; the real one answers a code.
    assert task.reason == "relay-failure"


def test_a_task_that_is_no_client_apps_is_answered_with_a_no(work_on: Working) -> None:
    content = relay_bundle()
    engine, task = Engine(content), Given(train(), content, is_client_app=False)
    work_on(engine, task)
    assert task.reason == "not-permitted"
    assert engine.incidents == ["task-not-permitted"]
    assert engine.asked == []


def malformed() -> list[Message | None]:
    extra = train()
    extra.content["more"] = ConfigRecord({"a": 1})
    metric = request({})
    metric.content = RecordDict({"header": ConfigRecord({"json": 1.5})})
    return [None, extra, metric]


@pytest.mark.parametrize("message", malformed())
def test_a_message_that_is_none_of_ours_runs_nothing(
    work_on: Working, message: Message | None
) -> None:
    content = relay_bundle()
    engine, task = Engine(content), Given(message, content)
    work_on(engine, task)
    assert task.reason == "malformed-request"
    assert engine.incidents == ["malformed-message"]
    assert engine.asked == []


def test_a_message_that_was_too_large_to_put_together_runs_nothing(work_on: Working) -> None:
    message = train()
    message.content["arrays"] = ArrayRecord({"model": Array("", (), OVERSIZE_STYPE, b"")})
    content = relay_bundle()
    engine, task = Engine(content), Given(message, content)
    work_on(engine, task)
    assert task.reason == "malformed-request"
    assert engine.incidents == ["oversized-message"]


def test_an_engine_that_is_away_for_a_moment_is_asked_again(
    work_on: Working, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executors, "_MOST_PAUSE_S", 0.01)

    class Starting(Engine):
        away = 3

        def call(
            self, method: str, header: Header, arrays: Mapping[str, np.ndarray]
        ) -> tuple[Header, Arrays]:
            if self.away:
                self.away -= 1
                raise InputError("it does not answer")
            return super().call(method, header, arrays)

    content = relay_bundle()
    engine, task = Starting(content), Given(train(), content)
    work_on(engine, task)
    assert task.answered[0] == TRAINED


def test_an_engine_that_stays_away_is_unreachable_and_nothing_is_run(
    work_on: Working, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executors, "_PATIENCE_S", 0.0)
    monkeypatch.setattr(executors, "unpack", lambda *_: pytest.fail("it was unpacked"))

    class Away(Engine):
        def call(
            self, method: str, header: Header, arrays: Mapping[str, np.ndarray]
        ) -> tuple[Header, Arrays]:
            raise InputError("it does not answer")

    content = relay_bundle()
    task = Given(train(), content)
    work_on(Away(content), task)
    assert task.reason == "engine-unreachable"


def test_a_permitted_bundle_that_is_no_archive_is_one_that_fails(work_on: Working) -> None:
    engine, task = Engine(b"no archive"), Given(train(), b"no archive")
    work_on(engine, task)
    assert task.reason == "relay-failure"
    assert engine.incidents == ["bundle-failed"]


def test_a_defect_of_ours_is_answered_by_a_code(
    work_on: Working, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, SECRET)

    monkeypatch.setattr(executors, "unpack", full)
    content = relay_bundle()
    task = Given(train(), content)
    work_on(Engine(content), task)
    assert task.reason == "relay-failure"


def test_a_task_that_cannot_be_pulled_is_left(work_on: Working) -> None:
    task = Given(train(), relay_bundle(), unpulled=True)
    work_on(Engine(), task)
    assert task.answers == []


def test_a_task_that_is_taken_back_is_not_answered(work_on: Working) -> None:
    content = relay_bundle()

    class TakenBack(Engine):
        def call(
            self, method: str, header: Header, arrays: Mapping[str, np.ndarray]
        ) -> tuple[Header, Arrays]:
            if method == "train":
                assert task.on_lost is not None
                task.on_lost()
            return super().call(method, header, arrays)

    task = Given(train(), content)
    work_on(TakenBack(content), task)
    assert task.answers == []


def test_the_loop_goes_on_after_a_node_that_is_away_and_ends_when_told(
    runner: BundleRunner, work_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executors, "_MOST_PAUSE_S", 0.01)
    (work_folder / "left-by-a-killed-relay").mkdir()
    content = relay_bundle()
    tasks = [Given(describe(), content), Given(train(), content)]
    source = Source(RuntimeUnavailableError("unreachable"), *tasks)
    executor = Executor(
        source, Engine(content), runner, work_folder=work_folder, limits=Limits(wall_s=30.0)
    )
    source.executor = executor
    executor.serve_forever()
    assert [task.answered[0] for task in tasks] == [DESCRIBED, TRAINED]
    assert list(work_folder.iterdir()) == []


def test_a_message_under_way_when_the_relay_ends_may_be_asked_again(
    runner: BundleRunner, work_folder: Path
) -> None:
    content = relay_bundle(before="import time; time.sleep(60)")
    task = Given(train(), content)
    source = Source()
    executor = Executor(
        source, Engine(content), runner, work_folder=work_folder, limits=Limits(wall_s=30.0)
    )
    with _soon(executor.stop):
        executor.work_on(task)
    assert task.reason == "engine-unreachable"


@contextmanager
def _soon(act: Callable[[], None]) -> Iterator[None]:
    timer = threading.Timer(1.0, act)
    timer.start()
    try:
        yield
    finally:
        timer.join()
