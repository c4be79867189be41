"""Steps 6 and 7, continued: distributed noise. What each share adds up to, and whose sums opened.

What was charged is the cost of a Gaussian mechanism; here it is reckoned anew, from the share that
each round states, that the sum of K_min shares protects at least as well. That a region drew such
noise, and that K_min of those in a sum were honest, no log can show: the verdict says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal

from common.audit.verify.epsilon import Mechanism, composed_epsilon, shared_noise_multiplier
from common.audit.verify.plan_facts import PlanFacts
from common.audit.verify.replay import SERVER, Entry, Evidence, LogReplay
from common.audit.verify.verdict import BUDGET, CHAIN
from common.errors import VerificationError

DISTRIBUTED = "distributed"
# A share's text is exact, a multiplier's has seven digits: what is left is floating point's.
_ROUNDING = 1e-9


def verify_shared_noise(evidence: Evidence) -> None:
    """Checks charges, rounds, sums and what was opened of runs with distributed noise."""
    plan = evidence.plan
    least = 0 if plan is None or plan.record["mode"] != DISTRIBUTED else plan.honest_survivors_min
    for replay in evidence.regions():
        for entry in replay.entries:
            if entry.kind in ("charge", "round") and entry.record["run"] == evidence.run:
                _check_survivors(evidence, entry, least)
                if entry.kind == "round":
                    _check_share(evidence, entry, least)
    _check_sums(evidence, least)
    if plan is not None and least:
        _note_epsilon(evidence, plan, least)


def _check_survivors(evidence: Evidence, entry: Entry, least: int) -> None:
    stated = (entry.part("dp") if entry.kind == "round" else entry.record)["honest_survivors_min"]
    if evidence.plan is not None and stated != least:
        evidence.fail(
            BUDGET,
            "survivors-min",
            entry,
            f"It holds with {stated} honest regions in a sum; the plan has {least}.",
        )


def _check_share(evidence: Evidence, entry: Entry, least: int) -> None:
    dp = entry.part("dp")
    share = dp["share_stddev"]
    if (share is not None) != (dp["mode"] == DISTRIBUTED):
        evidence.fail(BUDGET, "share-mode", entry, "Its mode and its share of noise do not agree.")
        return
    plan = evidence.plan
    grid = None if plan is None else plan.grid_exponent_of(entry.number("round"))
    if share is None or grid is None or not least:
        return
    try:
        found = shared_noise_multiplier(
            str(share), least, clipping_norm=str(dp["clipping_norm"]), grid_exponent=grid
        )
    except VerificationError as error:
        evidence.fail(BUDGET, "share-parameters", entry, error.message)
        return
    if not found >= float(str(dp["noise_multiplier"])) * (1 - _ROUNDING):
        evidence.fail(
            BUDGET,
            "share-understated",
            entry,
            f"{least} shares of {share} grid units protect as a noise multiplier of {found:.6f}, "
            f"not of {dp['noise_multiplier']}.",
        )


def _check_sums(evidence: Evidence, least: int) -> None:
    """Each aggregate is of enough regions, and each region that opened a sum opened that one."""
    opened = _opened(evidence, least)
    for aggregate in _aggregates(evidence) if least else []:
        used = sorted(str(part["region"]) for part in aggregate.parts("regions"))
        if len(used) < least:
            evidence.fail(
                CHAIN, "survivors-too-few", aggregate, f"{len(used)} regions of {least} are in it."
            )
        helpers = opened.get((aggregate.number("round"), aggregate.number("attempt")), {})
        for helper in helpers.values():
            if helper.record["survivors"] != used:
                evidence.fail(
                    CHAIN, "unmask-mismatch", helper, "It helped to open another sum than this."
                )
        # Two thirds of those who masked, at the least; those who are in the sum are among them.
        if set(evidence.replays) >= set(used) and len(helpers) < 2 * len(used) // 3 + 1:
            evidence.fail(
                CHAIN,
                "unmask-too-few",
                aggregate,
                f"{len(helpers)} regions logged that they opened it; no sum opens with so few.",
            )


def _opened(evidence: Evidence, least: int) -> Mapping[tuple[int, int], dict[str, Entry]]:
    opened: dict[tuple[int, int], dict[str, Entry]] = {}
    for replay in evidence.regions():
        for entry in _once(evidence, replay, least):
            key = (entry.number("round"), entry.number("attempt"))
            opened.setdefault(key, {})[replay.party] = entry
    return opened


def _once(evidence: Evidence, replay: LogReplay, least: int) -> list[Entry]:
    """A region's entries of what it opened: each after its mask, each sealed update masked once."""
    masked: dict[int, Entry] = {}
    opened: dict[int, Entry] = {}
    for entry in replay.entries:
        if entry.kind not in ("release", "mask", "unmask"):
            continue
        if entry.record["run"] != evidence.run:
            continue
        number = entry.number("round")
        if entry.kind == "release":
            masked.pop(number, None)
        elif entry.kind == "mask":
            if least and number in masked:
                evidence.fail(CHAIN, "mask-twice", entry, "Its update had left under masks before.")
            masked[number] = entry
        elif not least:
            evidence.fail(CHAIN, "unmask-not-planned", entry, "The plan's masks do not open.")
        elif number not in masked or masked[number].record["attempt"] != entry.record["attempt"]:
            evidence.fail(CHAIN, "unmask-order", entry, "No mask of this attempt precedes it.")
        elif number in opened and opened[number].record["attempt"] == entry.record["attempt"]:
            evidence.fail(CHAIN, "unmask-twice", entry, "It gave up shares for this sum before.")
        else:
            opened[number] = entry
    return list(opened.values())


def _note_epsilon(evidence: Evidence, plan: PlanFacts, least: int) -> None:
    delta = float(str(plan.record["delta"]))
    stated = ", ".join(
        f"{_epsilon(plan, least, survivors, delta):.4f} with {survivors}"
        for survivors in range(least, max(0, least - 3), -1)
    )
    evidence.findings.note(
        "The run's noise is distributed: no region's update is private by itself, the sum of a "
        f"round is. By honest regions in every sum, the run's ε at δ = {delta:g} is {stated}. That "
        "each drew its share of noise is its own claim, and that so many were honest the "
        "federation's; no log can show either."
    )


def _epsilon(plan: PlanFacts, least: int, survivors: int, delta: float) -> float:
    """ε of the planned run if only so many shares are in its sums: the plan's σ, scaled."""
    mechanisms: dict[Mechanism, int] = {}
    mechanisms_of_plan = plan.record["mechanisms"]
    for each in mechanisms_of_plan if isinstance(mechanisms_of_plan, list) else []:
        if isinstance(each, dict):
            scaled = float(str(each["noise_multiplier"])) * math.sqrt(survivors / least)
            rounds = each["rounds"]
            key = (format(Decimal(repr(scaled)), "f"), str(each["sampling_probability"]))
            count = len(rounds) if isinstance(rounds, list) else 0
            mechanisms[key] = mechanisms.get(key, 0) + count
    return composed_epsilon(mechanisms, delta)


def _aggregates(evidence: Evidence) -> list[Entry]:
    replay = evidence.replays.get(SERVER)
    entries = [] if replay is None else replay.entries
    return [
        entry
        for entry in entries
        if entry.kind == "aggregate" and entry.record["run"] == evidence.run
    ]
