"""The permits of a region's runs, opened for use: verified anew each time they are."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from client.engine.home import RegionHome
from client.engine.permit import CodeIdentity, Permit, open_permit
from client.engine.policy import RegionPolicy
from client.engine.provenance import dependencies_digest, engine_digest
from client.engine.request import RUN_ID
from common import canonical_json
from common.errors import PolicyError
from common.keys import Registry
from common.plan import RunPlan

_MAX_PLAN_BYTES = 1 << 20


class PermitShelf:
    """The folder of a region's permits.

    Args:
        home: The region's home.
        policy: The policy in force: a permit never outlives it.
        registry: The verified key registry.
        clock_ms: Now, in milliseconds since the epoch.
    """

    def __init__(
        self,
        home: RegionHome,
        policy: RegionPolicy,
        registry: Registry,
        clock_ms: Callable[[], int],
    ) -> None:
        self._home = home
        self._policy = policy
        self._registry = registry
        self._clock_ms = clock_ms

    def require_known(self, run: str) -> tuple[Path, Path]:
        """The files of a run's permit and plan: nobody else's runs are served, or witnessed.

        Raises:
            PolicyError: There is no permit for the run.
        """
        permit_path = self._home.permits / f"{run}.json"
        plan_path = self._home.permits / f"{run}.plan.json"
        if not (RUN_ID.fullmatch(run) and permit_path.is_file() and plan_path.is_file()):
            raise PolicyError(
                f"{self._home.region}: there is no permit for this run.",
                remedy="The region's operator signs one with `fedpref-region permit`.",
            )
        return permit_path, plan_path

    def open(self, run: str) -> Permit:
        """A run's permit, if it holds now.

        Raises:
            PolicyError: There is none, or it does not match plan, policy, code or clock.
            FormatError: The plan that it is for is malformed.
        """
        permit_path, plan_path = self.require_known(run)
        return open_permit(
            permit_path.read_bytes(),
            _read_plan(plan_path.read_bytes()),
            self._policy,
            CodeIdentity(app="", engine=engine_digest(), deps=dependencies_digest()),
            self._registry,
            now_ms=self._clock_ms(),
        )


# A round reads its plan several times over, and judging one takes some milliseconds.
@lru_cache(maxsize=16)
def _read_plan(data: bytes) -> RunPlan:
    return RunPlan.from_record(canonical_json.decode(data, max_bytes=_MAX_PLAN_BYTES))
