"""The processes of a deployment's coordinator, and starting and stopping them without systemd."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from common.errors import FederationError, InputError
from common.node_environment import process_environment
from common.supervision import Program, ProgramState, Supervised
from common.system_users import (
    SystemUser,
    ensure_user,
    give,
    give_all,
    is_root,
    require_reachable,
)
from server.control import LOOPBACK, open_control
from server.deployment import Deployment
from server.provisioning.federation_config import FederationConfig

_START_SECONDS = 1.0
_READY_TIMEOUT_S = 90.0
_POLL_S = 0.25
_TASK_POLL_S = "0.2"


def supervisor(deployment: Deployment) -> Supervised:
    """The supervisor of the coordinator's processes."""
    return Supervised(deployment.root / "supervisor", logs=deployment.root / "logs")


def programs(deployment: Deployment, config: FederationConfig) -> list[Program]:
    """What the coordinator consists of, in the order of starting.

    Args:
        deployment: The deployment.
        config: The federation.
    """
    root, server = deployment.root.absolute(), config.server
    at = Deployment(root)
    python = sys.executable
    found = [
        _program(
            "superlink",
            (python, "-m", "server.superlink", str(root)),
            home=at.superlink,
            user=server.superlink_user,
        ),
        _program(
            "superexec",
            (
                _installed("flower-superexec"),
                "--insecure",
                "--runtime-api-address",
                f"{LOOPBACK}:{server.admin_port}",
                "--superexec-auth-secret-file",
                str(at.secret(at.coordinator)),
            ),
            home=at.coordinator,
            user=server.coordinator_user,
            variables={"FLWR_SUPEREXEC_TASK_POLL_INTERVAL": _TASK_POLL_S},
            group=True,
        ),
        _program(
            "dispatcher",
            (python, "-m", "server.dispatcher", str(root)),
            home=at.coordinator,
            user=server.coordinator_user,
        ),
    ]
    if server.metrics is not None:
        command = (python, "-m", "server.cli", "metrics", str(root), "--listen", server.metrics)
        found.append(
            _program("metrics", command, home=at.coordinator, user=server.coordinator_user)
        )
    return found


def start(deployment: Deployment, config: FederationConfig) -> list[ProgramState]:
    """Starts what does not run yet, and waits till the coordinator can take a run.

    Raises:
        InputError: A user cannot be made or cannot get to the folder, or a port is in use.
        FederationError: The SuperLink does not come up; says what its log says.
    """
    own(deployment, config)
    states = supervisor(deployment).start(programs(deployment, config))
    _wait_until_ready(deployment, config)
    return states


def own(deployment: Deployment, config: FederationConfig) -> None:
    """Gives each folder to the user whose process needs it; makes the users where root asks."""
    superlink = ensure_user(config.server.superlink_user)
    coordinator = ensure_user(config.server.coordinator_user)
    for user, folder in ((superlink, deployment.superlink), (coordinator, deployment.coordinator)):
        require_reachable(folder, user)
        require_reachable(Path(sys.executable).resolve(), user)
    for folder in (deployment.tls, deployment.superlink):
        give_all(folder, superlink)
        give(folder, superlink, mode=0o700)
    for folder in (deployment.server, deployment.coordinator):
        give_all(folder, coordinator)
        give(folder, coordinator, mode=0o700)


def coordinator_user(config: FederationConfig) -> SystemUser | None:
    """Who the coordinator's processes run as; None for whoever we are."""
    return ensure_user(config.server.coordinator_user) if is_root() else None


def _program(
    name: str,
    command: tuple[str, ...],
    *,
    home: Path,
    user: str,
    variables: dict[str, str] | None = None,
    group: bool = False,
) -> Program:
    return Program(
        name=name,
        command=command,
        environment={**process_environment(home), **(variables or {})},
        user=user if is_root() else None,
        directory=home,
        restart="always",
        start_seconds=_START_SECONDS,
        stop_seconds=10,
        stop_group=group,
    )


def _wait_until_ready(deployment: Deployment, config: FederationConfig) -> None:
    """Waits till the SuperLink answers, however long Python takes to load Flower."""
    deadline = time.monotonic() + _READY_TIMEOUT_S
    token = deployment.token(deployment.coordinator)
    while True:
        try:
            with open_control(config.server.admin_port, token) as api:
                api.nodes()
            return
        except FederationError as error:
            states = {each.name: each for each in supervisor(deployment).status()}
            state = states.get("superlink")
            failing = state is None or state.state in ("BACKOFF", "FATAL", "EXITED")
            if time.monotonic() > deadline or failing:
                said = "\n".join(supervisor(deployment).logs("superlink", 5))
                raise FederationError(
                    f"The SuperLink does not come up ({error.message}); its log ends with:\n{said}",
                    remedy="Mend what it names, then start again.",
                ) from error
        time.sleep(_POLL_S)


def _installed(name: str) -> str:
    path = Path(sys.executable).parent / name
    if not path.is_file():
        raise InputError(f"{path} is missing.", remedy="Install fedpref with the extra [server].")
    return str(path)
