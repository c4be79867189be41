"""What is served at one moment: a verified model, the region's own part, and histories; immutable.

A refresh makes another one beside it and puts it in its place in one step: an answer is made of one
state throughout.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from client.data.consent_filter import EligibleCustomers
from client.engine.home import RegionHome
from client.engine.policy import read_policy
from client.engine.preparation import RegionData
from client.recommend.histories import Histories, HistoryWindow, load_histories
from client.recommend.item_features import pinned_catalogue
from client.recommend.item_groups import Places
from client.recommend.likeness import Likeness
from client.recommend.live_rules import LiveRules
from client.recommend.local_release import LocalReleases
from client.recommend.release import PublishedRelease, load_release
from client.recommend.scoring import ScoringTables
from client.recommend.settings import RecommendSettings
from client.recommend.types import Scene
from common.audit.log import AuditLog
from common.catalogue import Catalogue
from common.errors import ConsentError, FedprefError

_logger = logging.getLogger("fedpref.recommend")

#: How many customers `Served.sample` knows.
SAMPLE = 1000


@dataclass(frozen=True, eq=False)
class Served:
    """What answers are made of; made by `load_served`.

    Attributes:
        release: The published model, verified.
        catalogue: The region's catalogue.
        tables: What all customers' scores have in common.
        rules: What live events do.
        histories: The customers' histories.
        regional: What the region has released to itself, as far as it verifies.
        sample: Some customers with a history, as the store refers to them, and their pseudonyms, in
            the order of the latter, which says nothing.
        fault: Why there are no histories, if they could not be read.
    """

    release: PublishedRelease
    catalogue: Catalogue = field(repr=False)
    tables: ScoringTables = field(repr=False)
    rules: LiveRules = field(repr=False)
    histories: Histories = field(repr=False)
    regional: LocalReleases = field(repr=False)
    sample: tuple[tuple[str, str], ...] = field(repr=False)
    fault: FedprefError | None = field(repr=False)

    @property
    def faults(self) -> tuple[str, ...]:
        """What could not be used, and why."""
        unread = () if self.fault is None else (str(self.fault),)
        return (*unread, *self.regional.left_out.values())

    @property
    def is_regional(self) -> bool:
        """Whether popularity has the region's bias."""
        return self.regional.regional_bias is not None

    def scene_factor(self, scene: Scene | None) -> npt.NDArray[np.floating] | None:
        """float[n_categories], by what a scene raises each category; None if nothing is known."""
        return None if scene is None else self.regional.scene_factor(scene)


def load_served(
    home: RegionHome,
    settings: RecommendSettings,
    eligible: EligibleCustomers,
    *,
    now_ms: int,
    before: Served | None = None,
) -> Served:
    """Loads all that answers are made of.

    A store that cannot be read is no reason to serve nothing: histories are then those of before,
    or none, and `Served.fault` says why.

    Args:
        home: The region's home.
        settings: The recommender's settings.
        eligible: Whose consent for recommendations stands.
        now_ms: The time, milliseconds since the epoch.
        before: What was served before, if anything.

    Raises:
        InputError: No model is installed, or the catalogue cannot be read.
        VerificationError: The model's log entry does not verify, the model is of another run, or
            the region's catalogue is out of step with it.
    """
    release = load_release(home, settings.model)
    plan = release.plan
    catalogue = pinned_catalogue(
        Catalogue.load(home.catalogue), stated=plan.catalogue, n_items=plan.n_items
    )
    with AuditLog.open_read_only(home.log) as log:
        regional = LocalReleases.load(
            home,
            log,
            home.read_registry(),
            catalogue=catalogue,
            model_digest=release.digest,
            model=release.model,
        )
    for name, why in regional.left_out.items():
        _logger.error("The region's %s are not used: %s", name, why)
    tables = ScoringTables.of(
        release.model,
        catalogue,
        popularity_noise_stddev=release.popularity_noise_stddev,
        regional_bias=regional.regional_bias,
    )
    rules = LiveRules(
        settings.live,
        Places.of(catalogue, tables.by_popularity),
        Likeness.of(release.model, catalogue.n_items),
    )
    window = HistoryWindow.of(settings.history, plan, now_ms=now_ms)
    histories, fault = _histories(home, catalogue, window, eligible, before)
    return Served(
        release=release,
        catalogue=catalogue,
        tables=tables,
        rules=rules,
        histories=histories,
        regional=regional,
        sample=_sample(histories, eligible),
        fault=fault,
    )


def _histories(
    home: RegionHome,
    catalogue: Catalogue,
    window: HistoryWindow,
    eligible: EligibleCustomers,
    before: Served | None,
) -> tuple[Histories, FedprefError | None]:
    none = Histories.none(window, catalogue.n_items, consent_size=eligible.consent_size)
    if not eligible.sids:
        return none, None
    try:
        checked = RegionData(home, read_policy(home.policy)).checked_transactions()
        return load_histories(checked, eligible, catalogue, window), None
    except ConsentError:
        # None of those who consent has bought anything.
        return none, None
    except FedprefError as error:
        _logger.error("The store's rows are not served: %s", error)
        # Numbers of items stay what they are only within one catalogue.
        usable = before is not None and before.catalogue.digest == catalogue.digest
        return (before.histories if before is not None and usable else none), error


def _sample(histories: Histories, eligible: EligibleCustomers) -> tuple[tuple[str, str], ...]:
    wanted = set(histories.first_sids(SAMPLE))
    found = sorted((sid, ref) for ref, sid in eligible.pseudonyms.items() if sid in wanted)
    return tuple((ref, sid) for sid, ref in found)
