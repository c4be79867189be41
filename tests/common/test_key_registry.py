from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from common import canonical_json
from common.envelope import sign_record
from common.errors import FedprefError, FormatError, VerificationError
from common.keys import ROLES, KeyEntry, Registry, build_registry
from common.timestamps import format_time
from tests.support import ed25519_arithmetic as ed25519
from tests.support.memory_signer import MemorySigner

START = 1_760_000_000_000
END = START + 1_000_000
ROOTS = [MemorySigner(f"root {n}") for n in range(3)]
NEW_ROOTS = [MemorySigner(f"new root {n}") for n in range(3)]
CONSENT, TRAINER, SERVER = (MemorySigner(name) for name in ("consent", "trainer", "server"))
STRANGER = MemorySigner("stranger")
ANCHOR = [root.key_id for root in ROOTS]


def entry(signer: MemorySigner, party: str, role: str, **changes: Any) -> dict[str, Any]:
    fields = KeyEntry(signer.key_id, signer.public_key, party, role, START, END, None).to_record()
    return {**fields, **changes}


def keys() -> list[dict[str, Any]]:
    return [
        entry(CONSENT, "region-1", "consent"),
        entry(TRAINER, "region-1", "trainer"),
        entry(SERVER, "server", "aggregator"),
    ]


def version(
    number: int = 1,
    prev: bytes | None = None,
    *,
    roots: Sequence[MemorySigner] = ROOTS,
    threshold: int = 2,
    entries: list[dict[str, Any]] | None = None,
    **changes: Any,
) -> dict[str, Any]:
    record = build_registry(
        federation="retail.example",
        registry_version=number,
        issued_at=format_time(START + number),
        prev=None if prev is None else hashlib.sha256(prev).hexdigest(),
        threshold=threshold,
        witness_quorum=2,
        root_public_keys=[root.public_key for root in roots],
        keys=keys() if entries is None else entries,
    )
    return {**record, **changes}


FIRST = sign_record(version(), *ROOTS[:2])


def test_a_signed_version_gives_its_keys() -> None:
    registry = Registry.from_envelopes([FIRST], root_key_ids=ANCHOR)
    assert (registry.version, registry.federation) == (1, "retail.example")
    assert registry.issued_at_ms == START + 1
    assert registry.head_sha256 == hashlib.sha256(FIRST).hexdigest()
    assert registry.root_key_ids == frozenset(ANCHOR)
    assert registry.root_threshold == 2
    assert [item.to_record() for item in registry.entries] == keys()
    (found,) = registry.keys_of("region-1", "consent")
    assert (found.key_id, found.public_key) == (CONSENT.key_id, CONSENT.public_key)
    assert registry.keys_of("region-1", "log") == ()
    assert registry.keys_of("region-2", "consent") == ()
    public = registry.find(CONSENT.key_id, party="region-1", role="consent", at_ms=START)
    assert public == CONSENT.public_key


@pytest.mark.parametrize(
    ("signer", "party", "role", "at_ms", "reason"),
    [
        (STRANGER, "region-1", "consent", START, "not in the key registry"),
        (ROOTS[0], "region-1", "consent", START, "not in the key registry"),
        (CONSENT, "region-2", "consent", START, "belongs to region-1"),
        (CONSENT, "region-1", "trainer", START, "has the role consent"),
        (TRAINER, "region-1", "consent", START, "has the role trainer"),
        (CONSENT, "region-1", "consent", START - 1, "not valid yet"),
        (CONSENT, "region-1", "consent", END, "no longer valid"),
    ],
)
def test_a_key_counts_for_its_party_role_and_time_only(
    signer: MemorySigner, party: str, role: str, at_ms: int, reason: str
) -> None:
    registry = Registry.from_envelopes([FIRST], root_key_ids=ANCHOR)
    registry.find(CONSENT.key_id, party="region-1", role="consent", at_ms=END - 1)
    with pytest.raises(VerificationError, match=reason):
        registry.find(signer.key_id, party=party, role=role, at_ms=at_ms)


def test_a_revoked_key_counts_until_its_revocation() -> None:
    revoked = [entry(CONSENT, "region-1", "consent", revoked_at=format_time(START + 500))]
    second = sign_record(version(2, FIRST, entries=revoked + keys()[1:]), *ROOTS[1:])
    registry = Registry.from_envelopes([FIRST, second], root_key_ids=ANCHOR)
    where = {"party": "region-1", "role": "consent"}
    assert registry.find(CONSENT.key_id, **where, at_ms=START + 499) == CONSENT.public_key
    for at_ms in (START + 500, START + 501):
        with pytest.raises(VerificationError, match="revoked"):
            registry.find(CONSENT.key_id, **where, at_ms=at_ms)


# Signatures and thresholds.


@pytest.mark.parametrize(
    ("signers", "reason"),
    [
        (ROOTS[:1], "1 of its own root keys signed it; 2 are required"),
        ([STRANGER, *ROOTS[:2]], "may not sign"),
        ([*ROOTS[:2], STRANGER], "may not sign"),
        ([STRANGER], "may not sign"),
        ([CONSENT, TRAINER], "may not sign"),
    ],
)
def test_a_threshold_of_root_keys_must_sign(signers: list[MemorySigner], reason: str) -> None:
    with pytest.raises(VerificationError, match=reason):
        Registry.from_envelopes([sign_record(version(), *signers)], root_key_ids=ANCHOR)


def test_all_root_keys_may_sign() -> None:
    data = sign_record(version(), *ROOTS)
    assert Registry.from_envelopes([data], root_key_ids=None).version == 1


def test_a_repeated_signature_does_not_reach_the_threshold() -> None:
    value = json.loads(sign_record(version(), ROOTS[0]))
    value["signatures"] *= 2
    with pytest.raises(VerificationError, match="twice"):
        Registry.from_envelopes([canonical_json.encode(value)], root_key_ids=ANCHOR)


@pytest.mark.parametrize(("count", "threshold"), [(0, 1), (1, 2), (2, 1), (3, 1), (3, 4), (4, 2)])
def test_a_threshold_is_more_than_half_of_the_root_keys(count: int, threshold: int) -> None:
    roots = [*ROOTS, STRANGER][:count]
    with pytest.raises(VerificationError, match="threshold"):
        version(roots=roots, threshold=threshold)


@pytest.mark.parametrize(("count", "threshold"), [(1, 1), (2, 2), (3, 2), (3, 3)])
def test_thresholds_that_are_accepted(count: int, threshold: int) -> None:
    data = sign_record(version(roots=ROOTS[:count], threshold=threshold), *ROOTS[:threshold])
    registry = Registry.from_envelopes([data], root_key_ids=ANCHOR[:count])
    assert registry.root_threshold == threshold


# The trust anchor.


@pytest.mark.parametrize(
    "anchor", [[], ANCHOR[:2], [*ANCHOR, STRANGER.key_id], [STRANGER.key_id], ["", *ANCHOR[1:]]]
)
def test_root_keys_other_than_the_expected_are_refused(anchor: list[str]) -> None:
    with pytest.raises(VerificationError, match="other root keys"):
        Registry.from_envelopes([FIRST], root_key_ids=anchor)
    assert Registry.from_envelopes([FIRST], root_key_ids=None).version == 1


def test_a_registry_of_someone_elses_root_is_refused() -> None:
    forged = sign_record(version(roots=NEW_ROOTS), *NEW_ROOTS[:2])
    with pytest.raises(VerificationError, match="other root keys"):
        Registry.from_envelopes([forged], root_key_ids=ANCHOR)


# Versions.


def _rotated(*signers: MemorySigner) -> bytes:
    return sign_record(version(2, FIRST, roots=NEW_ROOTS), *signers)


def test_a_rotated_root_is_signed_by_both_roots() -> None:
    second = _rotated(*ROOTS[:2], *NEW_ROOTS[:2])
    registry = Registry.from_envelopes([FIRST, second], root_key_ids=ANCHOR)
    assert registry.root_key_ids == {root.key_id for root in NEW_ROOTS}
    third = sign_record(version(3, second, roots=NEW_ROOTS), *NEW_ROOTS[1:])
    assert Registry.from_envelopes([FIRST, second, third], root_key_ids=ANCHOR).version == 3
    by_old_root = sign_record(version(3, second, roots=ROOTS), *ROOTS)
    with pytest.raises(VerificationError, match="0 of the previous version's"):
        Registry.from_envelopes([FIRST, second, by_old_root], root_key_ids=ANCHOR)


@pytest.mark.parametrize(
    ("signers", "reason"),
    [
        (ROOTS[:2], "0 of its own"),
        ([*ROOTS[:2], NEW_ROOTS[0]], "1 of its own"),
        (NEW_ROOTS[:2], "0 of the previous version's"),
        ([ROOTS[0], *NEW_ROOTS], "1 of the previous version's"),
    ],
)
def test_a_rotation_signed_by_one_root_alone_is_refused(
    signers: list[MemorySigner], reason: str
) -> None:
    with pytest.raises(VerificationError, match=f"version 2: {reason}"):
        Registry.from_envelopes([FIRST, _rotated(*signers)], root_key_ids=ANCHOR)


def test_a_raised_threshold_holds_from_its_own_version_on() -> None:
    raised = version(2, FIRST, threshold=3)
    with pytest.raises(VerificationError, match="2 of its own"):
        Registry.from_envelopes([FIRST, sign_record(raised, *ROOTS[:2])], root_key_ids=ANCHOR)
    second = sign_record(raised, *ROOTS)
    lowered = sign_record(version(3, second, threshold=2), *ROOTS[:2])
    with pytest.raises(VerificationError, match="2 of the previous version's"):
        Registry.from_envelopes([FIRST, second, lowered], root_key_ids=ANCHOR)


SECOND = sign_record(version(2, FIRST), *ROOTS[:2])


def test_versions_come_in_order_without_gap() -> None:
    third = sign_record(version(3, SECOND), *ROOTS[:2])
    Registry.from_envelopes([FIRST, SECOND, third], root_key_ids=ANCHOR)
    for wrong in ([SECOND], [FIRST, third], [SECOND, FIRST], [FIRST, FIRST], [FIRST, SECOND] * 2):
        with pytest.raises(VerificationError, match="version"):
            Registry.from_envelopes(wrong, root_key_ids=ANCHOR)
    with pytest.raises(VerificationError, match="no version"):
        Registry.from_envelopes([], root_key_ids=ANCHOR)


def test_a_version_states_its_own_number() -> None:
    for wrong in (
        [sign_record(version(2), *ROOTS[:2])],
        [FIRST, sign_record(version(3, FIRST), *ROOTS[:2])],
        [FIRST, sign_record(version(1, FIRST), *ROOTS[:2])],
    ):
        with pytest.raises(VerificationError, match="It says it is version"):
            Registry.from_envelopes(wrong, root_key_ids=ANCHOR)


def test_a_version_names_the_bytes_before_it() -> None:
    # The same record under other signatures is another envelope.
    other_first = sign_record(version(), *ROOTS[1:])
    with pytest.raises(VerificationError, match="prev is not the digest"):
        Registry.from_envelopes([other_first, SECOND], root_key_ids=ANCHOR)
    unchained = sign_record(version(2, None), *ROOTS[:2])
    with pytest.raises(VerificationError, match="prev is not the digest"):
        Registry.from_envelopes([FIRST, unchained], root_key_ids=ANCHOR)
    chained_first = sign_record(version(1, b"something"), *ROOTS[:2])
    with pytest.raises(VerificationError, match="prev is not the digest"):
        Registry.from_envelopes([chained_first], root_key_ids=ANCHOR)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"federation": "other.example"}, "another federation"),
        ({"issued_at": format_time(START)}, "issued before"),
    ],
)
def test_a_version_continues_the_one_before(changes: dict[str, Any], reason: str) -> None:
    second = sign_record(version(2, FIRST, **changes), *ROOTS[:2])
    with pytest.raises(VerificationError, match=reason):
        Registry.from_envelopes([FIRST, second], root_key_ids=ANCHOR)


REVOKED = format_time(START + 500)


def _chain(*steps: list[dict[str, Any]]) -> list[bytes]:
    chain: list[bytes] = []
    for number, entries in enumerate(steps, start=1):
        record = version(number, chain[-1] if chain else None, entries=entries)
        chain.append(sign_record(record, *ROOTS[:2]))
    return chain


def _consent(**changes: Any) -> list[dict[str, Any]]:
    return [entry(CONSENT, "region-1", "consent", **changes)]


@pytest.mark.parametrize(
    "steps",
    [
        ([], _consent()),
        (_consent(), _consent(revoked_at=REVOKED)),
        (_consent(revoked_at=REVOKED), _consent(revoked_at=format_time(START + 100))),
        (_consent(), [*keys()[1:], *_consent()]),
    ],
    ids=["added", "revoked", "revoked earlier", "reordered"],
)
def test_what_may_change_between_versions(steps: tuple[list[dict[str, Any]], ...]) -> None:
    assert Registry.from_envelopes(_chain(*steps), root_key_ids=ANCHOR).version == 2


@pytest.mark.parametrize(
    "steps",
    [
        (_consent(), []),
        (_consent(), [entry(CONSENT, "region-2", "consent")]),
        (_consent(), [entry(CONSENT, "region-1", "trainer")]),
        (_consent(), _consent(not_before=format_time(START + 1))),
        (_consent(), _consent(not_after=format_time(END + 1))),
        (_consent(), _consent(not_after=format_time(END + 1), revoked_at=REVOKED)),
        (_consent(revoked_at=REVOKED), _consent()),
        (_consent(revoked_at=REVOKED), _consent(revoked_at=format_time(START + 501))),
    ],
    ids=[
        "dropped", "given away", "another role", "later start", "prolonged",
        "prolonged and revoked", "revocation undone", "revocation postponed",
    ],
)  # fmt: skip
def test_what_may_not_change_between_versions(steps: tuple[list[dict[str, Any]], ...]) -> None:
    with pytest.raises(VerificationError, match="drops or changes"):
        Registry.from_envelopes(_chain(*steps), root_key_ids=ANCHOR)


# The record's own fields: each edit is signed by the genuine root keys.


def _set(*path: str | int) -> Callable[[Any], Callable[[dict[str, Any]], None]]:
    def with_value(value: Any) -> Callable[[dict[str, Any]], None]:
        def edit(record: dict[str, Any]) -> None:
            target: Any = record
            for step in path[:-1]:
                target = target[step]
            target[path[-1]] = value

        return edit

    return with_value


def _raw_entry(public: bytes, **changes: Any) -> dict[str, Any]:
    identity = hashlib.sha256(b"fedpref-key/1" + public).hexdigest()
    return {**keys()[0], "key_id": identity, "public_key": public.hex(), **changes}


def _small_order(record: dict[str, Any]) -> None:
    record["keys"].append(_raw_entry(ed25519.IDENTITY.encode()))


def _mixed_order(record: dict[str, Any]) -> None:
    point = 7 * ed25519.BASE + ed25519.order_8_point()
    record["keys"].append(_raw_entry(point.encode()))


def _weak_root(record: dict[str, Any]) -> None:
    weak = _raw_entry(ed25519.IDENTITY.encode())
    record["root"]["keys"][2] = {name: weak[name] for name in ("key_id", "public_key")}


EDITS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "unknown field": lambda r: r.update(comment=""),
    "federation missing": lambda r: r.pop("federation"),
    "federation a number": _set("federation")(1),
    "federation of two lines": _set("federation")("a\nb"),
    "version as text": _set("registry_version")("1"),
    "version zero": _set("registry_version")(0),
    "version true": _set("registry_version")(True),
    "time of another form": _set("issued_at")("2026-01-01"),
    "prev empty": _set("prev")(""),
    "root null": _set("root")(None),
    "root with another field": lambda r: r["root"].update(keytype="rsa"),
    "threshold true": _set("root", "threshold")(True),
    "threshold as text": _set("root", "threshold")("2"),
    "root keys an object": _set("root", "keys")({}),
    "root key twice": lambda r: r["root"]["keys"].append(r["root"]["keys"][0]),
    "root key with another field": lambda r: r["root"]["keys"][0].update(role="root"),
    "root key of another id": _set("root", "keys", 2, "key_id")("0" * 64),
    "root key of small order": _weak_root,
    "keys an object": _set("keys")({}),
    "key null": _set("keys", 0)(None),
    "key with another field": lambda r: r["keys"][0].update(algorithm="ed25519"),
    "key without revoked_at": lambda r: r["keys"][0].pop("revoked_at"),
    "key twice": lambda r: r["keys"].append(r["keys"][0]),
    "key twice, in two roles": lambda r: r["keys"].append({**r["keys"][0], "role": "log"}),
    "root key as a party's key": lambda r: r["keys"].append(entry(ROOTS[0], "server", "log")),
    "key of another id": _set("keys", 0, "key_id")("0" * 64),
    "key of another key's id": _set("keys", 0, "key_id")(TRAINER.key_id),
    "key id in capitals": lambda r: r["keys"][0].update(key_id=r["keys"][0]["key_id"].upper()),
    "public key of 31 bytes": _set("keys", 0, "public_key")("00" * 31),
    "public key null": _set("keys", 0, "public_key")(None),
    "key of small order": _small_order,
    "key of mixed order": _mixed_order,
    "unknown role": _set("keys", 0, "role")("root"),
    "role null": _set("keys", 0, "role")(None),
    "role a list": _set("keys", 0, "role")(["log"]),
    "party empty": _set("keys", 0, "party")(""),
    "party a path": _set("keys", 0, "party")("../server"),
    "party two dots": _set("keys", 0, "party")(".."),
    "party in capitals": _set("keys", 0, "party")("Region-1"),
    "party too long": _set("keys", 0, "party")("a" * 65),
    "not_before null": _set("keys", 0, "not_before")(None),
    "never valid": _set("keys", 0, "not_after")(format_time(START)),
    "revoked_at false": _set("keys", 0, "revoked_at")(False),
    "revoked_at of another form": _set("keys", 0, "revoked_at")("never"),
}  # fmt: skip


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_malformed_records_are_refused_though_signed(edit: Callable[[Any], Any]) -> None:
    record = copy.deepcopy(version())
    edit(record)
    data = sign_record(record, *ROOTS[:2])
    with pytest.raises((FormatError, VerificationError), match="registry version 1:"):
        Registry.from_envelopes([data], root_key_ids=None)


def test_another_kind_of_record_is_no_registry() -> None:
    record = {**version(), "v": "fedpref-notice/1"}
    with pytest.raises(FormatError, match="not a key registry"):
        Registry.from_envelopes([sign_record(record, *ROOTS[:2])], root_key_ids=None)


def test_a_flipped_byte_of_a_version_is_noticed() -> None:
    for position in range(0, len(SECOND), 37):
        changed = bytearray(SECOND)
        changed[position] ^= 1
        with pytest.raises(FedprefError, match="registry version 2:"):
            Registry.from_envelopes([FIRST, bytes(changed)], root_key_ids=ANCHOR)


def test_a_registry_is_not_built_from_malformed_fields() -> None:
    with pytest.raises(FormatError):
        version(entries=[{}])
    with pytest.raises(VerificationError, match="not a sound"):
        version(entries=[_raw_entry(ed25519.IDENTITY.encode())])


def test_every_role_can_be_enrolled() -> None:
    entries = [entry(MemorySigner(role), "server", role) for role in sorted(ROLES)]
    data = sign_record(version(entries=entries), *ROOTS[:2])
    registry = Registry.from_envelopes([data], root_key_ids=ANCHOR)
    assert {item.role for item in registry.entries} == ROLES
    assert len(ROLES) == 9
