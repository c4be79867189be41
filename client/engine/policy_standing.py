"""A region's policy in its three places: the log, the file of the home, the settings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from client.engine.home import RegionHome
from client.engine.permit_files import permit_files
from client.engine.policy import RegionPolicy, read_policy
from client.engine.policy_desk import LoggedPolicy, PolicyChange, newest_policy, policy_changes
from common.audit.log import AuditLog
from common.errors import InputError, PolicyError


@dataclass(frozen=True)
class EndedPermit:
    """A permit that holds now, and would not under another policy.

    Attributes:
        run: Its run.
        why: The field that the other policy does not allow.
    """

    run: str
    why: str


@dataclass(frozen=True)
class PolicyStanding:
    """A region's policy in its three places.

    Attributes:
        region: The region.
        path: The file ``policy.json``.
        logged: What the controller signed and logged last; None for nothing.
        file: What lies in the file; None if it is missing or malformed.
        declared: What ``region.toml`` says; None if the region has none.
    """

    region: str
    path: Path
    logged: LoggedPolicy | None
    file: RegionPolicy | None
    declared: RegionPolicy | None

    @property
    def is_in_force(self) -> bool:
        """Whether the engine works under it: the file is what was logged."""
        return (
            self.logged is not None
            and self.file is not None
            and self.logged.sha256 == self.file.digest
        )

    @property
    def is_as_declared(self) -> bool:
        """Whether what is in force is what ``region.toml`` says, if it says anything."""
        return self.is_in_force and not self.changes

    @property
    def changes(self) -> list[PolicyChange]:
        """What signing the settings' policy would change."""
        if self.declared is None:
            return []
        before = {} if self.logged is None else self.logged.fields
        return policy_changes(before, self.declared.to_record())


def read_standing(home: RegionHome, declared: RegionPolicy | None) -> PolicyStanding:
    """Reads where a region's policy stands; an engine may run meanwhile.

    Args:
        home: The region's home.
        declared: What ``region.toml`` says, if there is one.

    Raises:
        InputError: There is no log.
        StorageError: The log is damaged.
    """
    with AuditLog.open_read_only(home.log) as log:
        logged = newest_policy(log)
    try:
        file = read_policy(home.policy)
    except InputError:
        file = None
    return PolicyStanding(home.region, home.policy, logged, file, declared)


def ended_permits(home: RegionHome, policy: RegionPolicy, at_ms: int) -> Iterator[EndedPermit]:
    """The permits that hold now, and would not once another policy is in force.

    Args:
        home: The region's home.
        policy: The other policy.
        at_ms: Now, in milliseconds since the epoch.

    Raises:
        InputError: A permit or its plan cannot be read.
    """
    for permit in permit_files(home.permits):
        if not permit.holds(at_ms):
            continue
        try:
            policy.check_plan(permit.plan())
            policy.check_app(permit.app)
        except PolicyError as error:
            yield EndedPermit(permit.run, error.message)
