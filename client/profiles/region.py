"""The profiles of a region's home: who may have one, how they are made, and who may read which."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from client.data.consent_filter import EligibleCustomers
from client.data.standards import standards_of
from client.data.tables.reading import read_tables
from client.engine.home import RegionHome
from client.engine.policy import read_policy
from client.engine.storage_key import StorageKeyFile
from client.profiles.building import build
from client.profiles.explanation import Explained
from client.profiles.library import FILE_NAME as LIBRARY_NAME
from client.profiles.library import TagLibrary, load_library
from client.profiles.making import Making, Outcome
from client.profiles.purchases import LocalTime
from client.profiles.reading import Overview, ProfileReader
from client.profiles.refreshing import Refresher
from client.profiles.rfm import Cuts
from client.profiles.settings import ProfileSettings, profiles_folder
from client.profiles.store import ProfileStore
from client.recommend.consent_gate import ConsentGate
from client.recommend.local_statistics import Clock
from client.recommend.settings import RecommendSettings
from client.settings import declared_source
from common.catalogue import Catalogue
from common.consent import PROFILING
from common.errors import ConsentError
from common.timestamps import now_ms

KEPT_NAME = "kept"
#: Whoever consents, or whose consent expires, is taken into account after so long at the latest,
#: in seconds, even if nothing is written to the log.
CONSENTS_AGE_S = 600.0
_LEAST_BETWEEN_BUILDS_S = 3600.0


def local_time(home: RegionHome) -> LocalTime:
    """The region's local time, with the parts of the day that its recommender has.

    Raises:
        InputError: The store's declaration or the settings are malformed.
    """
    dayparts = RecommendSettings.read(home).scenes.dayparts
    return LocalTime(Clock(dayparts, declared_source(home).time_zone))


def profile_store(home: RegionHome, *, lock_wait_s: float = 900.0) -> ProfileStore:
    """Where a home keeps its profiles.

    Args:
        home: The region's home.
        lock_wait_s: For how long another process may be writing them.

    Raises:
        InputError: The home has no storage key.
    """
    # Asked each time: an erasure turns it, and with it all profiles become unreadable.
    key = StorageKeyFile(home.stored_key).find(lambda: None)
    return ProfileStore(profiles_folder(home) / KEPT_NAME, key, lock_wait_s=lock_wait_s)


def library_of(home: RegionHome) -> TagLibrary:
    """A home's tag library, with the terms of its data standards.

    Raises:
        InputError: Library or standards are malformed.
    """
    return load_library(profiles_folder(home) / LIBRARY_NAME, terms=standards_of(home).definitions)


def making_of(home: RegionHome) -> Making:
    """What a home's profiles are made of and with.

    Raises:
        InputError: A declaration, the library, the policy or the settings are malformed.
    """
    return Making(
        region=home.region,
        store=profile_store(home),
        tables=read_tables(home),
        catalogue=Catalogue.load(home.catalogue),
        local=local_time(home),
        library=library_of(home),
        settings=ProfileSettings.read(home),
        threshold=float(read_policy(home.policy).quality_threshold),
    )


def profile_reader(home: RegionHome) -> ProfileReader:
    """Reads a home's profiles; whether consent stands, the caller asks.

    Raises:
        InputError: A declaration, the library or the settings are malformed.
    """
    return ProfileReader(
        store=profile_store(home),
        library=library_of(home),
        categories=Catalogue.load(home.catalogue).category_names,
        local=local_time(home),
        cart_left_after_h=ProfileSettings.read(home).cart_left_after_h,
    )


@dataclass
class RegionProfiles:
    """A region's profiles, open: made by `open_profiles`.

    Attributes:
        home: The region's home.
        gate: Whose consent to profiling stands.
        clock_ms: Gives the time, milliseconds since the epoch.
    """

    home: RegionHome
    gate: ConsentGate
    clock_ms: Callable[[], int] = now_ms
    _refresher: Refresher | None = field(default=None, repr=False)
    _built_s: float = field(default=float("-inf"), repr=False)
    _eligible: tuple[int, float, EligibleCustomers] | None = field(default=None, repr=False)

    def build(self, *, as_of_ms: int | None = None, cuts: Cuts | None = None) -> Outcome:
        """Builds all profiles anew; see `client.profiles.building.build`.

        Raises:
            FedprefError: As there.
        """
        making = making_of(self.home)
        return build(making, self._customers(), self.clock_ms(), as_of_ms=as_of_ms, cuts=cuts)

    def refresh(self) -> Outcome:
        """Takes in what is new; see `Refresher.refresh`.

        Raises:
            FedprefError: As there.
        """
        if self._refresher is None:
            self._refresher = Refresher(making_of(self.home))
        else:
            # An erasure may have turned the key since.
            self._refresher.making = making_of(self.home)
        return self._refresher.refresh(self._customers(), self.clock_ms())

    def look(self) -> Iterator[Outcome]:
        """Refreshes, and then builds if a build is due, but once an hour at most.

        Raises:
            FedprefError: As `refresh`.
        """
        outcome = self.refresh()
        yield outcome
        # Who consents every minute must not have everything read every minute.
        if outcome.build_due and time.monotonic() - self._built_s >= _LEAST_BETWEEN_BUILDS_S:
            self._built_s = time.monotonic()
            yield self._rebuilt()

    def explained(self, customer_ref: str) -> Explained:
        """One customer's profile, if her consent to it stands now.

        Args:
            customer_ref: The customer, as the store refers to her.

        Raises:
            ConsentError: It does not, or the region does not know her, or she has no profile yet.
            DamagedProfilesError: There are no profiles that can be read.
        """
        judgement = self.gate.judge(customer_ref)
        if judgement.sid is None:
            raise ConsentError(
                "There is no profile of this customer: " + _WHY[str(judgement.refused)],
                remedy="A profile is made of those alone who consent to it.",
            )
        found = profile_reader(self.home).of(judgement.sid)
        if found is None:
            raise ConsentError(
                "There is no profile of this customer yet.",
                remedy="Who consented since the last build gets one with the next: "
                "fedpref-region profile build HOME.",
            )
        return found

    def overview(self) -> Overview:
        """All profiles together; exact, for the operator.

        Raises:
            DamagedProfilesError: There are no profiles that can be read.
        """
        return profile_reader(self.home).overview()

    def _rebuilt(self) -> Outcome:
        """Builds anew, for the same moment and by the same cuts if they came from outside."""
        kept = profile_store(self.home).manifest()
        if kept is None:
            return self.build()
        return self.build(as_of_ms=kept.as_of_ms, cuts=kept.models.cuts.from_outside)

    def _customers(self) -> EligibleCustomers:
        """Who consents now; asked anew when anything was logged, and once in a while."""
        size, at_s = self.gate.size(), time.monotonic()
        known = self._eligible
        if known is None or known[0] != size or at_s - known[1] > CONSENTS_AGE_S:
            self._eligible = known = (size, at_s, self.gate.eligible())
        return known[2]


@contextmanager
def open_profiles(
    home: RegionHome, *, clock_ms: Callable[[], int] = now_ms
) -> Iterator[RegionProfiles]:
    """Opens a home's profiles; the engine and the consent service may run meanwhile.

    Raises:
        InputError: The home lacks what profiles need.
        VerificationError: The region's log does not verify.
    """
    gate = ConsentGate(home, purpose=PROFILING, clock_ms=clock_ms)
    try:
        yield RegionProfiles(home, gate, clock_ms)
    finally:
        gate.close()


_WHY = {
    "unknown-customer": "the region knows no customer of this reference.",
    "no-consent": "no consent to profiling is in force.",
    "consents-unreadable": "the region's consents cannot be read.",
}
