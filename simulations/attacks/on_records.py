"""A7 and A9 to A16, A19: attacks by single records, with genuine keys or stolen ones."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable

from common import canonical_json
from common.consent import FEDERATED_TRAINING, GIVEN, WITHDRAWN, new_ulid
from common.envelope import Envelope, Signature
from common.keys import key_id
from common.timestamps import format_time, now_ms, parse_time
from simulations.attacks.attack import Mark
from simulations.attacks.forgery import Forgery, Record, payload_of

_RECORD = frozenset({"record"})
_HOUR_MS = 3_600_000
#: The neutral element of the curve: with it as a key, one signature verifies every message.
_IDENTITY_POINT = bytes([1]) + bytes(31)
_MANY_LEVELS = 40


def replay_grant(forgery: Forgery) -> Mark:
    """A7: the consent of a customer who has withdrawn is logged once more."""
    region = forgery.region
    leaving = forgery.record(region, forgery.find(region, "consent", state=WITHDRAWN)[0])
    (granted,) = forgery.find(region, "consent", sid=leaving["sid"], seq=1)
    return _append(forgery, forgery.entries[region][granted], frozenset({"consent-chain"}))


def set_clock_back(forgery: Forgery) -> Mark:
    """A9: the region's clock goes back an hour for its last round."""
    region = forgery.region
    index = forgery.find(region, "round")[-1]

    def back(record: Record) -> None:
        for part, name in ((record["train"], "at"), (record, "start"), (record, "end")):
            part[name] = format_time(parse_time(part[name]) - _HOUR_MS)

    forgery.change(region, index, back)
    # A key enrolled less than an hour ago was not valid then: that names the entry too.
    return Mark(frozenset({"clock-rollback", "record"}), party=region, index=index)


def use_revoked_key(forgery: Forgery) -> Mark:
    """A10: a stolen consent key signs after its revocation, with a time before it."""
    region = forgery.region
    registry = forgery.registry()
    revoked_ms = now_ms() - 1
    for entry in registry["keys"]:
        if (entry["party"], entry["role"]) == (region, "consent"):
            entry["revoked_at"] = format_time(revoked_ms)
    forgery.publish_registry(registry)
    record = _new_consent(forgery) | {"event_time": format_time(revoked_ms - 1000)}
    return _append(forgery, forgery.sign(region, record), frozenset({"record", "revoked-key"}))


def enrol_weak_key(forgery: Forgery) -> Mark:
    """A11: the root is tricked into enrolling a key under which any signature verifies."""
    registry = forgery.registry()
    registry["keys"].append(
        registry["keys"][0]
        | {"public_key": _IDENTITY_POINT.hex(), "key_id": key_id(_IDENTITY_POINT)}
    )
    name = forgery.publish_registry(registry)
    return Mark(frozenset({"registry"}), file=name)


def use_other_role(forgery: Forgery) -> Mark:
    """A12: the training key signs a consent."""
    entry = forgery.sign(forgery.region, _new_consent(forgery), role="trainer")
    return _append(forgery, entry, _RECORD)


def repeat_record_id(forgery: Forgery) -> Mark:
    """A13: a new consent bears the id of an earlier one."""
    region = forgery.region
    earlier = forgery.record(region, forgery.find(region, "consent")[0])
    record = _new_consent(forgery) | {"record_id": earlier["record_id"]}
    return _append(forgery, forgery.sign(region, record), frozenset({"record-id"}))


def repeat_json_key(forgery: Forgery) -> Mark:
    """A14: a signed record says two things, by a key that stands twice."""
    payload = canonical_json.encode(_new_consent(forgery))
    twice = payload.replace(b'"seq":1,', b'"seq":1,"seq":2,')
    return _append(forgery, forgery.sign_payload(forgery.region, twice, "consent"), _RECORD)


def sign_twice(forgery: Forgery) -> Mark:
    """A15: one signature stands twice, to pass for two."""
    entry = Envelope.decode(forgery.sign(forgery.region, _new_consent(forgery)))
    doubled = Envelope(entry.payload_type, entry.payload, entry.signatures * 2)
    return _append(forgery, doubled.encode(), _RECORD)


def swap_payload_type(forgery: Forgery) -> Mark:
    """A16: a genuine signature over one kind of record is shown for another kind."""
    region = forgery.region
    consent = Envelope.decode(
        forgery.entries[region][forgery.find(region, "consent", state=GIVEN)[0]]
    )
    swapped = Envelope(
        consent.payload_type.replace("consent", "notice"),
        consent.payload,
        tuple(Signature(each.key_id, each.signature) for each in consent.signatures),
    )
    return _append(forgery, swapped.encode(), _RECORD)


def nest_deep(forgery: Forgery) -> Mark:
    """A19: a signed record that is nested deeper than any reader should follow."""
    region = forgery.region
    given = forgery.entries[region][forgery.find(region, "consent", state=GIVEN)[0]]
    record = json.loads(payload_of(given))
    deep: object = True
    for _ in range(_MANY_LEVELS):
        deep = {"a": deep}
    payload = json.dumps(
        record | {"purposes": {FEDERATED_TRAINING: deep}}, sort_keys=True, separators=(",", ":")
    )
    return _append(forgery, forgery.sign_payload(region, payload.encode(), "consent"), _RECORD)


def _append(forgery: Forgery, entry: bytes, codes: frozenset[str]) -> Mark:
    """Puts an entry at the log's end: the verifier must name exactly this one."""
    log = forgery.entries[forgery.region]
    log.append(entry)
    return Mark(codes, party=forgery.region, index=len(log) - 1)


def _new_consent(forgery: Forgery) -> Record:
    """A consent of a customer who does not exist, in the form of the genuine ones."""
    region = forgery.region
    genuine = forgery.record(region, forgery.find(region, "consent", state=GIVEN)[-1])
    return genuine | {
        "record_id": new_ulid(),
        "sid": hashlib.sha256(b"nobody").hexdigest(),
        "seq": 1,
        "prev": None,
        "event_time": format_time(now_ms()),
    }


#: Each attack of this module by its id, with a few words on it.
ATTACKS: tuple[tuple[str, str, Callable[[Forgery], Mark]], ...] = (
    ("A7", "old grant replayed after the withdrawal", replay_grant),
    ("A9", "clock set back for one round", set_clock_back),
    ("A10", "revoked key used with a backdated time", use_revoked_key),
    ("A11", "weak (small-order) key enrolled", enrol_weak_key),
    ("A12", "key of another role", use_other_role),
    ("A13", "record id used twice", repeat_record_id),
    ("A14", "JSON key that stands twice", repeat_json_key),
    ("A15", "one signature given twice", sign_twice),
    ("A16", "payload type swapped", swap_payload_type),
    ("A19", "JSON nested too deep", nest_deep),
)
