"""The report's section on keys: who may sign what, since when, until when."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from common.audit.report.material import Material
from common.audit.verify.fields import Record
from common.audit.verify.registry import REGISTRY_FOLDER
from common.audit.verify.replay import SERVER
from common.envelope import Envelope
from common.timestamps import parse_time

_MAX_REGISTRY_BYTES = 1 << 20


@dataclass(frozen=True)
class Key:
    """A key of the registry.

    Attributes:
        party: Whose it is.
        role: What it may sign.
        key_id: Its id, in hex.
        not_before: First moment of its validity.
        not_after: Last moment of its validity.
        revoked_at: From when it counts no more, if ever.
        since_version: The registry version that first has it.
        turn: 1 for the first key of its party and role, 2 for the one it was replaced by, …
        turns: How many keys this party and role have had.
        state: ``valid``, ``revoked``, ``expired`` or ``future``, when the bundle was written.
    """

    party: str
    role: str
    key_id: str
    not_before: str
    not_after: str
    revoked_at: str | None
    since_version: int
    turn: int
    turns: int
    state: str


@dataclass(frozen=True)
class RegistryVersion:
    """One version of the registry.

    Attributes:
        number: Its number.
        issued_at: When.
        witness_quorum: How many other parties must cosign a checkpoint.
        keys: How many keys it has.
        threshold: How many root keys must sign it.
        root_keys: How many root keys it has.
    """

    number: int
    issued_at: str
    witness_quorum: int
    keys: int
    threshold: int
    root_keys: int


def registry_versions(material: Material) -> list[RegistryVersion]:
    """Every version of the verified registry, oldest first."""
    return [
        RegistryVersion(
            number=number,
            issued_at=str(record["issued_at"]),
            witness_quorum=_number(record["witness_quorum"]),
            keys=len(_list(record["keys"])),
            threshold=_number(_object(record["root"])["threshold"]),
            root_keys=len(_list(_object(record["root"])["keys"])),
        )
        for number, record in enumerate(_registry(material), start=1)
    ]


def registry_keys(material: Material) -> list[Key]:
    """Every key of the verified registry, by party and role."""
    records = _registry(material)
    since: dict[str, int] = {}
    turns: dict[tuple[str, str], list[str]] = defaultdict(list)
    for version, record in enumerate(records, start=1):
        for item in _list(record["keys"]):
            since.setdefault(str(item["key_id"]), version)
    newest = _list(records[-1]["keys"]) if records else []
    # By the time they begin, then by id: the order in which a party's keys follow each other.
    for item in sorted(newest, key=lambda each: (str(each["not_before"]), str(each["key_id"]))):
        turns[str(item["party"]), str(item["role"])].append(str(item["key_id"]))
    keys = []
    for item in newest:
        key_id, name = str(item["key_id"]), (str(item["party"]), str(item["role"]))
        keys.append(
            Key(
                party=name[0],
                role=name[1],
                key_id=key_id,
                not_before=str(item["not_before"]),
                not_after=str(item["not_after"]),
                revoked_at=None if item["revoked_at"] is None else str(item["revoked_at"]),
                since_version=since[key_id],
                turn=turns[name].index(key_id) + 1,
                turns=len(turns[name]),
                state=_state(item, material.created_ms),
            )
        )
    return sorted(keys, key=lambda key: (key.party == SERVER, key.party, key.role, key.turn))


def _registry(material: Material) -> list[Record]:
    """The versions' records; the verifier has accepted every one of them."""
    if material.evidence is None:
        return []
    names = material.folder.list_folder(REGISTRY_FOLDER)
    return [
        Envelope.decode(
            material.folder.read(f"{REGISTRY_FOLDER}/{number}.json"), max_bytes=_MAX_REGISTRY_BYTES
        ).record()
        for number in range(1, len(names) + 1)
    ]


def _state(item: Record, now_ms: int) -> str:
    if item["revoked_at"] is not None and parse_time(str(item["revoked_at"])) <= now_ms:
        return "revoked"
    if parse_time(str(item["not_after"])) < now_ms:
        return "expired"
    return "valid" if parse_time(str(item["not_before"])) <= now_ms else "future"


def _list(value: object) -> list[Record]:
    return value if isinstance(value, list) else []


def _object(value: object) -> Record:
    return value if isinstance(value, dict) else {}


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0
