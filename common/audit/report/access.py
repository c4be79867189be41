"""The report's table of who was granted sensitive columns, and what they did with it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from common.audit.verify.replay import Entry, Evidence, LogReplay


@dataclass(frozen=True)
class AccessGrant:
    """A request to read sensitive columns of a region, and what became of it.

    Attributes:
        region: The region.
        index: The request's entry in its log.
        request_id: Its id.
        table: The table.
        columns: The columns.
        because: What for, in the words of who asked.
        asked_at: When.
        requester: Who asked, as the region's policy names them; None if it does not.
        approver: Who approved, likewise; None if nobody did.
        approved_at: When; None if nobody did.
        expires: Until when it held; None if nobody approved.
        uses: How often it was used.
        end: ``expired``, ``revoked``, or None if the log has no end of it.
        ended_at: When that was logged; None likewise.
    """

    region: str
    index: int
    request_id: str
    table: str
    columns: tuple[str, ...]
    because: str
    asked_at: str
    requester: str | None
    approver: str | None = None
    approved_at: str | None = None
    expires: str | None = None
    uses: int = 0
    end: str | None = None
    ended_at: str | None = None


def access_grants(evidence: Evidence) -> list[AccessGrant]:
    """Every request of every region, by region and log order."""
    return [grant for replay in evidence.regions() for grant in _of_region(replay)]


def _of_region(replay: LogReplay) -> list[AccessGrant]:
    grants: dict[str, AccessGrant] = {}
    people: object = None
    for entry in replay.entries:
        if entry.kind == "policy":
            access = entry.part("policy").get("access")
            people = access.get("people") if isinstance(access, dict) else None
        elif entry.kind == "access-request":
            grants.setdefault(entry.text("request_id"), _requested(entry, people))
        elif entry.kind.startswith("access-"):
            grant = grants.get(entry.text("request_id"))
            if grant is not None:
                grants[grant.request_id] = _after(grant, entry, people)
    return [*grants.values()]


def _requested(entry: Entry, people: object) -> AccessGrant:
    columns = entry.record["columns"]
    return AccessGrant(
        region=entry.party,
        index=entry.index,
        request_id=entry.text("request_id"),
        table=entry.text("table"),
        columns=tuple(map(str, columns)) if isinstance(columns, list) else (),
        because=entry.text("because"),
        asked_at=entry.text("time"),
        requester=_person(entry, people),
    )


def _after(grant: AccessGrant, entry: Entry, people: object) -> AccessGrant:
    if entry.kind == "access-approval":
        return replace(
            grant,
            approver=_person(entry, people),
            approved_at=entry.text("time"),
            expires=entry.text("expires"),
        )
    if entry.kind == "access-use":
        return replace(grant, uses=grant.uses + 1)
    end = "revoked" if entry.kind == "access-revocation" else "expired"
    return replace(grant, end=end, ended_at=entry.text("time"))


def _person(entry: Entry, people: object) -> str | None:
    if not isinstance(people, dict):
        return None
    return next(
        (
            str(name)
            for name, keys in people.items()
            if isinstance(keys, list) and not set(entry.signers).isdisjoint(map(str, keys))
        ),
        None,
    )
