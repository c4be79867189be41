"""How a deployment is, as ``fedpref-server status`` shows it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from rich.table import Table

from common.errors import FedprefError
from common.timestamps import format_time
from server.control import open_control
from server.current_model import published_models
from server.deployment import Deployment
from server.programs import supervisor
from server.provisioning.certificates import expiry
from server.provisioning.enrolment import NODE_SUFFIX
from server.provisioning.federation_config import FederationConfig
from server.queue import read_queue
from server.schedule import read_schedule
from server.status import read_status

_SHORT = 12
_MOST_SUBMISSIONS = 10


def deployment_tables(
    deployment: Deployment, config: FederationConfig
) -> Iterator[tuple[str, Table]]:
    """The parts of the picture, each with its title; an empty one has nothing to show."""
    yield "Coordinator", _facts(deployment, config)
    yield "Processes", _processes(deployment)
    yield "Regions", _regions(deployment, config)
    yield "Runs", _runs(deployment)
    yield "Queue", _queue(deployment)
    yield "Scheduled", _schedule(deployment)


def _facts(deployment: Deployment, config: FederationConfig) -> Table:
    table = Table(box=None, show_header=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    table.add_row("federation", config.federation.name)
    table.add_row("regions connect to", config.server.address)
    if deployment.certificate.is_file():
        try:
            until = expiry(deployment.certificate.read_bytes())
            left = (until - datetime.now(UTC)).days
            table.add_row("certificate", f"until {until:%Y-%m-%d}, {left} days left")
        except (OSError, FedprefError):
            table.add_row("certificate", "it cannot be read by this user")
    models = published_models(deployment.home()) if _has_registry(deployment) else []
    if models:
        table.add_row("current model", f"{models[-1].model}\nof run {models[-1].run_id}")
    return table


def _processes(deployment: Deployment) -> Table:
    table = _table("process", "state", "pid", "up for")
    for state in supervisor(deployment).status():
        table.add_row(state.name, state.state.lower(), str(state.pid or "–"), f"{state.up_s} s")
    return table


def _regions(deployment: Deployment, config: FederationConfig) -> Table:
    table = _table("region", "enrolled", "node")
    states = _node_states(deployment, config)
    for region in config.regions:
        enrolled = (deployment.nodes / f"{region.name}{NODE_SUFFIX}").is_file()
        table.add_row(region.name, "yes" if enrolled else "no", states.get(region.name, "–"))
    return table


def _node_states(deployment: Deployment, config: FederationConfig) -> dict[str, str]:
    try:
        token = deployment.token(deployment.coordinator)
        with open_control(config.server.admin_port, token) as api:
            return {node.name: node.status for node in api.nodes()}
    except FedprefError:
        # The coordinator is stopped, or this user may not ask: the table says no more then.
        return {}


def _runs(deployment: Deployment) -> Table:
    table = _table("run", "id", "rounds", "state", "model")
    if not _has_registry(deployment):
        return table
    for run in deployment.home().runs():
        found = read_status(deployment.home(run), last_events=0)
        state = "published" if found.published else ("unfinished" if found.rounds else "planned")
        table.add_row(
            run,
            found.plan.run_id,
            f"{len(found.rounds)} of {found.plan.total_rounds}",
            state,
            (found.published or "–")[:_SHORT],
        )
    return table


def _queue(deployment: Deployment) -> Table:
    table = _table("number", "run", "state", "submitted", "started", "times", "reason")
    for entry in read_queue(deployment)[-_MOST_SUBMISSIONS:]:
        table.add_row(
            str(entry.number),
            entry.run,
            entry.state,
            entry.submitted_at,
            entry.started_at or "–",
            str(entry.attempts),
            entry.reason or "",
        )
    return table


def _schedule(deployment: Deployment) -> Table:
    table = _table("due", "run")
    for each in read_schedule(deployment):
        table.add_row(format_time(each.at_ms), each.run)
    return table


def _has_registry(deployment: Deployment) -> bool:
    return any(deployment.home().registry.glob("*.json"))


def _table(*titles: str) -> Table:
    table = Table(box=None, header_style="dim")
    for title in titles:
        table.add_column(title, overflow="fold")
    return table
