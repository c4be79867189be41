"""What the consent desk asks of a region's profiles: what one says to its customer, and its end.

The desk knows whether consent stands; nothing here asks for it. What reading takes is imported when
somebody reads: most desks start where there are no profiles.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from client.engine.home import RegionHome
from common.canonical_json import JsonValue
from common.errors import FedprefError

if TYPE_CHECKING:
    from client.profiles.store import ProfileStore

_logger = logging.getLogger("fedpref.profiles")


class HomeProfiles:
    """The profiles of a home, for `client.consent_service.local_desk`.

    Args:
        home: The region's home.
    """

    def __init__(self, home: RegionHome) -> None:
        self._home = home

    def told(self, sid: str, lang: str) -> dict[str, JsonValue] | None:
        """What a customer's profile says to herself; None if she has none.

        Args:
            sid: Her pseudonym; her consent stands.
            lang: ``en`` or ``zh``.

        Raises:
            InputError: The region's declarations cannot be read.
        """
        if self._store() is None:
            return None
        from client.profiles.region import profile_reader
        from client.profiles.store import DamagedProfilesError

        try:
            found = profile_reader(self._home).of(sid)
        except DamagedProfilesError as error:
            # As after an erasure, until they are built anew: then nothing is kept of anybody.
            _logger.warning("%s", error)
            return None
        return None if found is None else found.record(lang, "customer")

    def forget(self, sid: str) -> None:
        """Takes a customer's profile out, if it can be done now; else the next refresh does.

        A choice is logged by then, and nobody's profile is read without consent: whatever hinders
        this is noted and hinders nothing else.

        Args:
            sid: Her pseudonym.
        """
        try:
            store = self._store()
            if store is None:
                return
            from client.profiles.forgetting import forget

            forget(store, sid)
        except FedprefError as error:
            _logger.warning("A profile stays until the next refresh: %s", error)

    def _store(self) -> ProfileStore | None:
        """The store, if there are profiles; waits for nobody."""
        from client.profiles.settings import profiles_folder

        if not profiles_folder(self._home).is_dir():
            return None
        from client.profiles.region import profile_store

        return profile_store(self._home, lock_wait_s=0.0)
