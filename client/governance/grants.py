"""Grants: what has become of every request for access, and what may follow next.

A grant's life is request, approval by another person, uses, and an end: expiry or revocation. The
region's log is the only record of it; `GrantBook` replays it, and `judge` says whether a new record
may follow, by the policy in force and the clock now. The offline verifier replays the same by code
of its own (`common.audit.verify.access`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import InitVar, dataclass, replace
from typing import Literal

from client.engine.policy_fields import AccessRules
from client.governance.access_records import (
    REQUEST_OPEN_S,
    AccessApproval,
    AccessExpiry,
    AccessRequest,
    AccessRevocation,
    AccessUse,
    SignedAccess,
    open_access,
)
from common.errors import FedprefError, PolicyError, VerificationError
from common.keys import Registry
from common.timestamps import format_time

#: How old a record may be when it comes, and how far ahead of the region's clock, in milliseconds:
#: whoever signs it is on this machine, and asked for nothing in between.
LATE_MS, EARLY_MS = 60_000, 5_000

End = Literal["expired", "revoked"]

# Only `client.governance.access_desk` may name it: a test scans the sources for it.
_USE_SEAL = object()


class AccessRefusedError(PolicyError):
    """What was asked for is not granted."""


@dataclass(frozen=True)
class GrantedUse:
    """A use that the log has, under a grant that covers it. Made by the desk that logged it alone.

    Attributes:
        request_id: The grant.
        table: The table.
        columns: The columns.
        index: The use's entry in the region's log.
    """

    request_id: str
    table: str
    columns: tuple[str, ...]
    index: int
    seal: InitVar[object]

    def __post_init__(self, seal: object) -> None:
        if seal is not _USE_SEAL:
            raise AccessRefusedError(
                "A use of a grant was not logged.", remedy="Read through the access desk."
            )


@dataclass(frozen=True)
class Grant:
    """A request, and what has become of it.

    Attributes:
        request: The request.
        requested_by: The key that signed it.
        request_leaf: The hash of its log entry, in hex.
        approval: The approval; None while there is none.
        approved_by: The key that signed that.
        approval_leaf: The hash of its log entry, in hex.
        uses: How often it was used.
        end: How it ended; None if it did not.
        ended_ms: When that was noted, in milliseconds since the epoch.
    """

    request: AccessRequest
    requested_by: str
    request_leaf: str
    approval: AccessApproval | None = None
    approved_by: str = ""
    approval_leaf: str = ""
    uses: int = 0
    end: End | None = None
    ended_ms: int = 0

    def state(self, at_ms: int) -> str:
        """What it is at a time: requested, lapsed, granted, expired or revoked."""
        if self.end is not None:
            return self.end
        if self.approval is None:
            lapsed = at_ms >= self.request.time_ms + REQUEST_OPEN_S * 1000
            return "lapsed" if lapsed else "requested"
        return "granted" if at_ms < self.approval.expires_ms else "expired"

    @property
    def expires_ms(self) -> int | None:
        """Until just before when it holds; None if nobody has approved it."""
        return None if self.approval is None else self.approval.expires_ms


class GrantBook:
    """Every grant of a region's log.

    Args:
        registry: The verified key registry.
        region: The region.
    """

    def __init__(self, registry: Registry, region: str) -> None:
        self._registry = registry
        self._region = region
        self._grants: dict[str, Grant] = {}
        self._replayed = 0

    @property
    def grants(self) -> tuple[Grant, ...]:
        """All grants, in the order of their requests."""
        return tuple(self._grants.values())

    def replay(self, entries: Sequence[tuple[int, bytes]]) -> None:
        """Takes up the log's entries about access that are new since the last call.

        Args:
            entries: All of them, with their indices, in the log's order.

        Raises:
            VerificationError: One does not hold; names it.
        """
        for index, data in entries[self._replayed :]:
            try:
                signed = open_access(data, self._registry, self._region)
                self._grants[signed.record.request_id] = self._after(signed)
            except FedprefError as error:
                raise VerificationError(
                    f"Entry {index} of the log of {self._region} does not hold: {error}",
                    remedy="Verify the log with fedpref-audit; nothing is granted till then.",
                ) from error
            self._replayed += 1

    def find(self, request_id: str) -> Grant:
        """A grant by its id.

        Raises:
            AccessRefusedError: There is none.
        """
        grant = self._grants.get(request_id)
        if grant is None:
            raise AccessRefusedError(
                f"{self._region}: there is no access request {request_id}.",
                remedy="fedpref-region access list shows them.",
            )
        return grant

    def due(self, at_ms: int) -> list[Grant]:
        """The grants that have run out by a time, and whose end the log does not have yet."""
        return [
            grant
            for grant in self._grants.values()
            if grant.end is None and grant.expires_ms is not None and at_ms >= grant.expires_ms
        ]

    def judge(self, signed: SignedAccess, rules: AccessRules | None, at_ms: int) -> None:
        """Checks whether a record that is signed now may follow what the log has.

        Args:
            signed: The record.
            rules: What the policy in force says of access; None if it allows none.
            at_ms: Now, in milliseconds since the epoch.

        Raises:
            AccessRefusedError: It may not; says why.
        """
        record = signed.record
        if not -EARLY_MS <= at_ms - record.time_ms <= LATE_MS:
            raise AccessRefusedError(
                f"{self._region}: the record is of {format_time(record.time_ms)}, not of now.",
                remedy="Sign it anew; compare the clocks if it happens again.",
            )
        if rules is None:
            raise AccessRefusedError(
                f"{self._region}: its policy grants nobody access.",
                remedy="Let the region's controller sign a policy with a table access.",
            )
        person = rules.person_of(signed.key_id)
        if person is None:
            raise AccessRefusedError(
                f"{self._region}: its policy names nobody with the key {signed.key_id[:16]}….",
                remedy="Let the region's controller add the key to the person's in the policy.",
            )
        following = self._after(signed)
        if isinstance(record, AccessRequest | AccessApproval):
            self._require_within(following, rules)
        if isinstance(record, AccessApproval) and person == rules.person_of(following.requested_by):
            raise AccessRefusedError(
                f"{self._region}: {person} asked for the grant {record.request_id}; another person "
                "has to approve it.",
                remedy="Let somebody else look at it.",
            )
        if isinstance(record, AccessUse) and person != rules.person_of(following.requested_by):
            raise AccessRefusedError(
                f"{self._region}: the grant {record.request_id} is not {person}'s.",
                remedy="Ask for one of your own.",
            )

    def _require_within(self, grant: Grant, rules: AccessRules) -> None:
        if grant.request.grant_s > rules.grant_s_max:
            raise AccessRefusedError(
                f"{self._region}: {grant.request.grant_s} s are asked for, and its policy grants "
                f"access for {rules.grant_s_max} s at most.",
                remedy="Ask for less time.",
            )

    def _after(self, signed: SignedAccess) -> Grant:
        """What becomes of a grant by a record; the policy and the clock are not looked at."""
        record = signed.record
        if isinstance(record, AccessRequest):
            if record.request_id in self._grants:
                raise self._refused(record.request_id, "was asked for before")
            return Grant(record, signed.key_id, signed.leaf)
        grant = self.find(record.request_id)
        if grant.end is not None:
            raise self._refused(record.request_id, f"has ended: it is {grant.end}")
        if isinstance(record, AccessApproval):
            return self._approved(grant, record, signed)
        if isinstance(record, AccessUse):
            return self._used(grant, record)
        if isinstance(record, AccessRevocation):
            return replace(grant, end="revoked", ended_ms=record.time_ms)
        return self._expired(grant, record)

    def _approved(self, grant: Grant, record: AccessApproval, signed: SignedAccess) -> Grant:
        request = grant.request
        if grant.approval is not None:
            raise self._refused(request.request_id, "is approved already")
        if record.request != grant.request_leaf:
            raise self._refused(request.request_id, "is approved by the hash of another request")
        if not record.time_ms < request.time_ms + REQUEST_OPEN_S * 1000:
            raise self._refused(request.request_id, "was asked for too long ago: it has lapsed")
        if not 0 < record.expires_ms - record.time_ms <= request.grant_s * 1000:
            raise self._refused(request.request_id, "is approved for longer than it was asked for")
        return replace(grant, approval=record, approved_by=signed.key_id, approval_leaf=signed.leaf)

    def _used(self, grant: Grant, record: AccessUse) -> Grant:
        name = record.request_id
        if grant.approval is None:
            raise self._refused(name, "is not approved")
        if record.approval != grant.approval_leaf:
            raise self._refused(name, "is used by the hash of another approval")
        if not grant.approval.time_ms <= record.time_ms < grant.approval.expires_ms:
            raise self._refused(
                name,
                f"holds from {format_time(grant.approval.time_ms)} to "
                f"{format_time(grant.approval.expires_ms)}, not at {format_time(record.time_ms)}",
            )
        beyond = sorted(set(record.columns) - set(grant.request.columns))
        if beyond:
            raise self._refused(name, f"does not cover the column {beyond[0]}")
        if record.number != grant.uses + 1:
            raise self._refused(name, f"was used {grant.uses} times: this is use {record.number}")
        return replace(grant, uses=record.number)

    def _expired(self, grant: Grant, record: AccessExpiry) -> Grant:
        if grant.approval is None or record.time_ms < grant.approval.expires_ms:
            raise self._refused(record.request_id, "has not run out")
        if record.uses != grant.uses:
            raise self._refused(record.request_id, "was used another number of times")
        return replace(grant, end="expired", ended_ms=record.time_ms)

    def _refused(self, request_id: str, why: str) -> AccessRefusedError:
        return AccessRefusedError(
            f"{self._region}: the grant {request_id} {why}.",
            remedy="fedpref-region access list shows where each grant stands; ask anew if needed.",
        )
