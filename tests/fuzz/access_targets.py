"""Targets: records about access, and the manifest of tables that are kept by columns."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from client.engine.home import RegionHome
from client.governance.access_records import (
    AccessApproval,
    AccessExpiry,
    AccessRequest,
    AccessRevocation,
    AccessUse,
    parse_access,
)
from client.governance.column_manifest import FILE_NAME, read_manifest
from client.governance.column_store import ColumnStore
from common import canonical_json
from common.audit.verify.records import check_record
from common.envelope import Envelope, Signature
from tests.fuzz.record_targets import record_from, scratch
from tests.fuzz.target import Target, same

_ID = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
_UNSIGNED = (Signature("0" * 64, bytes(64)),)


def _record(data: bytes) -> None:
    """What the desk reads of a record is what was written, and of the verifier's form, too."""
    value = record_from(data)
    kind = str(value.get("v")).removeprefix("fedpref-").removesuffix("/1")
    envelope = Envelope(f"application/vnd.fedpref.{kind}+json", data, _UNSIGNED)
    same(parse_access(envelope).to_record(), value)
    check_record(kind, value)


def _record_seeds() -> Iterator[bytes]:
    columns = ("email", "phone")
    for record in (
        AccessRequest(_ID, "region-1", "members", columns, "recall of item 4711", 3600, 1),
        AccessApproval(_ID, "region-1", "a" * 64, 3_600_001, 1),
        AccessUse(_ID, "region-1", "b" * 64, 1, columns, 2),
        AccessRevocation(_ID, "region-1", "done", 3),
        AccessExpiry(_ID, "region-1", 1, 3_600_001),
    ):
        yield canonical_json.encode(record.to_record())


def _manifest(data: bytes) -> None:
    """A manifest that is read says only what could be kept, and is written back as it was."""
    path = scratch() / FILE_NAME
    path.write_bytes(data)
    found = read_manifest(scratch())
    found.write(scratch())
    same(path.read_bytes(), data)
    assert all("/" not in name for name in found.files)


def _manifest_seeds() -> Iterator[bytes]:
    home = RegionHome(scratch() / "home", "region-1", "small.example")
    home.keys.mkdir(parents=True, exist_ok=True)
    rows = pa.table({"email": ["a@shop.example"], "tier": ["gold"]})
    ColumnStore(home).keep("members", rows, {"email": "high", "tier": "low"}, subject="tier")
    yield (home.columns / FILE_NAME).read_bytes()


TARGETS = (
    Target("access-record", _record, _record_seeds, runs=1500),
    Target("column-manifest", _manifest, _manifest_seeds, runs=500),
)
