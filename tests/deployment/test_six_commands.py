"""From an empty folder to a finished run by six commands, and what the federation then withstands.

All of it is on one federation, which is made once: these are the quick ones. What takes minutes is
in test_attacks.py and test_faults.py beside this file.
"""

from __future__ import annotations

import ssl
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from simulations.deployment_attacks import on_ours
from simulations.deployment_attacks.accounts import processes_of
from simulations.deployment_attacks.our_federation import RUN
from tests.deployment.conftest import six_commands
from tests.support.deployed import REGION_PROGRAMS, SERVER, SERVER_PROGRAMS, Deployed


def user_of(deployed: Deployed, party: str, program: str) -> int:
    process = deployed.ours.process(deployed.party(party), program)
    return Path(f"/proc/{process}").stat().st_uid


def test_there_are_six_at_most_and_all_are_ours() -> None:
    commands = six_commands()
    assert len(commands) <= 6
    for command in commands:
        assert command.partition(" ")[0] in ("fedpref-sim", "fedpref-server", "fedpref-region")


def test_they_end_in_a_published_model_of_three_rounds_by_all_regions(deployed: Deployed) -> None:
    ours = deployed.ours
    assert deployed.entry(RUN).state == "finished"
    aggregates = ours.server_records("aggregate")
    assert [each["round"] for each in aggregates] == [1, 2, 3]
    for each in aggregates:
        assert {used["region"] for used in each["regions"]} == set(ours.regions)
        assert each["refused"] == []
    assert len(ours.server_records("model")) == 1
    assert ours.deployment.home(RUN).model.is_file()
    assert ours.plan(RUN).aggregation.rule == "secure-sum"


def test_nothing_is_uncharged_doubled_or_lost_and_all_logs_verify(deployed: Deployed) -> None:
    assert deployed.faults(RUN) == []
    assert deployed.verify(RUN, "evidence").startswith("Verified.")


def test_every_process_has_a_user_of_its_own_and_none_is_root(deployed: Deployed) -> None:
    users: dict[str, set[int]] = {}
    for party in (SERVER, *deployed.ours.regions):
        for program in SERVER_PROGRAMS if party == SERVER else REGION_PROGRAMS:
            kind = "coordinator" if program in ("superexec", "dispatcher") else program
            users.setdefault(kind, set()).add(user_of(deployed, party, program))
    assert all(len(found) == 1 for found in users.values()), users
    numbers = [number for found in users.values() for number in found]
    assert len(set(numbers)) == len(numbers) == 5, users
    assert 0 not in numbers


def test_a_region_s_files_are_closed_to_its_node_and_its_relay(deployed: Deployed) -> None:
    for region in deployed.ours.regions:
        home = deployed.ours.settings(region).home.root
        assert home.stat().st_mode & 0o077 == 0
        owner = home.stat().st_uid
        assert user_of(deployed, region, "engine") == owner
        assert owner not in (user_of(deployed, region, "node"), user_of(deployed, region, "relay"))


def test_the_regions_port_speaks_tls_to_whoever_trusts_the_ca_and_serves_the_fleet_alone(
    deployed: Deployed,
) -> None:
    url = f"https://{deployed.ours.address}"
    with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
        httpx.post(f"{url}/v1/fleet/pull-messages")
    trusting = ssl.create_default_context(cafile=deployed.ours.deployment.ca_certificate)
    for path in ("/v1/control/list-runs", "/v1/runtime/acquire-task", "/docs", "/"):
        assert httpx.post(f"{url}{path}", verify=trusting).status_code == 404, path


# Two that take seconds, from the network and on a region's machine; all ten: test_attacks.py.


@pytest.mark.parametrize(
    "attack",
    [on_ours.stolen_ca, on_ours.local_user],
    ids=lambda attack: attack.__name__.replace("_", "-"),
)
def test_it_is_refused_and_on_record(attack: object, deployed: Deployed) -> None:
    outcome = attack(deployed.ours)  # type: ignore[operator] # each takes a federation
    assert not outcome.succeeded, outcome.what
    assert outcome.logged, outcome.what


def command_line(process: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{process}/cmdline").read_text(errors="replace")
    return ""


def test_the_attacker_owned_nothing(deployed: Deployed) -> None:
    attacker = deployed.ours.attacker
    # Another test's attacker may have the same number at this moment; its programs are elsewhere.
    here = str(deployed.ours.root.parent)
    assert not any(here in command_line(process) for process in processes_of(attacker.user))
    owned = [
        path
        for path in deployed.ours.root.rglob("*")
        if path.lstat().st_uid == attacker.user
        and Path(attacker.folder) not in (path, *path.parents)
    ]
    assert owned == []
