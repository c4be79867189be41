"""Only customers whose consent is in force go on.

`EligibleCustomers` comes from a replay of the consent log and from nowhere else;
`filter_consented` is the only maker of `ConsentedTransactions`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import InitVar, dataclass, field

import numpy as np

from client.data.transactions import (
    _CONSENT_SEAL,
    CheckedTransactions,
    ConsentedTransactions,
    Purchases,
)
from common.consent import ConsentReplay
from common.errors import ConsentError

_SID = re.compile(r"[0-9a-f]{64}")
_REPLAY_SEAL = object()


@dataclass(frozen=True, eq=False)
class EligibleCustomers:
    """Who may be used for one purpose, judged at one size of the consent log.

    Attributes:
        purpose: The purpose.
        at_ms: The time that expiry was judged at, milliseconds since the epoch.
        consent_size: The size of the log that was replayed.
        sids: The pseudonyms of all eligible customers, 64 hex digits each; those without any
            purchase are among them.
        customer_refs: The store's references of those whose pseudonym the region can still link.
        pseudonyms: Store's reference → pseudonym, for the same.
    """

    purpose: str
    at_ms: int
    consent_size: int
    sids: frozenset[str] = field(repr=False)
    pseudonyms: Mapping[str, str] = field(repr=False)
    seal: InitVar[object]

    def __post_init__(self, seal: object) -> None:
        if seal is not _REPLAY_SEAL:
            raise ConsentError(
                "EligibleCustomers were made past the replay of the consent log.",
                remedy="Call EligibleCustomers.from_replay.",
            )

    @property
    def customer_refs(self) -> frozenset[str]:
        """The store's references of the eligible customers."""
        return frozenset(self.pseudonyms)

    @classmethod
    def from_replay(
        cls,
        replay: ConsentReplay,
        purpose: str,
        at_ms: int,
        consent_size: int,
        subject_ids: Mapping[str, str],
        *,
        notice_grace_s: int = 0,
        also: Collection[str] = (),
    ) -> EligibleCustomers:
        """Takes the customers whose latest logged record allows the purpose.

        Args:
            replay: The replay of the first `consent_size` entries of a verified log.
            purpose: The consent purpose.
            at_ms: When expiry is judged, milliseconds since the epoch.
            consent_size: How many entries were replayed.
            subject_ids: The region's table of store's reference → pseudonym; customers whose key
                was erased are not in it.
            notice_grace_s: For how long the region's policy keeps consents to a superseded notice
                in force; 0, the strictest, if it is not given.
            also: Further purposes, each of which it must allow as well.

        Raises:
            ConsentError: The replay is not one, or the table gives two customers one pseudonym or
                a malformed one.
        """
        # A subclass could answer as it likes: only the replay itself knows the log.
        if type(replay) is not ConsentReplay:
            raise ConsentError(
                "Eligible customers were asked of something that is not a replay of the log.",
                remedy="Replay the verified log with common.consent.ConsentReplay.",
            )
        _check_pseudonyms(subject_ids)
        sids = replay.eligible(purpose, at_ms, notice_grace_s=notice_grace_s)
        for each in also:
            sids &= replay.eligible(each, at_ms, notice_grace_s=notice_grace_s)
        linked = {ref: sid for ref, sid in subject_ids.items() if sid in sids}
        return cls(purpose, at_ms, consent_size, sids, linked, seal=_REPLAY_SEAL)


def _check_pseudonyms(subject_ids: Mapping[str, str]) -> None:
    malformed = sum(1 for sid in subject_ids.values() if not _SID.fullmatch(sid))
    if malformed:
        raise ConsentError(
            f"{malformed} of the region's pseudonyms are not 64 hex digits.",
            remedy="Restore the subjects' table from its backup.",
        )
    shared = len(subject_ids) - len(set(subject_ids.values()))
    if shared:
        # With a shared pseudonym one customer's consent would admit another's purchases.
        raise ConsentError(
            f"{shared} customers share a pseudonym with another.",
            remedy="Restore the subjects' table from its backup.",
        )


def filter_consented(
    transactions: CheckedTransactions, eligible: EligibleCustomers
) -> ConsentedTransactions:
    """Keeps the eligible customers' rows, under their pseudonyms, and only the columns needed.

    Args:
        transactions: The rows that passed the quality gate.
        eligible: The customers whose consent is in force.

    Raises:
        ConsentError: Nobody is eligible, or an argument is of another stage.
    """
    if not isinstance(transactions, CheckedTransactions) or not isinstance(
        eligible, EligibleCustomers
    ):
        raise ConsentError(
            "The consent filter was given something other than checked transactions and eligible "
            "customers.",
            remedy="Pass what quality_gate and EligibleCustomers.from_replay return.",
        )
    if not eligible.sids:
        raise ConsentError(
            f"No customer's consent for {eligible.purpose} is in force.",
            remedy="Training starts once customers have consented.",
        )
    pseudonyms = eligible.pseudonyms

    def consented() -> Iterator[Purchases]:
        for part in transactions.parts():
            yield _consented(part, pseudonyms)

    return ConsentedTransactions(
        consented, transactions.catalogue, eligible.consent_size, seal=_CONSENT_SEAL
    )


def _consented(part: Purchases, pseudonyms: Mapping[str, str]) -> Purchases:
    """The purchases of those who have a pseudonym among the eligible, under it."""
    names = [pseudonyms.get(reference) for reference in part.owners]
    admitted = np.array([name is not None for name in names], dtype=bool)
    kept = admitted[part.owner]
    position = (np.cumsum(admitted) - 1).astype(np.int32)
    return Purchases(
        tuple(name for name in names if name is not None),
        position[part.owner[kept]],
        part.item[kept],
        part.time_ms[kept],
    )
