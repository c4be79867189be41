"""The users that the region's processes run as: whether they are there, and apart."""

from __future__ import annotations

from client.inspection.findings import Findings, Kind
from client.inspection.subject import Inspected
from client.settings import RegionSettings
from common.errors import InputError
from common.peers import group_id, user_id

_ONE_USER = (
    "Engine, node and relay run as one user: whoever breaks into the node or the relay can read "
    "the region's data and keys. Name a user for each in region.toml, and start the region as root "
    "or by systemd."
)


def check_users(subject: Inspected, findings: Findings) -> None:
    """Checks the users and the group that the settings name; says so where they are not apart."""
    settings = subject.settings
    if settings is None:
        return
    named = {
        "[engine] user": settings.engine.user,
        "[node] user": settings.node.user,
        "[relay] user": settings.relay.user,
    }
    ids = {
        field: _resolve(subject, field, user, findings)
        for field, user in named.items()
        if user is not None
    }
    for field, users in (
        ("[engine] relay_users", settings.engine.relay_users),
        ("[engine] consent_users", settings.engine.consent_users),
    ):
        for user in users:
            _resolve(subject, field, user, findings)
    _check_group(subject, settings, findings)
    own = subject.machine.user()
    roles = [ids.get(field, own) for field in named]
    if len(set(roles)) == 1:
        findings.note(_ONE_USER)
    elif roles[0] in roles[1:]:
        findings.add(
            Kind.USERS,
            subject.setting("[engine] user"),
            "The engine has the node's or the relay's user: these could read its data and keys.",
            "Give the engine a user of its own.",
        )
    if own != 0 and any(user not in (None, own) for user in ids.values()):
        findings.note(
            f"This is user {own}, who cannot start processes as the users that region.toml names: "
            "start the region as root, or by systemd."
        )


def _resolve(subject: Inspected, field: str, user: str | int, findings: Findings) -> int | None:
    try:
        return user_id(str(user))
    except InputError as error:
        findings.add(Kind.USERS, subject.setting(field), error.message, error.remedy)
        return None


def _check_group(subject: Inspected, settings: RegionSettings, findings: Findings) -> None:
    if settings.engine.socket_group is None:
        return
    with findings.catching(Kind.USERS, subject.setting("[engine] socket_group")):
        group_id(str(settings.engine.socket_group))
