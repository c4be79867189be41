"""A small honest bundle in which two people grant access to a region's sensitive columns.

``asked`` was asked for by the analyst, approved by the officer, used twice, and ran out;
``revoked`` was approved and revoked before it was used.
"""

from __future__ import annotations

import hashlib

from common import canonical_json
from common.audit.merkle import leaf_hash
from common.timestamps import format_time, parse_time
from tests.support.bundle_builder import (
    REGIONS,
    Alter,
    Federation,
    JsonRecord,
    MemorySigner,
    ulid,
)

R1 = REGIONS[0]
TABLE, COLUMNS = "members", ["email", "phone"]
ANALYST, OFFICER = "analyst-1", "officer-1"
GRANT_S = 3600
PEOPLE_ROLES = ("requester", "approver")


class AccessFederation(Federation):
    """A federation whose first region has people with keys of their own."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for role in PEOPLE_ROLES:
            self.keys[R1, role] = MemorySigner(f"{R1} {role}")

    def signer(self, party: str, kind: str) -> MemorySigner:
        roles = {
            "access-request": "requester",
            "access-approval": "approver",
            "access-use": "requester",
            "access-revocation": "approver",
            "access-expiry": "trainer",
        }
        return self.keys[party, roles[kind]] if kind in roles else super().signer(party, kind)

    def access_rules(self) -> JsonRecord:
        """The policy's table, as honest regions have it."""
        return {
            "grant_s_max": GRANT_S,
            "people": {
                ANALYST: [self.keys[R1, "requester"].key_id],
                OFFICER: [self.keys[R1, "approver"].key_id],
            },
        }

    def of(self, kind: str, name: str, **fields: object) -> bytes:
        """Logs one entry about a grant."""
        record = {
            "v": f"fedpref-access-{kind}/1",
            "request_id": ulid(f"grant {name}"),
            "region": R1,
            "time": self.tick(),
            **fields,
        }
        return self.log(R1, record)

    def ask(self, name: str) -> str:
        """Asks; gives the request's hash."""
        return leaf_hash(
            self.of(
                "request",
                name,
                table=TABLE,
                columns=COLUMNS,
                because="calls on a recall",
                grant_s=GRANT_S,
            )
        ).hex()

    def approve(self, name: str, request: str) -> str:
        """Approves for as long as was asked for; gives the approval's hash."""
        expires = format_time(self.clock_ms + 1000 + GRANT_S * 1000)
        return leaf_hash(self.of("approval", name, request=request, expires=expires)).hex()

    def use(self, name: str, approval: str, number: int, columns: list[str]) -> None:
        """Reads columns."""
        self.of("use", name, approval=approval, number=number, columns=columns)

    def grant_all(self) -> AccessFederation:
        """Acts the run out, then both grants from end to end."""
        self.run()
        approval = self.approve("asked", self.ask("asked"))
        self.use("asked", approval, 1, COLUMNS)
        self.use("asked", approval, 2, COLUMNS[:1])
        self.approve("revoked", self.ask("revoked"))
        self.of("revocation", "revoked", because="it was a mistake")
        self.tick(GRANT_S * 1000)
        self.of("expiry", "asked", uses=2)
        return self


def granting(alter: Alter | None = None, **options: object) -> AccessFederation:
    """A federation whose first region's policy knows of access.

    Args:
        alter: May change a record before it is signed, after that.
        options: Of `Federation`.
    """

    def prepared(party: str, record: JsonRecord) -> None:
        if (party, record["v"]) == (R1, "fedpref-policy/1"):
            record["policy"]["access"] = federation.access_rules()
        if alter is not None:
            alter(party, record)
        if record["v"] == "fedpref-policy/1":
            policy = canonical_json.encode(record["policy"])
            record["policy_sha256"] = hashlib.sha256(policy).hexdigest()

    federation = AccessFederation(**options)  # type: ignore[arg-type]
    federation.alter = prepared
    return federation


def shifted(record: JsonRecord, name: str, by_ms: int) -> None:
    """Moves a time that a record states."""
    record[name] = format_time(parse_time(str(record[name])) + by_ms)
