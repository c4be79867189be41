"""What the relay asks of the engine for itself: may this bundle run, and what went wrong with one.

Only the relay sees which bundle a coordinator sends, and only the engine knows which the region
permits. Neither method is within the reach of a bundle: the relay does not pass them on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from client.engine.home import RegionHome
from client.engine.incidents import BUNDLE_NOT_PERMITTED, Incidents
from client.engine.permit_shelf import PermitShelf
from client.engine.refusals import BundleNotPermittedError
from client.engine.request import RUN_ID
from common.canonical_json import JsonValue
from common.errors import FormatError, PolicyError

#: The methods, by name.
METHODS = frozenset({"admit", "report"})
#: What the relay may report, and the sentence that the region's log has of it.
REPORTS = {
    "reply-not-released": "A bundle gave a reply that the engine had not released; it stayed here.",
    "bundle-failed": "A permitted bundle failed, or used more time or memory than it may.",
    "task-not-permitted": "A task of Flower's other than a ClientApp's was sent, and not run.",
    "malformed-message": "A message to the ClientApp was none of ours; no bundle was run for it.",
    "oversized-message": "A message was larger than any that a region takes, and was not taken.",
}

_SHA256 = re.compile(r"[0-9a-f]{64}")
_PLAN_SUFFIX = ".plan"


class RelayDesk:
    """Answers the relay's own questions.

    Args:
        home: The region's home.
        permits: The region's permits.
        incidents: Where what is refused or reported is logged, each once, a bounded number.
    """

    def __init__(self, home: RegionHome, permits: PermitShelf, incidents: Incidents) -> None:
        self._home = home
        self._permits = permits
        self._incidents = incidents

    def call(self, method: str, header: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
        """Answers one of `METHODS`.

        Raises:
            FormatError: The method or the request is none of ours.
            PolicyError: The bundle is not permitted.
        """
        if method == "admit":
            self._admit(header)
        elif method == "report":
            self._report(header)
        else:
            raise FormatError(f"The relay's desk has no method {method!r}.")
        return {"status": "ok", "region": self._home.region}

    def _admit(self, header: Mapping[str, JsonValue]) -> None:
        if set(header) != {"bundle", "run"}:
            raise FormatError("A question about a bundle has exactly its digest and a run or null.")
        bundle, run = _digest(header["bundle"]), _run(header["run"])
        if run is not None:
            permitted = self._permits.open(run).code.app == bundle
        else:
            permitted = any(self._named_by(each, bundle) for each in self._runs())
        if not permitted:
            told = (
                f"{self._home.region}: no permit in force names the app bundle {bundle}; it was "
                "not unpacked."
            )
            self._incidents.note(run, BUNDLE_NOT_PERMITTED, told)
            raise BundleNotPermittedError(
                told, remedy="Permit its run, if it is the bundle that you agreed to."
            )

    def _runs(self) -> list[str]:
        """The runs that have a permit, in force or not; the newest first."""
        names = [path.stem for path in self._home.permits.glob("*.json")]
        return sorted((name for name in names if not name.endswith(_PLAN_SUFFIX)), reverse=True)

    def _named_by(self, run: str, bundle: str) -> bool:
        try:
            return self._permits.open(run).code.app == bundle
        except (PolicyError, FormatError):
            # Expired, or of an earlier policy or engine: it permits nothing any more.
            return False

    def _report(self, header: Mapping[str, JsonValue]) -> None:
        if set(header) != {"incident", "bundle", "run"}:
            raise FormatError("A report has exactly an incident, a bundle and a run, or null.")
        incident, run = header["incident"], _run(header["run"])
        bundle = None if header["bundle"] is None else _digest(header["bundle"])
        if not isinstance(incident, str) or incident not in REPORTS:
            raise FormatError("A report is of an incident that has a sentence.")
        told = REPORTS[incident] + ("" if bundle is None else f" Bundle {bundle}.")
        self._incidents.note(run, incident, told)


def _digest(value: JsonValue) -> str:
    if not isinstance(value, str) or _SHA256.fullmatch(value) is None:
        raise FormatError("A bundle's digest is 64 lower-case hex digits.")
    return value


def _run(value: JsonValue) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or RUN_ID.fullmatch(value) is None:
        raise FormatError("A run is named by its id.")
    return value
