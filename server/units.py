"""The coordinator's systemd units: the same programs that `fedpref-server start` supervises."""

from __future__ import annotations

from dataclasses import replace

from common.errors import InputError
from common.supervision import Program
from common.systemd import Hardening, render_unit
from server.deployment import Deployment
from server.programs import own, programs
from server.provisioning.federation_config import FederationConfig

_SPOKEN = {
    "superlink": "the guarded SuperLink",
    "superexec": "the SuperExec of the coordinator's runs",
    "dispatcher": "the dispatcher of the coordinator's queue",
    "metrics": "the coordinator's metrics",
}
_SUPERLINK_MEMORY_BYTES = 8 << 30


def server_units(deployment: Deployment, config: FederationConfig) -> dict[str, str]:
    """The unit files of a coordinator, by name; folders are given to their users on the way.

    Args:
        deployment: The deployment.
        config: The federation.

    Raises:
        InputError: The users cannot be made, or something cannot be written in a unit.
    """
    own(deployment, config)
    users = {program.name: _user_of(program, config) for program in programs(deployment, config)}
    names = {name: f"fedpref-server-{name}.service" for name in users}
    return {
        names[program.name]: render_unit(
            replace(program, user=users[program.name]),
            description=f"fedpref: {_SPOKEN[program.name]}",
            hardening=_hardening(deployment, program.name),
            after=() if program.name == "superlink" else (names["superlink"],),
        )
        for program in programs(deployment, config)
    }


def _user_of(program: Program, config: FederationConfig) -> str:
    server = config.server
    user = server.superlink_user if program.name == "superlink" else server.coordinator_user
    if user == "root":
        raise InputError(
            f"The coordinator's {program.name} is to run as root.",
            remedy="Name another user in [server] of federation.toml.",
        )
    return user


def _hardening(deployment: Deployment, name: str) -> Hardening:
    secret = (deployment.ca, deployment.officers, deployment.tokens, deployment.kits)
    if name == "superlink":
        return Hardening(
            writable=(deployment.superlink,),
            hidden=(*secret, deployment.server, deployment.coordinator),
            memory_max_bytes=_SUPERLINK_MEMORY_BYTES,
        )
    return Hardening(
        writable=() if name == "metrics" else (deployment.server, deployment.coordinator),
        hidden=(*secret, deployment.superlink),
        # Outside witnesses are asked over the network.
        loopback_only=name in ("dispatcher", "metrics"),
    )
