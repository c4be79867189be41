"""``fedpref-server metrics``: serves what Prometheus asks of the coordinator's side."""

from __future__ import annotations

import signal
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from common.errors import InputError

if TYPE_CHECKING:
    from common.metrics_http import Observed

DEFAULT_ADDRESS = "127.0.0.1:9465"


def metrics(
    target: Annotated[
        Path,
        typer.Argument(
            metavar="DEPLOYMENT", help="The deployment's folder, or a coordinator's home folder."
        ),
    ],
    listen: Annotated[
        str | None,
        typer.Option(
            help="A loopback address and a port, 0 for a free one; by default federation.toml's, "
            f"else {DEFAULT_ADDRESS}."
        ),
    ] = None,
) -> None:
    """Serve metrics, health and readiness for Prometheus until interrupted.

    It reads what lies in the home, and needs no key. A run goes on without it.
    """
    from common.loopback import LoopbackAddress
    from common.metrics_http import serve_metrics
    from common.structured_log import log_as_json

    observed, declared = observed_at(target)
    address = LoopbackAddress.parse(listen or declared or DEFAULT_ADDRESS)
    log_as_json("metrics")
    with serve_metrics(observed, address) as taken:
        Console(highlight=False).print(f"Metrics on http://{taken}/metrics. Ctrl-C stops it.")
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with suppress(KeyboardInterrupt):
            signal.pause()


def observed_at(target: Path) -> tuple[Observed, str | None]:
    """What is to be seen of a deployment, or of a coordinator's home alone, and where if declared.

    Args:
        target: Its folder.

    Raises:
        InputError: It is neither, or its declaration is malformed.
    """
    from common.disk import disk_check
    from common.metrics_http import Observed
    from server.config import ServerHome
    from server.deployment import Deployment
    from server.observed_deployment import ObservedDeployment
    from server.observing import ServerMetrics
    from server.provisioning.federation_config import read_federation
    from server.queue import read_queue

    if not Deployment(target).config.is_file():
        home = ServerHome(target)
        if not (home.runs() or home.plan.is_file()):
            raise InputError(
                f"{target} is neither a deployment nor a coordinator's home.",
                remedy="Name the folder that holds federation.toml or plan.json.",
            )
        alone = ServerMetrics(home)
        checks = {"home": alone.check, "disk": lambda: disk_check(home.root)}
        return Observed(alone.registry, checks), None
    deployment = Deployment.read(target)
    server = read_federation(deployment.config).server
    around = ObservedDeployment(
        bind=server.bind,
        port=server.port,
        admin_port=server.admin_port,
        queued=lambda: sum(each.state == "waiting" for each in read_queue(deployment)),
    )
    found = ServerMetrics(deployment.home(), more=around.metrics)
    own = {"home": found.check, "disk": lambda: disk_check(deployment.server)}
    return Observed(found.registry, {**own, **around.checks()}), server.metrics
