"""The engine's door with real, distinct users: engine, relay, stranger. Without root these fail."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.engine.door import DoorBook, open_door
from client.engine.home import RegionHome
from client.engine.observing import Unobserved
from client.engine.service import open_engine
from common import canonical_json
from common.audit.log import AuditLog
from common.canonical_json import JsonValue
from common.egress_form import check_form
from common.egress_reasons import REASONS
from common.engine_frames import MAGIC
from common.engine_socket import FRAME_REFUSED, PEER_REFUSED, SocketChannel
from common.envelope import Envelope
from common.errors import FedprefError, InputError, StorageError
from common.plan import RunPlan
from common.privacy import epsilon
from simulations.run_folder import RunFolder
from tests.support.cosigning import cosignatures
from tests.support.other_user import as_user, become, open_folder
from tests.support.secure_regions import train_header
from tests.support.small_federation import home_of, make_federation

Header = dict[str, JsonValue]
Arrays = dict[str, np.ndarray]
ENGINE, RELAY, STRANGER, GROUP = 61001, 61002, 61003, 61010


@dataclass(frozen=True)
class Deployed:
    """A region whose engine runs under a user of its own.

    Attributes:
        folder: The run's folder; of it, the region's home and its store are the engine's alone.
        plan: The permitted plan.
        socket: The engine's socket.
        pid: The engine's process.
    """

    folder: RunFolder
    plan: RunPlan
    socket: Path
    pid: int

    @property
    def home(self) -> RegionHome:
        return home_of(self.folder)

    def ask(self, method: str, header: Header, model: Arrays | None = None) -> Any:
        """What the relay gets, as a process of its own user."""

        def call() -> Any:
            channel = SocketChannel(self.socket, timeout_s=120, engine_user=ENGINE)
            try:
                answer, arrays = channel.call(method, header, model or {})
            except FedprefError as error:
                return {"error": type(error).__name__, "words": str(error)}, {}
            return answer, {name: [str(a.dtype), list(a.shape)] for name, a in arrays.items()}

        return as_user(RELAY, GROUP, call)


@pytest.fixture(scope="module")
def provisioned(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, RunPlan]:
    folder, plan, _ = make_federation(tmp_path_factory.mktemp("door") / "run", regions=1, quorum=1)
    # What an engine's user may not be able to import is imported before it is that user.
    epsilon(list(plan.privacy_events()), float(plan.delta))
    with open_engine(home_of(folder)) as engine:
        engine.data_quality()
    return folder, plan


def _give(root: Path, user: int) -> None:
    for path in (root, *root.rglob("*")):
        os.chown(path, user, user, follow_symlinks=False)


@pytest.fixture
def deployed(provisioned: tuple[RunFolder, RunPlan]) -> Iterator[Deployed]:
    folder, plan = provisioned
    with open_folder() as shared:
        shutil.copytree(folder.root, shared / "run", symlinks=True)
        (shared / "sockets").mkdir(mode=0o755)
        run = RunFolder(shared / "run")
        home = home_of(run)
        for path in (home.root, run.data):
            path.chmod(0o700)
            _give(path, ENGINE)
        _give(shared / "sockets", ENGINE)
        path = shared / "sockets" / "engine.sock"
        pid = _start(home, path)
        try:
            yield Deployed(run, plan, path, pid)
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _start(home: RegionHome, path: Path) -> int:
    """The engine's process, forked so that all it needs is imported; its own user's for good."""
    pid = os.fork()
    if pid == 0:
        try:
            become(ENGINE, ENGINE, [GROUP])
            with (
                open_engine(home) as engine,
                open_door(engine, path, relay_users=[str(RELAY)], group=str(GROUP)),
            ):
                signal.pause()
        finally:
            os._exit(1)
    for _ in range(6000):
        if path.exists() and stat.S_IMODE(path.stat().st_mode) == 0o660:
            return pid
        if os.waitpid(pid, os.WNOHANG)[0]:
            pytest.fail("the engine did not start")
        time.sleep(0.01)
    pytest.fail("the engine is not ready")


def incidents(deployed: Deployed) -> list[Header]:
    with AuditLog.open_read_only(deployed.home.log) as log:
        entries = [Envelope.decode(data) for _, data in log.entries()]
    return [each.record() for each in entries if each.kind == "incident"]


def incidents_of(deployed: Deployed, reason: str, many: int) -> list[Header]:
    """They are logged after the peer is hung up on."""
    found: list[Header] = []
    for _ in range(2000):
        found = [each for each in incidents(deployed) if each["reason"] == reason]
        if len(found) >= many:
            break
        time.sleep(0.01)
    return found


def test_a_whole_round_passes_between_two_users_and_nothing_else_does(deployed: Deployed) -> None:
    asked: Header = {"run": deployed.plan.run_id, "round": 1, "since": []}
    answer, _ = deployed.ask("publish", asked)
    lines: list[JsonValue] = [*cosignatures(deployed.folder.root, str(answer["checkpoint"]))]
    request = {**train_header(deployed.plan), "cosignatures": lines}
    answer, arrays = deployed.ask("train", request)
    assert answer.get("status") == "ok", answer
    assert arrays == {"popularity": ["float32", [deployed.plan.n_items]]}
    assert deployed.ask("train", request)[0]["update"] == answer["update"]


def test_the_relays_user_can_reach_the_socket_and_nothing_of_the_region(
    deployed: Deployed,
) -> None:
    home = deployed.home.root
    files = [str(path) for path in home.rglob("*") if path.is_file()]
    files += [str(path) for path in deployed.folder.data.rglob("*") if path.is_file()]
    assert {"home.json", "log.sqlite", "ledger.sqlite", "trainer.pem"} <= {
        Path(file).name for file in files
    }
    pid = deployed.pid

    def spy() -> list[str]:
        reached = []
        for file in (
            *files,
            str(home),
            f"/proc/{pid}/mem",
            f"/proc/{pid}/environ",
            f"/proc/{pid}/maps",
            f"/proc/{pid}/fd/0",
        ):
            try:
                os.open(file, os.O_RDONLY)
            except PermissionError:
                continue
            except FileNotFoundError:
                continue
            reached.append(file)
        try:
            os.kill(pid, signal.SIGTERM)
            reached.append("killed")
        except PermissionError:
            pass
        try:
            deployed.socket.rename(f"{deployed.socket}.mine")
            reached.append("socket moved")
        except PermissionError:
            pass
        return reached

    assert as_user(RELAY, GROUP, spy) == []
    assert deployed.ask("describe", {})[0]["region"] == "region-1"


def test_others_are_turned_away_and_the_regions_log_says_who(deployed: Deployed) -> None:
    def knock() -> str:
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(60)
                connection.connect(str(deployed.socket))
                return "answered" if connection.recv(1) else "hung up"
        except OSError as error:
            return type(error).__name__

    assert as_user(STRANGER, STRANGER, knock) == "PermissionError"
    assert incidents(deployed) == []
    for _ in range(3):
        assert as_user(STRANGER, GROUP, knock) == "hung up"
    # Root is no exception; who is root needs no socket.
    assert knock() == "hung up"
    told = incidents_of(deployed, PEER_REFUSED, 2)
    # One for each user, not for each attempt.
    assert [str(each["detail"]).split(" tried")[0] for each in told] == [
        f"A process of user {STRANGER}",
        "A process of user 0",
    ]
    assert deployed.ask("describe", {})[0]["region"] == "region-1"


HOSTILE: list[tuple[str, Header]] = [
    ("train", {}),
    ("train", {"run": "../../etc/passwd"}),
    ("publish", {"run": "run-1", "round": 10**9, "since": []}),
    ("publish", {"run": "another", "round": 1, "since": []}),
    ("cosign", {"run": "run-1", "checkpoints": [{"origin": "a b", "note": "", "old": 0}]}),
    ("keep", {"run": "run-1", "size": 10**12, "cosignatures": []}),
    ("mask", {"run": "run-1", "round": 1, "attempt": 1, "roster": {}}),
    ("execute", {"run": "run-1", "round": 1, "attempt": 1, "step": "unmask", "content": []}),
    ("__class__", {}),
    ("data_quality", {}),
    ("", {}),
    ("x" * 10_000, {}),
]


def test_whatever_a_hostile_relay_asks_it_gets_a_code(deployed: Deployed) -> None:
    """It runs the coordinator's code under the relay's user, and may send what it likes."""

    def attack() -> list[Any]:
        answers = []
        for method, header in HOSTILE:
            channel = SocketChannel(deployed.socket, timeout_s=60, engine_user=ENGINE)
            answer, arrays = channel.call(method, header, {"x": np.zeros(3, "<f4")})
            answers.append([method, answer, len(arrays)])
        return answers

    for method, answer, arrays in as_user(RELAY, GROUP, attack):
        assert set(answer) == {"status", "region", "reason"}
        assert answer["reason"] in REASONS
        assert arrays == 0
        check_form(method, answer, {})
    assert deployed.ask("describe", {})[0]["region"] == "region-1"


def test_bytes_that_are_no_request_harm_nobody_and_are_noted(deployed: Deployed) -> None:
    good = canonical_json.encode({"method": "describe", "header": {}})
    claims = [
        MAGIC + (1 << 31).to_bytes(4, "big") + bytes(8),
        MAGIC + len(good).to_bytes(4, "big") + (1 << 62).to_bytes(8, "big") + good,
        MAGIC + bytes(4) + bytes(8),
        b"\x80\x04\x95" + b"pickle" * 8,
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        bytes(4096),
    ]

    def attack() -> list[str]:
        heard = []
        for claim in claims:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(60)
                connection.connect(str(deployed.socket))
                try:
                    connection.sendall(claim)
                    connection.shutdown(socket.SHUT_WR)
                    heard.append(connection.recv(1 << 16).hex())
                except (BrokenPipeError, ConnectionResetError):
                    heard.append("")
        return heard

    assert as_user(RELAY, GROUP, attack) == [""] * len(claims)
    assert deployed.ask("describe", {})[0]["region"] == "region-1"
    told = incidents_of(deployed, FRAME_REFUSED, 1)
    assert f"user {RELAY}" in str(told[0]["detail"])


class _Engine:
    """What a door's book tells, in memory."""

    def __init__(self) -> None:
        self.noted: list[tuple[str, str]] = []
        self.counted: list[str] = []
        self.full = False

    def note_peer(self, reason: str, detail: str) -> None:
        if self.full:
            raise StorageError("the disk is full")
        self.noted.append((reason, detail))

    def tell_refused(self, reason: str) -> None:
        self.counted.append(reason)


def test_turning_up_often_is_counted_and_fills_no_log() -> None:
    engine = _Engine()
    book = DoorBook(engine)  # type: ignore[arg-type]
    for _ in range(1000):
        book.refused(PEER_REFUSED, 1234)
    book.refused(FRAME_REFUSED, 1234)
    assert len(engine.counted) == 1001
    assert [reason for reason, _ in engine.noted] == [PEER_REFUSED, FRAME_REFUSED]
    again = DoorBook(engine, tell_every_s=0.0)  # type: ignore[arg-type]
    again.refused(PEER_REFUSED, 1234)
    again.refused(PEER_REFUSED, 1234)
    assert "(2 times" in engine.noted[-1][1]


def test_what_a_full_disk_kept_from_the_log_is_told_the_next_time() -> None:
    engine = _Engine()
    book = DoorBook(engine)  # type: ignore[arg-type]
    engine.full = True
    with pytest.raises(StorageError):
        book.refused(PEER_REFUSED, 1234)
    engine.full = False
    book.refused(PEER_REFUSED, 1234)
    assert len(engine.noted) == 1


def test_many_users_take_bounded_memory() -> None:
    engine = _Engine()
    book = DoorBook(engine)  # type: ignore[arg-type]
    for user in range(1000):
        book.refused(PEER_REFUSED, user)
    assert len(engine.counted) == 1000
    assert len(book._counts) == len(engine.noted) == 64


@pytest.mark.parametrize("users", [["no-such-user-here"], [""]])
def test_a_door_for_unknown_users_is_not_opened(tmp_path: Path, users: list[str]) -> None:
    with (
        pytest.raises(InputError, match="no user"),
        open_door(_Engine(), tmp_path / "s", relay_users=users),  # type: ignore[arg-type]
    ):
        pass
    assert not (tmp_path / "s").exists()


def test_an_observer_counts_who_was_turned_away(provisioned: tuple[RunFolder, RunPlan]) -> None:
    class Counting(Unobserved):
        def __init__(self) -> None:
            self.seen: list[str] = []

        def refused(self, reason: str) -> None:
            self.seen.append(reason)

    observer = Counting()
    with open_engine(home_of(provisioned[0]), observer=observer) as engine:
        DoorBook(engine).refused(PEER_REFUSED, 1234)
        engine.call("train", {}, {})
    assert observer.seen == [PEER_REFUSED, "malformed-request"]
