"""The coordinator's side of one execution of double masking: it learns the sum, or nothing.

It is trusted with nothing but carrying messages and adding up; what it checks here is for its own
sake, so that a sum is right and a region that spoils it is named. Values are added as they arrive:
memory does not grow with the regions. Each ``accept_…`` refuses what one region sent
(`SecureSumRefusedError`), and that region then counts as lost.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from common.double_masking.messages import SHARE_ROSTER, Reveal, SharesGiven
from common.double_masking.records import (
    KEYS,
    SHARES,
    SURVIVORS,
    Execution,
    Statement,
    bytes32,
    open_statement,
    require_survivors,
)
from common.double_masking.rosters import KeyRoster, digest_of, read_key_roster
from common.double_masking.shamir import combine
from common.double_masking.sharing import (
    Delivery,
    commitment_leaves,
    commitment_proof,
    commitment_root,
)
from common.double_masking.streams import remove_self_mask
from common.errors import FormatError
from common.keys import Registry
from common.secure_aggregation import (
    MaskContext,
    MaskingKey,
    SecureSumRefusedError,
    add_pairwise_masks,
    shared_secret,
)

RingArray = npt.NDArray[np.uint32]


class CoordinatorExecution:
    """The coordinator's part of one execution.

    Args:
        execution: What it is about.
        registry: The verified key registry.
        now_ms: The clock, in milliseconds since the epoch.
        n_values: How many ring elements each region sends.
    """

    def __init__(
        self, execution: Execution, registry: Registry, now_ms: Callable[[], int], *, n_values: int
    ) -> None:
        self.execution = execution
        self._registry = registry
        self._now_ms = now_ms
        self._keys: dict[str, bytes] = {}
        self._roster: KeyRoster | None = None
        self._shares: dict[str, tuple[Statement, SharesGiven, list[bytes]]] = {}
        self._sum: RingArray = np.zeros(n_values, np.uint32)
        self._summed: set[str] = set()
        self._survivors: tuple[str, ...] | None = None
        self._agreements: dict[str, bytes] = {}
        self._reveals: dict[str, Reveal] = {}

    def accept_keys(self, region: str, envelope: bytes) -> None:
        """Takes a region's keys."""
        self._open(region, envelope, KEYS)
        self._keys[region] = envelope

    def close_keys(self) -> tuple[list[bytes], int]:
        """Ends the first step: all keys, which every region gets, and the threshold.

        Raises:
            SecureSumRefusedError: The keys are not fit for an execution; too few regions are left.
        """
        self._roster = read_key_roster(
            list(self._keys.values()), self.execution, self._registry, at_ms=self._now_ms()
        )
        return [each.envelope for each in self._roster.statements], self._roster.threshold

    def accept_shares(self, region: str, given: SharesGiven) -> None:
        """Takes a region's encrypted shares and its commitments to them."""
        roster = self._known_roster(region)
        statement = self._open(region, given.statement, SHARES)
        others = set(roster.regions) - {region}
        if set(given.commitments) != set(roster.regions) or set(given.ciphertexts) != others:
            raise FormatError(f"{region} has not given shares to all regions.")
        leaves = commitment_leaves(region, roster, given.commitments)
        same = statement.record["key_roster"] == roster.digest
        if not same or statement.record["root"] != commitment_root(leaves):
            raise SecureSumRefusedError(
                "rosters-differ", f"{region} has shared for another roster than this."
            )
        self._shares[region] = (statement, given, leaves)

    def deliveries(self, holder: str) -> dict[str, Delivery]:
        """What a region gets in the third step, of everybody whose shares arrived.

        Raises:
            SecureSumRefusedError: Too few shared.
        """
        roster = self._known_roster(holder)
        require_survivors(self._shares, self.execution, len(roster.regions))
        place = roster.place(holder)
        return {
            owner: Delivery(
                statement.envelope,
                commitment_proof(leaves, place),
                given.ciphertexts.get(holder),
            )
            for owner, (statement, given, leaves) in sorted(self._shares.items())
        }

    def accept_masked(self, region: str, vector: RingArray) -> None:
        """Adds a region's masked values."""
        if region not in self._shares or region in self._summed or self._survivors is not None:
            raise SecureSumRefusedError("out-of-order", f"No values of {region} are awaited.")
        if vector.dtype != np.uint32 or vector.shape != self._sum.shape:
            raise FormatError(f"The masked values of {region} are of another form.")
        self._sum += vector
        self._summed.add(region)

    def close_masked(self) -> tuple[str, ...]:
        """Ends the third step: those whose values arrived.

        Raises:
            SecureSumRefusedError: Too few; all of them forget the execution then.
        """
        survivors = tuple(sorted(self._summed))
        require_survivors(survivors, self.execution, len(self._known_roster().regions))
        self._survivors = survivors
        return survivors

    def accept_agreement(self, region: str, envelope: bytes) -> None:
        """Takes a region's signed word on the survivors."""
        survivors = self._known_survivors(region)
        record = self._open(region, envelope, SURVIVORS).record
        if record["survivors"] != list(survivors) or record["share_roster"] != self._share_roster:
            raise SecureSumRefusedError("survivors-differ", f"{region} signed other survivors.")
        self._agreements[region] = envelope

    def close_agreement(self) -> list[bytes]:
        """Ends the fourth step: what the survivors signed.

        Raises:
            SecureSumRefusedError: ``too-few-agree``.
        """
        needed = self._known_roster().threshold
        if len(self._agreements) < needed:
            raise SecureSumRefusedError(
                "too-few-agree", f"{len(self._agreements)} regions agree; {needed} must."
            )
        return [envelope for _, envelope in sorted(self._agreements.items())]

    def accept_reveal(self, region: str, reveal: Reveal) -> None:
        """Takes the shares that a region gives up, each held to its owner's commitment.

        Raises:
            SecureSumRefusedError: ``share-corrupt``: names the region, and whose share.
        """
        survivors = self._known_survivors(region)
        lost = set(self._shares) - set(survivors)
        if set(reveal.seed_shares) != set(survivors) or set(reveal.key_shares) != lost:
            raise FormatError(f"{region} has given up shares of others than it was asked for.")
        for place, shares in ((0, reveal.key_shares), (1, reveal.seed_shares)):
            for owner, share in shares.items():
                committed = self._shares[owner][1].commitments[region][place]
                if hashlib.sha256(share).digest() != committed:
                    raise SecureSumRefusedError(
                        "share-corrupt", f"{region} gives a share of {owner} that is forged."
                    )
        self._reveals[region] = reveal

    def sum(self) -> RingArray:
        """The sum of the survivors' values in the ring.

        Raises:
            SecureSumRefusedError: ``too-few-reveal``; ``secret-differs``: a region shared another
                secret than the one that it masked with.
        """
        roster = self._known_roster()
        if len(self._reveals) < roster.threshold:
            raise SecureSumRefusedError(
                "too-few-reveal",
                f"{len(self._reveals)} regions gave up shares; {roster.threshold} must.",
            )
        total, share_roster = self._sum.copy(), self._share_roster
        survivors = self._survivors or ()
        for owner in survivors:
            remove_self_mask(total, owner, self._seed_of(owner, roster), share_roster)
        context = MaskContext(self.execution.attempt, share_roster)
        for owner in sorted(set(self._shares) - set(survivors)):
            key = self._key_of(owner, roster)
            # What the lost region would have added is what the others' halves wait for.
            secrets = {
                peer: shared_secret(key, roster.key(peer, "masking_key")) for peer in survivors
            }
            add_pairwise_masks(total, owner, secrets, context)
        return total

    @property
    def _share_roster(self) -> str:
        return digest_of(SHARE_ROSTER, [statement for statement, _, _ in self._shares.values()])

    def _seed_of(self, owner: str, roster: KeyRoster) -> bytes:
        seed = self._combined(owner, roster, lambda reveal: reveal.seed_shares)
        commitment = self._shares[owner][0].record["seed_commitment"]
        if hashlib.sha256(seed).hexdigest() != commitment:
            raise SecureSumRefusedError("secret-differs", f"{owner} has shared another seed.")
        return seed

    def _key_of(self, owner: str, roster: KeyRoster) -> MaskingKey:
        key = MaskingKey(self._combined(owner, roster, lambda reveal: reveal.key_shares))
        if key.public != roster.key(owner, "masking_key"):
            raise SecureSumRefusedError("secret-differs", f"{owner} has shared another key.")
        return key

    def _combined(
        self, owner: str, roster: KeyRoster, part: Callable[[Reveal], Mapping[str, bytes]]
    ) -> bytes:
        shares = {
            roster.place(holder): part(reveal)[owner] for holder, reveal in self._reveals.items()
        }
        try:
            return combine(shares, threshold=roster.threshold)
        except FormatError as error:
            raise SecureSumRefusedError("secret-differs", f"{owner} shared no secret.") from error

    def _open(self, region: str, envelope: bytes, kind: str) -> Statement:
        statement = open_statement(
            envelope, kind, self.execution, self._registry, at_ms=self._now_ms()
        )
        if statement.region != region:
            raise SecureSumRefusedError(
                "wrong-signer", f"{region} sent a record of {statement.region}."
            )
        if kind == SHARES:
            bytes32(statement, "seed_commitment")
        return statement

    def _known_roster(self, region: str | None = None) -> KeyRoster:
        if self._roster is None or (region is not None and region not in self._roster.regions):
            raise SecureSumRefusedError("out-of-order", "No roster of keys is closed for it.")
        return self._roster

    def _known_survivors(self, region: str) -> tuple[str, ...]:
        if self._survivors is None or region not in self._survivors:
            raise SecureSumRefusedError("out-of-order", f"{region} is no survivor of this.")
        return self._survivors
