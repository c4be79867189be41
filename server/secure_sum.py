"""The second phase of a confidential round: masked updates of one roster, of which the sum is left.

When a round's training replies are in, every region that counts is given the roster of all of them,
and answers with its update under masks that cancel in the sum. It is all of them or nothing: where
one is missing, what the others sent tells nothing, and the regions that are left are asked again as
the next attempt. Masked updates are added as they arrive and not kept. Nothing here is secret, and
nothing is kept that a coordinator which goes on would need: the regions say what they have masked.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
from flwr.serverapp import Grid

from common.canonical_json import JsonValue
from common.keys import Registry
from common.plan import RunPlan
from common.release_bounds import release_norm_bound
from common.secure_aggregation import (
    Roster,
    RoundContext,
    SecureSumRefusedError,
    encode_roster,
    ring_values,
)
from common.secure_aggregation.roster import LEAST_SUMMED
from server.mask_replies import MaskOffer, MaskQuestion
from server.region_queries import RegionQueries
from server.reply_checks import ReplyRefusedError
from server.round_total import GridTotal, IntArray
from server.validation import ENGINE_BUSY, ENGINE_UNREACHABLE, MISSING_REASONS

#: How often one attempt asks a region that did not answer: it may be on its way back.
ASKS = 2

# What makes the next model reads sums in pieces of so many values.
_BLOCK = 1 << 16

_MAY_BE_ASKED_AGAIN = {*MISSING_REASONS, ENGINE_UNREACHABLE, ENGINE_BUSY}

#: Gives the nodes that regions have; of those named, it first waits for who is coming back.
Nodes = Callable[[AbstractSet[str]], Mapping[str, int]]
#: Told that a region's update does not count after all: region, reason code, one sentence.
OnDropped = Callable[[str, str, str], None]


@dataclass(frozen=True)
class SecureTotal:
    """What a round's secure sum came to.

    Attributes:
        attempt: The attempt that succeeded.
        regions: Whose updates are in it, in order.
        total: Their sum.
    """

    attempt: int
    regions: tuple[str, ...]
    total: GridTotal


class SecureSum:
    """Carries out the second phase of a round.

    Args:
        plan: The run plan, of a secure sum.
        registry: The verified key registry.
        timeout_s: For how long all regions together may take to answer, in seconds, each time they
            are asked.
    """

    def __init__(self, plan: RunPlan, registry: Registry, *, timeout_s: float) -> None:
        self._plan = plan
        self._registry = registry
        self._queries = RegionQueries(timeout_s)

    def run(
        self,
        grid: Grid,
        nodes: Nodes,
        context: RoundContext,
        offers: Mapping[str, MaskOffer],
        *,
        least: int,
        on_dropped: OnDropped,
    ) -> SecureTotal | None:
        """Asks for masked updates till an attempt is whole, or too few regions are left.

        Args:
            grid: Flower's connection to the nodes.
            nodes: Where regions are.
            context: What the sum is about.
            offers: What each region that counts has offered.
            least: The fewest regions that the sum may be of.
            on_dropped: Told of each region that is left out.

        Returns:
            The sum, or None with fewer than ``least`` regions: then nothing is known of any.

        Raises:
            SecureSumRefusedError: ``masks-do-not-cancel``: all answered, and what is left is no sum
                of so many updates. Masks hide by whom.
        """
        left = dict(offers)
        _drop(left, self._unfit(offers), on_dropped)
        attempt = 1 + max((offer.attempt for offer in left.values()), default=0)
        while len(left) >= max(LEAST_SUMMED, least):
            roster = Roster.of([offer.statement for offer in left.values()])
            specs = self._plan.released_arrays(context.mechanism)
            question = MaskQuestion(
                context, attempt, roster, specs, self._plan.federation, self._registry
            )
            total = _RingTotal(sum(math.prod(spec.shape) for spec in specs))
            missing = self._ask(grid, nodes, question, total)
            if not missing:
                return SecureTotal(attempt, roster.regions, self._unmasked(question, total))
            _drop(left, missing, on_dropped)
            attempt += 1
        return None

    def _unfit(self, offers: Mapping[str, MaskOffer]) -> dict[str, tuple[str, str]]:
        """Regions that cannot be in one roster with the others, with the reason.

        Whoever was left out of an attempt that others have masked stays out; of two that exclude
        each other, the one that excludes, or is excluded by, more of the others gives way.
        """
        unfit: dict[str, tuple[str, str]] = {}
        statements = Roster.of([offer.statement for offer in offers.values()]).statements
        count = Counter(each.public_key for each in statements)
        for each in statements:
            if count[each.public_key] > 1:
                detail = f"{each.region} has another region's masking key."
                unfit[each.region] = ("key-shared", detail)
        while True:
            fit = [region for region in sorted(offers) if region not in unfit]
            conflicts: Counter[str] = Counter()
            for region in fit:
                excluded = set(fit) - offers[region].regions if offers[region].attempt else set()
                conflicts.update(dict.fromkeys(excluded, 1))
                conflicts[region] += len(excluded)
            if not +conflicts:
                return unfit
            worst = max(fit, key=lambda region: (conflicts[region], region))
            unfit[worst] = ("not-survivors", f"{worst} was left out of an earlier attempt.")

    def _ask(
        self, grid: Grid, nodes: Nodes, question: MaskQuestion, total: _RingTotal
    ) -> dict[str, tuple[str, str]]:
        """One attempt; gives who is missing, with the reason."""
        header: dict[str, JsonValue] = {
            "run": question.context.run,
            "round": question.context.server_round,
            "attempt": question.attempt,
            "roster": encode_roster(question.roster),
        }
        pending = set(question.roster.regions)
        refused: dict[str, tuple[str, str]] = {}
        for number in range(ASKS):
            found = nodes(pending if number else frozenset())
            asked = {region: found[region] for region in sorted(pending) if region in found}
            for region in pending:
                refused[region] = (
                    ("no-reply", f"{region} did not send its masked update in time.")
                    if region in asked
                    else ("no-node", f"{region} is not connected.")
                )
            headers = dict.fromkeys(asked, header)
            for region, reply in self._queries.ask(
                grid, "mask", asked, headers, question.context.server_round
            ):
                try:
                    total.add(question.read(reply, asked[region], region))
                    pending.discard(region)
                    del refused[region]
                except ReplyRefusedError as error:
                    refused[region] = (error.reason, error.message)
            # Whoever has refused does not change its mind.
            if not {reason for reason, _ in refused.values()} <= _MAY_BE_ASKED_AGAIN or not pending:
                break
        return refused

    def _unmasked(self, question: MaskQuestion, total: _RingTotal) -> GridTotal:
        """The sum, once all masks are in it, and only if so many regions can have come to it."""
        quantiser, n_summed = question.context.quantiser, len(question.roster.regions)
        mechanism = self._plan.mechanism_of(question.context.server_round)
        square = 0.0
        for values in ring_values(total.vector, quantiser, n_summed=n_summed):
            square += float(values @ values)
        # Written so that what is no number does not pass.
        if not math.sqrt(square) <= n_summed * release_norm_bound(self._plan, mechanism):
            raise SecureSumRefusedError(
                "masks-do-not-cancel", f"The sum is longer than {n_summed} updates can be."
            )
        return total.grid_total(question, n_summed)


class _RingTotal:
    """The sum modulo 2³² of what has arrived; nothing else is kept of it."""

    def __init__(self, size: int) -> None:
        self.vector: npt.NDArray[np.uint32] = np.zeros(size, np.uint32)

    def add(self, arrays: Mapping[str, npt.NDArray[np.generic]]) -> None:
        start = 0
        for name in sorted(arrays):
            piece = arrays[name].reshape(-1).view(np.uint32)
            place = self.vector[start : start + piece.size]
            np.add(place, piece, out=place)
            start += piece.size

    def grid_total(self, question: MaskQuestion, n_summed: int) -> GridTotal:
        """The same as whole steps of the grid, by array: views, not copies."""
        steps: dict[str, Sequence[IntArray]] = {}
        start = 0
        for spec in sorted(question.specs, key=lambda each: each.name):
            flat = self.vector[start : start + math.prod(spec.shape)].view(np.int32)
            steps[spec.name] = _blocks(flat)
            start += flat.size
        return GridTotal(
            n_regions=n_summed,
            shapes={spec.name: spec.shape for spec in question.specs},
            steps=steps,
            grid_exponent=question.context.quantiser.grid_exponent,
        )


def _blocks(flat: npt.NDArray[np.int32]) -> list[IntArray]:
    return [cast("IntArray", flat[at : at + _BLOCK]) for at in range(0, flat.size, _BLOCK)]


def _drop(
    left: dict[str, MaskOffer], missing: Mapping[str, tuple[str, str]], on_dropped: OnDropped
) -> None:
    for region, (reason, detail) in sorted(missing.items()):
        del left[region]
        on_dropped(region, reason, detail)
