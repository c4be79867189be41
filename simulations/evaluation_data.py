"""The data that a simulation measures quality on: every household, as if all had consented.

Only a simulation may do this, on data that are public anyway: quality at no refusals is a figure
about the method, not about any region's customers. Nothing here reaches an engine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence

from client.data.consent_filter import EligibleCustomers, filter_consented
from client.data.dataset import PreferenceDataset
from client.data.transactions import CheckedTransactions, ConsentedTransactions
from client.engine.home import RegionHome
from client.engine.policy import read_policy
from client.engine.preparation import RegionData
from common.catalogue import Catalogue
from common.consent import (
    FEDERATED_TRAINING,
    GIVEN,
    ConsentForm,
    ConsentRecord,
    ConsentReplay,
    new_ulid,
)
from common.timestamps import format_time
from simulations.customers import CustomerChoices
from simulations.prepared import EvaluationWindows
from simulations.quality_methods import RegionSplit


def _everyone_consents(sids: Collection[str], at_ms: int) -> ConsentReplay:
    """A replay of grants that nobody signed, one a customer."""
    form = ConsentForm(
        type="explicit",
        legal_basis="eu-gdpr:A6-1-a",
        controller="simulation",
        jurisdiction="DE",
        lang="en",
        method="simulated",
        withdrawal="mailto:nobody@simulation.example",
        notice_id="none",
        notice_sha256="0" * 64,
        data=("pd:PurchasesAndSpendingHabit",),
    )
    replay = ConsentReplay()
    for index, sid in enumerate(sorted(sids)):
        record = ConsentRecord(
            record_id=new_ulid(),
            sid=sid,
            seq=1,
            prev=None,
            state=GIVEN,
            purposes={FEDERATED_TRAINING: True},
            evidence=None,
            event_time=format_time(at_ms),
            expires=None,
            form=form,
        )
        replay.apply(index, record, hashlib.sha256(sid.encode()).hexdigest())
    return replay


def as_if_all_consented(
    checked: CheckedTransactions, pseudonyms: Mapping[str, str], *, from_ms: int, until_ms: int
) -> ConsentedTransactions:
    """Some customers' rows past the consent filter, by consents that nobody gave.

    Args:
        checked: The rows that passed the quality gate.
        pseudonyms: Each customer's reference and pseudonym; other customers' rows are left out.
        from_ms: When they are taken to have consented, milliseconds since the epoch.
        until_ms: When the consents are judged.
    """
    everyone = EligibleCustomers.from_replay(
        _everyone_consents(pseudonyms.values(), from_ms),
        purpose=FEDERATED_TRAINING,
        at_ms=until_ms,
        consent_size=len(pseudonyms),
        subject_ids=pseudonyms,
    )
    return filter_consented(checked, everyone)


def region_splits(
    home: RegionHome,
    pseudonyms: Mapping[str, str],
    cuts: Sequence[EvaluationWindows],
    catalogue: Catalogue,
) -> list[RegionSplit]:
    """One region's customers before and after each cut.

    Args:
        home: The region's home; its store is read through the quality gate, once.
        pseudonyms: Each customer's reference and pseudonym.
        cuts: The temporal splits.
        catalogue: The public catalogue.
    """
    data = RegionData(home, read_policy(home.policy))
    consented = as_if_all_consented(
        data.checked_transactions(),
        pseudonyms,
        from_ms=min(windows.train_from_ms for windows in cuts),
        until_ms=max(windows.train_until_ms for windows in cuts),
    )
    return [_split(home.region, consented, windows, catalogue) for windows in cuts]


def _split(
    region: str, consented: ConsentedTransactions, windows: EvaluationWindows, catalogue: Catalogue
) -> RegionSplit:
    train, test = (
        PreferenceDataset.from_consented(consented, catalogue, start_ms=start, end_ms=end)
        for start, end in (
            (windows.train_from_ms, windows.train_until_ms),
            (windows.train_until_ms, windows.test_until_ms),
        )
    )
    return RegionSplit(region, train, test)


def excluded_by_round(
    choices: CustomerChoices, pseudonyms: Mapping[str, str], rounds: int
) -> dict[int, frozenset[str]]:
    """For each round, the pseudonyms of those who refused or had withdrawn by then."""
    return {
        server_round: frozenset(
            pseudonyms[ref]
            for ref in (
                *choices.refusing,
                *(
                    leaving
                    for when, refs in choices.withdrawing.items()
                    if when <= server_round
                    for leaving in refs
                ),
            )
        )
        for server_round in range(1, rounds + 1)
    }
