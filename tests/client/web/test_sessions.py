"""Sessions end, give way, and are nobody else's."""

from __future__ import annotations

from client.consent_service.identity import Identity
from client.web.sessions import Sessions


def identity(name: str) -> Identity:
    return Identity(name, False, False, "token", f"jti-{name}", 0.0, 60.0)


def make(clock: list[float], limit: int = 3) -> Sessions:
    return Sessions(lifetime_s=100, idle_s=30, limit=limit, clock_s=lambda: clock[0])


def test_a_session_is_found_by_its_id_alone() -> None:
    sessions = make([0.0])
    first, second = sessions.begin(identity("a")), sessions.begin(identity("a"))
    assert first != second
    found, other = sessions.find(first), sessions.find(second)
    assert found is not None
    assert other is not None
    assert found.identity.customer_ref == "a"
    assert not found.accepts(other.csrf)
    for wrong in (None, "", first[:-1], first + "x", "\ud800"):
        assert sessions.find(wrong) is None


def test_the_process_does_not_keep_the_id_itself() -> None:
    sessions = make([0.0])
    session_id = sessions.begin(identity("a"))
    assert session_id not in repr(sessions.__dict__)
    assert "token" not in repr(sessions.find(session_id)).replace("token_id", "")


def test_it_ends_when_unused_when_old_and_when_told() -> None:
    clock = [0.0]
    sessions = make(clock)
    session_id = sessions.begin(identity("a"))
    for clock[0] in (29, 58, 87):
        assert sessions.find(session_id)
    clock[0] = 100
    assert sessions.find(session_id) is None
    unused = sessions.begin(identity("a"))
    clock[0] = 130
    assert sessions.find(unused) is None
    ended = sessions.begin(identity("a"))
    sessions.end(ended)
    sessions.end(ended)
    sessions.end(None)
    assert sessions.find(ended) is None


def test_the_longest_unused_gives_way() -> None:
    clock = [0.0]
    sessions = make(clock, limit=2)
    first, second = sessions.begin(identity("a")), sessions.begin(identity("b"))
    clock[0] = 1
    assert sessions.find(first)
    third = sessions.begin(identity("c"))
    assert sessions.find(second) is None
    assert sessions.find(first)
    assert sessions.find(third)


def test_ended_sessions_do_not_pile_up() -> None:
    clock = [0.0]
    sessions = make(clock, limit=1000)
    for clock[0] in range(0, 400, 10):
        sessions.begin(identity("a"))
    assert len(sessions._sessions) <= 3
