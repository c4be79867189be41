"""The attacks on a deployment of this system: what stops each, and where it is on record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from common.peers import user_id
from simulations.deployment_attacks.accounts import Account
from simulations.deployment_attacks.apps import evil_relay
from simulations.deployment_attacks.evil_bundles import other_bundle
from simulations.deployment_attacks.on_flower import FLOOD_BYTES
from simulations.deployment_attacks.our_federation import RUN, OurFederation, wait_until
from simulations.deployment_attacks.our_records import (
    ANSWER_S,
    DESCRIBE,
    Said,
    answers,
    ask,
    log_words,
    logged_of_evil_bundle,
    one,
    peak_bytes,
    reasons,
    refusals_of,
    run_evil_bundle,
    told_by_bundle,
    train_header,
    weaker_plans,
)
from simulations.deployment_attacks.outcome import Outcome
from simulations.faults.evidence import Record

_ACCEPTED = "accepted"


def stolen_ca(ours: OurFederation) -> Outcome:
    """Only the fleet API is at the regions' port; the admin port asks for a token and a secret."""
    said = Said(ours)
    asks = [ask(DESCRIBE, {})]
    admin: dict[str, Any] = {"address": ours.admin_address, "ca": None}
    with (
        ours.start("coordinate", nodes=1, asks=asks) as at_regions_port,
        ours.start("coordinate", nodes=1, asks=asks, **admin) as at_admin_port,
        ours.start("take-server-task", **admin) as at_tasks,
    ):
        doors = {
            "the regions' port": at_regions_port.found(),
            "the admin port": at_admin_port.found(),
            "its tasks": at_tasks.found(),
        }
    refused = {where: str(found.get("refused", _ACCEPTED)) for where, found in doors.items()}
    return Outcome(
        _ACCEPTED in refused.values(),
        "; ".join(f"{where}: {how}" for where, how in refused.items()),
        said.refusals(),
        refused,
    )


def evil_bundle(ours: OurFederation) -> Outcome:
    """A permitted bundle runs confined, under a user of its own; its reply stays in the region."""
    region = ours.regions[0]
    found = run_evil_bundle(ours, region)
    told = told_by_bundle(ours, region)
    reached = {what: how for what, how in told.items() if how.startswith("got ")}
    arrived = [each for each in answers(found) if each.get("arrays")]
    return Outcome(
        bool(reached or arrived) or not told,
        f"although the region permits it: of {len(told)} tries to reach a file, a process, a "
        f"socket, a program or the engine's own methods {len(reached)} succeed, and its answer "
        f"stays in the region{': ' + one(reached) if reached else ''}",
        logged_of_evil_bundle(ours, region),
        {"tried": told, "answer": reasons(found)},
    )


def unpermitted_bundle(ours: OurFederation) -> Outcome:
    """A bundle's digest is looked at before it is unpacked."""
    before = {region: ours.incidents(region) for region in ours.regions}
    path = ours.coordinator.give("other.fab", other_bundle())
    found = ours.coordinate(bundle=str(path), asks=[ask(DESCRIBE, {})])
    told = reasons(found)
    logged = _logged_by_all(ours, before, "bundle-not-permitted")
    return Outcome(
        _ACCEPTED in told.values() or not told,
        f"{len(told)} of {len(ours.regions)} regions answer {one(told.values())}, and unpack "
        "nothing of it",
        logged,
        {"answers": told},
    )


def lowered_noise(ours: OurFederation) -> Outcome:
    """Noise and ε are the permit's; a request for another plan is refused."""
    plan = ours.plan(RUN)
    before = {region: ours.incidents(region) for region in ours.regions}
    by_config = ours.coordinate(config={"noise-multiplier": 0.0}, asks=[])
    config = str(by_config.get("refused", _ACCEPTED))
    asks = [ask("train", train_header(plan, digest)) for digest in weaker_plans(plan)]
    told = reasons(ours.coordinate(asks=asks))
    return Outcome(
        _ACCEPTED in (config, *told.values()) or not told,
        f"run_config is refused ({config}); a plan with σ × 0.01, or with ε × 10, is answered "
        f"{one(told.values())}",
        _logged_by_all(ours, before, "not-permitted"),
        {"run_config": config, "answers": told},
    )


def _logged_by_all(ours: OurFederation, before: Mapping[str, Sequence[Record]], reason: str) -> str:
    """That every region has an incident of a reason since, in words; empty if one has none."""
    found = [ours.new_incidents(region, before[region], reason) for region in ours.regions]
    return f"an incident in each region's log: {reason}" if all(found) else ""


def extra_tensor(ours: OurFederation) -> Outcome:
    """What leaves is what the engine answered, byte for byte."""
    region = ours.regions[0]
    found = run_evil_bundle(ours, region)
    arrived = [each for each in answers(found) if evil_relay.EXTRA in each.get("arrays", {})]
    return Outcome(
        bool(arrived) or not answers(found),
        f"a permitted bundle's tensor {evil_relay.EXTRA!r} stays in the region: the coordinator "
        f"gets {one(reasons(found).values())}",
        logged_of_evil_bundle(ours, region),
        {"answer": reasons(found)},
    )


def replayed_message(ours: OurFederation) -> Outcome:
    """A reply is signed for its run, round and attempt; the coordinator looks."""
    region = ours.regions[0]
    settings = ours.settings(region)
    engine = settings.home.root.stat().st_uid
    relay, group = settings.relay_users[0], settings.engine.socket.stat().st_gid
    party = ours.region(region)
    folder = ours.coordinator.folder.parent / "hostile-region"
    hostile = Account.at("hostile-region", user_id(str(relay)), folder, ours.attacker.scripts)
    hostile = hostile.in_group(group)
    key = hostile.give("node_key", settings.node.key.read_bytes())
    with (
        ours.without(party, "node", "relay"),
        ours.start(
            "replay",
            account=hostile,
            key=str(key),
            engine=str(settings.engine.socket),
            engine_user=engine,
            kind="train",
            times=2,
            seconds=4 * ANSWER_S,
        ) as replaying,
    ):
        ours.command("fedpref-server", "submit", "deployment", RUN)
        sent = replaying.found(within_s=6 * ANSWER_S)
        wait_until(
            lambda: bool(refusals_of(ours, RUN, region)),
            within_s=ANSWER_S,
            what="the coordinator has logged a refusal",
        )
    refused = refusals_of(ours, RUN, region)
    return Outcome(
        sent["again"] == 0 or not refused,
        f"round 1's update, sent again in round {refused[0][0]}, is refused as {refused[0][1]}",
        f"the coordinator's log names {region}: {refused[0][1]}",
        {"sent": sent, "refused": refused},
    )


def wrong_node_key(ours: OurFederation) -> Outcome:
    """Nodes are registered at the admin port alone."""
    said = Said(ours)
    found = ours.attack("register-key", name="stranger")
    return Outcome(
        _ACCEPTED in (found["hello"], found["registered"], found["hello_after"]),
        f"the key is refused ({found['hello']}), registering it too ({found['registered']})",
        said.refusals(),
        found,
    )


def revoked_region(ours: OurFederation) -> Outcome:
    """A region that was removed has no node, and its keys' signatures count no more."""
    region = ours.regions[-1]
    ours.command("fedpref-server", "remove", "deployment", region)
    settings = ours.settings(region)
    said = Said(ours)
    folder = ours.coordinator.folder.parent / "removed-region"
    removed = Account.at("removed-region", ours.attacker.user, folder, ours.attacker.scripts)
    found = ours.attack(
        "register-key",
        account=removed,
        key=str(removed.give("node_key", settings.node.key.read_bytes())),
        name=region,
    )
    return Outcome(
        _ACCEPTED in (found["hello"], found["registered"], found["hello_after"]),
        f"its node key is refused ({found['hello']}), registering it again too "
        f"({found['registered']})",
        said.refusals(),
        found,
    )


def oversized_message(ours: OurFederation) -> Outcome:
    """A request is bounded while it arrives."""
    said = Said(ours)
    process = ours.process(ours.server(), "superlink")
    before = peak_bytes(process)
    found = ours.attack("flood", path="/v1/fleet/push-messages", bytes=FLOOD_BYTES)
    grown = peak_bytes(process) - before
    most = ours.config.server.request_bytes_max
    return Outcome(
        grown > 2 * most,
        f"{found['ended']} after {found['sent_bytes'] / 1e6:.0f} MB; the SuperLink grows by "
        f"{grown / 1e6:.0f} MB, of {most / 1e6:.0f} MB allowed for one request",
        said.refusals("too-large"),
        found | {"grown_bytes": grown},
    )


def local_user(ours: OurFederation) -> Outcome:
    """The engine asks the kernel who is there, and the node asks for a secret."""
    region = ours.regions[0]
    settings = ours.settings(region)
    before = ours.incidents(region)
    given: dict[str, Any] = {
        "engine": str(settings.engine.socket),
        "engine_user": settings.home.root.stat().st_uid,
        "asks": [{"method": "describe", "header": {}}],
    }
    group = settings.engine.socket.stat().st_gid
    runtime: dict[str, Any] = {"address": f"127.0.0.1:{settings.node.runtime_port}", "ca": None}
    with (
        ours.start("knock", **given) as outside,
        ours.start("knock", account=ours.attacker.in_group(group), **given) as in_group,
        ours.start("seize-client-task", answer={}, seconds=1.0, **runtime) as at_node,
    ):
        tried = {
            "the engine's socket": outside.found(),
            "the same, in the socket's group": in_group.found(),
            "the node's tasks": at_node.found(),
        }
    refused = {
        where: str((found.get("answers") or [found])[0].get("refused", _ACCEPTED))
        for where, found in tried.items()
    }
    return Outcome(
        _ACCEPTED in refused.values(),
        "; ".join(f"{where}: {how}" for where, how in refused.items()),
        log_words(region, ours.new_incidents(region, before, "peer-refused")),
        refused,
    )
