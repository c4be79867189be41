"""The second phase of a round with distributed noise: a sum that opens once, for one set.

Five questions to the regions (`common.double_masking`): keys, shares, masked values, word on whose
values arrived, and the shares that open their sum. Regions may be lost at each of them; their masks
come off all the same as long as enough are left. Before masked values are asked for, an execution
that fails costs nothing, and another is begun. After that what was sealed is dead: it left once,
and a region never masks it again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
from flwr.app import Message
from flwr.serverapp import Grid

from common.canonical_json import JsonValue
from common.double_masking.codec import (
    bytes_from_json,
    deliveries_to_json,
    envelopes_to_json,
    reveal_from_json,
    shares_from_json,
)
from common.double_masking.coordinator import CoordinatorExecution
from common.double_masking.records import Execution
from common.errors import FormatError
from common.keys import Registry
from common.parameters import ArraySpec, arrays_digest
from common.plan import RunPlan
from common.release_bounds import release_norm_bound
from common.secure_aggregation import RoundContext, SecureSumRefusedError, ring_values
from common.secure_aggregation.quantiser import ring_specs
from common.timestamps import now_ms
from server.mask_replies import MASK_ENTRY_FIELDS
from server.region_queries import RegionQueries
from server.reply_checks import (
    ReplyRefusedError,
    check_context,
    check_logged,
    check_record,
    check_specs,
    decode_base64,
    open_entry,
    open_reply,
)
from server.round_total import GridTotal, IntArray
from server.secure_sum import Nodes, OnDropped, SecureTotal

#: How many executions a round may begin before masked values are asked for.
MOST_EXECUTIONS = 3

# What makes the next model reads sums in pieces of so many values.
_BLOCK = 1 << 16

_CONTEXT = ("status", "run", "round", "attempt", "region", "step")
_MASK_FIELDS = (
    "roster",
    "masked",
    "mask_entry",
    "leaf_index",
    "checkpoint",
    "inclusion_proof",
)

Arrays = Mapping[str, npt.NDArray[np.generic]]
#: Takes one region's answer: its header and its arrays.
Take = Callable[[str, dict[str, JsonValue], Arrays], None]
Dropped = dict[str, tuple[str, str]]


@dataclass(frozen=True, eq=False)
class SharedTotal(GridTotal):
    """A total in whole grid units, of which each region's noise is a share.

    Attributes:
        honest_survivors_min: How many shares come to the noise that the plan's mechanism names.
    """

    honest_survivors_min: int

    @property
    def noise_gain(self) -> float:
        """By how much its noise is larger than that; see `RoundTotal`."""
        return math.sqrt(self.n_regions / self.honest_survivors_min)


@dataclass(frozen=True)
class _Asked:
    """What every region of a step is asked, and where.

    Attributes:
        grid: Flower's connection to the nodes.
        nodes: Each region's node.
        execution: The execution.
    """

    grid: Grid
    nodes: Mapping[str, int]
    execution: Execution


class DoubleMaskedSum:
    """Carries out the second phase of a round with distributed noise.

    Args:
        plan: The run plan.
        registry: The verified key registry.
        timeout_s: For how long all regions together may take to answer one question, in seconds.
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
        attempted: Mapping[str, int],
        *,
        least: int,
        on_dropped: OnDropped,
    ) -> SecureTotal | None:
        """Asks for the sum of the regions that trained.

        Args:
            grid: Flower's connection to the nodes.
            nodes: Where regions are.
            context: What the sum is about.
            attempted: The regions whose updates count, and how many executions each has begun.
            least: The fewest regions that the sum may be of.
            on_dropped: Told of each region whose update is not in it.

        Returns:
            The sum, or None if too few regions were left: then nothing is known of any.

        Raises:
            SecureSumRefusedError: Enough answered, and what they gave up opens no sum: a region
                shared other secrets than it masked with.
        """
        left, first = set(attempted), 1 + max(attempted.values(), default=0)
        least = max(3, least, self._plan.aggregation.honest_survivors_min)
        for attempt in range(first, first + MOST_EXECUTIONS):
            found = nodes(frozenset())
            absent = {region: ("no-node", f"{region} is not connected.") for region in left}
            self._drop(left, {r: why for r, why in absent.items() if r not in found}, on_dropped)
            if len(left) < least:
                return None
            execution = Execution(context, attempt, frozenset(self._plan.regions), least)
            asked = _Asked(grid, {region: found[region] for region in left}, execution)
            coordinator = CoordinatorExecution(
                execution, self._registry, now_ms, n_values=self._n_values(context)
            )
            dropped = self._to_shares(asked, coordinator, left)
            if not dropped:
                return self._to_sum(asked, coordinator, left, on_dropped)
            self._drop(left, dropped, on_dropped)
        return None

    def _to_shares(
        self, asked: _Asked, coordinator: CoordinatorExecution, left: set[str]
    ) -> Dropped:
        """Keys and shares; gives who is missing, with the reason. Nothing has left so far."""
        dropped = self._ask(
            asked,
            "pin",
            dict.fromkeys(sorted(left), None),
            {"keys"},
            lambda region, header, _: coordinator.accept_keys(
                region, bytes_from_json(header["keys"])
            ),
        )
        if dropped:
            return dropped
        keys, threshold = coordinator.close_keys()
        content: JsonValue = {"keys": envelopes_to_json(keys), "threshold": threshold}
        return self._ask(
            asked,
            "share",
            dict.fromkeys(sorted(left), content),
            {"shares"},
            lambda region, header, _: coordinator.accept_shares(
                region, shares_from_json(header["shares"])
            ),
        )

    def _to_sum(
        self,
        asked: _Asked,
        coordinator: CoordinatorExecution,
        left: set[str],
        on_dropped: OnDropped,
    ) -> SecureTotal | None:
        """Masked values, agreement and shares: from here on there is one sum, or none."""
        specs = ring_specs(self._plan.released_arrays(asked.execution.context.mechanism))
        deliveries: dict[str, JsonValue] = {
            region: deliveries_to_json(coordinator.deliveries(region)) for region in sorted(left)
        }

        def take(region: str, header: dict[str, JsonValue], arrays: Arrays) -> None:
            self._check_mask(asked.execution, region, header, arrays)
            flat = [arrays[name].reshape(-1).view(np.uint32) for name in sorted(arrays)]
            coordinator.accept_masked(region, np.concatenate(flat))

        lost = self._ask(asked, "mask", deliveries, {*_MASK_FIELDS}, take, specs)
        self._drop(left, lost, on_dropped)
        try:
            survivors = coordinator.close_masked()
            agreements = self._agreements(asked, coordinator, survivors)
            self._ask(
                asked,
                "unmask",
                dict.fromkeys(survivors, agreements),
                {"reveal"},
                lambda region, header, _: coordinator.accept_reveal(
                    region, reveal_from_json(header["reveal"])
                ),
            )
            total = coordinator.sum()
        except SecureSumRefusedError as error:
            if not error.reason.startswith("too-few"):
                raise
            reason = (error.reason, error.message)
            self._drop(left, dict.fromkeys(sorted(left), reason), on_dropped)
            return None
        opened = shared_total(total, self._plan, asked.execution.context, len(survivors))
        return SecureTotal(asked.execution.attempt, survivors, opened)

    def _agreements(
        self, asked: _Asked, coordinator: CoordinatorExecution, survivors: Sequence[str]
    ) -> JsonValue:
        self._ask(
            asked,
            "agree",
            {region: [*survivors] for region in survivors},
            {"agreement"},
            lambda region, header, _: coordinator.accept_agreement(
                region, bytes_from_json(header["agreement"])
            ),
        )
        return envelopes_to_json(coordinator.close_agreement())

    def _ask(
        self,
        asked: _Asked,
        step: str,
        contents: Mapping[str, JsonValue],
        fields: set[str],
        take: Take,
        specs: Sequence[ArraySpec] = (),
    ) -> Dropped:
        """One question to each region; gives who is missing, with the reason."""
        execution, context = asked.execution, asked.execution.context
        missing: Dropped = {
            region: ("no-reply", f"{region} did not {step} in time.") for region in contents
        }
        headers: dict[str, dict[str, JsonValue]] = {
            region: {
                "run": context.run,
                "round": context.server_round,
                "attempt": execution.attempt,
                "step": step,
                "content": content,
            }
            for region, content in contents.items()
        }
        replies = self._queries.ask(
            asked.grid, "execute", asked.nodes, headers, context.server_round
        )
        for region, reply in replies:
            try:
                header, arrays = self._read(reply, asked, region, step, fields, specs)
                take(region, header, arrays)
                del missing[region]
            except (ReplyRefusedError, SecureSumRefusedError) as error:
                missing[region] = (error.reason, error.message)
            except FormatError as error:
                missing[region] = ("malformed-reply", error.message)
        return missing

    def _read(
        self,
        reply: Message,
        asked: _Asked,
        region: str,
        step: str,
        fields: set[str],
        specs: Sequence[ArraySpec],
    ) -> tuple[dict[str, JsonValue], Arrays]:
        wanted = {*_CONTEXT, *fields}
        header, received = open_reply(reply, asked.nodes[region], specs, wanted)
        context = asked.execution.context
        check_context(
            header,
            {
                "run": context.run,
                "round": context.server_round,
                "attempt": asked.execution.attempt,
                "region": region,
                "step": step,
            },
        )
        return header, check_specs(received, specs)

    def _check_mask(
        self, execution: Execution, region: str, header: Mapping[str, JsonValue], arrays: Arrays
    ) -> None:
        """The region has logged that these very values leave it."""
        masked = arrays_digest(arrays)
        if header["masked"] != masked:
            raise ReplyRefusedError("wrong-digest", "The update is not what its digest states.")
        entry = decode_base64(header["mask_entry"])
        record = open_entry(
            entry, region, self._registry, kind="mask", fields=MASK_ENTRY_FIELDS, now_ms=now_ms()
        )
        expected: dict[str, JsonValue] = {
            "run": execution.context.run,
            "round": execution.context.server_round,
            "attempt": execution.attempt,
            "region": region,
            "roster": header["roster"],
            "masked": masked,
        }
        check_record(record, expected)
        origin = f"{self._plan.federation}/{region}"
        check_logged(header, entry, region, origin, self._registry)

    def _n_values(self, context: RoundContext) -> int:
        return sum(math.prod(s.shape) for s in self._plan.released_arrays(context.mechanism))

    @staticmethod
    def _drop(
        left: set[str], missing: Mapping[str, tuple[str, str]], on_dropped: OnDropped
    ) -> None:
        for region, (reason, detail) in sorted(missing.items()):
            left.discard(region)
            on_dropped(region, reason, detail)


def shared_total(
    vector: npt.NDArray[np.uint32], plan: RunPlan, context: RoundContext, n_summed: int
) -> SharedTotal:
    """A sum of ring elements as whole grid units, by array; only if so many can have come to it.

    Args:
        vector: The sum, all masks off.
        plan: The run plan.
        context: What the sum is about.
        n_summed: How many regions are in it.

    Raises:
        SecureSumRefusedError: ``masks-do-not-cancel``: a region gave up shares of other secrets,
            or did not keep to its range.
    """
    mechanism = plan.mechanism_of(context.server_round)
    square = 0.0
    for values in ring_values(vector, context.quantiser, n_summed=n_summed):
        square += float(values @ values)
    # Written so that what is no number does not pass.
    if not math.sqrt(square) <= n_summed * release_norm_bound(plan, mechanism):
        raise SecureSumRefusedError(
            "masks-do-not-cancel", f"The sum is longer than {n_summed} updates can be."
        )
    specs = sorted(plan.released_arrays(mechanism.name), key=lambda each: each.name)
    steps: dict[str, Sequence[IntArray]] = {}
    start = 0
    for spec in specs:
        flat = vector[start : start + math.prod(spec.shape)].view(np.int32)
        steps[spec.name] = [
            cast("IntArray", flat[at : at + _BLOCK]) for at in range(0, flat.size, _BLOCK)
        ]
        start += flat.size
    return SharedTotal(
        n_regions=n_summed,
        shapes={spec.name: spec.shape for spec in specs},
        steps=steps,
        grid_exponent=mechanism.grid_exponent,
        honest_survivors_min=plan.aggregation.honest_survivors_min,
    )


def sum_of_shares(releases: Sequence[Arrays], plan: RunPlan, server_round: int) -> SharedTotal:
    """What regions' releases come to where all of them are at hand, as in studies and tests.

    Args:
        releases: What each region sealed, whole grid units.
        plan: A plan with distributed noise.
        server_round: The round, from 1.

    Raises:
        SecureSumRefusedError: They are more than the ring has room for.
    """
    vectors = [
        np.concatenate([each[name].astype("<i4").reshape(-1) for name in sorted(each)])
        for each in releases
    ]
    total = np.zeros(vectors[0].shape, np.uint32)
    for vector in vectors:
        total += vector.view(np.uint32)
    context = RoundContext.of(plan, server_round, "0" * 64)
    return shared_total(total, plan, context, len(releases))
