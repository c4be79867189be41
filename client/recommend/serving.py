"""Runs the recommender service until it is told to stop."""

from __future__ import annotations

import gc
import logging
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from client.engine.home import RegionHome
from client.recommend.api import Serving
from client.recommend.app import create_app
from client.recommend.config import (
    ServiceSettings,
    access_token,
    read_service_settings,
    token_file,
)
from client.recommend.metrics import RecommenderMetrics, recommender_checks
from client.recommend.settings import RecommendSettings
from client.recommend.try_page import PATH, TryPage
from client.recommend.types import Recommends, RefreshRunningError
from client.web.serving import listening, make_server
from common.catalogue import Catalogue
from common.engine_socket import listen_on
from common.errors import FedprefError
from common.loopback import LoopbackAddress
from common.metrics_http import Observed, serve_metrics
from common.structured_log import log_as_json

#: How many customers the try page offers to look at.
EXAMPLES = 50
_BACKLOG = 128

_log = logging.getLogger("fedpref.recommend")


class _ServedNow(Protocol):
    @property
    def catalogue(self) -> Catalogue: ...


class ServedRecommender(Recommends, Protocol):
    """A recommender that also knows what the try page shows."""

    @property
    def served(self) -> _ServedNow:
        """What answers are made of at the moment."""
        ...

    @property
    def faults(self) -> Sequence[str]:
        """What is wrong at the moment and makes answers less personal."""
        ...

    def customers(self, limit: int) -> tuple[str, ...]:
        """Some customers who would get a personal list now."""
        ...


@dataclass(frozen=True)
class Place:
    """Where the service is reached: one of the two.

    Attributes:
        address: An address of this machine alone.
        unix_socket: A Unix socket's path.
        group: The group that may open the socket beside its owner; None for its owner alone.
    """

    address: LoopbackAddress | None = None
    unix_socket: Path | None = None
    group: int | None = None


def serve_recommender(
    home: RegionHome,
    open_recommender: Callable[[RegionHome, RecommendSettings], ServedRecommender],
    *,
    place: Place,
    try_page: bool,
    say: Callable[[str], None],
    metrics: LoopbackAddress | None = None,
) -> None:
    """Serves until SIGINT or SIGTERM; requests under way are finished.

    Args:
        home: The region's home.
        open_recommender: Opens what answers.
        place: Where to listen.
        try_page: Whether the operator's page is served; it needs an address.
        say: Tells the operator one line, such as that the service is ready.
        metrics: Where metrics are served; None for nowhere.

    Raises:
        InputError: Settings, token or a place cannot be used, or there is nothing to serve from.
        VerificationError: The model's release does not verify: it is not served.
        StorageError: A store or log cannot be opened, or another process serves there.
    """
    settings, recommending = read_service_settings(home), RecommendSettings.read(home)
    token = access_token(home)
    log_as_json("recommend", level=logging.WARNING)
    with (
        closing(open_recommender(home, recommending)) as recommender,
        _listening(place) as (listener, where, hosts),
        _watched(home, recommender, metrics) as (seen, metrics_place),
    ):
        serving = Serving(
            recommender,
            token,
            home.region,
            dayparts=tuple(recommending.scenes.dayparts),
            store_types=recommending.scenes.store_types,
            faults=lambda: recommender.faults,
            refreshed=seen.refreshed,
        )
        page = _page(serving, recommender, settings, where) if try_page else None
        answered = None if metrics_place is None else seen.answered
        app = create_app(serving, settings, hosts=hosts, try_page=page, answered=answered)
        server = make_server(app, most_connections=settings.max_connections)
        say(
            f"{home.region}: recommender ready on {where}, model {recommender.model[:16]}…; "
            f"its token is in {token_file(home)}. Ctrl-C stops it."
        )
        if page is not None:
            say(f"Try it: {where}{PATH}")
        if metrics_place is not None:
            say(f"Metrics: http://{metrics_place}/metrics")
        with _refreshing(serving.refresh, every_s=settings.refresh_every_s), _settled():
            server.run(sockets=[listener])
        say(f"{home.region}: recommender stopped.")


@contextmanager
def _watched(
    home: RegionHome, recommender: ServedRecommender, address: LoopbackAddress | None
) -> Iterator[tuple[RecommenderMetrics, LoopbackAddress | None]]:
    """What the service is seen by, and where; nowhere without an address."""
    metrics = RecommenderMetrics(home.region, lambda: recommender.model)
    if address is None:
        yield metrics, None
        return
    observed = Observed(metrics.registry, recommender_checks(lambda: recommender.faults))
    with serve_metrics(observed, address) as taken:
        yield metrics, taken


def _page(
    serving: Serving, recommender: ServedRecommender, settings: ServiceSettings, origin: str
) -> TryPage:
    def examples() -> Sequence[str]:
        return recommender.customers(EXAMPLES)

    return TryPage(
        serving,
        # Asked each time: a refresh may bring new items.
        lambda: recommender.served.catalogue,
        examples,
        origin=origin,
        session_s=settings.session_s,
        idle_s=settings.idle_s,
    )


@contextmanager
def _settled() -> Iterator[None]:
    """Keeps what is loaded out of the garbage collector's rounds while the body runs.

    A round over the consents of a million customers would keep everybody waiting.
    """
    _settle()
    try:
        yield
    finally:
        gc.unfreeze()


def _settle() -> None:
    gc.unfreeze()
    gc.collect()
    gc.freeze()


@contextmanager
def _refreshing(read_anew: Callable[[], None], *, every_s: int) -> Iterator[None]:
    """Reads store and model anew from time to time while the body runs; 0 for never."""
    ended = threading.Event()

    def refresh() -> None:
        while not ended.wait(every_s):
            try:
                read_anew()
                _settle()
            except RefreshRunningError:
                # Someone asked for one: it takes in the same.
                continue
            except FedprefError as error:
                # What was served goes on being served; `recommend check` says what is wrong.
                _log.error("the recommender cannot be refreshed: %s", error)
            # Whatever it is, it is tried again: with this thread would end that those who withdraw
            # are taken out.
            except Exception as error:  # noqa: BLE001
                _log.error("the recommender cannot be refreshed", exc_info=error)

    if not every_s:
        yield
        return
    thread = threading.Thread(target=refresh, name="refresh", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def _listening(place: Place) -> Iterator[tuple[socket.socket, str, set[str] | None]]:
    """The listening socket, how the place is called, and what ``Host`` may say."""
    if place.unix_socket is not None:
        with listen_on(place.unix_socket, place.group, backlog=_BACKLOG) as listener:
            try:
                yield listener, str(place.unix_socket), None
            finally:
                place.unix_socket.unlink(missing_ok=True)
        return
    address = place.address or LoopbackAddress("127.0.0.1", 0)
    with listening(address.host, address.port) as listener:
        taken = LoopbackAddress(address.host, listener.getsockname()[1])
        yield listener, f"http://{taken}", {str(taken), f"localhost:{taken.port}"}
