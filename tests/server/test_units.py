"""The coordinator's systemd units: the programs that `start` runs, each apart and confined."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.errors import InputError
from server.programs import programs
from server.units import server_units
from tests.support.small_deployment import (
    declaration,
    one_user,  # noqa: F401 - used by itself
    provisioned,
)


def settings(unit: str, name: str) -> list[str]:
    return [line.partition("=")[2] for line in unit.splitlines() if line.startswith(f"{name}=")]


def test_every_program_has_a_unit_with_a_user_of_its_own_side(tmp_path: Path) -> None:
    deployment, config = provisioned(tmp_path, declaration(server={"metrics": "127.0.0.1:9465"}))
    units = server_units(deployment, config)
    names = [program.name for program in programs(deployment, config)]
    assert names == ["superlink", "superexec", "dispatcher", "metrics"]
    assert list(units) == [f"fedpref-server-{name}.service" for name in names]
    for name, unit in units.items():
        superlink = name == "fedpref-server-superlink.service"
        user = "fedpref-superlink" if superlink else "fedpref-coordinator"
        assert settings(unit, "User") == [user]
        assert settings(unit, "NoNewPrivileges") == ["yes"]
        hidden = " ".join(settings(unit, "InaccessiblePaths"))
        # Who faces the regions sees no key of the coordinator's; nobody sees the CA's or the root.
        assert (str(deployment.server) in hidden) == superlink
        assert (str(deployment.superlink) in hidden) != superlink
        for secret in (deployment.ca, deployment.officers, deployment.tokens):
            assert str(secret) in hidden


def test_no_process_is_roots(tmp_path: Path) -> None:
    tables = declaration(server={"coordinator_user": "root"})
    deployment, config = provisioned(tmp_path, tables)
    with pytest.raises(InputError, match="is to run as root"):
        server_units(deployment, config)


def test_secrets_are_named_and_never_said(tmp_path: Path) -> None:
    deployment, config = provisioned(tmp_path)
    secret = deployment.secret(deployment.coordinator).read_text().strip()
    token = deployment.token(deployment.coordinator).read_text().strip()
    for program in programs(deployment, config):
        words = " ".join([*program.command, *program.environment.values()])
        assert secret not in words
        assert token not in words
