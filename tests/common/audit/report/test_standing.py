"""Whose consent is in force: expiry, notices, order; the same as the verifier says."""

from __future__ import annotations

import pytest

from common.audit.report.charts import consent_chart
from common.audit.report.consents import region_consents
from common.audit.report.journal import (
    FOREVER_MS,
    Choice,
    Form,
    Journal,
    LoggedNotice,
    read_journal,
)
from common.audit.report.standing import MAX_POINTS, Moment, Standings, Tally, moments
from common.audit.report.withdrawals import region_withdrawals
from common.audit.verify import Evidence, verify_with_evidence
from common.audit.verify.files import BundleFolder
from common.audit.verify.replay import Entry, LogReplay
from common.timestamps import format_time, parse_time


def journal(*rows: tuple[int, Choice, int, int]) -> Journal:
    """A journal of (customer, choice, time, until); entries stand one after the other."""
    made = Journal()
    for index, (subject, choice, time_ms, until_ms) in enumerate(rows):
        made.indexes.append(index)
        made.subjects.append(subject)
        made.choices.append(choice)
        made.times_ms.append(time_ms)
        made.until_ms.append(until_ms)
        made.forms.append(0)
        made.notices.append(0)
    made.n_subjects = len(set(made.subjects))
    made.notice_digests.append("00")
    return made


def replay(size: int) -> LogReplay:
    return LogReplay("region-1", "test/region-1", size=size)


def test_the_newest_record_counts_up_to_a_size() -> None:
    made = journal(
        (0, Choice.GIVEN, 10, FOREVER_MS),
        (1, Choice.REFUSED, 11, FOREVER_MS),
        (0, Choice.WITHDRAWN, 12, FOREVER_MS),
        (0, Choice.GIVEN, 13, FOREVER_MS),
    )
    standings = Standings(made, replay(4))
    assert standings.tally(1, 99) == Tally(in_force=1)
    assert standings.tally(2, 99) == Tally(in_force=1, refused=1)
    assert standings.tally(3, 99) == Tally(withdrawn=1, refused=1)
    assert standings.tally(4, 99) == Tally(in_force=1, refused=1)


def test_a_term_ends_at_its_last_moment() -> None:
    made = journal((0, Choice.GIVEN, 10, 50))
    standings = Standings(made, replay(1))
    assert standings.tally(1, 49) == Tally(in_force=1)
    assert standings.tally(1, 50) == Tally(expired=1)
    assert list(standings.in_force(1, 49)) == [True]
    assert list(standings.in_force(1, 50)) == [False]


def test_consents_lapse_by_notices_that_were_logged_by_then() -> None:
    made = journal((0, Choice.GIVEN, 10, FOREVER_MS))
    record = {"supersedes": "00", "in_force_from": format_time(20)}
    policy = {"policy": {"notice_grace_s": 1}}
    log = replay(6)
    log.entries.append(Entry(log.party, 4, "", "policy", policy))
    made.logged_notices.append(LoggedNotice(Entry(log.party, 5, "", "notice", record), "01"))
    standings = Standings(made, log)
    assert standings.tally(5, 9999) == Tally(in_force=1)
    assert standings.tally(6, 1019) == Tally(in_force=1)
    assert standings.tally(6, 1020) == Tally(lapsed=1)
    assert list(standings.in_force(6, 1020)) == [False]


def test_a_withdrawal_counts_for_rounds_whose_consents_are_larger_than_its_entry() -> None:
    made = journal(
        (0, Choice.GIVEN, 10, FOREVER_MS),
        (1, Choice.GIVEN, 11, FOREVER_MS),
        (0, Choice.WITHDRAWN, 20, FOREVER_MS),
        (0, Choice.GIVEN, 40, FOREVER_MS),
        (0, Choice.ERASED, 60, FOREVER_MS),
    )
    log = replay(9)
    for number, (size, at_ms) in enumerate([(2, 25), (3, 30), (4, 50)], start=1):
        record = {
            "run": "run-1",
            "round": number,
            "consent": {"size": size},
            "train": {"at": format_time(at_ms)},
        }
        log.entries.append(Entry(log.party, 5 + number, "", "round", record))
    first, second = region_withdrawals(log, made).items
    found = [
        (each.index, each.excluded_round, each.rounds_before, each.latency_ms)
        for each in (first, second)
    ]
    assert found == [(2, 2, 1, 10), (4, None, 2, None)]
    assert (first.kind, second.kind) == ("withdrawn", "erased")


def test_a_clock_set_back_does_not_move_a_record_before_those_before_it() -> None:
    made = journal(
        (0, Choice.GIVEN, 10, FOREVER_MS),
        (1, Choice.GIVEN, 100, FOREVER_MS),
        (2, Choice.GIVEN, 50, FOREVER_MS),
    )
    found = moments(made, replay(3), 200, [])
    assert [each.at_ms for each in found] == [10, 100, 200]
    assert [each.tally.in_force for each in found] == [1, 3, 3]


def test_a_clock_ahead_does_not_move_a_record_past_the_end() -> None:
    made = journal((0, Choice.GIVEN, 10, FOREVER_MS), (1, Choice.REFUSED, 10**12, FOREVER_MS))
    found = moments(made, replay(2), 200, [])
    assert [each.at_ms for each in found] == [10, 200]
    assert found[-1].tally == Tally(in_force=1, refused=1)


def test_a_long_history_is_shown_at_as_many_moments_as_a_chart_has_room_for() -> None:
    made = journal(*((n, Choice.GIVEN, 10 * n, 10 * n + 5000) for n in range(1000)))
    found = moments(made, replay(1000), 10_000, [])
    assert len(found) <= MAX_POINTS + 1
    assert found[0].at_ms == 0
    assert found[-1] == Moment(10_000, Tally(in_force=499, expired=501))
    for each in found:
        alive = sum(10 * n <= each.at_ms < 10 * n + 5000 for n in range(1000))
        assert each.tally.in_force == alive


def test_the_chart_has_the_tallys_heights() -> None:
    made = journal((0, Choice.GIVEN, 0, FOREVER_MS), (1, Choice.GIVEN, 500, FOREVER_MS))
    chart = consent_chart(region_consents(replay(2), _with_form(made), 1000))
    assert chart is not None
    assert (chart.top, chart.since_ms, chart.until_ms) == (2, 0, 1000)
    (layer,) = chart.layers
    assert layer.kind == "in_force"
    assert layer.path == (
        "M0 50.00L500 50.00L500 0.00L1000 0.00L1000 100.00L500 100.00L500 100.00L0 100.00Z"
    )


def test_there_is_no_chart_of_nothing() -> None:
    assert consent_chart(region_consents(replay(0), Journal(), 1000)) is None


def _with_form(made: Journal) -> Journal:
    made.form_list.append(Form("eu-gdpr:A6-1-a", "DE", "web-form", minor=False))
    return made


@pytest.mark.parametrize("name", ["honest", "eventful"])
def test_who_is_in_force_is_as_many_as_the_verifier_found(name: str, bundles: dict) -> None:
    """Each round's set, which the verifier compares with the round's own root, has this size."""
    verdict, evidence = verify_with_evidence(bundles[name])
    assert isinstance(evidence, Evidence)
    total = 0
    for log in evidence.regions():
        standings = Standings(read_journal(BundleFolder(bundles[name]), log, ()), log)
        for entry in log.of_kind("round"):
            size = int(str(entry.part("consent")["size"]))
            total += int(standings.in_force(size, parse_time(str(entry.part("train")["at"]))).sum())
    assert total == verdict.steps[5].counts["eligible customers"]
