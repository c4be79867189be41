"""Entries about access to sensitive columns: the fields of each, and who must sign it."""

from __future__ import annotations

from collections.abc import Mapping

from common.audit.verify import fields as f
from common.audit.verify.fields import Check

#: The role of the key that signs each kind, in a region's log.
ACCESS_ROLES: Mapping[str, str] = {
    "access-request": "requester",
    "access-approval": "approver",
    "access-use": "requester",
    "access-revocation": "approver",
    "access-expiry": "trainer",
}


def _record(kind: str, **fields: Check) -> Check:
    version = f.one_of(f"fedpref-{kind}/1")
    return f.object_of(v=version, request_id=f.ulid, region=f.text, time=f.time, **fields)


ACCESS_SCHEMAS: Mapping[str, Check] = {
    "access-request": _record(
        "access-request", table=f.text, columns=f.texts, because=f.text, grant_s=f.positive
    ),
    "access-approval": _record("access-approval", request=f.digest, expires=f.time),
    "access-use": _record("access-use", approval=f.digest, number=f.positive, columns=f.texts),
    "access-revocation": _record("access-revocation", because=f.text),
    "access-expiry": _record("access-expiry", uses=f.natural),
}
