"""Live events: the latest, of the customers heard of last, in the order of time."""

from __future__ import annotations

from client.recommend.events import LiveEvent, LiveEvents
from client.recommend.settings import LiveSettings

A, B, C = "a" * 64, "b" * 64, "c" * 64
NOW = 1_800_000_000_000


def view(item: int, at_ms: int = NOW) -> LiveEvent:
    return LiveEvent("view", item, None, at_ms)


def test_events_are_kept_in_the_order_of_time() -> None:
    live = LiveEvents(LiveSettings(keep_s=60))
    for event in (view(1, NOW - 5), view(2, NOW), view(3, NOW - 9), view(4, NOW)):
        live.add(A, event)
    assert [each.item for each in live.of(A, NOW)] == [3, 1, 2, 4]
    assert live.of(B, NOW) == ()


def test_old_events_no_longer_count() -> None:
    live = LiveEvents(LiveSettings(keep_s=60))
    live.add(A, view(1, NOW - 60_000))
    live.add(A, view(2, NOW - 59_999))
    assert [each.item for each in live.of(A, NOW)] == [2]
    assert live.of(A, NOW + 60_000) == ()


def test_the_latest_events_of_the_latest_customers_are_kept() -> None:
    live = LiveEvents(LiveSettings(most_events=2, most_customers=2))
    for number in range(4):
        live.add(A, view(number, NOW + number))
    assert [each.item for each in live.of(A, NOW)] == [2, 3]
    live.add(B, view(1))
    live.add(A, view(9, NOW + 9))
    live.add(C, view(1))
    assert len(live) == 2
    assert live.of(B, NOW) == ()
    assert len(live.of(A, NOW)) == 2


def test_whoever_withdraws_is_forgotten() -> None:
    live = LiveEvents(LiveSettings(keep_s=60))
    for sid in (A, B, C):
        live.add(sid, view(1, NOW - (0 if sid != C else 60_001)))
    live.drop(A)
    live.drop(A)
    live.keep_only(lambda sid: sid != B, now_ms=NOW)
    assert len(live) == 0
