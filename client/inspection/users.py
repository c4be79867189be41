"""The users that the region's processes run as: whether they are there, and apart."""

from __future__ import annotations

from client.inspection.findings import Findings, Kind
from client.inspection.subject import Inspected
from client.installation.composed_settings import ENGINE_USER, NODE_USER, RELAY_USER
from client.settings import RegionSettings
from client.settings_tables import User
from common.errors import InputError
from common.peers import group_id, user_id
from common.system_users import find_user

_ONE_USER = (
    "Engine, node and relay run as one user: whoever breaks into the node or the relay can read "
    "the region's data and keys. Start the region as root, or by systemd: then each has its own."
)


def check_users(subject: Inspected, findings: Findings) -> None:
    """Checks the users and the group that the settings name; says so where they are not apart."""
    settings = subject.settings
    if settings is None:
        return
    roles = {
        "[engine] user": (settings.engine.user, ENGINE_USER),
        "[node] user": (settings.node.user, NODE_USER),
        "[relay] user": (settings.relay.user, RELAY_USER),
    }
    for field, (stated, _) in roles.items():
        if stated is not None:
            _check_stated(subject, field, stated, findings)
    if subject.machine.is_root():
        _check_apart(subject, roles, findings)
    else:
        findings.note(_ONE_USER)
    for field, users in (
        ("[engine] relay_users", settings.engine.relay_users),
        ("[engine] consent_users", settings.engine.consent_users),
    ):
        for user in users:
            with findings.catching(Kind.USERS, subject.setting(field)):
                user_id(str(user))
    _check_group(subject, settings, findings)


def _check_stated(subject: Inspected, field: str, user: User, findings: Findings) -> None:
    if find_user(user) is not None:
        return
    if subject.machine.is_root() and isinstance(user, str):
        findings.note(f"The user {user} of {field} is made when root starts the region.")
        return
    findings.add(
        Kind.USERS,
        subject.setting(field),
        f"There is no user {user} on this machine.",
        "Make the user, or leave the field out.",
    )


def _check_apart(
    subject: Inspected, roles: dict[str, tuple[User | None, str]], findings: Findings
) -> None:
    known = [
        user
        for stated, usual in roles.values()
        if (user := subject.process_user(stated, usual)) is not None
    ]
    if len(set(known)) < len(known) or 0 in known:
        findings.add(
            Kind.USERS,
            subject.setting("[engine] user"),
            "Engine, node and relay do not have three different users, none of them root: whoever "
            "breaks into one of them could read the data and keys.",
            "Give each a user of its own, or leave the fields out.",
            exit_code=InputError.exit_code,
        )


def _check_group(subject: Inspected, settings: RegionSettings, findings: Findings) -> None:
    groups = {"[engine] socket_group": settings.engine.socket_group}
    if settings.recommender is not None:
        groups["[recommender] group"] = settings.recommender.group
    for field, group in groups.items():
        if group is not None:
            with findings.catching(Kind.USERS, subject.setting(field)):
                group_id(str(group))
