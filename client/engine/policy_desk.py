"""Where a region's controller signs a policy, logs it, and puts it in force.

The log decides: the engine works only under the policy that was logged last, and only if the file
``policy.json`` is that policy. So the log comes first; a crash before the file is written leaves a
region that refuses to work till the same policy is signed again, which then only writes the file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from client.engine.home import RegionHome
from client.engine.policy import RegionPolicy
from common import canonical_json
from common.audit.entry import make_entry
from common.audit.log import AuditLog
from common.canonical_json import JsonValue
from common.durable_file import write_durably
from common.envelope import Envelope
from common.errors import PolicyError, StorageError, VerificationError
from common.timestamps import format_time, now_ms

_VERSION = "fedpref-policy/1"
_MARK = b'"application/vnd.fedpref.policy+json"'
# Of these a greater value allows more, of those a smaller one does.
_CAPS = frozenset(
    {
        "epsilon_cap_per_year",
        "epsilon_max_per_run",
        "delta_max",
        "key_delta_max",
        "clipping_norm_max",
        "sampling_probability_max",
        "rounds_max",
        "steps_max",
        "consent_age_max_s",
        "notice_grace_s",
    }
)
_FLOORS = frozenset(
    {
        "noise_multiplier_min",
        "clipping_norm_min",
        "sampling_probability_min",
        "quorum_min",
        "quality_threshold",
    }
)
_LISTS = frozenset({"modes", "aggregations", "app_bundles", "catalogues", "arrays"})
# They permit: what they do not name is not allowed.
_PERMITTING = frozenset({"queries", "server_queries"})
_TABLES = frozenset({"epsilon_caps_per_model", "epsilon_caps_per_purpose", *_PERMITTING})


@dataclass(frozen=True)
class LoggedPolicy:
    """A policy as the log has it.

    Attributes:
        index: Its entry.
        sha256: The policy's digest.
        fields: Its fields, as they were signed.
        in_force_from: From when it was in force.
    """

    index: int
    sha256: str
    fields: Mapping[str, JsonValue]
    in_force_from: str


@dataclass(frozen=True)
class PolicyChange:
    """A field in which two policies differ.

    Attributes:
        field: Its name.
        before: Its value before; None where it was not stated.
        after: Its value now; None where it is not stated.
        allows_more: Whether something is allowed now that was not. None where more and less is no
            question, as of ``withdrawal_in_round``.
    """

    field: str
    before: JsonValue
    after: JsonValue
    allows_more: bool | None


def sign_policy(
    home: RegionHome,
    log: AuditLog,
    policy: RegionPolicy,
    *,
    clock_ms: Callable[[], int] = now_ms,
) -> LoggedPolicy:
    """Signs a policy with the controller's key, logs it, and writes it into the home.

    The policy that is in force already is not logged a second time; its file is written if it is
    not there, so that what a crash interrupted is completed by doing it again.

    Args:
        home: The region's home, with its controller's key.
        log: The region's log, open for writing.
        policy: The policy.
        clock_ms: Now, in milliseconds since the epoch.

    Returns:
        The policy as it stands in the log.

    Raises:
        PolicyError: The policy is another region's.
        InputError: The controller's key does not open.
        StorageError: The log or the file cannot be written.
    """
    if policy.region != home.region:
        raise PolicyError(
            f"The policy is of {policy.region}, and the home {home.root} is of {home.region}.",
            remedy="Sign it in its own home.",
        )
    logged = newest_policy(log)
    if logged is None or logged.sha256 != policy.digest:
        record = policy_record(policy, clock_ms())
        log.append([make_entry(record, home.signer("controller"))])
        logged = newest_policy(log, start=log.size - 1)
    if logged is None:  # never: it is the newest entry
        raise StorageError(f"The log {home.log} lost the policy that was just logged.")
    try:
        write_durably(home.policy, canonical_json.encode(policy.to_record()))
    except OSError as error:
        raise StorageError(
            f"The policy is logged, but {home.policy} cannot be written: {error.strerror}.",
            remedy="Make room and sign the same policy again: till then the engine does not start.",
        ) from error
    return logged


def policy_record(policy: RegionPolicy, at_ms: int) -> dict[str, JsonValue]:
    """The record of a policy that is in force from a moment on.

    Args:
        policy: The policy.
        at_ms: The moment, in milliseconds since the epoch.
    """
    return {
        "v": _VERSION,
        "region": policy.region,
        "policy_sha256": policy.digest,
        "policy": policy.to_record(),
        "in_force_from": format_time(at_ms),
    }


def newest_policy(log: AuditLog, *, start: int = 0) -> LoggedPolicy | None:
    """The policy that a log has last; None if it has none.

    Its signature is not checked here: the engine does so when it replays the log.

    Args:
        log: The open log.
        start: The first entry to look at.

    Raises:
        VerificationError: Its digest is not that of its fields.
    """
    found: tuple[int, bytes] | None = None
    for index, data in log.entries(start=start):
        # What an envelope is of stands in it in plain text: consents need no decoding.
        if _MARK in data:
            found = index, data
    return None if found is None else _logged(*found)


def _logged(index: int, data: bytes) -> LoggedPolicy:
    record = Envelope.decode(data).record()
    fields = record["policy"]
    digest = hashlib.sha256(canonical_json.encode(fields)).hexdigest()
    if not isinstance(fields, dict) or record["policy_sha256"] != digest:
        raise VerificationError(
            f"Entry {index} of the log is a policy whose digest is not that of its fields.",
            remedy="Verify the log with fedpref-audit.",
        )
    return LoggedPolicy(index, digest, fields, str(record["in_force_from"]))


def policy_changes(
    before: Mapping[str, JsonValue], after: Mapping[str, JsonValue]
) -> list[PolicyChange]:
    """What differs between two policies, by field in order, and whether more is allowed.

    Args:
        before: The fields of the one.
        after: The fields of the other.
    """
    return [
        PolicyChange(
            name,
            before.get(name),
            after.get(name),
            _allows_more(name, before.get(name), after.get(name)),
        )
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    ]


def _allows_more(name: str, before: JsonValue, after: JsonValue) -> bool | None:
    if name == "access":
        return _access_allows_more(before, after)
    if name not in _CAPS | _FLOORS | _LISTS | _TABLES:
        return None
    if name in _PERMITTING:
        # Not to state it allows none.
        return _table_allows_more(before or {}, after or {})
    # A bound that is not stated bounds nothing; all of the others are bounds.
    if before is None or after is None:
        return after is None
    if name in _LISTS:
        return not _is_part(after, before)
    if name in _TABLES:
        return _table_allows_more(before, after)
    more = _number(after) > _number(before)
    return more if name in _CAPS else not more


def _is_part(part: JsonValue, whole: JsonValue) -> bool:
    if not isinstance(part, Sequence) or not isinstance(whole, Sequence):
        return False
    return all(each in whole for each in part)


def _table_allows_more(before: JsonValue, after: JsonValue) -> bool:
    """What a table of caps does not name may spend nothing."""
    if not isinstance(before, dict) or not isinstance(after, dict):
        return True
    return any(
        name not in before or _number(cap) > _number(before[name]) for name, cap in after.items()
    )


def _access_allows_more(before: JsonValue, after: JsonValue) -> bool:
    """Whether anybody may be granted what they might not, or for longer; without it nobody may."""
    if not isinstance(after, dict):
        return False
    if not isinstance(before, dict):
        return True
    known, people = before["people"], after["people"]
    return _number(after["grant_s_max"]) > _number(before["grant_s_max"]) or not (
        isinstance(known, dict)
        and isinstance(people, dict)
        # Another person's key may approve what it could not while it was the requester's own.
        and all(_is_part(keys, known.get(name, [])) for name, keys in people.items())
    )


def _number(value: JsonValue) -> Decimal:
    return Decimal(str(value))
