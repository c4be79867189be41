"""The data that a simulation measures quality on: every household, as if all had consented.

Only a simulation may do this, on data that are public anyway: quality at no refusals is a figure
about the method, not about any region's customers. Nothing here reaches an engine.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from client.data.consent_filter import EligibleCustomers, filter_consented
from client.data.dataset import PreferenceDataset
from client.engine.home import RegionHome
from client.engine.policy import read_policy
from client.engine.preparation import RegionData
from common.catalogue import Catalogue
from common.consent import FEDERATED_TRAINING, ConsentReplay
from simulations.customers import CustomerChoices
from simulations.quality_methods import RegionSplit
from simulations.regions import EvaluationWindows


class _EveryoneConsents(ConsentReplay):
    """A replay of a log that was never written, in which every customer consents."""

    def __init__(self, sids: Collection[str]) -> None:
        super().__init__()
        self._everyone = frozenset(sids)

    def eligible(self, purpose: str, at_ms: int) -> frozenset[str]:
        """Every customer, whatever the purpose and the time."""
        del purpose, at_ms
        return self._everyone


def region_split(
    home: RegionHome,
    pseudonyms: Mapping[str, str],
    windows: EvaluationWindows,
    catalogue: Catalogue,
) -> RegionSplit:
    """One region's customers before and after the cut.

    Args:
        home: The region's home; its store is read through the quality gate.
        pseudonyms: Each customer's reference and pseudonym.
        windows: The temporal split.
        catalogue: The public catalogue.
    """
    data = RegionData(home, read_policy(home.policy))
    everyone = EligibleCustomers.from_replay(
        _EveryoneConsents(pseudonyms.values()),
        purpose=FEDERATED_TRAINING,
        at_ms=windows.train_until_ms,
        consent_size=0,
        subject_ids=pseudonyms,
    )
    consented = filter_consented(data.checked_transactions(), everyone)
    train, test = (
        PreferenceDataset.from_consented(consented, catalogue, start_ms=start, end_ms=end)
        for start, end in (
            (windows.train_from_ms, windows.train_until_ms),
            (windows.train_until_ms, windows.test_until_ms),
        )
    )
    return RegionSplit(home.region, train, test)


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
