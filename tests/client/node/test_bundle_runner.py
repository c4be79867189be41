"""Bundles are run confined: all they can do is talk to the relay; what fails is a word of ours.

Each attack here is code of a bundle that the region permits; what it gets to know it would send in
its reply.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from client.node.bundle import bundle_digest, unpack
from client.node.bundle_job import BundleJob
from client.node.bundle_runner import BundleFailedError, BundleRunner
from client.node.confinement import Limits
from client.node.landlock import landlock_version
from common.canonical_json import JsonValue
from common.engine_channel import serve_channel, serve_descriptor
from common.engine_socket import SocketChannel
from common.node_environment import process_environment
from tests.support.app_bundles import relay_bundle

Header = dict[str, JsonValue]
Arrays = dict[str, np.ndarray]
SECRET = "customer 1823 bought item 77"
LEFT = Path(tempfile.gettempdir()) / "left-by-a-bundle"


class Echo:
    """An engine that answers with what it was asked."""

    def call(
        self, method: str, header: Header, arrays: Mapping[str, np.ndarray]
    ) -> tuple[Header, Arrays]:
        return {"method": method, **header}, {name: 2 * values for name, values in arrays.items()}


@pytest.fixture(scope="module")
def runner() -> Iterator[BundleRunner]:
    with tempfile.TemporaryDirectory() as home:
        environment = {**process_environment(Path(home)), "LEFT_BY_THE_RELAY": "no"}
        runner = BundleRunner(environment)
        runner.start()
        yield runner
        runner.close()


@contextmanager
def job(content: bytes, *, message_type: str = "train", **limits: float) -> Iterator[BundleJob]:
    with tempfile.TemporaryDirectory() as work:
        unpacked = unpack(content, bundle_digest(content), Path(work) / "app")
        yield BundleJob(
            folder=unpacked.folder,
            app=unpacked.app,
            message_type=message_type,
            run_id=7,
            node_id=2**63 + 1,
            limits=Limits(**{"wall_s": 60.0, **limits}),
        )


def ran(
    runner: BundleRunner, one: BundleJob, header: Header, arrays: Arrays | None = None
) -> tuple[Header, Arrays]:
    """Runs a bundle whose engine is an echo."""
    with serve_descriptor(Echo()) as engine:
        return runner.run(one, header, arrays or {}, engine)


def outcome(runner: BundleRunner, before: str, *, top: str = "") -> JsonValue:
    """What a bundle found out by some code, which sets ``found``."""
    after = "answer = {'found': found}"
    with job(relay_bundle(before=before, after=after, top=top)) as one:
        header, _ = ran(runner, one, {})
    return header["found"]


def test_a_bundle_is_asked_and_its_reply_comes_back(runner: BundleRunner) -> None:
    arrays = {"model": np.arange(5, dtype="<f4")}
    with job(relay_bundle()) as one:
        header, answered = ran(runner, one, {"run": "r", "round": 2}, arrays)
    assert header == {"method": "train", "run": "r", "round": 2}
    np.testing.assert_array_equal(answered["model"], 2 * arrays["model"])


def test_one_process_serves_many_messages_and_none_knows_of_another(runner: BundleRunner) -> None:
    top = "import flwr\ncount = getattr(flwr, 'count', 0) + 1\nflwr.count = count"
    assert outcome(runner, "found = [os.getpid(), count]", top=top) != outcome(
        runner, "found = [os.getpid(), count]", top=top
    )
    assert outcome(runner, "found = count", top=top) == 1


def test_the_bundles_own_packages_are_loaded_and_not_the_installed_ones(
    runner: BundleRunner,
) -> None:
    found = outcome(
        runner,
        "import client\nfound = [client.__doc__, os.path.dirname(client.__file__), os.getcwd()]",
    )
    assert isinstance(found, list)
    assert found[0] == "A bundle's own package."
    assert found[1] == f"{found[2]}/client"
    # What the relay itself is made of is not lying about.
    assert outcome(runner, "import sys\nfound = 'client.node.bundle_child' in sys.modules") is False
    gone = "import importlib.util\nfound = importlib.util.find_spec('client.engine') is None"
    assert outcome(runner, gone) is True


def test_its_environment_is_what_it_was_given(runner: BundleRunner) -> None:
    found = outcome(runner, "found = sorted(os.environ)")
    assert isinstance(found, list)
    assert "FEDPREF_ENGINE_DESCRIPTOR" in found
    paths = {"FEDPREF_ENGINE_SOCKET", "FEDPREF_ENGINE_SOCKET_DIR"}
    assert not {*paths, "PYTHONPATH", "VIRTUAL_ENV", "USER"} & set(found)


def test_it_knows_nothing_of_the_coordinators_run(runner: BundleRunner) -> None:
    found = outcome(
        runner, "found = [dict(context.run_config), dict(context.node_config), context.run_id]"
    )
    assert found == [{}, {}, 7]


def denied(attempt: str) -> str:
    return f"""
try:
    {attempt}
    found = "done"
except Exception as error:
    found = type(error).__name__
"""


@pytest.mark.parametrize(
    "attempt",
    [
        "import subprocess; subprocess.run(['/bin/true'])",
        "os.execv('/bin/true', ['true'])",
        "os.fork()",
        "os.posix_spawn('/bin/true', ['true'], {})",
        "os.kill(os.getppid(), 9)",
        "import socket; socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)",
        # A datagram socket of a pair can send to any path.
        "import socket; socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)",
        "import socket; socket.socket(socket.AF_INET, socket.SOCK_STREAM)",
        "import socket; socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)",
        "import socket; socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
        "open(os.getcwd() + '/client/app.py', 'ab')",
        f"open({str(LEFT)!r}, 'w')",
        "os.mkdir(os.getcwd() + '/more')",
        "os.unlink(os.getcwd() + '/pyproject.toml')",
        "import signal; signal.pidfd_send_signal(os.pidfd_open(os.getppid()), 9)",
    ],
)
def test_a_bundle_cannot(runner: BundleRunner, attempt: str) -> None:
    found = outcome(runner, denied(attempt))
    assert found in {"PermissionError", "ValueError", "OSError", "BlockingIOError"}, attempt
    assert not LEFT.exists()


def test_a_bundle_cannot_trace_or_read_another_process(runner: BundleRunner) -> None:
    code = """
import ctypes
library = ctypes.CDLL(None, use_errno=True)
found = [library.ptrace(16, os.getppid(), 0, 0), ctypes.get_errno()]
"""
    assert outcome(runner, code) == [-1, 1]
    assert outcome(runner, denied("open(f'/proc/{os.getppid()}/mem', 'rb')")) != "done"
    assert outcome(runner, denied("open(f'/proc/{os.getppid()}/environ', 'rb')")) != "done"


def test_files_of_the_host_cannot_be_read(runner: BundleRunner, tmp_path: Path) -> None:
    # Landlock is part of every kernel that this project's tests run on; without it, users and file
    # modes are what keeps these apart.
    assert landlock_version() > 0
    (tmp_path / "store.csv").write_text(SECRET)
    (tmp_path / "store.csv").chmod(0o644)
    for path in (tmp_path / "store.csv", Path("/etc/passwd"), Path("/etc/hostname")):
        assert path.exists()
        assert outcome(runner, denied(f"open({str(path)!r}).read()")) == "PermissionError"
    assert outcome(runner, denied(f"os.listdir({str(tmp_path)!r})")) == "PermissionError"
    # Its own it can.
    assert outcome(runner, "found = len(open('pyproject.toml').read()) > 0") is True


def connected(address: str) -> str:
    return denied(f"import socket; socket.socket(socket.AF_UNIX).connect({address!r})")


def test_an_abstract_socket_of_the_host_cannot_be_reached(runner: BundleRunner) -> None:
    name = f"\0fedpref-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(name)
        listener.listen()
        assert outcome(runner, connected(name)) == "PermissionError"


def test_the_regions_engine_cannot_be_asked_past_the_relay(
    runner: BundleRunner, tmp_path: Path
) -> None:
    """It answers the relay's user, which is the bundle's too; so the bundle must not get there."""
    asked: list[str] = []

    class Engine(Echo):
        def call(
            self, method: str, header: Header, arrays: Mapping[str, np.ndarray]
        ) -> tuple[Header, Arrays]:
            asked.append(method)
            return super().call(method, header, arrays)

    path = tmp_path / "engine.sock"
    with serve_channel(Engine(), path):
        SocketChannel(path, timeout_s=60).call("describe", {}, {})
        assert outcome(runner, connected(str(path))) == "PermissionError"
        channel = f"from common.engine_socket import SocketChannel as S; S(Path({str(path)!r}), "
        code = f"from pathlib import Path; {channel}timeout_s=5).call('train', {{}}, {{}})"
        assert outcome(runner, denied(code)) == "InputError"
    assert asked == ["describe"]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("socket", "1, 1, 0"),
        ("socketpair", "1, 1, 0, (ctypes.c_int * 2)()"),
        # With the two sockets it has: connected already, but a call is judged before that is seen.
        ("connect", "engine, b'', 0"),
        ("bind", "engine, b'', 0"),
        ("listen", "engine, 1"),
        ("accept", "engine, None, None"),
        ("accept4", "engine, None, None, 0"),
    ],
)
def test_each_call_that_makes_or_connects_a_socket_is_denied(
    runner: BundleRunner, name: str, arguments: str
) -> None:
    code = f"""
import ctypes
library = ctypes.CDLL(None, use_errno=True)
engine = int(os.environ["FEDPREF_ENGINE_DESCRIPTOR"])
found = [library.{name}({arguments}), ctypes.get_errno()]
"""
    assert outcome(runner, code) == [-1, errno.EPERM]


def test_a_bundle_asks_once(runner: BundleRunner) -> None:
    again = denied("relayed('train', message, context)")
    with job(relay_bundle(after=f"{again}\nanswer = {{'found': found}}")) as one:
        assert ran(runner, one, {})[0] == {"found": "FormatError"}


def test_bytes_past_the_first_question_reach_nobody(runner: BundleRunner) -> None:
    code = """
import socket
other = socket.socket(fileno=os.dup(int(os.environ["FEDPREF_ENGINE_DESCRIPTOR"])))
try:
    other.sendall(b"fpc2" + bytes(12))
    found = "done"
except OSError as error:
    found = type(error).__name__
answer = {"found": found}
"""
    with job(relay_bundle(after=code)) as one:
        assert ran(runner, one, {})[0] == {"found": "BrokenPipeError"}


def test_a_bundle_holds_two_sockets_and_nothing_else_of_the_relays(runner: BundleRunner) -> None:
    code = """
found = []
for number in range(3, 4096):
    try:
        os.fstat(number)
        found.append(number)
    except OSError:
        pass
"""
    found = outcome(runner, code)
    assert isinstance(found, list)
    assert len(found) == 2


def failure(runner: BundleRunner, before: str, **limits: float) -> str:
    with job(relay_bundle(before=before), **limits) as one:
        with pytest.raises(BundleFailedError) as caught:
            ran(runner, one, {})
    return caught.value.ending


def test_what_a_bundle_raises_stays_in_the_region(
    runner: BundleRunner, capfd: pytest.CaptureFixture[str]
) -> None:
    assert failure(runner, f"raise ValueError({SECRET!r})") == "failed"
    assert failure(runner, f"raise SystemExit({SECRET!r})") == "failed"
    assert failure(runner, "raise KeyboardInterrupt") == "failed"
    assert SECRET not in capfd.readouterr().err


def test_what_a_bundle_prints_is_marked_as_its_own(
    runner: BundleRunner, capfd: pytest.CaptureFixture[str]
) -> None:
    outcome(runner, 'print(\'{"event": "message-answered"}\', flush=True); found = 1')
    printed = ""
    for _ in range(200):
        printed += capfd.readouterr().err
        if "message-answered" in printed:
            break
        time.sleep(0.02)
    assert 'bundle: {"event": "message-answered"}' in printed.splitlines()


def test_a_bundle_that_ends_itself_gives_no_reply(runner: BundleRunner) -> None:
    assert failure(runner, "os._exit(0)") == "ended"
    assert failure(runner, "import ctypes; ctypes.string_at(1)") == "killed"


def test_a_bundle_that_takes_too_long_is_killed(runner: BundleRunner) -> None:
    assert failure(runner, "import time; time.sleep(60)", wall_s=0.5) == "timed-out"


def test_a_bundle_that_computes_too_long_is_killed(runner: BundleRunner) -> None:
    assert failure(runner, "while True: pass", processor_s=1) == "killed"


def test_a_bundle_gets_no_more_memory_than_it_may(runner: BundleRunner) -> None:
    limit = 64 << 20
    found = outcome(runner, denied("bytearray(1 << 33)"))
    assert found == "MemoryError"
    with job(relay_bundle(before="bytearray(32 << 20)"), memory_bytes=limit) as one:
        ran(runner, one, {})
    assert failure(runner, "bytearray(100 << 20)", memory_bytes=limit) == "failed"


def test_a_child_can_be_stopped_and_the_next_one_runs(runner: BundleRunner) -> None:
    stopper = threading.Timer(0.5, runner.stop_child)
    stopper.start()
    assert failure(runner, "import time; time.sleep(60)") == "stopped"
    stopper.join()
    # A word to stop that comes when nothing runs stops nothing.
    runner.stop_child()
    with job(relay_bundle()) as one:
        assert ran(runner, one, {"n": 1})[0]["n"] == 1


def test_a_reply_without_content_or_of_another_kind_is_none(runner: BundleRunner) -> None:
    for after in (
        "return None",
        "from flwr.app import Error; return Message(Error(1, 'x'), reply_to=message)",
        "from flwr.app import RecordDict; return Message(RecordDict(), reply_to=message)",
    ):
        with job(relay_bundle(after=after)) as one, pytest.raises(BundleFailedError):
            ran(runner, one, {})


@pytest.mark.parametrize(
    "top",
    ["syntax error (", "import no_such_module", "raise RuntimeError('x')"],
)
def test_a_bundle_that_cannot_be_loaded_gives_no_reply(runner: BundleRunner, top: str) -> None:
    with job(relay_bundle(top=top)) as one, pytest.raises(BundleFailedError):
        ran(runner, one, {})


def test_bytes_that_a_bundle_writes_to_the_relay_itself_are_no_reply(runner: BundleRunner) -> None:
    code = """
for descriptor in range(3, 64):
    try:
        os.write(descriptor, b"fpc2" + b"\\xff" * 100)
    except OSError:
        pass
os._exit(0)
"""
    assert failure(runner, code) == "ended"


def test_a_warm_parent_that_was_killed_is_replaced(runner: BundleRunner) -> None:
    process = runner._process
    assert process is not None
    process.kill()
    process.wait()
    with job(relay_bundle()) as one:
        assert ran(runner, one, {"n": 2})[0]["n"] == 2


def test_a_job_is_the_same_at_the_other_end() -> None:
    one = BundleJob(
        Path("/a b/c"),
        "client.app:app",
        "query.describe",
        2**64 - 1,
        5,
        Limits(1, 2, 3.5),
    )
    assert BundleJob.decode(one.encode()) == one
    assert json.loads(one.encode())["run_id"] == 2**64 - 1
