"""The access desk: a grant's life, and every way around it is refused and is an incident."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from client.engine.home import RegionHome
from client.engine.incidents import incident_record
from client.engine.log_state import LogState
from client.engine.policy import RegionPolicy, read_policy
from client.engine.policy_desk import sign_policy
from client.governance import access_desk
from client.governance.access_desk import AccessDesk
from client.governance.access_records import sign_access
from client.governance.column_store import ColumnStore
from client.governance.grants import AccessRefusedError, GrantBook
from common.audit.entry import make_entry
from common.audit.log import AuditLog
from common.errors import FedprefError, FormatError, InputError, StorageError, VerificationError
from tests.support.access_home import (
    ANALYST,
    ANALYST_APPROVES,
    GRANT_S,
    OFFICER,
    OFFICER_ASKS,
    ROWS,
    STRANGER,
    TABLE,
    OpenDesk,
    access_policy,
    make_access_home,
    open_access,
)
from tests.support.memory_signer import MemorySigner
from tests.support.region_home import REGION

Act = Callable[[OpenDesk], object]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> RegionHome:
    return make_access_home(tmp_path_factory.mktemp("access") / "home")


@pytest.fixture
def opened(made: RegionHome) -> Iterator[OpenDesk]:
    """A desk on a home that earlier tests have left their grants and incidents in."""
    with open_access(made) as desk:
        yield desk


def since(opened: OpenDesk, before: list[str]) -> list[str]:
    return opened.kinds()[len(before) :]


def test_a_grant_from_request_to_expiry(opened: OpenDesk) -> None:
    before, desk = opened.kinds(), opened.desk
    request = opened.request()
    request_id = desk.file(request)
    opened.later(60)
    approval = opened.approval(request)
    assert desk.file(approval) == request_id
    opened.later(60)
    assert desk.use(opened.use(approval, 1)).equals(ROWS.select(["email"]))
    assert desk.use(opened.use(approval, 2, columns=("email", "phone"))).equals(
        ROWS.select(["email", "phone"])
    )
    assert desk.note_expiries() == []
    opened.later(GRANT_S)
    assert desk.note_expiries() == [request_id]
    assert desk.note_expiries() == []
    assert since(opened, before) == [
        *("access-request", "access-approval", "access-use", "access-use", "access-expiry")
    ]
    shown = {each.grant.request.request_id: each for each in desk.grants()}[request_id]
    assert (shown.state, shown.requester, shown.approver) == ("expired", "analyst-1", "officer-1")
    assert (shown.grant.uses, shown.request) == (2, request)


def test_nothing_is_read_before_the_log_has_the_use(
    opened: OpenDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    approval = opened.granted()
    before, read = opened.kinds(), []
    granted = ColumnStore.granted

    def seen(self: ColumnStore, use: object) -> object:
        read.append(since(opened, before))
        return granted(self, use)  # type: ignore[arg-type]

    def full(self: AuditLog, entries: object, **_: object) -> list[int]:
        raise StorageError("The disk is full.")

    monkeypatch.setattr(ColumnStore, "granted", seen)
    with monkeypatch.context() as patched:
        patched.setattr(AuditLog, "append", full)
        with pytest.raises(StorageError, match="full"):
            opened.desk.use(opened.use(approval))
    assert read == []
    opened.desk.use(opened.use(approval))
    assert read == [["access-use"]]


def test_low_columns_are_free_and_others_are_not(opened: OpenDesk) -> None:
    before = opened.kinds()
    assert opened.desk.read(TABLE, ["tier"]).equals(ROWS.select(["tier"]))
    assert since(opened, before) == []
    for column in ("customer", "email"):
        with pytest.raises(AccessRefusedError, match="no grant was shown"):
            opened.desk.read(TABLE, ["tier", column])
    assert since(opened, before) == ["incident", "incident"]
    assert [each["reason"] for each in opened.incidents()[-2:]] == ["access-refused"] * 2
    assert "The column email of members is of high grade" in opened.incidents()[-1]["detail"]


def later(seconds: float, act: Act) -> Act:
    def acted(opened: OpenDesk) -> object:
        opened.later(seconds)
        return act(opened)

    return acted


def approved_by(signer: MemorySigner, asked_by: MemorySigner = ANALYST) -> Act:
    def act(opened: OpenDesk) -> object:
        request = opened.request(signer=asked_by)
        opened.desk.file(request)
        return opened.desk.file(opened.approval(request, signer=signer))

    return act


def with_approval(change: Callable[[OpenDesk, bytes], bytes]) -> Act:
    """Asks for a grant, and files what a test makes of the request."""

    def act(opened: OpenDesk) -> object:
        request = opened.request()
        opened.desk.file(request)
        return opened.desk.file(change(opened, request))

    return act


def with_use(change: Callable[[OpenDesk, bytes], bytes]) -> Act:
    """Gets a grant, and shows what a test makes of the approval."""

    def act(opened: OpenDesk) -> object:
        return opened.desk.use(change(opened, opened.granted()))

    return act


def used_twice(opened: OpenDesk) -> object:
    use = opened.use(opened.granted())
    opened.desk.use(use)
    return opened.desk.use(use)


def used_after_revocation(opened: OpenDesk) -> object:
    request = opened.request()
    opened.desk.file(request)
    approval = opened.approval(request)
    opened.desk.file(approval)
    opened.desk.file(opened.revocation(request))
    return opened.desk.use(opened.use(approval))


def used_after_expiry(opened: OpenDesk) -> object:
    approval = opened.granted()
    opened.later(GRANT_S)
    return opened.desk.use(opened.use(approval))


def used_by_an_old_signature(opened: OpenDesk) -> object:
    use = opened.use(opened.granted())
    opened.later(61)
    return opened.desk.use(use)


def used_without_approval(opened: OpenDesk) -> object:
    request = opened.request()
    opened.desk.file(request)
    return opened.desk.use(opened.use(opened.approval(request)))


def approved_after_a_week(opened: OpenDesk) -> object:
    request = opened.request()
    opened.desk.file(request)
    opened.later(7 * 86_400)
    return opened.desk.file(opened.approval(request))


def approved_twice(opened: OpenDesk) -> object:
    request = opened.request()
    opened.desk.file(request)
    opened.desk.file(opened.approval(request))
    return opened.desk.file(opened.approval(request))


def asked_twice(opened: OpenDesk) -> object:
    request = opened.request()
    opened.desk.file(request)
    return opened.desk.file(request)


def expired_by_hand(opened: OpenDesk) -> object:
    from client.governance.access_records import AccessExpiry

    approval = opened.granted()
    request_id = opened.desk.grants()[-1].grant.request.request_id
    del approval
    record = AccessExpiry(request_id, REGION, 0, opened.now)
    return opened.desk.file(sign_access(record, opened.home.signer("trainer")))


REFUSED: dict[str, tuple[Act, str]] = {
    "approved by who asked, with another key": (
        approved_by(ANALYST_APPROVES),
        "another person has to approve it",
    ),
    "approved by the officer who asked": (
        approved_by(OFFICER, asked_by=OFFICER_ASKS),
        "another person has to approve it",
    ),
    "approved with a requester's key": (approved_by(OFFICER_ASKS), "key"),
    "approved with a key of nobody's": (approved_by(MemorySigner("nobody")), "key"),
    "asked for by somebody whom the policy does not name": (
        lambda o: o.desk.file(o.request(signer=STRANGER)),
        "names nobody with the key",
    ),
    "asked for longer than the policy grants": (
        lambda o: o.desk.file(o.request(grant_s=GRANT_S + 1)),
        "at most",
    ),
    "asked for in another region's name": (
        lambda o: o.desk.file(o.request(region="region-2")),
        "of region-2",
    ),
    "asked for an hour ago": (
        lambda o: o.desk.file(o.request(time_ms=o.now - 3_600_000)),
        "not of now",
    ),
    "asked for ahead of the clock": (
        lambda o: o.desk.file(o.request(time_ms=o.now + 6_000)),
        "not of now",
    ),
    "asked for twice": (asked_twice, "was asked for before"),
    "approved for longer than asked": (
        with_approval(lambda o, r: o.approval(r, expires_ms=o.now + GRANT_S * 1000 + 1)),
        "longer than it was asked for",
    ),
    "approved for no time": (
        with_approval(lambda o, r: o.approval(r, expires_ms=o.now)),
        "longer than it was asked for",
    ),
    "approved by another hash": (
        with_approval(lambda o, r: o.approval(r, request="0" * 64)),
        "hash of another request",
    ),
    "approved after a week": (approved_after_a_week, "lapsed"),
    "approved twice": (approved_twice, "is approved already"),
    "used without approval": (used_without_approval, "is not approved"),
    "used by somebody else": (
        with_use(lambda o, a: o.use(a, signer=OFFICER_ASKS)),
        "is not officer-1's",
    ),
    "used for a column that was not granted": (
        with_use(lambda o, a: o.use(a, columns=("customer", "email"))),
        "does not cover the column customer",
    ),
    "used by another approval's hash": (
        with_use(lambda o, a: o.use(a, approval="0" * 64)),
        "hash of another approval",
    ),
    "used with a number left out": (with_use(lambda o, a: o.use(a, 2)), "this is use 2"),
    "shown twice": (used_twice, "this is use 1"),
    "used after it was revoked": (used_after_revocation, "it is revoked"),
    "used after it had run out": (used_after_expiry, "it is expired"),
    "used by a signature from before": (used_by_an_old_signature, "not of now"),
    "shown as a use, and a request": (lambda o: o.desk.use(o.request()), "not filed here"),
    "filed, and a use": (
        lambda o: o.desk.file(o.use(o.granted())),
        "not filed here",
    ),
    "ended by hand": (expired_by_hand, "not filed here"),
    "of a grant that nobody knows": (
        with_use(lambda o, a: o.use(a, request_id="01ARZ3NDEKTSV4RRFFQ69G5FAV")),
        "no access request",
    ),
    "no record": (lambda o: o.desk.use(b"{}"), "envelope"),
    "an entry of another kind": (
        lambda o: o.desk.use(make_entry(_incident(o), o.home.signer("trainer"))),
        "no record about access",
    ),
}


def _incident(opened: OpenDesk) -> dict[str, object]:
    record = incident_record(
        run=None, server_round=None, region=REGION, reason="late", detail="x", time_ms=opened.now
    )
    return dict(record)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_may_not_be_is_refused_and_is_an_incident(name: str, opened: OpenDesk) -> None:
    act, said = REFUSED[name]
    before = len(opened.incidents())
    with pytest.raises((AccessRefusedError, VerificationError, FormatError), match=said):
        act(opened)
    new = opened.incidents()[before:]
    assert [each["reason"] for each in new] == ["access-refused"]
    assert opened.kinds()[-1] == "incident"


def test_columns_that_are_not_kept_are_a_mistake_and_no_incident(opened: OpenDesk) -> None:
    before = opened.kinds()
    with pytest.raises(InputError, match="no column 'age'"):
        opened.desk.file(opened.request(columns=("age",)))
    with pytest.raises(InputError, match="No table 'visits'"):
        opened.desk.file(opened.request(table="visits"))
    assert since(opened, before) == []


def test_what_is_too_large_to_hand_out_is_said_before_it_is_logged(
    opened: OpenDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    approval = opened.granted()
    before = opened.kinds()
    monkeypatch.setattr(access_desk, "MAX_READ_BYTES", 10)
    with pytest.raises(InputError, match="handed out at once"):
        opened.desk.use(opened.use(approval))
    assert since(opened, before) == []


def test_a_pending_request_is_revoked_and_cannot_be_approved(opened: OpenDesk) -> None:
    request = opened.request()
    opened.desk.file(request)
    opened.desk.file(opened.revocation(request))
    with pytest.raises(AccessRefusedError, match="it is revoked"):
        opened.desk.file(opened.approval(request))


def test_what_ran_out_is_noted_before_anything_else_is_logged(opened: OpenDesk) -> None:
    opened.granted()
    opened.later(GRANT_S)
    before = opened.kinds()
    opened.desk.file(opened.request())
    *noted, last = since(opened, before)
    # Grants of earlier tests may have run out as well.
    assert (set(noted), last) == ({"access-expiry"}, "access-request")


def test_states_of_requests_by_the_clock(opened: OpenDesk) -> None:
    request = opened.request()
    opened.desk.file(request)
    opened.granted()

    def states() -> list[str]:
        return [each.state for each in opened.desk.grants()[-2:]]

    assert states() == ["requested", "granted"]
    opened.later(GRANT_S)
    assert states() == ["requested", "expired"]
    opened.later(7 * 86_400)
    assert states() == ["lapsed", "expired"]
    opened.desk.note_expiries()


def test_a_desk_that_is_opened_anew_goes_on_where_the_log_is(made: RegionHome) -> None:
    with open_access(made) as first:
        approval = first.granted()
        first.desk.use(first.use(approval))
        now = first.now
    with open_access(made) as second:
        second.clock[0] = now + 1000
        with pytest.raises(AccessRefusedError, match="this is use 1"):
            second.desk.use(second.use(approval, 1))
        assert second.desk.use(second.use(approval, 2)).num_rows == 3


def test_a_log_in_which_a_grant_does_not_hold_grants_nothing(tmp_path: Path) -> None:
    home = make_access_home(tmp_path / "home")
    with open_access(home) as opened:
        forged = opened.use(opened.granted(), columns=("customer",))
        opened.log.append([forged])
        with pytest.raises(VerificationError, match="does not cover the column customer"):
            opened.desk.grants()


def test_a_home_whose_policy_grants_nobody_access(tmp_path: Path) -> None:
    home = make_access_home(tmp_path / "home")
    fields = {n: v for n, v in read_policy(home.policy).to_record().items() if n != "access"}
    with AuditLog.open(home.log, origin=home.origin, signer=home.signer("log")) as log:
        sign_policy(home, log, RegionPolicy.model_validate(fields))
    with open_access(home) as opened:
        with pytest.raises(AccessRefusedError, match="grants nobody access"):
            opened.desk.file(opened.request())


def test_another_policy_while_a_grant_holds(tmp_path: Path) -> None:
    home = make_access_home(tmp_path / "home")
    with open_access(home) as opened:
        approval, now = opened.granted(), opened.now
    without = access_policy(
        home, people={"officer-1": [OFFICER.key_id], "other": [STRANGER.key_id]}
    )
    with AuditLog.open(home.log, origin=home.origin, signer=home.signer("log")) as log:
        sign_policy(home, log, without)
    with open_access(home) as opened:
        opened.clock[0] = now
        with pytest.raises(AccessRefusedError, match="names nobody with the key"):
            opened.desk.use(opened.use(approval))


def test_the_log_may_move_while_a_record_is_judged(
    opened: OpenDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge, raced = GrantBook.judge, []
    request = opened.request()
    opened.desk.file(request)

    def overtaken(self: GrantBook, *arguments: object) -> None:
        judge(self, *arguments)  # type: ignore[arg-type]
        if not raced:
            raced.append(opened.log.append([opened.revocation(request)]))

    monkeypatch.setattr(GrantBook, "judge", overtaken)
    with pytest.raises(AccessRefusedError, match="it is revoked"):
        opened.desk.file(opened.approval(request))
    assert raced


def test_a_refusal_stands_when_it_cannot_be_noted(
    opened: OpenDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: AuditLog, entries: object, **_: object) -> list[int]:
        raise StorageError("The disk is full.")

    monkeypatch.setattr(AuditLog, "append", full)
    with pytest.raises(AccessRefusedError, match="no grant was shown"):
        opened.desk.read(TABLE, ["phone"])


def test_who_asks_for_nonsense_for_ever_does_not_fill_the_log(tmp_path: Path) -> None:
    home = make_access_home(tmp_path / "home")
    with open_access(home) as opened:
        for _ in range(300):
            with pytest.raises(FedprefError):
                opened.desk.use(opened.request(signer=MemorySigner("x")))
        assert len(opened.incidents()) == 1


def test_the_engine_replays_a_log_with_grants(opened: OpenDesk) -> None:
    opened.granted()
    state = LogState(opened.log, opened.home.read_registry(), REGION)
    state.refresh()
    assert state.size == opened.log.size
    assert len(state.access) == sum(kind.startswith("access-") for kind in opened.kinds())


def test_two_desks_of_one_log_are_one(made: RegionHome) -> None:
    """Both judge by the log; whoever comes second sees what the first has logged."""
    with open_access(made) as opened:
        other = AccessDesk(
            made,
            opened.log,
            opened.state,
            read_policy(made.policy),
            made.read_registry(),
            clock_ms=lambda: opened.now,
        )
        request = opened.request()
        opened.desk.file(request)
        other.file(opened.approval(request))
        assert opened.desk.grants()[-1].state == "granted"
