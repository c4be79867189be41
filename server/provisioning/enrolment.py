"""Enrolling the regions that answered their kits: into the key registry, and as nodes.

The officers' root keys sign the registry's next version. Where they are at hand it is signed at
once; else a draft is written that travels to the officers, and `take_version` takes in what they
finish. A region's keys count from that version on, and only then may its node connect.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from common import canonical_json
from common.durable_file import write_durably
from common.enrolment import MAX_ENROLMENT_BYTES, Enrolment, open_enrolment
from common.errors import FormatError, InputError, StorageError, VerificationError
from common.key_registry import MAX_REGISTRY_BYTES, Registry
from common.key_request import make_request, open_request
from common.messages import PROTOCOL_VERSION
from common.registry_changes import RootKeys, check_draft, draft_version
from common.registry_draft import Draft
from common.registry_install import install_version, registry_envelopes
from common.system_users import as_owner
from common.timestamps import now_ms
from server.config import SERVER_PARTY
from server.deployment import Deployment
from server.provisioning.federation_config import FederationConfig
from server.provisioning.kits import kit_token, use_up_token
from server.provisioning.officers import officers_at_hand, read_roots, sign_version
from server.provisioning.provision import SERVER_ROLES

NODE_SUFFIX = ".pub"
_DAY_S = 24 * 3600
_NEEDED_ROLES = ("log", "trainer", "witness")


@dataclass(frozen=True)
class Enrolled:
    """What an enrolment changed.

    Attributes:
        fingerprints: What the officers and each newly enrolled region compare, by region.
        version: The registry's version now; 0 if there is none yet.
        draft: The draft that the officers have to sign; None if nothing waits for them.
    """

    fingerprints: Mapping[str, str]
    version: int
    draft: Path | None


def enrol(deployment: Deployment, config: FederationConfig, files: Sequence[Path]) -> Enrolled:
    """Enrols regions and outside witnesses; what is enrolled already is left as it is.

    Args:
        deployment: The deployment.
        config: The federation.
        files: Enrolments of regions (``enrolment.json``), and requests of outside witnesses' keys.

    Raises:
        FormatError: A file is neither.
        VerificationError: An enrolment does not verify, does not answer its kit, or is of a party
            that was not invited.
        InputError: A file cannot be read.
    """
    chain = registry_envelopes(deployment.home().registry)
    known = _known_keys(chain)
    enrolments: dict[str, Enrolment] = {}
    requests: list[bytes] = []
    for path in files:
        data = _read(path, MAX_ENROLMENT_BYTES)
        if not _is_enrolment(data):
            requests.append(_witness_request(config, data, path))
            continue
        found = open_enrolment(data)
        if _is_done(deployment, found, known):
            continue
        _check(deployment, config, found, path)
        if found.facts.region in enrolments:
            raise InputError(f"{path} is a second enrolment of {found.facts.region}.")
        enrolments[found.facts.region] = found
        requests += found.facts.requests.values()
    if not chain:
        requests += _own_requests(deployment, config)
    wanted = [data for data in requests if open_request(data).key_id not in known]
    draft = _sign(deployment, config, wanted, chain) if wanted else None
    for region, found in enrolments.items():
        _write_node(deployment.drafts, region, found.facts.node_key)
    _admit(deployment)
    _list_witnesses(deployment, config)
    return Enrolled(
        fingerprints={region: found.fingerprint for region, found in sorted(enrolments.items())},
        version=len(registry_envelopes(deployment.home().registry)),
        draft=draft,
    )


def take_version(deployment: Deployment, config: FederationConfig, path: Path) -> int:
    """Takes in a version of the registry that the officers have finished; gives its number.

    Args:
        deployment: The deployment.
        config: The federation.
        path: The version's file, ``N.json``.

    Raises:
        VerificationError: It does not follow what the home has, or is a fork.
    """
    version = install(deployment, config, _read(path, MAX_REGISTRY_BYTES))
    (deployment.drafts / f"{version}.draft.json").unlink(missing_ok=True)
    _admit(deployment)
    _list_witnesses(deployment, config)
    return version


def install(deployment: Deployment, config: FederationConfig, data: bytes) -> int:
    """Puts a version of the registry into the coordinator's home; gives its number."""
    home, roots = deployment.home(), tuple(read_roots(deployment))
    with as_owner(home.root):
        installed = install_version(
            home.registry,
            home.root / "evidence",
            data,
            federation=config.federation.name,
            root_key_ids=roots,
        )
    return installed.version


def enrolled_regions(deployment: Deployment, config: FederationConfig) -> tuple[str, ...]:
    """The regions that may take part now: in the registry, not removed, and with a node."""
    chain = registry_envelopes(deployment.home().registry)
    if not chain:
        return ()
    registry, at_ms = Registry.from_envelopes(chain, root_key_ids=None), now_ms()
    return tuple(
        region.name
        for region in config.regions
        if (deployment.nodes / f"{region.name}{NODE_SUFFIX}").is_file()
        and all(_holds(registry, region.name, role, at_ms) for role in _NEEDED_ROLES)
    )


def sign_or_draft(deployment: Deployment, config: FederationConfig, draft: Draft) -> Path | None:
    """Signs a draft with the root keys at hand and takes it in; else writes it for the officers.

    Returns:
        The draft's file if officers elsewhere have to sign it; None if it is in force.
    """
    officers = officers_at_hand(deployment.officers)
    checked = check_draft(draft)
    threshold = checked.registry.root_threshold
    if len(officers) >= threshold:
        install(deployment, config, sign_version(draft, officers, threshold))
        return None
    path = deployment.drafts / f"{checked.registry.version}.draft.json"
    try:
        # A newer draft of the same version takes an older one's place: nobody has finished it.
        write_durably(path, draft.encode())
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}.") from error
    return path


def _sign(
    deployment: Deployment,
    config: FederationConfig,
    requests: Sequence[bytes],
    chain: Sequence[bytes],
) -> Path | None:
    draft = draft_version(
        chain,
        issued_at_ms=now_ms(),
        valid_for_s=config.federation.keys_valid_days * _DAY_S,
        requests=requests,
        witness_quorum=None if chain else config.federation.witness_quorum,
        root=None if chain else _founding_root(deployment, config),
        federation="" if chain else config.federation.name,
    )
    return sign_or_draft(deployment, config, draft)


def _founding_root(deployment: Deployment, config: FederationConfig) -> RootKeys:
    return RootKeys(tuple(read_roots(deployment).values()), config.federation.threshold)


def _check(deployment: Deployment, config: FederationConfig, found: Enrolment, path: Path) -> None:
    facts = found.facts
    if facts.federation != config.federation.name:
        raise VerificationError(
            f"{path} enrols {facts.region} in {facts.federation}; this is {config.federation.name}."
        )
    config.region(facts.region)
    if facts.protocol != PROTOCOL_VERSION:
        raise VerificationError(
            f"{path}: {facts.region} speaks version {facts.protocol} of the protocol, this "
            f"coordinator version {PROTOCOL_VERSION}.",
            remedy="Install the same release of fedpref on both sides, then install the kit again.",
        )
    if not found.answers(kit_token(deployment, facts.region)):
        raise VerificationError(
            f"{path} does not answer the kit that was made for {facts.region}: whoever made it did "
            "not have that kit.",
            remedy="Let the region install its newest kit and send the enrolment again.",
        )


def _is_done(deployment: Deployment, found: Enrolment, known: frozenset[str]) -> bool:
    """Whether an enrolment has been taken in already: the same keys, and the same node."""
    path = deployment.nodes / f"{found.facts.region}{NODE_SUFFIX}"
    same_node = path.is_file() and path.read_text("ascii").strip() == found.facts.node_key
    return same_node and {key.key_id for key in found.keys.values()} <= known


def _known_keys(chain: Sequence[bytes]) -> frozenset[str]:
    if not chain:
        return frozenset()
    registry = Registry.from_envelopes(chain, root_key_ids=None)
    return frozenset(entry.key_id for entry in registry.entries)


def _own_requests(deployment: Deployment, config: FederationConfig) -> list[bytes]:
    home, at_ms = deployment.home(), now_ms()
    return [
        make_request(
            home.signer(role),
            federation=config.federation.name,
            party=SERVER_PARTY,
            role=role,
            at_ms=at_ms,
        )
        for role in SERVER_ROLES
    ]


def _admit(deployment: Deployment) -> None:
    """Lets the nodes connect that wait for their region's keys, once these are in the registry."""
    chain = registry_envelopes(deployment.home().registry)
    if not chain:
        return
    registry, at_ms = Registry.from_envelopes(chain, root_key_ids=None), now_ms()
    for path in sorted(deployment.drafts.glob(f"*{NODE_SUFFIX}")):
        region = path.stem
        if all(_holds(registry, region, role, at_ms) for role in _NEEDED_ROLES):
            _write_node(deployment.nodes, region, path.read_text("ascii").strip())
            use_up_token(deployment, region)
            path.unlink()


def _list_witnesses(deployment: Deployment, config: FederationConfig) -> None:
    """Tells the coordinator where the outside witnesses are whose keys are enrolled."""
    chain = registry_envelopes(deployment.home().registry)
    if not (chain and config.witnesses):
        return
    registry, at_ms = Registry.from_envelopes(chain, root_key_ids=None), now_ms()
    urls = [each.url for each in config.witnesses if _holds(registry, each.name, "witness", at_ms)]
    home = deployment.home()
    try:
        with as_owner(home.root):
            write_durably(home.witnesses, json.dumps(urls).encode(), mode=0o644)
    except OSError as error:
        raise StorageError(f"{home.witnesses} cannot be written: {error.strerror}.") from error


def _holds(registry: Registry, region: str, role: str, at_ms: int) -> bool:
    # A version that was issued this very moment may be a little ahead of another clock's now.
    at_ms = max(at_ms, registry.issued_at_ms)
    return any(key.is_valid_at(at_ms) for key in registry.keys_of(region, role))


def _write_node(folder: Path, region: str, node_key: str) -> None:
    path = folder / f"{region}{NODE_SUFFIX}"
    try:
        write_durably(path, f"{node_key}\n".encode("ascii"), mode=0o644)
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}.") from error


def _witness_request(config: FederationConfig, data: bytes, path: Path) -> bytes:
    try:
        request = open_request(data)
    except FormatError as error:
        raise FormatError(
            f"{path} is neither a region's enrolment nor a request to enrol a witness's key: "
            f"{error.message}"
        ) from error
    invited = {each.name for each in config.witnesses}
    if request.role != "witness" or request.party not in invited:
        raise VerificationError(
            f"{path} asks to enrol a {request.role} key of {request.party}; only the outside "
            f"witnesses of federation.toml do so by a request: {', '.join(sorted(invited)) or '–'}."
        )
    return data


def _is_enrolment(data: bytes) -> bool:
    try:
        value = canonical_json.decode(data, max_bytes=MAX_ENROLMENT_BYTES)
    except FormatError:
        return False
    return isinstance(value, dict) and value.get("v") == "fedpref-enrolment-file/1"


def _read(path: Path, max_bytes: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(max_bytes + 1)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
