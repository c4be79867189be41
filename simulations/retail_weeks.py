"""The calendar of Complete Journey, and where the scenario retail-5 cuts it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from common.errors import InputError
from simulations.prepared import EvaluationWindows

TRAIN_CUT_WEEK = 48
TUNING_CUT_WEEK = 43
TEST_WEEKS = 5
LAST_WEEK = 53

# The data's week 1 ends with Sunday, 2017-01-01; weeks begin on Monday, midnight in the stores'
# zone. Timestamps are in UTC. Both were measured: every row's week follows from its time.
_STORE_ZONE = ZoneInfo("America/New_York")
_WEEK_ONE = datetime(2016, 12, 26)  # wall clock; week_start gives it its zone


def week_start(week: int) -> datetime:
    """When a week of the data's calendar begins, in UTC. Week 54 is the end of the data."""
    local = (_WEEK_ONE + timedelta(weeks=week - 1)).replace(tzinfo=_STORE_ZONE)
    return local.astimezone(UTC)


def evaluation_windows(cut_week: int = TRAIN_CUT_WEEK) -> EvaluationWindows:
    """Training on the weeks up to `cut_week`, test on the five after it.

    Raises:
        InputError: There are no five weeks after it.
    """
    if not 1 <= cut_week <= LAST_WEEK - TEST_WEEKS:
        raise InputError(
            f"Week {cut_week} leaves no {TEST_WEEKS} test weeks of {LAST_WEEK}.",
            remedy=f"Cut at week 1 to {LAST_WEEK - TEST_WEEKS}.",
        )
    bounds = [week_start(week) for week in (1, cut_week + 1, cut_week + 1 + TEST_WEEKS)]
    return EvaluationWindows(*(round(moment.timestamp() * 1000) for moment in bounds))


def weeks_after(cut_week: int) -> str:
    """The test weeks after a cut, for people, such as 49–53."""
    return f"{cut_week + 1}–{cut_week + TEST_WEEKS}"


WINDOWS = evaluation_windows(TRAIN_CUT_WEEK)
TUNING_WINDOWS = evaluation_windows(TUNING_CUT_WEEK)
