"""Step 3, continued: grants of access to a region's sensitive columns, replayed.

A grant is asked for by one person and approved by another, used by who asked, within its window and
its columns, and ends: by expiry, which the region notes, or by revocation. People are who the
policy in force says a key belongs to; the roles of the keys and their validity were checked with
the entries themselves.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from common.audit.verify.fields import Record
from common.audit.verify.records import own_time_ms
from common.audit.verify.replay import CLOCK_TOLERANCE_MS, Entry, Evidence, LogReplay
from common.audit.verify.verdict import COMPLETENESS, RECORDS
from common.timestamps import format_time

#: A request that nobody has approved lapses after this long, in milliseconds.
REQUEST_OPEN_MS = 7 * 86_400_000
#: By when the region must have noted that a grant has run out, in milliseconds after it has.
EXPIRY_NOTED_WITHIN_MS = 86_400_000


def verify_access(evidence: Evidence) -> None:
    """Checks every entry about access of every region's log."""
    for replay in evidence.regions():
        _RegionAccess(evidence, replay).verify()


@dataclass
class _Grant:
    """A grant, as far as the log has told of it."""

    request: Entry
    approval: Entry | None = None
    uses: int = 0
    end: Entry | None = None

    def expires_ms(self) -> int | None:
        return None if self.approval is None else self.approval.time_ms("expires")


class _RegionAccess:
    """The grants of one region's log, in its order."""

    def __init__(self, evidence: Evidence, replay: LogReplay) -> None:
        self._evidence = evidence
        self._replay = replay
        self._policy: Record = {}
        self._grants: dict[str, _Grant] = {}
        self._noted: set[str] = set()

    def verify(self) -> None:
        checks = {
            "access-request": self._check_request,
            "access-approval": self._check_approval,
            "access-use": self._check_use,
            "access-revocation": self._check_revocation,
            "access-expiry": self._check_expiry,
        }
        for entry in self._replay.entries:
            if entry.kind == "policy":
                policy = entry.part("policy").get("access")
                self._policy = policy if isinstance(policy, dict) else {}
                continue
            self._require_noted(entry)
            check = checks.get(entry.kind)
            if check is not None:
                self._evidence.findings.count(RECORDS, "access entries")
                check(entry)
        self._note_grants()

    def _fail(self, code: str, entry: Entry, message: str, *, step: int = RECORDS) -> None:
        self._evidence.fail(step, code, entry, message)

    def _check_request(self, entry: Entry) -> None:
        self._require_person(entry)
        self._require_columns(entry)
        self._require_length(entry, entry)
        if entry.text("request_id") in self._grants:
            self._fail("access-repeated", entry, "Its request_id is an earlier request's.")
            return
        self._grants[entry.text("request_id")] = _Grant(entry)

    def _check_approval(self, entry: Entry) -> None:
        people = self._require_person(entry)
        grant = self._open_grant(entry)
        if grant is None:
            return
        if grant.approval is not None:
            self._fail("access-repeated", entry, "The request was approved before.")
            return
        grant.approval = entry
        if people & self._people_of(grant.request) or self._same_key(entry, grant.request):
            self._fail("access-own-approval", entry, "Who asked for it approved it.")
        if entry.text("request") != grant.request.leaf:
            self._fail("access-mismatch", entry, "It names the hash of another request.")
        begins, expires = entry.time_ms("time"), entry.time_ms("expires")
        asked_s = grant.request.number("grant_s")
        if not 0 < expires - begins <= asked_s * 1000:
            self._fail("access-window", entry, "It holds for longer than was asked for, or never.")
        self._require_length(entry, grant.request)
        asked_ms = grant.request.time_ms("time")
        late_ms = max(begins, entry.after_ms - CLOCK_TOLERANCE_MS)
        if not asked_ms - CLOCK_TOLERANCE_MS <= begins or not late_ms < asked_ms + REQUEST_OPEN_MS:
            self._fail("access-lapsed", entry, "The request had lapsed, or was not made yet.")

    def _check_use(self, entry: Entry) -> None:
        people = self._require_person(entry)
        self._require_columns(entry)
        grant = self._open_grant(entry)
        if grant is None:
            return
        if grant.approval is None:
            self._fail("access-not-approved", entry, "Nobody had approved the request.")
            return
        if not people & self._people_of(grant.request):
            self._fail("access-not-theirs", entry, "Who used it is not who asked for it.")
        if entry.text("approval") != grant.approval.leaf:
            self._fail("access-mismatch", entry, "It names the hash of another approval.")
        if not set(_texts(entry)) <= set(_texts(grant.request)):
            self._fail("access-columns", entry, "It reads a column that was not granted.")
        if entry.number("number") != grant.uses + 1:
            self._fail("access-repeated", entry, "Its number is not the next one.")
        grant.uses = max(grant.uses, entry.number("number"))
        begins, expires = grant.approval.time_ms("time"), grant.approval.time_ms("expires")
        # What it says, and what the log's order says: a clock set back makes nothing earlier.
        stated, at_least = entry.time_ms("time"), entry.after_ms - CLOCK_TOLERANCE_MS
        if not begins <= stated < expires or not at_least < expires:
            self._fail("access-window", entry, "It is outside of the grant's time.")

    def _check_revocation(self, entry: Entry) -> None:
        self._require_person(entry)
        grant = self._open_grant(entry)
        if grant is not None:
            grant.end = entry

    def _check_expiry(self, entry: Entry) -> None:
        grant = self._open_grant(entry)
        if grant is None:
            return
        grant.end = entry
        expires_ms = grant.expires_ms()
        if expires_ms is None or entry.time_ms("time") < expires_ms:
            self._fail("access-window", entry, "The grant had not run out.")
        if entry.number("uses") != grant.uses:
            self._fail("access-mismatch", entry, "It states another number of uses than the log.")

    def _open_grant(self, entry: Entry) -> _Grant | None:
        """The grant that an entry is about, if it has not ended."""
        grant = self._grants.get(entry.text("request_id"))
        if grant is None:
            self._fail("access-unknown", entry, "The request that it names was not logged before.")
        elif grant.end is not None:
            self._fail("access-ended", entry, "The grant had ended before.")
            return None
        return grant

    def _require_person(self, entry: Entry) -> set[str]:
        people = self._people_of(entry)
        if not people:
            self._fail(
                "access-person", entry, "The policy in force names nobody with the key it is by."
            )
        return people

    def _people_of(self, entry: Entry) -> set[str]:
        """Whose keys signed an entry, by the policy in force now."""
        people = self._policy.get("people")
        if not isinstance(people, dict):
            return set()
        return {
            name
            for name, keys in people.items()
            if isinstance(keys, list) and not set(entry.signers).isdisjoint(map(str, keys))
        }

    def _same_key(self, one: Entry, other: Entry) -> bool:
        return not set(one.signers).isdisjoint(other.signers)

    def _require_columns(self, entry: Entry) -> None:
        columns = _texts(entry)
        if not columns or columns != sorted(set(columns)):
            self._fail("access-columns", entry, "Its columns are none, twice or out of order.")

    def _require_length(self, entry: Entry, request: Entry) -> None:
        most = self._policy.get("grant_s_max")
        if not isinstance(most, int) or request.number("grant_s") > most:
            self._fail(
                "access-beyond-policy", entry, "The policy in force grants nobody so much time."
            )

    def _require_noted(self, entry: Entry) -> None:
        """Whether every grant that had run out long before an entry was noted to have."""
        if entry.kind == "access-expiry":
            return
        own_ms = own_time_ms(entry.kind, entry.record)
        # Whoever asks, approves or reads comes after the desk has noted what ran out before.
        within_ms = (
            CLOCK_TOLERANCE_MS if entry.kind.startswith("access-") else EXPIRY_NOTED_WITHIN_MS
        )
        for name, grant in self._running():
            expires_ms = grant.expires_ms()
            if own_ms is None or expires_ms is None or own_ms <= expires_ms + within_ms:
                continue
            self._noted.add(name)
            self._fail(
                "access-expiry-missing",
                entry,
                f"The grant {name} ran out at {format_time(expires_ms)}, which was not logged "
                "before this.",
                step=COMPLETENESS,
            )

    def _running(self) -> Iterator[tuple[str, _Grant]]:
        return (
            (name, grant)
            for name, grant in self._grants.items()
            if grant.approval is not None and grant.end is None and name not in self._noted
        )

    def _note_grants(self) -> None:
        if not self._grants:
            return
        grants = self._grants.values()
        approved = sum(grant.approval is not None for grant in grants)
        uses = sum(grant.uses for grant in grants)
        ended = sum(grant.end is not None for grant in grants)
        self._evidence.findings.note(
            f"{self._replay.party} logged {len(grants)} requests to read sensitive columns: "
            f"{approved} approved, {ended} ended, {uses} uses. That nobody read them otherwise is "
            "that region's claim."
        )


def _texts(entry: Entry) -> list[str]:
    columns = entry.record["columns"]
    return [str(each) for each in columns] if isinstance(columns, list) else []
