"""The coordinator's configuration and home: one clear message for each thing that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.errors import FormatError, InputError, VerificationError
from server.config import ServerConfig, ServerHome
from tests.support.fake_federation import fake_plan, open_federation


def test_flowers_run_configuration_is_read() -> None:
    config = ServerConfig.read({"server-home": "/srv/fedpref", "nodes-wait-s": 5})
    assert config.server_home == Path("/srv/fedpref")
    assert (config.nodes_wait_s, config.describe_timeout_s) == (5.0, 60.0)


@pytest.mark.parametrize(
    ("run_config", "named"),
    [
        ({}, "server-home"),
        ({"server-home": ""}, "server-home"),
        ({"server-home": "runs/a"}, "server-home"),
        ({"server-home": 5}, "server-home"),
        ({"server-home": "/a", "nodes-wait-s": 0}, "nodes-wait-s"),
        ({"server-home": "/a", "nodes-wait-s": float("nan")}, "nodes-wait-s"),
        ({"server-home": "/a", "nodes-wait-s": 1e9}, "nodes-wait-s"),
        ({"server-home": "/a", "describe-timeout-s": "soon"}, "describe-timeout-s"),
        ({"server-home": "/a", "last-round": -1}, "last-round"),
        ({"server-home": "/a", "epsilon": 100}, "epsilon"),
    ],
)
def test_what_is_not_a_configuration_is_named(run_config: dict[str, object], named: str) -> None:
    with pytest.raises(InputError, match=named):
        ServerConfig.read(run_config)


def test_a_home_without_its_files_says_which(tmp_path: Path) -> None:
    home = ServerHome(tmp_path)
    with pytest.raises(InputError, match=r"plan\.json cannot be read"):
        home.read_plan()
    with pytest.raises(InputError, match="no key registry"):
        home.read_registry()
    with pytest.raises(InputError, match="passphrase"):
        home.signer("log")
    home.keys.mkdir()
    (home.keys / "passphrase").write_bytes(b"\n")
    with pytest.raises(InputError, match="mode"):
        home.signer("log")
    (home.keys / "passphrase").chmod(0o600)
    with pytest.raises(InputError, match="empty"):
        home.signer("log")
    home.registry.mkdir()
    (home.registry / "newest.json").write_bytes(b"{}")
    with pytest.raises(InputError, match="not named by its version"):
        home.registry_envelopes()


def test_a_damaged_plan_or_registry_is_refused(tmp_path: Path) -> None:
    with open_federation(tmp_path, fake_plan()) as federation:
        home = federation.home
        assert home.read_plan() == federation.plan
        plan = home.plan.read_bytes()
        for altered in (plan[:-1], b"{}", plan.replace(b'"quorum":2', b'"quorum":9')):
            home.plan.write_bytes(altered)
            with pytest.raises(FormatError):
                home.read_plan()
        registry = home.registry / "1.json"
        registry.write_bytes(registry.read_bytes().replace(b"sig", b"gis"))
        with pytest.raises((FormatError, VerificationError)):
            home.read_registry()
