"""A region's home with two people who have keys, a kept table, and a desk on a clock of the test's.

Made in some milliseconds, without the privacy engine.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from client.engine.home import RegionHome
from client.engine.log_state import LogState
from client.engine.policy import RegionPolicy, read_policy
from client.engine.policy_desk import sign_policy
from client.governance.access_desk import AccessDesk
from client.governance.access_records import (
    AccessApproval,
    AccessRequest,
    AccessRevocation,
    AccessUse,
    sign_access,
)
from client.governance.column_store import ColumnStore
from common.audit.log import AuditLog
from common.audit.merkle import leaf_hash
from common.envelope import Envelope
from common.identifiers import new_ulid
from common.keys import Signer
from common.timestamps import now_ms
from tests.support.memory_signer import MemorySigner
from tests.support.region_home import REGION, make_region_home

ANALYST, OFFICER = MemorySigner("the analyst"), MemorySigner("the officer")
# One person may have keys of both roles.
ANALYST_APPROVES, OFFICER_ASKS = MemorySigner("the analyst approves"), MemorySigner("officer asks")
STRANGER = MemorySigner("enrolled, and nobody by the policy")
ROLES = {
    "requester": (ANALYST, OFFICER_ASKS, STRANGER),
    "approver": (OFFICER, ANALYST_APPROVES),
}
GRANT_S = 3600
TABLE = "members"
GRADES: dict[str, Any] = {"customer": "medium", "email": "high", "phone": "high", "tier": "low"}
ROWS = pa.table(
    {
        "customer": ["anna", "ben", "anna"],
        "email": ["a@shop.example", "b@shop.example", None],
        "phone": ["+1", "+2", "+3"],
        "tier": ["gold", "silver", "gold"],
    }
)


def access_policy(home: RegionHome, **changes: Any) -> RegionPolicy:
    """The home's policy, with the two people in it."""
    access = {
        "grant_s_max": GRANT_S,
        "people": {
            "analyst-1": [ANALYST.key_id, ANALYST_APPROVES.key_id],
            "officer-1": [OFFICER.key_id, OFFICER_ASKS.key_id],
        },
    }
    record = read_policy(home.policy).to_record()
    return RegionPolicy.model_validate({**record, "access": access | changes})


def make_access_home(root: Path, **changes: Any) -> RegionHome:
    """Makes the home, its people enrolled and in the policy, and keeps a table."""
    people = [(REGION, role, signer) for role, signers in ROLES.items() for signer in signers]
    home = make_region_home(root, others=people)
    with AuditLog.open(home.log, origin=home.origin, signer=home.signer("log")) as log:
        sign_policy(home, log, access_policy(home, **changes))
    ColumnStore(home).keep(TABLE, ROWS, GRADES, subject="customer")
    return home


@dataclass
class OpenDesk:
    """A desk, its log, and what people do at it."""

    home: RegionHome
    log: AuditLog
    state: LogState
    desk: AccessDesk
    clock: list[int] = field(default_factory=list)

    @property
    def trainer(self) -> Signer:
        return self.home.signer("trainer")

    @property
    def now(self) -> int:
        return self.clock[0]

    def later(self, seconds: float) -> None:
        self.clock[0] += round(seconds * 1000)

    def kinds(self) -> list[str]:
        """What the log has about access, and its incidents, in its order."""
        entries = (Envelope.decode(data) for _, data in self.log.entries())
        return [e.kind for e in entries if e.kind.startswith("access-") or e.kind == "incident"]

    def incidents(self) -> list[dict[str, Any]]:
        entries = (Envelope.decode(data) for _, data in self.log.entries())
        return [each.record() for each in entries if each.kind == "incident"]

    def request(self, **changes: Any) -> bytes:
        signer = changes.pop("signer", ANALYST)
        fields = {
            "request_id": new_ulid(self.now),
            "region": REGION,
            "table": TABLE,
            "columns": ("email", "phone"),
            "because": "recall of item 4711",
            "grant_s": GRANT_S,
            "time_ms": self.now,
        }
        return sign_access(AccessRequest(**{**fields, **changes}), signer)

    def approval(self, request: bytes, /, **changes: Any) -> bytes:
        signer = changes.pop("signer", OFFICER)
        fields = {
            "request_id": str(Envelope.decode(request).record()["request_id"]),
            "region": REGION,
            "request": leaf_hash(request).hex(),
            "expires_ms": self.now + GRANT_S * 1000,
            "time_ms": self.now,
        }
        return sign_access(AccessApproval(**{**fields, **changes}), signer)

    def use(self, approval: bytes, number: int = 1, /, **changes: Any) -> bytes:
        signer = changes.pop("signer", ANALYST)
        fields = {
            "request_id": str(Envelope.decode(approval).record()["request_id"]),
            "region": REGION,
            "approval": leaf_hash(approval).hex(),
            "number": number,
            "columns": ("email",),
            "time_ms": self.now,
        }
        return sign_access(AccessUse(**{**fields, **changes}), signer)

    def revocation(self, request: bytes, /, **changes: Any) -> bytes:
        signer = changes.pop("signer", OFFICER)
        fields = {
            "request_id": str(Envelope.decode(request).record()["request_id"]),
            "region": REGION,
            "because": "it was a mistake",
            "time_ms": self.now,
        }
        return sign_access(AccessRevocation(**{**fields, **changes}), signer)

    def granted(self, **changes: Any) -> bytes:
        """Files a request and its approval; gives the approval."""
        request = self.request(**changes)
        self.desk.file(request)
        approval = self.approval(request)
        self.desk.file(approval)
        return approval


@contextmanager
def open_access(home: RegionHome) -> Iterator[OpenDesk]:
    """Opens a desk on a home."""
    registry = home.read_registry()
    with AuditLog.open(home.log, origin=home.origin, signer=home.signer("log")) as log:
        state = LogState(log, registry, home.region)
        state.refresh()
        # Not before what an earlier test has logged in times to come.
        clock = [max(now_ms(), state.newest_ms)]
        policy = read_policy(home.policy)
        desk = AccessDesk(home, log, state, policy, registry, clock_ms=lambda: clock[0])
        yield OpenDesk(home, log, state, desk, clock)
