"""The service as a process runs it: where it listens, what it says, how it ends."""

from __future__ import annotations

import gc
import os
import signal
import socket
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from client.engine.home import RegionHome
from client.recommend.config import access_token
from client.recommend.serving import Place, serve_recommender
from client.recommend.settings import RecommendSettings
from client.recommend.types import RefreshRunningError
from common.errors import InputError, StorageError, VerificationError
from common.loopback import LoopbackAddress
from tests.support.fake_recommender import CATALOGUE, MODEL, FakeRecommender


@pytest.fixture
def home(tmp_path: Path) -> RegionHome:
    CATALOGUE.save(tmp_path / "catalogue.parquet")
    return RegionHome(tmp_path, "region-1", "small.example")


def served(
    home: RegionHome,
    place: Place,
    use: Callable[[list[str]], None],
    *,
    try_page: bool = False,
    recommender: FakeRecommender | None = None,
    metrics: LoopbackAddress | None = None,
) -> tuple[list[str], FakeRecommender]:
    """Serves in this thread; another one uses the service, then ends it by a signal."""
    said: list[str] = []
    ready, ended = threading.Event(), threading.Event()
    failures: list[BaseException] = []
    answering = recommender or FakeRecommender()

    def say(text: str) -> None:
        said.append(text)
        ready.set()

    def act() -> None:
        ready.wait()
        try:
            use(said)
        except BaseException as error:  # noqa: BLE001 - told by the test's own thread
            failures.append(error)
        finally:
            # The service may not yet listen to signals: till it does, this process ignores them.
            while not ended.wait(0.1):
                os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=act)
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    thread.start()
    try:
        serve_recommender(
            home,
            lambda *_: answering,
            place=place,
            try_page=try_page,
            say=say,
            metrics=metrics,
        )
    finally:
        ready.set()
        ended.set()
        thread.join()
        signal.signal(signal.SIGTERM, before)
    if failures:
        raise failures[0]
    return said, answering


def client(**options: object) -> httpx.Client:
    transport = httpx.HTTPTransport(retries=20, **options)  # type: ignore[arg-type]
    return httpx.Client(transport=transport, timeout=30)


def test_on_an_address_of_this_machine_with_the_page(home: RegionHome) -> None:
    def use(said: list[str]) -> None:
        url = said[0].split(" ready on ")[1].split(",")[0]
        headers = {"Authorization": f"Bearer {access_token(home)}"}
        with client() as http:
            answer = http.post(f"{url}/api/v1/recommendations", json={}, headers=headers)
            assert answer.json()["why_not_personal"] == "no-customer"
            assert http.post(f"{url}/api/v1/recommendations", json={}).status_code == 401
            assert http.get(f"{url}/try").is_success
            named = url.replace("127.0.0.1", "localhost")
            assert http.get(f"{named}/healthz").is_success
            foreign = http.get(f"{url}/healthz", headers={"Host": "evil.example"})
            assert foreign.status_code == 421

    said, recommender = served(home, Place(LoopbackAddress("127.0.0.1", 0)), use, try_page=True)
    assert said[0].startswith("region-1: recommender ready on http://127.0.0.1:")
    assert access_token(home) not in " ".join(said)
    assert said[1].startswith("Try it: http://127.0.0.1:")
    assert said[-1] == "region-1: recommender stopped."
    assert recommender.closed


def test_on_a_socket_that_only_its_owner_can_open(home: RegionHome, tmp_path: Path) -> None:
    path = tmp_path / "r.sock"

    def use(said: list[str]) -> None:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        headers = {"Authorization": f"Bearer {access_token(home)}"}
        with client(uds=str(path)) as http:
            answer = http.get("http://any.name/api/v1/model", headers=headers)
            assert answer.json()["region"] == "region-1"
            assert http.get("http://any.name/try").status_code == 404

    said, _ = served(home, Place(unix_socket=path), use)
    assert str(path) in said[0]
    assert not path.exists()


def test_on_a_socket_of_a_group(home: RegionHome, tmp_path: Path) -> None:
    path = tmp_path / "r.sock"

    def use(said: list[str]) -> None:
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert path.stat().st_gid == os.getegid()

    served(home, Place(unix_socket=path, group=os.getegid()), use)


def test_no_metrics_are_served_unless_a_place_is_named(home: RegionHome) -> None:
    def use(said: list[str]) -> None:
        assert not any(line.startswith("Metrics") for line in said)

    served(home, Place(LoopbackAddress("127.0.0.1", 0)), use)


def test_a_place_that_is_taken_is_named(home: RegionHome, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        place = Place(LoopbackAddress("127.0.0.1", other.getsockname()[1]))
        with pytest.raises(InputError, match="cannot listen"):
            serve_recommender(
                home, lambda *_: FakeRecommender(), place=place, try_page=False, say=print
            )
    path = tmp_path / "r.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        with pytest.raises(StorageError, match="Another process is serving"):
            serve_recommender(
                home,
                lambda *_: FakeRecommender(),
                place=Place(unix_socket=path),
                try_page=False,
                say=print,
            )


def test_a_release_that_does_not_verify_is_not_served(home: RegionHome) -> None:
    def refuse(home: RegionHome, settings: RecommendSettings) -> FakeRecommender:
        raise VerificationError("The model's entry is not signed by the coordinator.")

    said: list[str] = []
    with pytest.raises(VerificationError):
        serve_recommender(home, refuse, place=Place(), try_page=False, say=said.append)
    assert said == []


def test_store_and_model_are_read_anew_from_time_to_time(
    home: RegionHome, capfd: pytest.CaptureFixture[str]
) -> None:
    (home.root / "recommend").mkdir()
    (home.root / "recommend" / "service.toml").write_text("refresh_every_s = 1\n")
    asked: list[int] = []

    class Counting(FakeRecommender):
        def refresh(self) -> None:
            asked.append(1)
            if len(asked) == 1:
                # What was served goes on being served, and it is tried again.
                raise StorageError("The store cannot be read.")
            if len(asked) == 2:
                # A defect must not end the thread: those who withdraw would stay.
                raise RuntimeError("a defect")
            if len(asked) == 3:
                # A caller's is running.
                raise RefreshRunningError("A refresh is running.")
            refreshed.set()

    refreshed = threading.Event()

    def use(said: list[str]) -> None:
        assert refreshed.wait(60)
        url = said[0].split(" ready on ")[1].split(",")[0]
        with client() as http:
            assert http.get(f"{url}/healthz").is_success
            metrics = said[1].removeprefix("Metrics: ")
            shown.append(http.get(metrics).text)
            assert http.get(metrics.replace("/metrics", "/readyz")).json()["ready"]

    shown: list[str] = []
    anywhere = LoopbackAddress("127.0.0.1", 0)
    served(home, Place(anywhere), use, recommender=Counting(), metrics=anywhere)
    assert len(asked) >= 4
    # The one that was running is nobody's failure here.
    assert "fedpref_recommender_refresh_failures_total 2.0" in shown[0]
    assert f'model="{MODEL}"' in shown[0]
    assert capfd.readouterr().err.count("cannot be refreshed") == 2
    assert gc.get_freeze_count() == 0
