"""Released quantiles of recency and frequency, as a file that regions' profiles take.

Regions score their customers by cuts (`fedpref-region profile build --cuts`). By cuts that were
released over all regions a score means the same everywhere, and may be told to customers.
"""

from __future__ import annotations

import json
import math
from itertools import pairwise

from common.analytics.answers import ReleasedAnswer, ReleasedAnswers
from common.analytics.cuts import Cuts
from common.analytics.purchase_questions import DAY_MS, FREQUENCY, RECENCY
from common.errors import InputError
from common.timestamps import parse_time

#: What a region's profiles count frequency in: a year, which may have a leap day.
YEAR_DAYS = (365, 366)
_SHARES = (0.2, 0.4, 0.6, 0.8)
_DECIMALS = 3
# The answer is about the time from a purchase to the window's end, a midnight; profiles count the
# days that began since: half a day more, on average over the times of a day.
_DAYS_BEGUN = 0.5


def cuts_file(found: ReleasedAnswers, scope: str) -> str:
    """The file (TOML).

    Args:
        found: What a run of questions published.
        scope: Whose customers: all regions' together, or a region.

    Raises:
        InputError: The run has no answer to one of the questions, or asked about more or less than
            a year, or its noise leaves no four cuts.
    """
    begin, end = (parse_time(each) for each in found.window)
    if (end - begin) // DAY_MS not in YEAR_DAYS:
        raise InputError(
            f"The run {found.run} asked about {found.window[0]} to {found.window[1]}; profiles "
            "count days with purchases in a year.",
            remedy="Ask recency-cuts and frequency-cuts with a window of a year.",
        )
    recency = _four(found.of(RECENCY, scope), more=_DAYS_BEGUN)
    frequency = _four(found.of(FREQUENCY, scope))
    source = f"run {found.run}, {scope}, {found.window[0][:10]} to {found.window[1][:10]}"
    return (
        f"# Cuts that were released under differential privacy: epsilon {found.epsilon} and delta "
        f"{found.delta} for the whole run.\n"
        f"recency = {recency}      # days since the last purchase\n"
        f"frequency = {frequency}  # days with a purchase in a year\n"
        f"source = {json.dumps(source)}\n"
        "released = true\n"
    )


def _four(answer: ReleasedAnswer, *, more: float = 0.0) -> list[float]:
    question = answer.question
    if not isinstance(question, Cuts) or question.probabilities != _SHARES:
        raise InputError(f"{question.name} is not asked in fifths.")
    read = question.read(answer.released, answer.noise_stddev).value
    cuts = [round(float(each) + more, _DECIMALS) for each in read]
    if not all(map(math.isfinite, cuts)) or not all(one < two for one, two in pairwise(cuts)):
        raise InputError(
            f"Noise leaves no four cuts of {question.name} for {answer.scope}.",
            remedy="Ask with more epsilon, or of more customers.",
        )
    return cuts
