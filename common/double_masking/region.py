"""A region's side of one execution of double masking: five steps, each taken once.

Bonawitz et al., "Practical Secure Aggregation for Privacy-Preserving Machine Learning" (2017),
figure 4, in its version against a coordinator that does as it likes: keys → shares → masked values
→ agreement on the survivors → unmasking. Each region's vector carries two masks. The pairwise ones
cancel among those whose vectors arrive; of who is lost after the masks were made, t regions give up
shares of the masking key, of who is not, shares of the seed of the self-mask, and of nobody both.

Whatever does not hold ends the execution: its secrets are forgotten and nothing more is given.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from common.canonical_json import JsonValue
from common.double_masking.messages import (
    SHARE_ROSTER,
    RegionIdentity,
    Reveal,
    SharesGiven,
    Step,
)
from common.double_masking.records import (
    KEYS,
    SHARES,
    SURVIVORS,
    Execution,
    Statement,
    bytes32,
    names,
    open_statement,
    require_survivors,
    sign,
)
from common.double_masking.rosters import KeyRoster, digest_of, read_key_roster
from common.double_masking.shamir import SECRET_BYTES, split
from common.double_masking.sharing import (
    Delivery,
    SharePair,
    commitment_leaves,
    commitment_root,
    decrypt,
    encrypt,
    is_committed,
)
from common.double_masking.streams import add_self_mask
from common.secure_aggregation import (
    MaskContext,
    MaskingKey,
    SecureSumRefusedError,
    add_pairwise_masks,
    shared_secret,
)
from common.validate import sha256_hex

RingArray = npt.NDArray[np.uint32]
T = TypeVar("T")


@dataclass(frozen=True, repr=False)
class _Secrets:
    """Made for one execution. They are never printed."""

    masking: MaskingKey
    sharing: MaskingKey
    seed: bytes

    @classmethod
    def fresh(cls) -> _Secrets:
        return cls(MaskingKey.generate(), MaskingKey.generate(), os.urandom(SECRET_BYTES))


class RegionExecution:
    """One region's part of one execution.

    Args:
        execution: What it is about; from the region's own plan, permit and seal.
        identity: Who takes part.
        round_entry: Leaf hash of the region's round entry, in hex.
        claim: Records durably that the execution of this name happens here, and refuses
            (``context-used``) if it was recorded before: keys are made once for each.

    Raises:
        SecureSumRefusedError: The execution was claimed before, or the region is not in the plan.
    """

    def __init__(
        self,
        execution: Execution,
        identity: RegionIdentity,
        *,
        round_entry: str,
        claim: Callable[[str], None],
    ) -> None:
        if identity.region not in execution.planned:
            raise SecureSumRefusedError("unknown-region", "The plan does not have this region.")
        claim(execution.name)
        self.execution = execution
        self._identity = identity
        self._round_entry = sha256_hex(round_entry, "round_entry")
        self._secrets: _Secrets | None = _Secrets.fresh()
        self._held: dict[str, SharePair] = {}
        self._keys: Statement | None = None
        self._roster: KeyRoster | None = None
        self._shares: Statement | None = None
        self._share_roster: str = ""
        self._sharers: tuple[str, ...] = ()
        self._agreement: Statement | None = None
        self._step = Step.BEGUN

    @property
    def step(self) -> Step:
        """What was done last."""
        return self._step

    @property
    def survivors(self) -> tuple[str, ...]:
        """Whose sum this region agreed to open; none before it did."""
        if self._agreement is None:
            return ()
        return names(self._agreement.record["survivors"], "The survivors")

    def pin_keys(self) -> bytes:
        """Step 1: the region's signed ``execution-keys``."""
        with self._taking(Step.PINNED):
            secrets = _known(self._secrets)
            self._keys = self._sign(
                KEYS,
                {
                    "round_entry": self._round_entry,
                    "masking_key": secrets.masking.public.hex(),
                    "sharing_key": secrets.sharing.public.hex(),
                },
            )
            return self._keys.envelope

    def share(self, keys: Sequence[bytes], *, threshold: int) -> SharesGiven:
        """Step 2: shares of the region's two secrets, one pair for each region of the roster.

        Args:
            keys: The signed ``execution-keys`` of all.
            threshold: What the coordinator takes t for; the region's own reckoning counts.

        Raises:
            SecureSumRefusedError: As `read_key_roster`; ``own-keys-differ``; ``threshold-differs``.
        """
        with self._taking(Step.SHARED):
            identity = self._identity
            roster = read_key_roster(
                keys, self.execution, identity.registry, at_ms=identity.now_ms()
            )
            self._require_own(roster)
            if threshold != roster.threshold:
                raise SecureSumRefusedError(
                    "threshold-differs",
                    f"The coordinator says {threshold} of {len(roster.regions)} regions; it must "
                    f"be {roster.threshold}.",
                )
            self._roster = roster
            return self._give_shares(roster)

    def mask(self, deliveries: Mapping[str, Delivery], vector: RingArray) -> RingArray:
        """Step 3: the region's values under both masks.

        Args:
            deliveries: By owner what it shared, of all whose shares arrived, this region's among
                them.
            vector: The region's ring elements; left as they are.

        Raises:
            SecureSumRefusedError: ``too-few-survivors``; ``share-corrupt``; ``own-shares-differ``;
                ``masked-already``: values are masked once, for one roster only.
        """
        with self._taking(Step.MASKED):
            roster = _known(self._roster)
            statements = [self._accept(owner, each) for owner, each in sorted(deliveries.items())]
            self._sharers = tuple(each.region for each in statements)
            if self._identity.region not in self._sharers:
                raise SecureSumRefusedError("own-shares-differ", "This region's shares are gone.")
            require_survivors(self._sharers, self.execution, len(roster.regions))
            self._share_roster = digest_of(SHARE_ROSTER, statements)
            return self._masked(roster, vector)

    def members(self) -> list[dict[str, JsonValue]]:
        """Whom the values were masked with, for logs: region, round entry and public key."""
        roster = _known(self._roster)
        return [
            {
                "region": region,
                "round_entry": roster.statements[roster.place(region) - 1].record["round_entry"],
                "public_key": roster.key(region, "masking_key").hex(),
            }
            for region in self._sharers
        ]

    def agree(self, survivors: Sequence[str]) -> bytes:
        """Step 4: signs whose masked values the coordinator says it has; only one such set.

        Raises:
            SecureSumRefusedError: ``too-few-survivors``; ``survivors-unknown``: they are no subset
                of those who shared, or lack this region.
        """
        with self._taking(Step.AGREED):
            told = names(list(survivors), "The survivors")
            if not {self._identity.region} <= set(told) <= set(self._sharers):
                raise SecureSumRefusedError(
                    "survivors-unknown", "The survivors are not of this execution."
                )
            require_survivors(told, self.execution, len(_known(self._roster).regions))
            self._agreement = self._sign(
                SURVIVORS, {"share_roster": self._share_roster, "survivors": list(told)}
            )
            return self._agreement.envelope

    def unmask(self, agreements: Sequence[bytes]) -> Reveal:
        """Step 5: gives up one share of each region, and forgets everything.

        Args:
            agreements: The signed ``execution-survivors`` of at least t survivors.

        Raises:
            SecureSumRefusedError: ``survivors-differ``: somebody was told of others than this
                region; ``too-few-agree``; ``unmasked-already``.
        """
        with self._taking(Step.UNMASKED):
            mine, survivors = _known(self._agreement), self.survivors
            self._require_agreement(mine, agreements, survivors)
            reveal = Reveal(
                seed_shares={owner: self._held[owner].seed for owner in survivors},
                key_shares={
                    owner: self._held[owner].key
                    for owner in self._sharers
                    if owner not in survivors
                },
            )
            self._forget()
            return reveal

    def _require_own(self, roster: KeyRoster) -> None:
        mine, region = _known(self._keys), self._identity.region
        if region not in roster.regions:
            raise SecureSumRefusedError("own-keys-differ", "The roster lacks this region's keys.")
        if roster.statements[roster.place(region) - 1].record != mine.record:
            raise SecureSumRefusedError("own-keys-differ", "The roster has other keys for it.")

    def _give_shares(self, roster: KeyRoster) -> SharesGiven:
        region, n_regions = self._identity.region, len(roster.regions)
        secrets = _known(self._secrets)
        made = [
            split(secret, shares=n_regions, threshold=roster.threshold)
            for secret in (secrets.masking.private, secrets.seed)
        ]
        pairs = {
            holder: SharePair(key, seed)
            for holder, key, seed in zip(roster.regions, *made, strict=True)
        }
        commitments = {holder: pair.commitment for holder, pair in pairs.items()}
        self._shares = self._sign(
            SHARES,
            {
                "key_roster": roster.digest,
                "root": commitment_root(commitment_leaves(region, roster, commitments)),
                "seed_commitment": hashlib.sha256(secrets.seed).hexdigest(),
            },
        )
        self._held[region] = pairs[region]
        return SharesGiven(
            self._shares.envelope,
            commitments,
            {
                holder: encrypt(pair, secrets.sharing, region, holder, roster)
                for holder, pair in pairs.items()
                if holder != region
            },
        )

    def _accept(self, owner: str, delivery: Delivery) -> Statement:
        """Reads one owner's shares for this region."""
        roster, identity = _known(self._roster), self._identity
        if owner not in roster.regions:
            raise SecureSumRefusedError("unknown-region", f"{owner} has pinned no keys.")
        statement = open_statement(
            delivery.statement,
            SHARES,
            self.execution,
            identity.registry,
            at_ms=identity.now_ms(),
        )
        if statement.region != owner:
            raise SecureSumRefusedError("wrong-signer", f"{owner}'s shares are another region's.")
        if statement.record["key_roster"] != roster.digest:
            raise SecureSumRefusedError("rosters-differ", f"{owner} was given another roster.")
        if owner == identity.region:
            if statement.record != _known(self._shares).record:
                raise SecureSumRefusedError("own-shares-differ", "It is told other shares of it.")
            return statement
        own = _known(self._secrets).sharing
        pair = decrypt(delivery.ciphertext or b"", own, owner, identity.region, roster)
        root = bytes32(statement, "root").hex()
        if not is_committed(pair, owner, identity.region, roster, delivery.proof, root):
            raise SecureSumRefusedError(
                "share-corrupt", f"The shares of {owner} are not those it committed to."
            )
        self._held[owner] = pair
        return statement

    def _masked(self, roster: KeyRoster, vector: RingArray) -> RingArray:
        region, own = self._identity.region, _known(self._secrets)
        secrets = {
            peer: shared_secret(own.masking, roster.key(peer, "masking_key"))
            for peer in self._sharers
            if peer != region
        }
        masked = vector.astype(np.uint32, copy=True)
        context = MaskContext(self.execution.attempt, self._share_roster)
        add_pairwise_masks(masked, region, secrets, context)
        add_self_mask(masked, region, own.seed, self._share_roster)
        return masked

    def _require_agreement(
        self, mine: Statement, agreements: Sequence[bytes], survivors: Sequence[str]
    ) -> None:
        identity = self._identity
        agreed = {identity.region}
        for data in agreements:
            theirs = open_statement(
                data, SURVIVORS, self.execution, identity.registry, at_ms=identity.now_ms()
            )
            same = all(
                theirs.record[name] == mine.record[name] for name in ("share_roster", "survivors")
            )
            if not same or theirs.region not in survivors:
                raise SecureSumRefusedError(
                    "survivors-differ", f"{theirs.region} was told of other survivors."
                )
            agreed.add(theirs.region)
        needed = _known(self._roster).threshold
        if len(agreed) < needed:
            raise SecureSumRefusedError(
                "too-few-agree", f"{len(agreed)} regions agree on the survivors; {needed} must."
            )

    def _sign(self, kind: str, own: dict[str, JsonValue]) -> Statement:
        return sign(kind, self.execution, self._identity.region, own, self._identity.signer)

    @contextmanager
    def _taking(self, step: Step) -> Iterator[None]:
        """Takes a step, in its turn and once; whatever fails, the execution is over."""
        if self._step >= step:
            reason = {Step.MASKED: "masked-already", Step.UNMASKED: "unmasked-already"}.get(step)
            raise SecureSumRefusedError(
                reason or "step-repeated", "A region takes each step of an execution once."
            )
        if self._secrets is None:
            raise SecureSumRefusedError("execution-over", "The execution has ended.")
        if self._step != step - 1:
            raise SecureSumRefusedError("out-of-order", "A step of the execution was left out.")
        taken = False
        try:
            yield
            taken = True
        finally:
            if not taken:
                self._forget()
        self._step = step

    def _forget(self) -> None:
        self._secrets = None
        self._held.clear()


def _known(value: T | None) -> T:
    if value is None:
        raise SecureSumRefusedError("out-of-order", "A step of the execution was left out.")
    return value
