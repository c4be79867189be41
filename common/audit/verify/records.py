"""Which fields each kind of record has, checked strictly: none missing, none unknown.

This is the verifier's own reading of the formats; the writers have theirs.
"""

from __future__ import annotations

from collections.abc import Mapping

from common.audit.verify import fields as f
from common.audit.verify.access_schemas import ACCESS_SCHEMAS
from common.audit.verify.fields import Check, Record
from common.errors import FormatError
from common.identifiers import ulid_ms
from common.timestamps import parse_time

FEDERATED_TRAINING = "fedpref:FederatedTraining"
FEDERATED_ANALYTICS = "fedpref:FederatedAnalytics"
#: What customers are asked to consent to, each by itself.
CONSENT_PURPOSES = (
    FEDERATED_TRAINING,
    "dpv:ProvideProductRecommendations",
    FEDERATED_ANALYTICS,
)
CONSENT_GIVEN = "dpv:ConsentGiven"
CONSENT_STATES = (CONSENT_GIVEN, "dpv:ConsentWithdrawn", "dpv:ConsentRefused")
# Whose noise protects, and by which rule updates become one.
MODES = ("local", "distributed")
RULES = ("sum", "median", "trimmed-mean", "krum", "secure-sum")
# What a bundle holds: every log whole; one region's and the server's; or the server's only, and of
# the others what is no consent.
REGIONAL, ONE_REGION, CROSS_BORDER = "regional", "one-region", "cross-border"
SCOPES = (REGIONAL, ONE_REGION, CROSS_BORDER)


def _record(kind: str, **fields: Check) -> Check:
    return f.object_of(v=f.one_of(f"fedpref-{kind}/1"), **fields)


# What is stated where keys are released that nobody can list: with what probability a key of one
# customer alone is. Records of all else do not have it.
_OF_KEYS: Mapping[str, Check] = {"key_delta": f.decimal}

MECHANISM_SCHEMA = f.object_with(
    _OF_KEYS,
    name=f.text,
    rounds=f.list_of(f.positive),
    steps=f.integer(1, 10**6),
    noise_multiplier=f.decimal,
    clipping_norm=f.decimal,
    sampling_probability=f.decimal,
    grid_exponent=f.integer(-1074, 1023),
)

ARRAYS_OF_MECHANISMS = f.list_of(
    f.object_of(mechanism=f.text, name=f.text, dtype=f.dtype, shape=f.list_of(f.natural))
)
ARRAYS_SCHEMA = f.list_of(f.object_of(name=f.text, dtype=f.dtype, shape=f.list_of(f.natural)))
# Where consents end that were counted, and the set of customers that they give.
CONSENT_SCHEMA = f.object_of(origin=f.text, size=f.natural, root=f.digest)
INCLUDED_SCHEMA = f.object_of(root=f.digest, nonce=f.digest, n_bucket=f.text, at=f.time)
DP_SCHEMA = f.object_with(
    _OF_KEYS,
    noise_multiplier=f.decimal,
    clipping_norm=f.decimal,
    sampling_probability=f.decimal,
    steps=f.integer(1, 10**6),
    accountant=f.text,
    epsilon_total=f.decimal,
    delta=f.decimal,
    mode=f.one_of(*MODES),
    honest_survivors_min=f.natural,
    share_stddev=f.nullable(f.decimal),
)

SCHEMAS: Mapping[str, Check] = {
    "keys": f.any_object,  # The registry's own step reads it; a log only repeats its bytes.
    "keys-digest": _record("keys-digest", registry_version=f.positive, sha256=f.digest),
    "notice": _record(
        "notice",
        notice_id=f.text,
        lang=f.text,
        controller=f.text,
        purposes=f.list_of(f.text),
        recipients=f.text,
        retention=f.text,
        storage=f.text,
        contact=f.text,
        text=f.text,
        supersedes=f.nullable(f.digest),
        in_force_from=f.time,
    ),
    "consent": _record(
        "consent",
        record_id=f.ulid,
        sid=f.digest,
        seq=f.positive,
        prev=f.nullable(f.digest),
        state=f.one_of(*CONSENT_STATES),
        type=f.text,
        purposes=f.purposes,
        legal_basis=f.text,
        data=f.texts,
        controller=f.text,
        jurisdiction=f.text,
        lang=f.text,
        notice=f.object_of(id=f.text, sha256=f.digest),
        method=f.text,
        evidence=f.nullable(f.digest),
        minor=f.boolean,
        guardian=f.nullable(
            f.object_of(state=f.one_of(*CONSENT_STATES), evidence=f.nullable(f.digest))
        ),
        event_time=f.time,
        expires=f.nullable(f.time),
        withdrawal=f.text,
    ),
    "policy": _record(
        "policy",
        region=f.text,
        policy_sha256=f.digest,
        policy=f.any_object,
        in_force_from=f.time,
    ),
    "permit": _record(
        "permit",
        permit_id=f.ulid,
        run=f.text,
        region=f.text,
        purpose=f.text,
        model=f.text,
        app=f.digest,
        engine=f.digest,
        deps=f.digest,
        plan=f.digest,
        mechanisms=f.list_of(MECHANISM_SCHEMA),
        epsilon_cap=f.decimal,
        delta=f.decimal,
        arrays=ARRAYS_OF_MECHANISMS,
        issued_at=f.time,
        expires=f.time,
    ),
    "query": _record(
        "query",
        permit_id=f.ulid,
        run=f.text,
        region=f.text,
        requested_by=f.text,
        destination=f.one_of("region"),
        purpose=f.one_of(*CONSENT_PURPOSES),
        consented=f.list_of(f.one_of(*CONSENT_PURPOSES)),
        model=f.text,
        catalogue=f.digest,
        window=f.object_of(start=f.time, end=f.time),
        engine=f.digest,
        deps=f.digest,
        mechanisms=f.list_of(MECHANISM_SCHEMA),
        arrays=ARRAYS_OF_MECHANISMS,
        parameters=f.any_object,
        epsilon_cap=f.decimal,
        delta=f.decimal,
        issued_at=f.time,
        expires=f.time,
    ),
    "answer": _record(
        "answer",
        run=f.text,
        round=f.positive,
        attempt=f.positive,
        region=f.text,
        mechanism=f.text,
        consent=CONSENT_SCHEMA,
        included=INCLUDED_SCHEMA,
        catalogue=f.digest,
        engine=f.digest,
        deps=f.digest,
        permit_id=f.ulid,
        charge_id=f.ulid,
        values=f.digest,
        arrays=ARRAYS_SCHEMA,
        bytes=f.positive,
        grid_exponent=f.integer(-1074, 1023),
        dp=DP_SCHEMA,
        start=f.time,
        end=f.time,
    ),
    "charge": f.object_with(
        _OF_KEYS,
        v=f.one_of("fedpref-charge/1"),
        charge_id=f.ulid,
        run=f.text,
        model=f.text,
        purpose=f.text,
        region=f.text,
        round=f.positive,
        attempt=f.positive,
        mechanism=f.text,
        noise_multiplier=f.decimal,
        clipping_norm=f.decimal,
        sampling_probability=f.decimal,
        steps=f.integer(1, 10**6),
        honest_survivors_min=f.natural,
        neighboring_relation=f.one_of("add-or-remove-one-customer"),
        privacy_unit=f.one_of("customer"),
        delta=f.decimal,
        epsilon_run=f.decimal,
        epsilon_total=f.decimal,
        epsilon_cap=f.decimal,
        ledger_seq=f.positive,
        ledger_head=f.digest,
        permit_id=f.ulid,
        time=f.time,
    ),
    "round": _record(
        "round",
        run=f.text,
        round=f.positive,
        attempt=f.positive,
        region=f.text,
        mechanism=f.text,
        prev_round=f.nullable(f.digest),
        consent=CONSENT_SCHEMA,
        train=INCLUDED_SCHEMA,
        model_in=f.digest,
        update=f.digest,
        app=f.digest,
        engine=f.digest,
        deps=f.digest,
        plan=f.digest,
        permit_id=f.ulid,
        charge_id=f.ulid,
        dp=DP_SCHEMA,
        start=f.time,
        end=f.time,
        attestation=f.one_of(None),
    ),
    "release": _record(
        "release",
        run=f.text,
        round=f.positive,
        attempt=f.positive,
        region=f.text,
        charge_id=f.ulid,
        update=f.digest,
        arrays=ARRAYS_SCHEMA,
        bytes=f.positive,
        grid_exponent=f.integer(-1074, 1023),
        time=f.time,
    ),
    "mask": _record(
        "mask",
        run=f.text,
        round=f.positive,
        attempt=f.positive,
        region=f.text,
        roster=f.digest,
        members=f.list_of(
            # A public key has as many bytes as a digest.
            f.object_of(region=f.text, round_entry=f.digest, public_key=f.digest)
        ),
        masked=f.digest,
        bytes=f.positive,
        norm_bound=f.decimal,
        time=f.time,
    ),
    "unmask": _record(
        "unmask",
        run=f.text,
        round=f.positive,
        attempt=f.positive,
        region=f.text,
        survivors=f.texts,
        time=f.time,
    ),
    "aggregate": _record(
        "aggregate",
        run=f.text,
        round=f.positive,
        attempt=f.positive,
        mechanism=f.text,
        rule=f.one_of(*RULES),
        mode=f.one_of(*MODES),
        regions=f.list_of(f.object_of(region=f.text, round_entry=f.digest, update=f.digest)),
        refused=f.list_of(f.object_of(region=f.text, reason=f.code)),
        quorum=f.positive,
        signal=f.nullable(f.decimal),
        model_in=f.digest,
        model_out=f.digest,
        start=f.time,
        end=f.time,
    ),
    "model": _record(
        "model",
        run=f.text,
        model=f.digest,
        rounds=f.positive,
        plan=f.digest,
        catalogue=f.digest,
        time=f.time,
    ),
    "answers": _record(
        "answers",
        run=f.text,
        answers=f.digest,
        rounds=f.positive,
        plan=f.digest,
        catalogue=f.digest,
        time=f.time,
    ),
    **ACCESS_SCHEMAS,
    "incident": _record(
        "incident",
        run=f.nullable(f.text),
        round=f.nullable(f.positive),
        region=f.nullable(f.text),
        party=f.text,
        reason=f.code,
        detail=f.text,
        time=f.time,
    ),
}

MANIFEST_SCHEMA = _record(
    "manifest",
    federation=f.text,
    run=f.text,
    scope=f.one_of(*SCOPES),
    created_at=f.time,
    files=f.any_object,
    artifacts=f.any_object,
)

REGISTRY_SCHEMA = _record(
    "keys",
    federation=f.text,
    registry_version=f.positive,
    issued_at=f.time,
    prev=f.nullable(f.digest),
    witness_quorum=f.natural,
    root=f.object_of(
        threshold=f.positive, keys=f.list_of(f.object_of(key_id=f.digest, public_key=f.digest))
    ),
    keys=f.list_of(
        f.object_of(
            key_id=f.digest,
            public_key=f.digest,  # 32 bytes in hex, as a digest has.
            party=f.text,
            role=f.text,
            not_before=f.time,
            not_after=f.time,
            revoked_at=f.nullable(f.time),
        )
    ),
)

FILE_SCHEMA = f.object_of(sha256=f.digest, bytes=f.natural)

#: The method of a consent that was given elsewhere, before, and brought into the log in bulk.
IMPORTED = "imported"

# The field that says when a record was made; notices and policies carry no such time.
OWN_TIME: Mapping[str, str] = {
    "consent": "event_time",
    "permit": "issued_at",
    "query": "issued_at",
    "answer": "end",
    "charge": "time",
    "round": "end",
    "release": "time",
    "mask": "time",
    "unmask": "time",
    "aggregate": "end",
    "model": "time",
    "answers": "time",
    "incident": "time",
    **dict.fromkeys(ACCESS_SCHEMAS, "time"),
}


def own_time_ms(kind: str, record: Record) -> int | None:
    """When a checked record says that it was made, in milliseconds since the epoch.

    A consent that was given elsewhere and imported has an event time from before its signer's key;
    when it was signed, its id says.
    """
    name = OWN_TIME.get(kind)
    if name is None:
        return None
    if kind == "consent" and record["method"] == IMPORTED:
        return ulid_ms(str(record["record_id"]))
    return parse_time(str(record[name]))


def check_record(kind: str, record: Record) -> None:
    """Checks a record against its kind's fields.

    Raises:
        FormatError: The kind is unknown, or names the field that is wrong.
    """
    schema = SCHEMAS.get(kind)
    if schema is None:
        raise FormatError(f"Records of kind {kind!r} are not known to this version.")
    schema(record, "")
    if kind == "consent":
        _check_guardian(record)


def _check_guardian(record: Record) -> None:
    """A minor's consent counts only with a guardian's; no one else has a guardian here."""
    guardian = record["guardian"]
    if not record["minor"] and guardian is not None:
        raise FormatError("It names a guardian of someone who is no minor.")
    if record["minor"] and record["state"] == CONSENT_GIVEN:
        given = isinstance(guardian, dict) and guardian["state"] == CONSENT_GIVEN
        if not given:
            raise FormatError("It is a minor's consent without the consent of a guardian.")
