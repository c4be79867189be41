"""A region's part in a sum of which the coordinator learns nothing else: its key, then its mask.

With the answer to a training request goes, in the update's place, a signed statement of a key that
serves this one round. When all who trained have made one, the coordinator gives everybody the
roster of them, and the region answers with its sealed bytes under pairwise masks. It is the region
that sees to it that this is safe: it masks only what is sealed and logged, only with regions of the
plan whose pinned keys say that they trained the same round from the same model, and at least three.

A later attempt is for survivors: its roster is within that of the attempt before, so that of the
regions that stay nothing is told but sums of three or more. Of a region that the coordinator leaves
out it can learn the update, by the difference; that is noised by itself and sealed, as in an open
run. One attempt is for one roster. The region's log is the memory of that: the entry of what is
about to leave is appended, on condition that nothing came in between, before anything leaves.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from decimal import ROUND_CEILING, Context
from pathlib import Path

import numpy as np

from client.engine.entries import MaskedUpdate, mask_record
from client.engine.log_state import LoggedMask, LogState
from client.engine.masking_keys import HeldKey, MaskingKeyStore
from client.engine.policy import RegionPolicy
from client.engine.request import MaskRequest
from client.engine.seal import Seal
from client.engine.sealed_rounds import SealedRounds
from common.audit.entry import make_entry
from common.audit.log import AuditLog, LogMovedError
from common.audit.merkle import leaf_hash
from common.canonical_json import JsonValue
from common.envelope import Envelope
from common.errors import FedprefError
from common.failpoints import Point, reach
from common.keys import Registry, Signer
from common.parameters import arrays_digest, measure_floats
from common.plan import Mechanism, RunPlan
from common.release_bounds import release_norm_bound
from common.secure_aggregation import (
    MaskContext,
    MaskingKey,
    MaskingStatement,
    Roster,
    RoundContext,
    SecureSumRefusedError,
    add_pairwise_masks,
    from_ring,
    make_statement,
    shared_secret,
    to_ring,
)
from common.secure_aggregation.mask_entry import entry_parts
from common.timestamps import parse_time

# A coordinator that asks for ever must not be able to fill the region's disk.
MAX_MASKS_A_ROUND = 64

Masked = dict[str, np.ndarray]


class Masking:
    """States keys and masks sealed updates. Calls are serialised by the engine.

    Args:
        log: The region's open log.
        state: What the log says.
        sealed: The sealed updates on their way.
        keys: Where masking keys are kept.
        registry: The verified key registry.
        policy: The policy in force.
        signer: The region's ``trainer`` key.
        clock_ms: Now, in milliseconds since the epoch.
    """

    def __init__(
        self,
        log: AuditLog,
        state: LogState,
        sealed: SealedRounds,
        keys: MaskingKeyStore,
        *,
        registry: Registry,
        policy: RegionPolicy,
        signer: Signer,
        clock_ms: Callable[[], int],
    ) -> None:
        self._log = log
        self._state = state
        self._sealed = sealed
        self._keys = keys
        self._registry = registry
        self._policy = policy
        self._signer = signer
        self._clock_ms = clock_ms
        keys.remove_leftovers()

    def offer(self, plan: RunPlan, server_round: int, seal: Seal) -> dict[str, JsonValue]:
        """What an answer to a training request holds in the place of the update.

        Args:
            plan: The run plan.
            server_round: The round.
            seal: Its sealed update, logged.

        Returns:
            The statement of the round's key, made once; and which regions the newest attempt was
            of, as a later one cannot be of others.

        Raises:
            SecureSumRefusedError: ``round-over``: the region has begun a later round.
            StorageError: The key cannot be kept or read.
        """
        self._state.refresh()
        self._require_open(plan.run_id, server_round)
        held = self._keys.read(plan.run_id, server_round)
        if held is None:
            held = self._make_key(plan, server_round, seal)
        masks = self._state.masks.get((plan.run_id, server_round), [])
        return {
            "masking_key": base64.b64encode(held.statement).decode(),
            "masked": {"attempt": masks[-1].attempt, "regions": [*masks[-1].regions]}
            if masks
            else None,
        }

    def mask(self, request: MaskRequest, plan: RunPlan) -> tuple[dict[str, JsonValue], Masked]:
        """Masks a round's sealed update for one roster; what the module's docstring says holds.

        Args:
            request: The request.
            plan: The permitted plan, whose rule is a secure sum.

        Raises:
            SecureSumRefusedError: Names the reason; nothing has left.
            StorageError: The log or a file refuses.
        """
        self._state.refresh()
        self._require_open(request.run, request.server_round)
        seal = self._sealed.read(request.run, request.server_round)
        held = self._keys.read(request.run, request.server_round)
        if seal is None or held is None:
            raise SecureSumRefusedError(
                "round-not-sealed", f"Round {request.server_round} has no update and key here."
            )
        context = RoundContext.of(plan, request.server_round, seal.model_in)
        mechanism = plan.mechanism_of(request.server_round)
        self._check_roster(request.roster, held, context, plan)
        masked = MaskedUpdate(
            run=request.run,
            server_round=request.server_round,
            attempt=request.attempt,
            region=self._policy.region,
            roster=request.roster,
            roster_digest=request.roster.digest(context),
            arrays=self._masked(request, held, seal, context, plan, mechanism),
            norm_bound=bound_text(release_norm_bound(plan, mechanism)),
        )
        index, entry = self._log_mask(masked, seal)
        reach(Point.MASK_LOGGED)
        return self._reply(masked, index, entry), {**masked.arrays}

    def forget(self, run: str, *, before: int | None = None) -> None:
        """Removes the keys of a run's rounds that are over; of all of them if it is.

        Args:
            run: The run.
            before: The round that begins; None if the run has ended.
        """
        self._keys.remove(run, before=before)

    def forget_expired(self, permits: Path) -> None:
        """Removes the keys of runs whose permit has expired or is gone."""
        for run in sorted({run for run, _ in self._keys.rounds()}):
            if not self._is_permitted(permits / f"{run}.json"):
                self._keys.remove(run)

    def _is_permitted(self, path: Path) -> bool:
        try:
            expires = Envelope.decode(path.read_bytes()).record()["expires"]
            return self._clock_ms() <= parse_time(str(expires))
        except (OSError, KeyError, FedprefError):
            return False

    def _require_open(self, run: str, server_round: int) -> None:
        if self._state.newest_round.get(run, server_round) > server_round:
            raise SecureSumRefusedError(
                "round-over", f"Round {server_round} is over here: a later one was trained."
            )

    def _make_key(self, plan: RunPlan, server_round: int, seal: Seal) -> HeldKey:
        key = MaskingKey.generate()
        statement = MaskingStatement(
            context=RoundContext.of(plan, server_round, seal.model_in),
            region=self._policy.region,
            round_entry=leaf_hash(seal.round_entry).hex(),
            public_key=key.public,
        )
        held = HeldKey(key, make_statement(statement, self._signer))
        self._keys.write(plan.run_id, server_round, held)
        reach(Point.MASKING_KEY_KEPT)
        return held

    def _check_roster(
        self, roster: Roster, held: HeldKey, context: RoundContext, plan: RunPlan
    ) -> None:
        if self._policy.region not in roster.regions:
            raise SecureSumRefusedError("not-in-roster", "The roster is without this region.")
        roster.check(
            context,
            planned=plan.regions,
            least=max(plan.quorum, self._policy.quorum_min),
            registry=self._registry,
            at_ms=self._clock_ms(),
        )
        own = roster.envelopes[roster.regions.index(self._policy.region)]
        if own != Envelope.decode(held.statement):
            raise SecureSumRefusedError(
                "own-statement", "The roster has another statement for this region than it made."
            )

    def _masked(
        self,
        request: MaskRequest,
        held: HeldKey,
        seal: Seal,
        context: RoundContext,
        plan: RunPlan,
        mechanism: Mechanism,
    ) -> Masked:
        masks = MaskContext(request.attempt, request.roster.digest(context))
        self._logged(request.run, request.server_round, masks, request.roster)
        bound = release_norm_bound(plan, mechanism)
        for name, array in seal.arrays.items():
            # Nobody else can see to it. Written so that a norm that is no number does not pass.
            if not measure_floats(array, None).norm <= bound:
                raise SecureSumRefusedError("norm-too-large", f"{name} is over the public bound.")
        secrets = {
            each.region: shared_secret(held.key, each.public_key)
            for each in request.roster.statements
            if each.region != self._policy.region
        }
        vector = to_ring(seal.arrays, context.quantiser)
        add_pairwise_masks(vector, self._policy.region, secrets, masks)
        return {**from_ring(vector, plan.released_arrays(mechanism.name))}

    def _log_mask(self, masked: MaskedUpdate, seal: Seal) -> tuple[int, bytes]:
        """Logs what is about to leave, unless it is logged already; gives the entry's place."""
        masks = MaskContext(masked.attempt, masked.roster_digest)
        while True:
            self._state.refresh()
            judged = self._state.size
            logged = self._logged(masked.run, masked.server_round, masks, masked.roster)
            if logged is not None:
                ((index, entry),) = self._log.entries(logged.index, logged.index + 1)
                return index, entry
            self._require_nobody_left(masked, seal)
            record = mask_record(masked, max(self._clock_ms(), self._state.newest_ms))
            entry = make_entry(record, self._signer)
            try:
                (index,) = self._log.append([entry], expected_size=judged)
            except LogMovedError:
                continue
            return index, entry

    def _require_nobody_left(self, masked: MaskedUpdate, seal: Seal) -> None:
        """Under a policy that discards rounds for a withdrawal, till the first mask has left."""
        first = (masked.run, masked.server_round) not in self._state.masks
        if first and self._sealed.must_discard(masked.run, seal):
            raise SecureSumRefusedError(
                "discarded-for-withdrawal", "A customer in it withdrew before it could leave."
            )

    def _logged(
        self, run: str, server_round: int, context: MaskContext, roster: Roster
    ) -> LoggedMask | None:
        """The entry of this very attempt, if there is one.

        Raises:
            SecureSumRefusedError: The attempt may not be made: ``attempt-used``,
                ``not-survivors``, ``too-many-attempts``.
        """
        masks = self._state.masks.get((run, server_round), [])
        if not masks:
            return None
        newest = masks[-1]
        if context == MaskContext(newest.attempt, newest.roster):
            return newest
        if context.attempt <= newest.attempt:
            raise SecureSumRefusedError(
                "attempt-used", f"Attempt {context.attempt} of the round was for another roster."
            )
        if not set(roster.regions) <= set(newest.regions):
            raise SecureSumRefusedError(
                "not-survivors", "The roster has regions that the attempt before it was without."
            )
        if len(masks) >= MAX_MASKS_A_ROUND:
            raise SecureSumRefusedError(
                "too-many-attempts", f"The round was masked {len(masks)} times."
            )
        return None

    def _reply(self, masked: MaskedUpdate, index: int, entry: bytes) -> dict[str, JsonValue]:
        return {
            "status": "ok",
            "run": masked.run,
            "round": masked.server_round,
            "attempt": masked.attempt,
            "region": masked.region,
            "roster": masked.roster_digest,
            "masked": arrays_digest(masked.arrays),
            "mask_entry": entry_parts(entry),
            **self._sealed.proof(index),
        }


def bound_text(value: float) -> str:
    """A number as records state it, rounded up: a bound never understates."""
    rounded = Context(prec=7, rounding=ROUND_CEILING).create_decimal(repr(value))
    return format(rounded.normalize(), "f")
