"""Members that come and go, and what is renewed: kits, removals, certificates, secrets."""

from __future__ import annotations

import tomllib
from pathlib import Path

import tomli_w

from common.durable_file import write_durably
from common.errors import InputError, StorageError
from common.key_registry import Registry
from common.kit import JURISDICTION, SUFFIX
from common.registry_changes import draft_version
from common.registry_install import registry_envelopes
from common.timestamps import now_ms
from server.deployment import Deployment
from server.provisioning.enrolment import NODE_SUFFIX, sign_or_draft
from server.provisioning.federation_config import (
    FederationConfig,
    parse_federation,
    read_federation,
)
from server.provisioning.kits import use_up_token, write_kit
from server.provisioning.officers import officers_at_hand, read_roots
from server.provisioning.provision import bundle_sha256

_DAY_S = 24 * 3600


def join(deployment: Deployment, region: str, *, jurisdiction: str, location: str) -> Path:
    """Invites a region: declares it if it is new, and makes it a kit; gives the kit's path.

    For a region that is enrolled already it is a new kit, by which its next enrolment is taken,
    with a new node key or new signing keys.

    Args:
        deployment: The deployment.
        region: The region's name.
        jurisdiction: Its country code; needed for a new region.
        location: Where it is, as latitude and longitude; may be empty.

    Raises:
        InputError: The region was removed, a field is wrong, or the officers' keys, which sign a
            kit, are not at hand.
    """
    config = read_federation(deployment.config)
    if region in removed_regions(deployment):
        raise InputError(
            f"{region} was removed: its log is closed, and its name is not used again.",
            remedy="Let it join under another name.",
        )
    if all(each.name != region for each in config.regions):
        if JURISDICTION.fullmatch(jurisdiction) is None:
            raise InputError(
                f"{region} is new: its jurisdiction is needed.",
                remedy="Give --jurisdiction, a country code such as DE.",
            )
        config = _declare(deployment, region, jurisdiction, location)
    officers = officers_at_hand(deployment.officers)
    if len(officers) < config.federation.threshold:
        raise InputError(
            f"A kit is signed by {config.federation.threshold} officers; {len(officers)} root keys "
            f"are in {deployment.officers}.",
            remedy="Bring the officers' keys there for as long as the kit is made.",
        )
    write_kit(
        deployment,
        config,
        region,
        officers=officers[: config.federation.threshold],
        root_keys=read_roots(deployment),
        app_sha256=bundle_sha256(deployment),
    )
    return deployment.kits / f"{region}{SUFFIX}"


def remove(deployment: Deployment, region: str) -> Path | None:
    """Removes a region: its node may not connect from now on, and its keys are revoked.

    What its keys signed before stays valid as far as others cosigned it. A run whose plan names it
    goes on without it, if the others are enough.

    Returns:
        The draft that officers elsewhere have to sign; None if the revocation is in force.

    Raises:
        InputError: There is no such region, or it was removed before.
    """
    config = read_federation(deployment.config)
    config.region(region)
    # The node first: that works at once, whoever has to sign what else.
    for folder in (deployment.nodes, deployment.drafts):
        (folder / f"{region}{NODE_SUFFIX}").unlink(missing_ok=True)
    (deployment.kits / f"{region}{SUFFIX}").unlink(missing_ok=True)
    use_up_token(deployment, region)
    chain = registry_envelopes(deployment.home().registry)
    at_ms = now_ms()
    keys = _unrevoked(chain, region)
    if not keys:
        return None
    draft = draft_version(
        chain,
        issued_at_ms=at_ms,
        valid_for_s=config.federation.keys_valid_days * _DAY_S,
        revocations=dict.fromkeys(keys, at_ms),
    )
    return sign_or_draft(deployment, config, draft)


def removed_regions(deployment: Deployment) -> frozenset[str]:
    """The regions all of whose keys are revoked."""
    chain = registry_envelopes(deployment.home().registry)
    if not chain:
        return frozenset()
    registry = Registry.from_envelopes(chain, root_key_ids=None)
    parties = {entry.party for entry in registry.entries}
    return frozenset(
        party
        for party in parties
        if all(
            entry.revoked_at_ms is not None for entry in registry.entries if entry.party == party
        )
    )


def _unrevoked(chain: list[bytes], region: str) -> list[str]:
    if not chain:
        return []
    registry = Registry.from_envelopes(chain, root_key_ids=None)
    return [
        entry.key_id
        for entry in registry.entries
        if entry.party == region and entry.revoked_at_ms is None
    ]


def _declare(
    deployment: Deployment, region: str, jurisdiction: str, location: str
) -> FederationConfig:
    """Adds a region at the declaration's end, and leaves all else in it as it was written.

    Where the regions are written in one line, nothing can follow: then all is written anew.
    """
    text = deployment.config.read_bytes()
    lines = ["", "[[regions]]", f'name = "{region}"', f'jurisdiction = "{jurisdiction}"']
    if location:
        lines.append(f'location = "{location}"')
    changed = text.rstrip(b"\n") + "\n".join(["", *lines, ""]).encode()
    try:
        config = parse_federation(changed, deployment.config)
    except InputError:
        entry = {"name": region, "jurisdiction": jurisdiction}
        values = tomllib.loads(text.decode("utf-8"))
        values["regions"].append(entry | ({"location": location} if location else {}))
        changed = tomli_w.dumps(values).encode()
        config = parse_federation(changed, deployment.config)
    try:
        write_durably(deployment.config, changed, mode=0o644)
    except OSError as error:
        raise StorageError(f"{deployment.config} cannot be written: {error.strerror}.") from error
    return config
